"""Reading by thinking: the model writes about what it reads, and what it writes is checked against what it read.

It goes through the text sentence by sentence: which one it thinks about is not its own choice, so that nothing is left
out and its questions stay as varied as the text. A form (forms.py) says what it may write and how a program checks it;
a question is also answered again, with the text before it, and the answers must be the same. What is kept becomes
closed-book lessons: information from the document, on its way into the weights. But: checks know words, not meaning.
Sources: self-study (2506.06266), Active Reading (2508.09494), EntiGraph (2409.07431) for links.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.night.memory import Passage
from nightschool.runs import read_jsonl
from nightschool.tasks.attempt import complete
from nightschool.text.document import Document, Message

ASKED_AGAIN = ("question", "link")  # kinds with one right answer
HELD_OUT = ("question", "gap")
CHAT_TOKENS = 64  # most that a chat's own tokens take beside the words
NO_ROOM = "does not fit the context"  # in the place of an answer, and why nothing is made of it
Reader = Callable[[Sequence[str], float, int], list[str]]  # (prompts, temperature, seed) -> what each is answered


class Exercise(NamedTuple):
    """Something to write about passages. Each ask is a turn; two readers take turns."""

    kind: str
    passages: tuple[Passage, ...]
    asks: tuple[str, ...]
    sentence: str = ""  # that it is about
    turns: tuple[str, ...] = ()  # what a program asked and answered, where no reader is needed
    alone: bool = False  # the first ask stands without the passages

    @property
    def text(self) -> str:
        return "\n\n".join(passage.text for passage in self.passages)


@dataclass(frozen=True)
class Reflection:
    """What was written about passages, and what became of it."""

    kind: str
    parents: tuple[str, ...]  # ids of the documents
    gen: int
    written: str
    turns: tuple[str, ...] = ()  # asked, answered, ...; one alone is a text
    topic: str = ""  # what it is about: reflections on one topic are rehearsed as often as those on any other
    why: str = ""  # why it was not kept; "" = kept

    @property
    def kept(self) -> bool:
        return not self.why

    @property
    def lesson(self) -> Document:
        """What is learned: a text, or a conversation without its document."""
        lineage: dict[str, Any] = {"kind": "reflection", "info": "doc", "gen": self.gen, "parents": self.parents}
        if len(self.turns) == 1:
            return Document(text=self.turns[0], **lineage)
        pairs = zip(self.turns[::2], self.turns[1::2], strict=True)
        turns = [turn for asked, said in pairs for turn in (Message("user", asked), Message("assistant", said))]
        return Document(messages=tuple(turns), **lineage)


def read_back(path: Path) -> list[Reflection]:
    """Reflections from a .jsonl file of theirs."""
    rows = (row | {name: tuple(row[name]) for name in ("parents", "turns")} for row in read_jsonl(path))
    return [Reflection(**row) for row in rows]


class Form(NamedTuple):
    """What a reader can write, and how it is checked."""

    exercises: Callable[[Sequence[Passage], Sequence[int]], list[Exercise]]  # so many about each passage
    shaped: Callable[[Exercise, Sequence[str]], Reflection]  # what was written, turn by turn -> refused or not
    agrees: Callable[[str, str], bool]  # do two answers say the same?
    again: str  # how a question is put when it is asked again with its text
    temperature: float
    together: Callable[[Sequence[Reflection]], list[Reflection]]  # what a set of them shows, and none alone


def started(exercise: Exercise, kind: str, written: Sequence[str]) -> Reflection:
    """A reflection of which nothing is known yet."""
    parents = tuple(dict.fromkeys(passage.source for passage in exercise.passages))
    gen = 1 + max(passage.gen for passage in exercise.passages)
    return Reflection(kind, parents, gen, "\n".join(written))


def by_engine(engine: Engine, max_new_tokens: int) -> Reader:
    """A prompt that leaves no room for an answer gets NO_ROOM."""

    def read(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        room = engine.context - max_new_tokens - CHAT_TOKENS
        lengths = map(len, engine.tokenizer.encode_many(list(prompts)))
        fits = [i for i, length in enumerate(lengths) if length <= room]
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        answers = dict(zip(fits, complete(engine, [prompts[i] for i in fits], sampling), strict=True))
        return [answers.get(i, NO_ROOM) for i in range(len(prompts))]

    return read


def reflect(form: Form, exercises: Sequence[Exercise], readers: tuple[Reader, Reader], seed: int) -> list[Reflection]:
    """What the first reader writes about each, in turns with the second where there are several; who did not
    answer a question answers it again."""
    said: list[list[str]] = [[] for _ in exercises]
    for turn in range(max((len(e.asks) for e in exercises), default=0)):
        rows = [i for i, e in enumerate(exercises) if turn < len(e.asks)]
        asked = [(exercises[i].text, *said[i], exercises[i].asks[turn]) for i in rows]
        prompts = ["\n\n".join(a[not turn and exercises[i].alone :]) for i, a in zip(rows, asked, strict=True)]
        for i, text in zip(rows, readers[turn % 2](prompts, form.temperature, seed + turn), strict=True):
            said[i].append(text)
    written = [
        replace(started(e, e.kind, texts), why=NO_ROOM) if NO_ROOM in texts else form.shaped(e, texts)
        for e, texts in zip(exercises, said, strict=True)
    ]
    right = [r.kept and r.kind in ASKED_AGAIN for r in written]
    for who, reader in enumerate(readers):
        rows = [i for i, e in enumerate(exercises) if right[i] and len(e.asks) % 2 == who]
        prompts = [f"{exercises[i].text}\n\n{form.again.format(written[i].turns[0])}" for i in rows]
        for i, answer in zip(rows, reader(prompts, 0, seed), strict=True):
            same = form.agrees(answer, written[i].turns[1])
            why = NO_ROOM if answer == NO_ROOM else "" if same else "is answered otherwise when asked again"
            written[i] = replace(written[i], why=why)
    return written


def counts(reflections: Sequence[Reflection]) -> dict[str, dict[str, int]]:
    """kind -> why, or "kept" -> how many."""
    found: dict[str, Counter[str]] = {}
    for r in reflections:
        found.setdefault(r.kind, Counter())[r.why or "kept"] += 1
    return {kind: dict(count.most_common()) for kind, count in found.items()}


def by_topic(reflections: Sequence[Reflection]) -> list[list[Document]]:
    topics: dict[str, list[Document]] = {}
    for r in reflections:
        if r.kept:
            topics.setdefault(r.topic, []).append(r.lesson)
    return list(topics.values())


def hold_out(reflections: Sequence[Reflection], most: int) -> list[Reflection]:
    """Questions to ask and never to teach, one a topic: of topics about which something else is taught."""
    topics: dict[str, dict[str, Reflection]] = {}
    for r in reflections:
        if r.kept:
            topics.setdefault(r.topic, {})[r.turns[0]] = r
    found = (
        next((r for r in topic.values() if r.kind in HELD_OUT), None) for topic in topics.values() if len(topic) > 1
    )
    asked = [r for r in found if r]
    return asked[:: max(1, len(asked) // most)][:most]
