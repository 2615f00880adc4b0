"""GSM8K from a file of its own form: lines of {"question", "answer"}, where an answer's lines hold <<48/2=24>> notes
and the last one is "#### 72".

Its steps have no program, only a reference: a line is taken to be wrong where it says that something equals a number
that the reference never comes to. Where the answer is wrong, so is all that stands after the last right result: babble
that claims nothing earns nothing. This is a partial verifier: it blames good detours and passes bad lines without "=".
The splits of a file go by the questions; keep the official test file for the end.
Source: Cobbe 2021 (2110.14168).
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from nightschool.config import UserError
from nightschool.tasks.task import Task, Verdict, lines_of
from nightschool.text.document import Message
from nightschool.world.problem import Problem, Split, split_of

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
RESULT = re.compile(r"=\s*[$€£]?\s*(-?\d[\d,]*(?:\.\d+)?|-?\.\d+)")


def value(text: str) -> float:
    return float(text.replace(",", ""))


def results(line: str) -> list[float]:
    """ "2 + 3 = 5 apples" -> [5.0]: what a line says that something equals."""
    return [value(number) for number in RESULT.findall(line)]


def problem_from(row: dict[str, str]) -> Problem:
    worked, _, answer = row["answer"].rpartition("####")
    notes = re.findall(r"<<[^<>]*=([^<>=]*)>>", worked)
    lines = [re.sub(r"<<[^<>]*>>", "", line).strip() for line in worked.strip().split("\n")]
    known = {value(n) for note in notes for n in NUMBER.findall(note)}
    known |= {result for line in lines for result in results(line)}
    return Problem(
        skill="gsm8k",
        kind=f"steps_{len(lines)}",
        key=f"gsm8k {row['question']}",
        question=row["question"],
        answer=answer.strip(),
        steps=tuple(lines),
        data={"known": sorted(known)},
    )


def verify_gsm8k(problem: Problem, transcript: Sequence[Message]) -> Verdict:
    said = lines_of(transcript)
    numbers = NUMBER.findall(said[-1]) if said else []
    outcome = float(bool(numbers) and value(numbers[-1]) == value(problem.answer))
    for place, line in enumerate(said[:-1]):
        strange = [r for r in results(line) if r not in problem.data["known"]]
        if strange:
            steps = tuple(i < place for i in range(len(said)))
            return Verdict(outcome, steps, place, f"line {place + 1}: the reference never comes to {strange[0]:g}")
    if outcome:
        return Verdict(outcome, (True,) * len(said))
    told = [place for place, line in enumerate(said[:-1]) if results(line)]
    first = max(told, default=-1) + 1
    return Verdict(outcome, tuple(i < first for i in range(len(said))), first, f"the answer is {problem.answer}")


def gsm8k(path: Path) -> Task:
    """UserError where the file is not of that form."""
    if not path.is_file():
        raise UserError(f"no file {path}; name a .jsonl of GSM8K's form, or a task")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            problems = [problem_from(json.loads(line)) for line in file if line.strip()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path}: every line must be {{"question": ..., "answer": "... #### 72"}}; {error!r}') from None
    by_split: dict[Split, list[Problem]] = {"train": [], "dev": [], "test": []}
    for problem in problems:
        by_split[split_of(problem.key)].append(problem)
    if not all(by_split.values()):
        raise UserError(f"{path} holds {len(problems)} problems; too few for a train, dev and test split")

    def sample(rng: random.Random, split: Split) -> Problem:
        return rng.choice(by_split[split])

    return Task(sample, verify_gsm8k)
