"""Homework: before sleep the model reviews attempts at the day's problems, and tries again from where it went wrong.

    attempt -> a reviewer marks its lines (rl/review.py) -> go on from the last right one -> a verifier lets it pass

Lessons are what came out right, whole, and the reviews whose place of the first wrong line is the verifier's. But: one
turn; what no second try mends teaches nothing but its marks.

Source: InT (2601.14209), cross-entropy on the right beginning and its mended rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl.potential import starts_of_lines
from nightschool.rl.review import Work, conversation, guess, read, truth, work_of
from nightschool.tasks.attempt import attempt, resume
from nightschool.tasks.task import Task
from nightschool.tasks.world import draw
from nightschool.text.document import Document, Message

COPIES = 4  # second tries
MAX_NEW_TOKENS = 144  # of an attempt


@dataclass(frozen=True)
class Homework:
    """A reviewed attempt. place: of the first wrong line, one past the end where there is none."""

    prompt: str
    lines: tuple[str, ...]
    sure: tuple[int, ...]
    place: int  # by the review
    truth: int  # by the verifier
    mended: str = ""  # the attempt with its rest written anew, verified; "" = none

    @property
    def lessons(self) -> list[Document]:
        found = list[tuple[Message, ...]]()
        if self.mended:
            found.append((Message("user", self.prompt), Message("assistant", self.mended)))
        if self.place == self.truth:
            marks = [True] * self.truth + [False]
            found.append(conversation(Work(self.prompt, self.lines, self.sure), marks[: len(self.sure)]))
        return [Document(messages=turns, kind="reflection", info="verifier", gen=1) for turns in found]


def review(engine: Engine, reviewer: Transformer, task: Task, n: int, seed: int) -> list[Homework]:
    """n attempts at train problems, reviewed; what the review finds wrong is tried again from there."""
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=1_000_000 * seed)
    attempts = attempt(engine, task, draw(task, "train", n, seed), sampling)
    works = [work_of(engine.tokenizer, a) for a in attempts]
    places = [guess(marks) for marks in read(reviewer, engine.tokenizer, works)[0]]
    found = [
        Homework(work.prompt, work.lines, work.sure, place, truth(a))
        for work, a, place in zip(works, attempts, places, strict=True)
    ]
    wrong = [i for i, (place, work) in enumerate(zip(places, works, strict=True)) if place <= len(work.lines)]
    begun = [(attempts[i], starts_of_lines(engine.tokenizer, attempts[i])[places[i]]) for i in wrong]
    again = resume(engine, task, begun, replace(sampling, seed=sampling.seed + 500_000), COPIES)
    for j, i in enumerate(wrong):
        for a in again[j * COPIES : (j + 1) * COPIES]:
            if truth(a) > len(a.verdict.steps):
                found[i] = replace(found[i], mended=a.text)
    return found
