"""Small talk: greetings, who Nightschool is and what it can do, feelings, and the honest "I do not know".

A conversation is one to three turns on the intents of talk.toml. Dev and test hold other wordings of the user than
train. But: nothing is remembered beyond the conversation except the user's name, and no exam asks for any of this.
"""

from __future__ import annotations

from random import Random
from typing import Any

from nightschool.text.document import Document, Message
from nightschool.world.grammar import fill, load
from nightschool.world.lexicon import FIRST_NAMES
from nightschool.world.problem import Split, split_of

OPENINGS, ENDINGS = ("greeting", "how_are_you"), ("thanks", "bye")
WEIGHTS = {"who": 3.0, "skills": 3.0, "wide_world": 4.0, "maker": 2.0, "unclear": 0.5}  # the rest 1


Turn = tuple[list[str], list[str]]  # the user's wordings, the replies


def talk(rng: Random, split: Split) -> Document:
    """A short conversation with Nightschool."""
    while True:
        turns = _names(rng) if rng.random() < 0.1 else _subjects(rng)
        asked = [[wording for wording in user if split_of(wording) == split] for user, _ in turns]
        if all(asked):
            break
    texts = load("talk.toml")
    slots: dict[str, Any] = {slot: rng.choice(values) for slot, values in texts["slots"].items()}
    slots["name"] = rng.choice(FIRST_NAMES)
    messages = []
    for user, (_, reply) in zip(asked, turns, strict=True):
        said, _ = fill(texts["grammar"], rng.choice(user), rng, **slots)
        if slots["name"] not in said and rng.random() < 0.15:
            said = said.lower().rstrip(".!?") or said  # as people type
        answer, _ = fill(texts["grammar"], rng.choice(reply), rng, **slots)
        messages += [Message("user", said), Message("assistant", answer)]
    return Document(messages=tuple(messages))


def _subjects(rng: Random) -> list[Turn]:
    """One or two subjects, maybe with a greeting before and thanks or a goodbye after."""
    intents = load("talk.toml")["intents"]
    shape, weights = rng.random(), [WEIGHTS.get(name, 1.0) for name in intents]
    names = rng.choices(list(intents), weights)
    if shape > 0.6:
        names.insert(0, rng.choice(OPENINGS) if shape < 0.75 else rng.choices(list(intents), weights)[0])
    if shape > 0.85:
        names.append(rng.choice(ENDINGS))
    return [(intents[name]["user"], intents[name]["reply"]) for name in dict.fromkeys(names)]


def _names(rng: Random) -> list[Turn]:
    """The user gives a name, maybe talks of something else, and asks for the name."""
    names = load("talk.toml")["names"]
    between = _subjects(rng)[:1] if rng.random() < 0.4 else []
    return [(names["tell"], names["meet"]), *between, (names["ask"], names["know"])]
