"""One way to turn a weighted context-free grammar into text, with the exact probability of what it wrote.

A grammar maps each symbol to weighted productions. In a production, `{x}` stands for the symbol or slot x,
`{a x}` for x after its article (a lamp, an egg), `{X}` for x with its first letter made a capital, and
`{on foot|by boat}` for a choice of equals. Slots are values given from outside (a name, a price); they carry
no probability.

    even("{Greeting}, {name}!") with greeting = even("hello", "good day") -> "Good day, Ada!", log 1/2
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import product
from math import fsum, log
from pathlib import Path
from random import Random
from typing import Any

from nightschool.world.lexicon import article

Rule = list[tuple[float, str]]
Grammar = dict[str, Rule]


def even(*productions: str) -> Rule:
    """Productions of equal weight."""
    return [(1.0, production) for production in productions]


def zipf(*productions: str, exponent: float = 1.0) -> Rule:
    """Productions with weights 1, 1/2, 1/3, ... to the given exponent."""
    return [(1.0 / rank**exponent, production) for rank, production in enumerate(productions, start=1)]


def expand(grammar: Grammar, symbol: str, rng: Random, **slots: Any) -> tuple[str, float]:
    """Draw a text of `symbol` -> (text, nats: the sum of the log-probabilities of the choices made)."""
    rule = grammar[symbol]
    x = rng.random() * _total(rule)
    for weight, production in rule:  # noqa: B007
        x -= weight
        if x < 0:
            break
    text, nats = fill(grammar, production, rng, **slots)
    return text, nats + log(weight / _total(rule))


def fill(grammar: Grammar, production: str, rng: Random, **slots: Any) -> tuple[str, float]:
    """Expand the fields of one given production -> (text, nats)."""
    parts, nats = list(_parts(production)), 0.0
    for i in range(1, len(parts), 2):
        if "|" in parts[i]:
            options = _options(parts[i])
            parts[i], more = fill(grammar, options[int(rng.random() * len(options))], rng, **slots)
            nats += more - log(len(options))
            continue
        name, change = _field(parts[i], grammar, slots)
        if name in slots:
            text = str(slots[name])
        else:
            text, more = expand(grammar, name, rng, **slots)
            nats += more
        parts[i] = _change(text, change)
    return "".join(parts), nats


def derivations(grammar: Grammar, symbol: str, **slots: Any) -> Iterator[tuple[str, float, tuple[str, ...]]]:
    """Every derivation of a finite grammar -> (text, nats, productions chosen, outermost first)."""
    return _derive(grammar, grammar[symbol], slots)


def _derive(grammar: Grammar, rule: Rule, slots: dict[str, Any]) -> Iterator[tuple[str, float, tuple[str, ...]]]:
    for weight, production in rule:
        parts, inner = _parts(production), []
        for field in parts[1::2]:
            if "|" in field:
                inner.append(list(_derive(grammar, even(*_options(field)), slots)))
                continue
            name, change = _field(field, grammar, slots)
            known = [(str(slots[name]), 0.0, ())] if name in slots else _derive(grammar, grammar[name], slots)
            inner.append([(_change(text, change), nats, path) for text, nats, path in known])
        for chosen in product(*inner):
            text = parts[0] + "".join(c[0] + literal for c, literal in zip(chosen, parts[2::2], strict=True))
            nats = log(weight / _total(rule)) + fsum(c[1] for c in chosen)
            yield text, nats, (production, *(choice for c in chosen for choice in c[2]))


@cache
def load(name: str) -> dict[str, Any]:
    """The texts of a TOML file beside this one. White space folds to one space; ` // ` is a line break.

    Its tables `grammar` (symbol -> productions of equal weight) and `zipf` become one Grammar, "grammar".
    """
    with (Path(__file__).parent / name).open("rb") as file:
        texts = _fold(tomllib.load(file))
    rules = {symbol: even(*rule) for symbol, rule in texts.get("grammar", {}).items()}
    rules |= {symbol: zipf(*rule) for symbol, rule in texts.get("zipf", {}).items()}
    return texts | {"grammar": rules}


def _fold(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"\s+", " ", value).strip(" ").replace(" // ", "\n")
    return {k: _fold(v) for k, v in value.items()} if isinstance(value, dict) else [_fold(v) for v in value]


@cache
def _parts(production: str) -> tuple[str, ...]:
    """literal, field, literal, field, ..., literal; a choice may hold fields of its own"""
    return tuple(re.split(r"\{((?:[^{}]|\{[^{}]*\})*)\}", production))


@cache
def _options(field: str) -> tuple[str, ...]:
    return tuple(re.split(r"\|(?![^{]*\})", field))


def _total(rule: Rule) -> float:
    return sum([weight for weight, _ in rule])


def _field(field: str, grammar: Grammar, slots: dict[str, Any]) -> tuple[str, str]:
    """`a x` -> (x, "a"); `X` -> (x, "X"); `x` -> (x, "")."""
    change, _, name = field.rpartition(" ")
    if name in slots or name in grammar:
        return name, change
    name = name[0].lower() + name[1:]
    if name not in slots and name not in grammar:
        raise KeyError(f"{{{field}}} is neither a symbol of the grammar nor a slot")
    return name, change + "X"


def _change(text: str, change: str) -> str:
    if change and change[0] in "aA":
        text = article(text)
    return text[0].upper() + text[1:] if change and change[0] in "AX" else text
