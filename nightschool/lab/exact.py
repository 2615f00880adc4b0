"""The world of `lab collapse`, known exactly: 704 jokes of 320 kinds, and what a model makes of them without sampling.

Every joke's true probability is known (world/jokes.py), and a model's is computed for each of them, so that validity,
kinds, entropy and excess bits are exact, as are those of a perfect copier who only draws again what it read.
But: a text counts in its canonical tokens alone, so that validity is a lower bound.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import log
from typing import Any, NamedTuple

import numpy as np

from nightschool.model.transformer import Transformer
from nightschool.night.bits import nats_of
from nightschool.text.document import Document
from nightschool.text.tokenizer import Tokenizer
from nightschool.world import jokes
from nightschool.world.grammar import derivations, expand

PLAIN, ABOUT, SET, SET_SIZE = "Joke:\n", "Joke about {seed}:\n", "Three jokes:\n", 3
DRAWS = 4096  # "at equal draw": kinds expected in so many
RARE = 10  # deciles of the kinds by rarity


class World(NamedTuple):
    """The N texts of K kinds. Kinds by falling probability."""

    texts: list[str]
    nats: np.ndarray  # [N] log-probability of each text
    kind: np.ndarray  # [N] its kind's number
    topic: list[str]  # [N] "a duck"
    p: np.ndarray  # [K]


@cache
def world() -> World:
    found = [(text, nats) for text, nats, _ in derivations(jokes.jokes(), "joke")]
    p = jokes.kinds()
    names = sorted(p, key=lambda kind: -p[kind])
    number = {name: i for i, name in enumerate(names)}
    kinds = [jokes.kind_of(text) or "" for text, _ in found]
    return World(
        [text for text, _ in found],
        np.array([nats for _, nats in found]),
        np.array([number[kind] for kind in kinds]),
        [kind.partition("/")[0] for kind in kinds],
        np.array([p[name] for name in names]),
    )


@cache
def real(seed: int, generation: int, num: int) -> list[Document]:
    """Fresh jokes of the world."""
    rng = random.Random(f"{seed} {generation}")
    return [Document(text=expand(jokes.jokes(), "joke", rng)[0]) for _ in range(num)]


def told(documents: Sequence[Document], rng: random.Random) -> list[Document]:
    """Jokes -> what a model reads: in turn half of them plain, a quarter under their topic, and a quarter in threes of
    different ones. What is dealt out by kind is so in each of these ways."""
    found = [replace(d, text=PLAIN + d.text) for d in documents[::2]]
    found += [replace(d, text=ABOUT.format(seed=topic_of(d.text)) + d.text) for d in documents[1::4]]
    left = rng.sample(documents[3::4], len(documents[3::4]))
    for i in range(0, len(left) - SET_SIZE + 1, SET_SIZE):
        group = {d.text: d for d in left[i : i + SET_SIZE]}.values()
        text = SET + "\n".join(d.text for d in group)
        weight = sum(d.weight for d in group) / len(group)
        oldest = max(group, key=lambda d: d.gen)
        found.append(replace(oldest, text=text, weight=weight, parents=tuple(d.id for d in group)))
    return found


def kind_of(text: str) -> str:
    """ "" where it is no joke of this world."""
    return jokes.kind_of(text) or ""


def topic_of(text: str) -> str:
    return kind_of(text).partition("/")[0]


# Measures


def spread(q: np.ndarray, draws: int) -> dict[str, float]:
    """Of the probabilities of kinds, which need not add up to 1: kinds expected in so many draws, exp-entropy, and
    1 / P(two of them are alike), both among themselves."""
    p = q / q.sum()
    return {
        "kinds": float((1 - (1 - np.minimum(q, 1.0)) ** draws).sum()),
        "exp_entropy": float(np.exp(-(p * np.log(np.maximum(p, 1e-300))).sum())),
        "effective_number": float(1 / (p**2).sum()),
    }


def measures(nats: np.ndarray, asked: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """Everything about a model, from its log-probability of each of the world's texts, [N]: told unprompted, and told
    when asked about the text's topic. lengths: tokens of each."""
    w = world()
    p, q = np.exp(w.nats), np.bincount(w.kind, np.exp(nats))
    bits, decile = p * (w.nats - nats) / log(2), w.kind * RARE // len(w.p)  # 0: the commonest
    excess = np.bincount(decile, bits) / np.bincount(decile, p * lengths)
    return {
        "validity": float(q.sum()),
        **spread(q, DRAWS),
        "excess_bits": float(bits.sum() / (p * lengths).sum()),  # a token
        "excess_bits_by_decile": excess.tolist(),
        "tail_bits": float(excess[-1]),
        "downstream": float(np.exp(asked).sum() / len(set(w.topic))),  # asked about each topic: one of its jokes
    }


def measure(model: Transformer, words: Tokenizer) -> dict[str, Any]:
    w = world()
    plain = nats_of(model, words, w.texts, [PLAIN] * len(w.texts))
    asked = nats_of(model, words, w.texts, [ABOUT.format(seed=topic) for topic in w.topic])
    return measures(plain, asked, np.array([len(ids) + 1 for ids in words.encode_many(w.texts)]))


# No model at all


def drift(
    start_jokes: int, num_jokes: int, generations: int, floor: float, all_kept: bool, times: int = 200
) -> list[dict[str, float]]:
    """`spread` at each generation: means over `times` lives of a perfect copier, who tells what it read as often as it
    read it. floor: real share of the num_jokes of a generation; all_kept: on top of all before."""
    rng, p = np.random.default_rng(0), world().p
    num_real = round(floor * num_jokes)
    lives = []
    for _ in range(times):
        copied = rng.multinomial(start_jokes, p) / start_jokes
        read, life = rng.multinomial(num_jokes, p), [spread(copied, DRAWS)]
        for _ in range(generations):
            new = rng.multinomial(num_jokes - num_real, copied) + rng.multinomial(num_real, p)
            read = read + new if all_kept else new
            copied = read / read.sum()
            life.append(spread(copied, DRAWS))
        lives.append(life)
    return [{key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for rows in zip(*lives, strict=True)]
