"""Make new texts without making them all alike: what goes into a prompt, what is kept, how much it counts.

A loop that trains on its own samples loses what is rare, a little each round, while each sample looks fine. Against it,
in order: chance from outside in the prompt (a seed word, a persona); several different things asked for in one
context; sampling as the model believes (temperature 1, nothing cut off: see SAMPLING); a verifier whose passes are
capped kind by kind, since by itself it only narrows; more weight for what the model finds unlikely and the verifier
right; and a floor of real documents under it all. Pure functions: lab/collapse.py puts them together.
But: a kind is what the caller's `kind_of` says; for texts without a parser see night/kinds.py.
Sources: Gerstgrasser et al. 2404.01413 (keep real data); 2510.16657 (verification alone drifts); 2410.12341 (train on
what surprises); personas: 2406.20094; several in one context: 2510.01171.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice

from nightschool.model.sampling import Sampling
from nightschool.night.diversity import byar
from nightschool.text.document import Document

SAMPLING = Sampling(temperature=1.0, top_p=1.0, min_p=0.0)  # what the model believes, whole
LEAST, MOST = 0.5, 2.0  # weight of a text by its surprise


def prompts(templates: Sequence[str], seeds: Sequence[str], num: int, rng: random.Random) -> list[str]:
    """num prompts, in each {seed} filled from outside the model; personas are seeds too.

    ("A joke about a {seed}:",), ("duck", "cow") -> "A joke about a cow:", ...
    """
    return [rng.choice(templates).replace("{seed}", rng.choice(seeds)) for _ in range(num)]


def distinct(texts: Sequence[str], kinds: Sequence[str | None]) -> list[str]:
    """Of a set made in one context, the right ones (kind not None), each kind once, in their order."""
    first: dict[str, str] = {}
    for text, kind in zip(texts, kinds, strict=True):
        if kind is not None:
            first.setdefault(kind, text)
    return list(first.values())


def caps(real: Counter[str], num: int) -> dict[str | None, int]:
    """How many of num texts each kind may be: the upper 95% limit of its share of the real ones, rounded up.

    `None` is the cap of a kind that has not been seen: it may well exist.
    """
    total = real.total()
    return {kind: -int(-num * byar(count)[1] // total) for kind, count in [*real.items(), (None, 0)]}


def within(kinds: Sequence[str], caps: dict[str | None, int]) -> list[int]:
    """Which texts fill no kind beyond its cap: the first ones of each kind, in their order."""
    taken: Counter[str] = Counter()
    kept = []
    for i, kind in enumerate(kinds):
        if taken[kind] < caps.get(kind, caps[None]):
            taken[kind] += 1
            kept.append(i)
    return kept


def weights(surprises: Sequence[float]) -> list[float]:
    """Nats by which each right text surprised the model -> its weight in the loss: nats over their mean, bounded, and
    1 on average.

    [2, 4, 6] -> [0.5, 1, 1.5]
    """
    mean = sum(surprises) / len(surprises)
    bounded = [min(max(s / mean, LEAST), MOST) for s in surprises]
    scale = len(bounded) / sum(bounded)
    return [w * scale for w in bounded]


def mixed(real: Sequence[Document], made: Sequence[Document], floor: float, rng: random.Random) -> list[Document]:
    """All that was made, over as many real documents as make up the share `floor` of the whole (0 to below 1), in
    random order. Real ones are taken in turn, and again where there are too few."""
    num_real = math.ceil(len(made) * floor / (1 - floor) - 1e-9)  # 0.8 / 0.2 is a hair over 4
    whole = [*made, *islice(cycle(rng.sample(real, len(real))), num_real)]
    return rng.sample(whole, len(whole))
