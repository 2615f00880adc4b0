"""A collapse audit: what a set of texts says and repeats, and how much of a reference it misses.

Of the reference two draws of equal size are taken, both following the lengths of the samples. One is the yardstick;
the other takes the samples' own test, which shows what texts that have not collapsed come to.
But: with fewer than two reference texts a sample there is little to choose from, and lengths may stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from nightschool.night import diversity
from nightschool.night.kinds import Kinds, kinds, sketch

Texts = Callable[[], Iterable[str]]  # begins a new pass over a set of texts
Meaning = Callable[[list[str], Kinds, np.ndarray], Kinds]
Json = dict[str, Any]

HEADLINE = "near_duplicate"  # the resolution at which two texts "say the same thing"
NUM_READ, NUM_IDEAS = 5_000, 10  # texts of a draw whose words and bytes are looked at; ideas told


def audit(
    samples: Texts, lengths: np.ndarray, reference: Texts, pool: np.ndarray, seed: int, meaning: Meaning | None = None
) -> Json:
    """Everything that is measured; each measure as {"value", "low", "high"}.

    lengths, pool: characters of each sample [N] and of each reference text [M]; with M = 0 nothing is compared.
    meaning: a further resolution, from all texts, their near-duplicates and the rows of the reference among them.
    Result: `all_samples` on every sample; `samples` and `reference` on draws of `num_compared`; `ideas`.
    """
    rng = np.random.default_rng(seed)
    N, M = len(lengths), len(pool)
    size = min(N, M // 2) if M else N
    picked = diversity.length_matched(lengths, pool, 2 * size, rng) if M else np.empty(0, np.int64)

    def all_texts() -> Iterator[str]:
        return chain(samples(), (text for _, text in chosen(reference, picked)))

    found = kinds(sketch(all_texts()))
    places = N + np.argsort(np.argsort(picked))  # of the picked texts among all that were sketched
    if meaning:
        found["semantic"] = meaning(list(all_texts()), found[HEADLINE], places)
    drawn = rng.permutation(N)[:size]
    ideas = ideas_of(found, N, places)
    text_of = dict(chosen(samples, [*drawn[:NUM_READ], *(row for idea in ideas for row in idea["examples"])]))
    for idea in ideas:
        idea["examples"] = [text_of[row] for row in idea["examples"]]
    rows, read = {"samples": drawn}, {"samples": [text_of[row] for row in drawn[:NUM_READ]]}
    characters = {"samples": lengths[drawn]}
    if M:
        near = picked[: min(size, NUM_READ)]
        text_of = dict(chosen(reference, near))
        rows["reference"], read["reference"] = places[:size], [text_of[row] for row in near]
        characters["reference"] = pool[picked[:size]]
    data = {name: "\n".join(texts).encode() for name, texts in read.items()}
    num_bytes = min(diversity.BLOCKS * diversity.BLOCK_BYTES, *map(len, data.values()))
    return {
        "num_samples": N,
        "num_compared": size,
        "all_samples": {resolution: alone(of[:N]) for resolution, of in found.items()},
        "ideas": ideas,
    } | {
        name: {
            "median_characters": float(np.median(characters[name])),
            "kinds": {r: alone(of[rows[name]]) | against(of[rows[name]], of[places[size:]]) for r, of in found.items()},
            "self_repetition": diversity.self_repetition(read[name]),
            "compression": diversity.compression(data[name], num_bytes),
            "accumulation": accumulation(found[HEADLINE][rows[name]]),
        }
        for name in rows
    }


def chosen(texts: Texts, rows: Iterable[int]) -> Iterator[tuple[int, str]]:
    """(row, text) of some rows, in the order of the texts."""
    wanted = {int(row) for row in rows}
    return ((row, text) for row, text in enumerate(texts()) if row in wanted) if wanted else iter(())


def alone(found: Kinds) -> Json:
    """What a draw shows by itself."""
    return {
        "effective_number": diversity.effective_number(found),
        "kinds_seen": diversity.kinds_seen(found),
        "unseen_share": diversity.unseen_share(found),
    }


def against(found: Kinds, yardstick: Kinds) -> Json:
    """What a draw and the yardstick have of each other: shares of texts, and of the yardstick's kinds."""
    if not len(yardstick):
        return {}
    return {
        "coverage": diversity.coverage(yardstick, found),
        "kinds_found": diversity.coverage(np.unique(yardstick), found),
        "precision": diversity.coverage(found, yardstick),
    }


def accumulation(found: Kinds) -> list[list[int]]:
    """[texts drawn, kinds seen by then] at some 60 points, evenly on a log scale."""
    points = np.unique(np.geomspace(1, len(found), 60).round().astype(int))
    first = np.sort(np.unique(found, return_index=True)[1])
    return [[int(point), int(np.searchsorted(first, point))] for point in points]


def ideas_of(found: dict[str, Kinds], num_samples: int, reference: np.ndarray) -> list[Json]:
    """The kinds that the first num_samples texts repeat most, with their share there and among the reference's rows,
    and the rows of two examples, in different words where there are such."""
    mine, exact = found[HEADLINE][:num_samples], found["exact"]
    counts = np.bincount(mine)
    ideas = []
    for kind in np.argsort(-counts, kind="stable")[:NUM_IDEAS]:
        if counts[kind] < 2:
            break
        told = np.flatnonzero(mine == kind)
        others = told[exact[told] != exact[told[0]]]
        of_reference = float((found[HEADLINE][reference] == kind).mean()) if len(reference) else None
        idea = {"count": int(counts[kind]), "share": counts[kind] / num_samples, "reference_share": of_reference}
        ideas.append(idea | {"examples": [told[0], others[0] if len(others) else told[1]]})
    return ideas
