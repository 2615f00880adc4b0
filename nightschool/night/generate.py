"""Make new texts without making them all alike: what goes into a prompt, what is kept, how much it counts.

A loop that trains on its own samples loses what is rare, a little each round, while each sample looks fine. Against it,
in order: chance from outside in the prompt (a seed word, a persona); several different things asked for in one
context; sampling as the model believes (temperature 1, nothing cut off: see SAMPLING); a verifier, and since that by
itself only narrows, places dealt out to kinds as real texts have them, filled from all that was ever made and, where
nothing was, from the world. Where kinds cannot be told apart, what the model finds unlikely and the verifier right can
count for more. Pure functions: stages/generate.py and lab/generations.py put them together.
But: a kind is what the caller says it is; for texts without a parser see night/kinds.py.
Sources: Gerstgrasser et al. 2404.01413 (keep what was made, and real data); 2510.16657 (verification alone drifts);
2410.12341 (train on what surprises); personas: 2406.20094; several in one context: 2510.01171.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, cycle, groupby

from nightschool.model.engine import Completion
from nightschool.model.sampling import Sampling
from nightschool.text.tokenizer import Tokenizer

SAMPLING = Sampling(temperature=1.0, top_p=1.0, min_p=0.0)  # what the model believes, whole
LEAST, MOST = 0.5, 2.0  # weight of a text by its surprise
SEED = "{seed}"
BULLET = re.compile(r"^\s*(?:\d+[.):]|[-*\u2022])\s+")


def prompts(templates: Sequence[str], seeds: Sequence[str], num: int, rng: random.Random) -> list[tuple[str, str]]:
    """num prompts, in each {seed} filled from outside the model, and what filled it, "" = nothing; personas are seeds
    too.

    ("A joke about a {seed}:",), ("duck", "cow") -> ("A joke about a cow:", "cow"), ...
    """
    drawn = ((rng.choice(templates), rng.choice(seeds)) for _ in range(num))
    return [(template.replace(SEED, seed), seed if SEED in template else "") for template, seed in drawn]


def whole(tokenizer: Tokenizer, completion: Completion) -> str:
    """What was said; "" where it was cut short."""
    return tokenizer.decode(completion.ids[:-1]) if completion.stop == "end" else ""


def lines(answer: str) -> list[str]:
    """A set made in one context, told line by line: '1. quack\\n2. moo' -> ['quack', 'moo']"""
    return [text for line in answer.split("\n") if (text := BULLET.sub("", line).strip())]


def distinct(texts: Sequence[str], kinds: Sequence[str | None]) -> list[tuple[str, str]]:
    """Of a set made in one context, the right ones (kind not None) with their kind, each kind once, in their order."""
    first: dict[str, str] = {}
    for text, kind in zip(texts, kinds, strict=True):
        if kind is not None:
            first.setdefault(kind, text)
    return [(text, kind) for kind, text in first.items()]


def quota(
    made: Sequence[str],
    real: Sequence[str],
    num: int,
    most_real: float,
    rng: random.Random,
    stand_ins: bool = False,
) -> tuple[list[int], list[int]]:
    """Deal num places out to kinds as the real texts have them, each kind its share of num rounded up or down -> which
    made texts fill them, those of a kind in turn, and again where there are too few; which real ones fill the places
    of kinds that nobody made, as long as they are at most the share most_real of num.

    made, real: the kind of each text. What is made too often waits, what is never made comes from the world: whatever
    the model favours, the mean of each kind's share is that among the real texts. stand_ins: for kinds told by words
    alone, where a made text is hardly ever of a real one's kind, one that no real text has takes the places of one that
    nobody made, in the order of made: kinds are as many and as even as in real texts, though not the same.
    """
    by_kind = groupby(sorted(range(len(made)), key=made.__getitem__), made.__getitem__)
    turns = {kind: cycle(list(rows)) for kind, rows in by_kind}
    order = sorted(rng.sample(range(len(real)), len(real)), key=real.__getitem__)
    start, step = rng.random(), len(real) / num
    places = [order[int((start + i) * step)] for i in range(num)]
    wanted = [real[row] for row in places]
    if stand_ins:
        of_real, unmade = set(real), list(dict.fromkeys(kind for kind in wanted if kind not in turns))
        new = (kind for kind in dict.fromkeys(made) if kind not in of_real)
        instead = dict(zip(rng.sample(unmade, len(unmade)), new, strict=False))
        wanted = [instead.get(kind, kind) for kind in wanted]
    empty = [row for row, kind in zip(places, wanted, strict=True) if kind not in turns]
    used = [next(turns[kind]) for kind in wanted if kind in turns]
    return used, rng.sample(empty, min(len(empty), int(most_real * num)))


def floor(samples: Sequence[int], real: Sequence[int], share: float) -> tuple[int, int]:
    """Bytes of each text -> how many samples and how many real texts, both from the front, to mix so that the real
    ones hold at least `share` of the bytes: all samples, unless there is too little real text.

    [10, 10, 10], [20, 20, 20], 0.5 -> 3, 2; of [20] alone -> 2, 1
    """
    sums = list(accumulate(real))
    num_real = min(bisect_left(sums, sum(samples) * share / (1 - share)) + 1, len(real))
    return bisect_right(list(accumulate(samples)), sums[num_real - 1] * (1 - share) / share), num_real


def surprising_first(weights: Sequence[float], rng: random.Random) -> list[int]:
    """Rows in random order, each the next with a chance by its weight among those left (Efraimidis and Spirakis)."""
    keys = [rng.random() ** (1 / weight) for weight in weights]
    return sorted(range(len(keys)), key=lambda row: -keys[row])


def weights(surprises: Sequence[float]) -> list[float]:
    """Nats by which each right text surprised the model -> its weight in the loss: nats over their mean, bounded, and
    1 on average.

    [2, 4, 6] -> [0.5, 1, 1.5]
    """
    mean = sum(surprises) / len(surprises)
    bounded = [min(max(s / mean, LEAST), MOST) for s in surprises]
    scale = len(bounded) / sum(bounded)
    return [w * scale for w in bounded]
