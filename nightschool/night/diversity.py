"""How many different things a set of texts says, and which of a reference's it misses: what no single text shows.

Measures are functions of arrays of kinds (see kinds.py), each with its 95% interval. The effective number is blind to
a lost tail, since common kinds make the collisions; coverage sees it. Unseen share and coverage depend on the number
of texts, so compare equal draws. tests/test_audit.py holds the intervals against simulations with a known truth.
But: no embedding, and no bits on held-out text; draws are taken as independent.
Sources: Batu et al. 2000, Arora and Zhang 1706.08224 (collisions); Good 1953, Esty 1983 (unseen share); Shaib et al.
2403.00553 (repetition, compression); Le Bronnec et al. 2402.10693 (precision and recall, here of kinds).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nightschool.night.kinds import Kinds, digest, words_of

Measured = dict[str, Any]  # value, low, high: floats; high is None where nothing bounds it

NUM_WORDS = 8  # of a long n-gram
BLOCKS, BLOCK_BYTES = 16, 1 << 15  # that compression looks at; a block is zlib's window at most
Z, T15 = 1.96, 2.131  # 97.5% points of the normal and of Student's t with BLOCKS - 1 degrees of freedom


def counts_of(kinds: Kinds) -> np.ndarray:
    """How often each kind that occurs does, as float64: its square must not overflow."""
    return np.unique(kinds, return_counts=True)[1].astype(np.float64)


def measured(value: float, low: float, high: float | None) -> Measured:
    return {"value": float(value), "low": float(low), "high": None if high is None else float(high)}


def share(hits: float, n: int, more: float = 0.0) -> Measured:
    """hits of n with Agresti and Coull's interval, widened by a further variance of the share."""
    middle, size = (hits + Z * Z / 2) / (n + Z * Z), n + Z * Z
    half = Z * math.sqrt(middle * (1 - middle) / size + more)
    return measured(hits / n, max(0.0, middle - half), min(1.0, middle + half))


def effective_number(kinds: Kinds) -> Measured:
    """1 / P(two texts are of one kind), by the U-statistic of colliding pairs.

    No colliding pair: value is the number of texts and high None. Interval: the jackknife's variance over texts, as if
    one more of a new kind had come (so it is never 0), and no less than for kinds of equal p; then the collisions
    tell as much as a Poisson count of p^2 / variance events, with Byar's limits: near exact when pairs are few, normal
    when they are many.
    """
    counts = counts_of(kinds)
    n, more = counts.sum(), np.append(counts, 1)
    p = (counts * (counts - 1)).sum() / (n * (n - 1))
    if p == 0:
        return measured(n, min(n, collision_free(n)), None)
    without = ((more * (more - 1)).sum() - 2 * (more - 1)) / (n * (n - 1))  # p if one text of this kind were away
    spread = n / (n + 1) * (more * (without - np.average(without, weights=more)) ** 2).sum()
    events = max(1.0, p**2 / max(spread, 2 * p * (1 - p) / (n * (n - 1))))
    low, high = (p * limit / events for limit in byar(events))
    return measured(1 / p, 1 / min(1.0, high), 1 / low)


def byar(events: float) -> tuple[float, float]:
    """Byar's 95% limits of the mean of a Poisson count, within 1% of the exact ones (Breslow and Day 1987)."""
    low = events * (1 - 1 / (9 * events) - Z / (3 * math.sqrt(events))) ** 3 if events else 0.0
    events += 1
    return low, events * (1 - 1 / (9 * events) + Z / (3 * math.sqrt(events))) ** 3


def collision_free(n: float) -> float:
    """The least effective number to believe when no two of n texts are alike."""
    return n * (n - 1) / 2 / byar(0)[1]


