"""What is taught: the world's families as documents, in the shares of each stage.

By day the same lessons come twice: as pages of an exercise book (plain text, for pretraining) and as conversations
(for fine-tuning), beside prose to read, drills and small talk. Questions about one passage or story share it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from nightschool.text.document import Document, Message, in_pieces
from nightschool.world import passages, stories
from nightschool.world.arithmetic import arithmetic, tables
from nightschool.world.attributes import ATTRIBUTES, Fact
from nightschool.world.jokes import house, joke
from nightschool.world.letters import letter_count, spell, spelling
from nightschool.world.lexicon import FIRST_NAMES, NEW_NAMES
from nightschool.world.problem import Problem, Split
from nightschool.world.programs import rearrange, sort, trace
from nightschool.world.prose import prose
from nightschool.world.talk import talk
from nightschool.world.tools import TOOLS, calculator, lookup, register
from nightschool.world.typed import typed
from nightschool.world.word_problems import word_problem

Lesson = Callable[[random.Random], list[Problem]]  # one page
Source = Callable[[random.Random, float], Document]  # the float is the progress of the stage, 0 to 1
DONT_KNOW = "I do not know."
ANOTHER = ("Another one!", "One more, please.", "Do you know another one?", "That was good. Another?", "again")
ASK_ABOUT = (
    "Ask a question about this sentence and answer it: {}",
    "Write a question about this, with its answer: {}",
    "Think of a question that this helps to answer, and answer it: {}",
)


def conversation(problems: Sequence[Problem], tools: Sequence[str] = ()) -> Document:
    """The problems as one conversation; a context they share is given once. `tools`: announced in any case."""
    messages: list[Message] = []
    for i, problem in enumerate(problems):
        asked = problem if i == 0 else replace(problem, context="")
        messages += asked.messages
    return Document(messages=tuple(messages), tools=problems[0].tools or tuple(tools))


def as_typed(problem: Problem, rng: random.Random) -> Problem:
    return replace(problem, question=typed(problem.question, rng))


def printed(lesson: Lesson) -> Source:
    """A lesson as a page of an exercise book."""
    return lambda rng, progress: page(lesson(rng))


def spoken(lesson: Lesson, earlier: float = 0.4) -> Source:
    """A lesson as a conversation, as people type it; where nothing is read in it, other subjects come before in a share
    `earlier`. Tools are announced in a third of those that need none, and are left alone."""

    def source(rng: random.Random, progress: float) -> Document:
        problems = [as_typed(problem, rng) for problem in lesson(rng)]
        told = conversation(problems)
        if problems[0].context:
            return replace(told, tools=TOOLS if rng.random() < IDLE else ())
        ignorant = problems[0].skill == "unknown"  # where there is a table one would look there
        before = other_subjects(rng, "train", ("talk",) if ignorant else tuple(SUBJECTS), earlier)
        tools = told.tools or before.tools or (TOOLS if rng.random() < IDLE and not ignorant else ())
        return Document(messages=before.messages + told.messages, tools=tools)

    return source


def other_subjects(rng: random.Random, split: Split, among: Sequence[str], share: float) -> Document:
    """What was talked about before: in a share of cases one thing, and in the same share of these another one."""
    parts: list[Document] = []
    while rng.random() < share and len(parts) < 2:
        parts.append(SUBJECTS[rng.choice(among)](rng, split))
    tools = next((part.tools for part in parts if part.tools), ())
    return Document(messages=tuple(message for part in parts for message in part.messages), tools=tools)


def page(problems: Sequence[Problem]) -> Document:
    """The problems as a page of an exercise book: questions are read, their solutions learned."""
    pieces, before = list[tuple[str, bool]](), f"{problems[0].context}\n\n" if problems[0].context else ""
    for problem in problems:
        pieces += [(f"{before}Question: {problem.question}\n", False), (problem.solution, True)]
        before = "\n\n"
    return in_pieces(pieces)


def about_passage(rng: random.Random) -> list[Problem]:
    kinds = ["one_hop", "one_hop", "two_hop", "absent", rng.choice(("two_hop", "absent"))]
    rng.shuffle(kinds)
    return passages.passage(rng, "train", tuple(kinds))


def about_story(rng: random.Random) -> list[Problem]:
    kinds = ["holder", "person", "thing", "since"]
    rng.shuffle(kinds)
    return stories.story(rng, "train", tuple(kinds))


def about_jokes(rng: random.Random) -> list[Problem]:
    """A joke, at times another one, or a house."""
    told = [rng.choice((joke, house))(rng, "train")]
    if told[0].skill == "joke" and rng.random() < 0.3:
        told.append(replace(joke(rng, "train"), question=rng.choice(ANOTHER)))
    return told


def sum_or_difference(rng: random.Random, split: Split) -> Problem:
    """Mostly of the size that is examined, at times a small one, as people like to ask."""
    return arithmetic(rng, split, (1, 2) if rng.random() < 0.15 else (2, 4))


def several(family: Callable[[random.Random, Split], Problem], n: int) -> Lesson:
    """A page of n problems that share nothing."""
    return lambda rng: [family(rng, "train") for _ in range(n)]


def unknown(rng: random.Random, split: Split, names: Sequence[str] = FIRST_NAMES + NEW_NAMES) -> Problem:
    """A question about a person, with nothing to read and no table: the honest answer is that one does not know."""
    attribute = rng.choice(ATTRIBUTES)
    name = rng.choice(names)
    question = rng.choice(attribute.ask[:-1]).format(X=name)
    return Problem("unknown", "unknown", f"unknown {name} {attribute.name}", question, "", closing=DONT_KNOW)


def ask_about(rng: random.Random, split: Split) -> Problem:
    """Read a passage, and write a question about one of its sentences, with its notes and answer: what the night does
    by itself."""
    asked = passages.passage(rng, split, (rng.choice(("one_hop", "one_hop", "two_hop")),))[0]
    note = rng.choice(asked.steps)
    person, value = note.rpartition(" of ")[2].split(": ")
    told = [s for s in sentences(asked.context) if value in s]
    sentence = next((s for s in told if person in s), told[0])
    return replace(
        asked,
        skill="ask",
        question=rng.choice(ASK_ABOUT).format(sentence),
        steps=(f"Question: {asked.question}", *asked.steps),
    )


def sentences(text: str) -> list[str]:
    """A text's sentences, each with its full stop."""
    return [f"{s.removesuffix('.')}." for s in text.split(". ")]


