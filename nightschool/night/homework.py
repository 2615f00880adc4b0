"""Homework: before sleep the model reviews attempts at the day's problems, and tries again from where it went wrong.

    attempt -> a reviewer marks its lines (rl/review.py) -> go on from the last right one -> a verifier lets it pass

Lessons are the attempts that came out right so, whole. But: one turn; what no second try mends teaches nothing.

Source: InT (2601.14209), cross-entropy on the right beginning and its mended rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl.potential import starts_of_lines
from nightschool.rl.review import guess, is_right, read, truth
from nightschool.tasks.attempt import attempt, resume
from nightschool.tasks.task import Task, lines_of
from nightschool.tasks.world import draw
from nightschool.text.document import Document, Message

COPIES = 4  # second tries
MAX_NEW_TOKENS = 144  # of an attempt


@dataclass(frozen=True)
class Homework:
    """A reviewed attempt. place: of the first wrong line, one past the end where there is none."""

    prompt: str
    lines: tuple[str, ...]
    place: int  # by the review
    truth: int  # by the verifier
    mended: str = ""  # the attempt with its rest written anew, verified; "" = none

    @property
    def lesson(self) -> Document:
        turns = Message("user", self.prompt), Message("assistant", self.mended)
        return Document(messages=turns, kind="reflection", info="verifier", gen=1)


def review(engine: Engine, reviewer: Transformer, task: Task, n: int, seed: int) -> list[Homework]:
    """n attempts at train problems, reviewed; what the review finds wrong is tried again from there."""
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=1_000_000 * seed)
    attempts = attempt(engine, task, draw(task, "train", n, seed), sampling)
    places = [guess(marks) for marks in read(reviewer, engine.tokenizer, attempts)[0]]
    found = [
        Homework(a.problem.prompt, tuple(lines_of(a.transcript)), place, truth(a))
        for a, place in zip(attempts, places, strict=True)
    ]
    wrong = [i for i, one in enumerate(found) if one.place <= len(one.lines)]
    begun = [(attempts[i], starts_of_lines(engine.tokenizer, attempts[i])[places[i]]) for i in wrong]
    again = resume(engine, task, begun, replace(sampling, seed=sampling.seed + 500_000), COPIES)
    for j, i in enumerate(wrong):
        for a in again[j * COPIES : (j + 1) * COPIES]:
            if is_right(a):
                found[i] = replace(found[i], mended=a.text)
    return found