def ratio(a: Measured, b: Measured) -> Measured:
    """a / b of independent effective numbers, their intervals joined on the log scale (Zou and Donner 2008); without
    colliding pairs a number counts as the least to believe."""
    (x, x_low, x_high), (y, y_low, y_high) = (
        (m["value"], m["low"], m["high"]) if m["high"] else (collision_free(m["value"]),) * 2 + (math.inf,)
        for m in (a, b)
    )
    low = math.exp(-math.hypot(math.log(x_low / x), math.log(y_high / y)))
    high = math.exp(math.hypot(math.log(min(x_high, 1e300) / x), math.log(y_low / y)))
    return measured(x / y, x / y * low, x / y * high if x_high < math.inf else None)


def kinds_seen(kinds: Kinds) -> Measured:
    """The number of kinds; the interval is of its expectation in as many texts, whose variance is at most the number
    of kinds seen once."""
    counts = counts_of(kinds)
    half = Z * math.sqrt((counts == 1).sum())
    return measured(len(counts), max(1.0, len(counts) - half), min(counts.sum(), len(counts) + half))


def unseen_share(kinds: Kinds) -> Measured:
    """Probability that the next text is of a kind not seen yet: Good and Turing's, with Esty's variance."""
    counts = counts_of(kinds)
    n = int(counts.sum())
    return share((counts == 1).sum(), n, 2 * (counts == 2).sum() / n**2)


def coverage(kinds: Kinds, others: Kinds) -> Measured:
    """Share of the texts whose kind occurs among the others.

    Another draw of others would lose some kinds that now occur once there; their squared shares bound that variance.
    """
    size = int(max(kinds.max(), others.max())) + 1
    here, there = np.bincount(kinds, minlength=size), np.bincount(others, minlength=size)
    return share(here[there > 0].sum(), len(kinds), ((here[there == 1] / len(kinds)) ** 2).sum())


# Texts -> measures


def self_repetition(texts: Sequence[str]) -> Measured | None:
    """Share of the texts' runs of NUM_WORDS words that occur in another text; None if no text is so long.

    The interval is that of as many texts, each repeated wholly or not at all: too wide, if anything.
    """
    runs = []
    for text in texts:
        words = words_of(text)
        runs.append({digest(" ".join(words[i : i + NUM_WORDS])) for i in range(len(words) - NUM_WORDS + 1)})
    found = [run for row in runs for run in row]
    if not found:
        return None
    counts = np.unique(np.array(found, np.uint64), return_counts=True)[1]
    n = sum(map(bool, runs))
    return share(n * counts[counts > 1].sum() / counts.sum(), n)


def compression(data: bytes, num_bytes: int) -> Measured:
    """How many times smaller zlib makes the first num_bytes: mean of BLOCKS blocks, Student's interval."""
    size = num_bytes // BLOCKS
    blocks = (data[i * size : (i + 1) * size] for i in range(BLOCKS))
    ratios = np.array([size / len(zlib.compress(block, 9)) for block in blocks])
    mean, half = ratios.mean(), T15 * ratios.std(ddof=1) / math.sqrt(BLOCKS)
    return measured(mean, mean - half, mean + half)


def length_matched(lengths: np.ndarray, pool: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """`num` rows of a pool of lengths, none twice and in random order, whose lengths follow `lengths`.

    Lengths count as equal within a quarter: finer, a length may name a text. Both sides are sorted and matched in
    order; rows crowded out of their place move to the nearest free, longer or shorter. A pool of `num` rows is taken
    whole.
    """
    wanted, found = (np.floor(4 * np.log1p(side)) for side in (lengths, pool))
    order, steps = rng.permutation(len(pool)), np.arange(num)
    order = order[np.argsort(found[order], kind="stable")]
    wanted, found = np.sort(wanted)[(2 * steps + 1) * len(wanted) // (2 * num)], found[order]
    places = (np.searchsorted(found, wanted) + np.searchsorted(found, wanted, "right")) // 2
    longer = np.maximum.accumulate(places - steps) + steps
    shorter = np.minimum.accumulate((places - steps)[::-1])[::-1] + steps
    return rng.permutation(order[np.clip((longer + shorter) // 2, steps, len(pool) - num + steps)])
