"""What is taught: the world's families as documents, in the shares of each stage.

By day the same lessons come twice: as pages of an exercise book (plain text, for pretraining) and as conversations
(for fine-tuning), beside prose to read, drills and small talk. Questions about one passage or story share it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from nightschool.text.document import Document, Message
from nightschool.world.arithmetic import arithmetic
from nightschool.world.jokes import house, joke
from nightschool.world.lexicon import FIRST_NAMES, NEW_NAMES
from nightschool.world.letters import letter_count, spell
from nightschool.world.passages import ATTRIBUTES, passage, worded
from nightschool.world.problem import Problem, Split
from nightschool.world.programs import drill, rearrange, sort, trace
from nightschool.world.prose import prose
from nightschool.world.stories import story
from nightschool.world.talk import talk
from nightschool.world.tools import calculator, lookup
from nightschool.world.word_problems import word_problem

Lesson = Callable[[random.Random, float], list[Problem]]  # (rng, progress of the stage 0..1) -> one page
DONT_KNOW = "I do not know."
ASK_ABOUT = (
    "Ask a question about this text and answer it.",
    "Write a question about this text, with its answer.",
    "Think of a question that this text answers, and answer it.",
)


def conversation(problems: Sequence[Problem]) -> Document:
    """The problems as one conversation; a context they share is given once."""
    messages: list[Message] = []
    for i, problem in enumerate(problems):
        asked = problem if i == 0 else replace(problem, context="")
        messages += asked.messages
    return Document(messages=tuple(messages), tools=problems[0].tools)


def page(problems: Sequence[Problem]) -> Document:
    """The problems as a page of an exercise book."""
    context = f"{problems[0].context}\n\n" if problems[0].context else ""
    return Document(text=context + "\n\n".join(f"Question: {p.question}\n{p.solution}" for p in problems))


def passages(rng: random.Random, progress: float) -> list[Problem]:
    """Passages grow from 2-5 facts to 7-9 over the first third of a stage."""
    kinds = ["one_hop", "one_hop", "two_hop", "absent"]
    rng.shuffle(kinds)
    short = rng.random() > 3 * progress
    return passage(rng, "train", tuple(kinds), num_facts=(2, 5) if short else (7, 9))


def stories(rng: random.Random, progress: float) -> list[Problem]:
    kinds = ["holder", "person", "thing", "since"]
    rng.shuffle(kinds)
    short = rng.random() > 3 * progress
    return story(rng, "train", tuple(kinds), num_events=(2, 5) if short else (6, 9))


def several(family: Callable[[random.Random, Split], Problem], n: int) -> Lesson:
    """A page of n problems that share nothing."""
    return lambda rng, progress: [family(rng, "train") for _ in range(n)]


def unknown(rng: random.Random, split: Split) -> Problem:
    """A question about a person, with nothing to read and no table: the honest answer is that one does not know."""
    attribute = rng.choice(ATTRIBUTES)
    name = rng.choice(FIRST_NAMES + NEW_NAMES)
    question = worded(rng, attribute.ask, split).format(X=name)
    return Problem("unknown", "unknown", f"unknown {name} {attribute.name}", question, "", closing=DONT_KNOW)


def ask_about(rng: random.Random, split: Split) -> Problem:
    """Read a passage and write a question about it, with its notes and answer: what the night does by itself."""
    asked = passage(rng, split, (rng.choice(("one_hop", "two_hop")), "one_hop"))[0]
    return replace(
        asked,
        skill="ask",
        question=rng.choice(ASK_ABOUT),
        steps=(f"Question: {asked.question}", *asked.steps),
    )


LESSONS: dict[str, Lesson] = {
    "passage": passages,
    "story": stories,
    "arithmetic": several(arithmetic, 1),
    "word_problem": several(word_problem, 2),
    "letters": lambda rng, progress: [rng.choice((letter_count, letter_count, spell))(rng, "train") for _ in range(2)],
    "tool": lambda rng, progress: [rng.choice((calculator, lookup))(rng, "train")],
    "programs": lambda rng, progress: [rng.choice((trace, sort, rearrange))(rng, "train")],
    "joke": lambda rng, progress: [rng.choice((joke, house))(rng, "train")],
    "unknown": several(unknown, 2),
    "ask": several(ask_about, 1),
}


def read(progress: float) -> dict[str, float]:
    """Shares of pretraining's sources: drills give way to exercise books over the first third."""
    drills = max(0.0, 0.3 * (1 - 3 * progress))
    return {"prose": 0.15, "drill": drills} | {f"book/{name}": share for name, share in SHARES.items()}


def study(progress: float) -> dict[str, float]:
    """Shares of fine-tuning's sources."""
    return {"talk": 0.03} | {f"lesson/{name}": share for name, share in SHARES.items()}


SHARES = {
    "passage": 0.30,
    "story": 0.22,
    "arithmetic": 0.20,
    "word_problem": 0.11,
    "letters": 0.07,
    "tool": 0.05,
    "programs": 0.02,
    "joke": 0.01,
    "unknown": 0.01,
    "ask": 0.04,
}
SOURCES: dict[str, Callable[[random.Random, float], Document]] = {
    "prose": lambda rng, progress: prose(rng, "train"),
    "drill": lambda rng, progress: drill(rng),
    "talk": lambda rng, progress: talk(rng, "train"),
}
for _name, _lesson in LESSONS.items():
    SOURCES[f"book/{_name}"] = lambda rng, progress, lesson=_lesson: page(lesson(rng, progress))
    SOURCES[f"lesson/{_name}"] = lambda rng, progress, lesson=_lesson: conversation(lesson(rng, progress))
