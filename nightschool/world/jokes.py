"""Jokes and descriptions from grammars whose true distribution is known; their sentences are those of jokes.toml.

A joke's kind is topic/mechanism/punchline. Each of the three is drawn with Zipf weights, so that some jokes are old
and some are rare, and each mechanism has a few wordings. The grammar is finite, so kind_of inverts it exactly and
a collapse audit can compare what a model tells with kinds(), to the last digit. A request for a topic draws from
the same distribution given its topic. Splits differ in how the user asks: a joke itself is never wrong.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from math import exp
from random import Random
from typing import Any

from nightschool.world.grammar import Grammar, derivations, even, expand, fill, load, zipf
from nightschool.world.problem import Problem, Split, split_of


def joke(rng: Random, split: Split) -> Problem:
    """Tell a joke: any fluent one is right. `kind` is topic/mechanism/punchline; `log_prob` is the whole text's."""
    asked = _request(rng, split, texts("requests") + texts("about"))
    if asked in texts("about"):
        topic = expand(jokes(), "topic", rng)[0]
        text, nats = expand(jokes(), topic, rng)
        question, _ = fill({}, asked, rng, topic=topic)
    else:
        text, nats = expand(jokes(), "joke", rng)
        question = asked
    return Problem("joke", kind_of(text) or "", asked, question, "", closing=text, log_prob=nats)


def house(rng: Random, split: Split) -> Problem:
    """Describe a house; `log_prob` is exact, since no two derivations write the same text."""
    question = _request(rng, split, texts("house_requests"))
    text, nats = expand(texts("grammar"), "house", rng)
    return Problem("description", "house", question, question, "", closing=text, log_prob=nats)


def kind_of(text: str) -> str | None:
    """The kind of a joke of this grammar; None for any other text."""
    return _table()[0].get(text.strip())


def kinds() -> dict[str, float]:
    """Every kind of joke with its exact probability."""
    return dict(_table()[1])


def texts(table: str) -> Any:
    return load("jokes.toml")[table]


@cache
def jokes() -> Grammar:
    """joke -> topic -> topic/mechanism -> a wording that holds topic/line; `topic` draws a topic's name alone."""
    grammar: Grammar = {"joke": zipf(*(f"{{{topic}}}" for topic in texts("punchlines")))}
    grammar["topic"] = zipf(*texts("punchlines"))
    for topic, lines in texts("punchlines").items():
        grammar[topic] = zipf(*(f"{{{topic}/{mechanism}}}" for mechanism in texts("mechanisms")))
        grammar[f"{topic}/name"] = even(topic)
        grammar[f"{topic}/line"] = zipf(*lines)
        for mechanism, wordings in texts("mechanisms").items():
            told = [w.replace("topic}", f"{topic}/name}}").replace("{line", f"{{{topic}/line") for w in wordings]
            grammar[f"{topic}/{mechanism}"] = even(*told)
    return grammar


@cache
def _table() -> tuple[dict[str, str], dict[str, float]]:
    """(text -> kind, kind -> probability) over every derivation."""
    kind_by_text: dict[str, str] = {}
    probability: defaultdict[str, float] = defaultdict(float)
    for text, nats, path in derivations(jokes(), "joke"):
        topic, mechanism = path[1].strip("{}").split("/")
        number = next(i for i, line in enumerate(texts("punchlines")[topic], start=1) if line in path)
        kind_by_text[text] = f"{topic}/{mechanism}/{number}"
        probability[kind_by_text[text]] += exp(nats)
    return kind_by_text, dict(probability)


def _request(rng: Random, split: Split, requests: list[str]) -> str:
    return rng.choice([request for request in requests if split_of(request) == split])