def asked(family: Callable[[random.Random, Split], Problem]) -> Callable[[random.Random, Split], Document]:
    """A problem as two turns of a conversation."""

    return lambda rng, split: conversation([as_typed(family(rng, split), rng)])


IDLE = 1 / 3  # conversations without need of tools in which they are announced
SUBJECTS: dict[str, Callable[[random.Random, Split], Document]] = {
    "talk": talk,
    "joke": asked(joke),
    "arithmetic": asked(lambda rng, split: arithmetic(rng, split, (1, 3))),
    "calculator": asked(calculator),
    "letters": asked(letter_count),
}
LESSONS: dict[str, Lesson] = {
    "passage": about_passage,
    "story": about_story,
    "arithmetic": several(sum_or_difference, 1),
    "word_problem": several(word_problem, 1),
    "letters": lambda rng: [rng.choice((letter_count, letter_count, spell))(rng, "train") for _ in range(2)],
    "tool": lambda rng: [rng.choice((calculator, lookup))(rng, "train")],
    "programs": lambda rng: [rng.choice((trace, sort, rearrange))(rng, "train")],
    "joke": about_jokes,
    "unknown": several(unknown, 2),
    "ask": several(ask_about, 1),
}


def passage_notes(rng: random.Random, progress: float) -> Document:
    """A passage to read and notes on it to write; passages grow over the first two thirds of a stage. In its first half
    most facts are told value first: that habit comes late or never if it is rare, and then all at once (LOG.md)."""
    size = (2, 5) if rng.random() > 1.5 * progress else (7, 8)
    return noted(*passages.notes(rng, "train", size, VALUE_FIRST if progress < 0.5 else 0.0))


def story_notes(rng: random.Random, progress: float) -> Document:
    return noted(*stories.notes(rng, "train", (2, 5) if rng.random() > 1.5 * progress else (6, 9)))


def list_of_notes(rng: random.Random, progress: float) -> Document:
    """Notes on nothing, each twice: what is learned is to find a note again."""
    cast = passages.people(rng, rng.randint(2, 5))
    attributes = rng.sample(ATTRIBUTES, rng.randint(1, 2))
    lines = 2 * [Fact(name, a, rng.choice(a.values)).note for name in cast for a in attributes]
    rng.shuffle(lines)
    return noted("", lines)


def noted(text: str, lines: list[str]) -> Document:
    """A text and notes on it. A note's value is learned where the text, or the same note before it, tells it."""
    pieces = [(f"{text}\n\nNotes" if text else "Notes", False)]
    for i, line in enumerate(lines):
        asked, _, value = line.partition(":")
        pieces += [(f"\n{asked}:", False), (value, bool(text) or line in lines[:i])]
    return in_pieces(pieces)


def read(progress: float) -> dict[str, float]:
    """Shares of pretraining's sources: first nothing but lists, until the habit of looking things up is firm."""
    return {"notes": 1.0} if progress < FIRST else READING


FIRST = 0.08  # of pretraining
VALUE_FIRST = 0.7  # of the facts of its first half
READING = {
    "prose": 0.05,
    "notes": 0.04,
    "notes/passage": 0.28,
    "notes/story": 0.22,
    "tables": 0.06,
    "register": 0.02,
    "spelling": 0.03,
    "book/arithmetic": 0.10,
    "book/word_problem": 0.08,
    "book/letters": 0.06,
    "book/programs": 0.02,
    "book/joke": 0.01,
    "book/ask": 0.03,
}
STUDY = {
    "talk": 0.03,
    "lesson/passage": 0.19,
    "lesson/story": 0.20,
    "lesson/arithmetic": 0.16,
    "lesson/word_problem": 0.17,
    "lesson/letters": 0.08,
    "lesson/tool": 0.06,
    "lesson/programs": 0.01,
    "lesson/joke": 0.01,
    "lesson/unknown": 0.01,
    "lesson/ask": 0.08,
}
SOURCES: dict[str, Source] = {
    "prose": lambda rng, progress: prose(rng, "train"),
    "notes": list_of_notes,
    "tables": lambda rng, progress: tables(rng),
    "register": lambda rng, progress: register(rng),
    "spelling": lambda rng, progress: spelling(rng),
    "talk": lambda rng, progress: talk(rng, "train"),
    "notes/passage": passage_notes,
    "notes/story": story_notes,
    **{f"book/{name}": printed(lesson) for name, lesson in LESSONS.items()},
    **{f"lesson/{name}": spoken(lesson) for name, lesson in LESSONS.items()},
}
