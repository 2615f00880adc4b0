"""Verifiers that are programs: right in more than one way, the first error where it is; tasks from a user's files."""

import gzip
import json
import random
from itertools import permutations
from pathlib import Path

import pytest

from nightschool.config import UserError
from nightschool.tasks.countdown import moves, verify_countdown, way
from nightschool.tasks.gsm8k import gsm8k, problem_from, verify_gsm8k
from nightschool.tasks.named import TASKS, task_named
from nightschool.tasks.sudoku import grids, solutions, verify_sudoku
from nightschool.tasks.task import Task, Verdict
from nightschool.tasks.world import draw
from nightschool.text.document import Message
from nightschool.world.problem import Problem
from nightschool.world.totals import Slips, totals

NUMBERS = Problem("countdown", "", "k", "", "24", data={"numbers": (2, 3, 4, 6), "target": 24})


def said(text: str) -> list[Message]:
    return [Message("assistant", text)]


@pytest.mark.parametrize(
    ("text", "outcome", "first_error", "why"),
    [
        ("2+4=6\n6-3=3\n6*3=18\nAnswer: 24", 0.0, 1, "can no longer be reached"),
        ("3-2=1\n4*6=24\n24*1=24\nAnswer: 24", 1.0, None, ""),
        ("4*6=24\n3-2=1\n24/1=24\nAnswer: 24", 1.0, None, ""),  # another way
        ("4*6=25", 0.0, 0, "4*6 is not 25"),
        ("4*4=16", 0.0, 0, "not both there"),
        ("3-4=1", 0.0, 0, "3-4 is not 1"),
        ("3-2=1\n4*6=24\n24*1=24\nAnswer: 25", 0.0, 3, "should be: Answer: 24"),
        ("3-2=1\n4*6=24\n24*1=24", 0.0, 3, "stops before"),
        ("3-2=1\n4*6=24\n24*1=24\nAnswer: 24\nyes", 0.0, 4, "goes on"),
        ("hello", 0.0, 0, "no calculation"),
        ("", 0.0, 0, "stops before"),
    ],
)
def test_countdown(text: str, outcome: float, first_error: int | None, why: str) -> None:
    verdict = verify_countdown(NUMBERS, said(text))
    assert (verdict.outcome, verdict.first_error) == (outcome, first_error)
    assert why in verdict.feedback
    assert len(verdict.steps) == len(text.split("\n") if text else [])


def test_still_solvable_is_exact() -> None:
    """`way` against evaluating every order and operation, without its pruning of equal moves."""

    def reachable(numbers: tuple[int, ...]) -> set[int]:
        if len(numbers) == 1:
            return {numbers[0]}
        found: set[int] = set()
        for x, y, *rest in permutations(numbers):
            results = {x + y, x * y, x - y} | ({x // y} if x % y == 0 else set())
            for result in (r for r in results if r > 0):
                found |= reachable((result, *rest))
        return found

    rng = random.Random(0)
    for _ in range(20):
        numbers = tuple(sorted(rng.randint(1, 12) for _ in range(3)))
        there = reachable(numbers)
        assert {t for t in range(1, 400) if way(numbers, t) is not None} == {t for t in there if t < 400}
    assert all(eval(line.split("=")[0]) == int(line.split("=")[1]) for line, _ in moves((2, 3, 8)))


def test_sudoku() -> None:
    assert len(grids()) == 288
    problem = draw(TASKS["sudoku"], "train", 1, seed=0)[0]
    assert len(solutions(problem.data["puzzle"])) == 1
    steps, closing = list(problem.steps), f"Answer: {problem.answer}"
    assert verify_sudoku(problem, said("\n".join([*reversed(steps), closing]))).outcome == 1.0  # any order
    cell, digit = steps[1].split("=")
    slip = f"{cell}={int(digit) % 4 + 1}"
    verdict = verify_sudoku(problem, said("\n".join([steps[0], slip, *steps[2:], closing])))
    assert (verdict.outcome, verdict.first_error) == (1.0, 1)  # lucky
    assert verdict.feedback == f"line 2: {cell} is {digit}"
    assert verify_sudoku(problem, said("\n".join([steps[0], steps[0]]))).first_error == 1
    assert verify_sudoku(problem, said("\n".join(steps))).first_error == len(steps)


def test_totals_and_the_careless_teacher() -> None:
    problem = totals(random.Random(0), "train", (12, 12))
    start, digits = problem.question.split(": ")
    total = int(start)
    for digit, line in zip(digits, (*problem.steps, problem.closing), strict=True):
        total = (total + int(digit)) % 100
        assert line == f"{total:02}"
    right = wrong = tens = 0
    rng = random.Random(1)
    for _ in range(2000):
        (line,) = (problem := totals(rng, "train", (1, 1), Slips(0.4, 0.2))).solution.split("\n")
        start, digit = problem.question.split(": ")
        true = int(start) + int(digit)
        if int(start) % 10 + int(digit) > 9:
            right, wrong = right + (int(line) == true % 100), wrong + (int(line) == (true - 10) % 100)
            tens += 1
        else:
            assert int(line) == true
    assert right / tens == pytest.approx(0.4, abs=0.06)
    assert wrong / tens == pytest.approx(0.4, abs=0.06)
    lucky = totals(random.Random(2), "train", lucky=True)
    assert int(lucky.closing) == int(lucky.steps[-1]) % 5


ROW = {
    "question": "Ann has 2 boxes of 12 eggs and breaks 4. How many are whole?",
    "answer": "She has 2*12=<<2*12=24>>24 eggs.\nSo 24-4=<<24-4=20>>20 are whole.\n#### 20",
}


@pytest.mark.parametrize(
    ("text", "outcome", "first_error"),
    [
        ("She has 2*12=24 eggs.\nSo 24-4=20 are whole.\nAnswer: 20", 1.0, None),
        ("She has a lot.\nSo there are 24 - 4 = $20.00.\nAnswer: 20.0", 1.0, None),
        ("She has 2*12=22 eggs.\nSo 22-4=18 are whole.\nAnswer: 18", 0.0, 0),
        ("She has 2*12=24 eggs.\nSo 24-4=21 are whole.\nAnswer: 20", 1.0, 1),
        ("She has 2*12=24 eggs.\nAnswer: 24", 0.0, 1),
        ("", 0.0, 0),
        ("Eggs.\nSo many eggs.\n2 eggs", 0.0, 0),  # lines that claim nothing once earned credit for their number
        ("She has 2*12=24 eggs.\nThat is a lot.\nAnswer: 24", 0.0, 1),
    ],
)
def test_gsm8k_steps(text: str, outcome: float, first_error: int | None) -> None:
    verdict = verify_gsm8k(problem_from(ROW), said(text))
    assert (verdict.outcome, verdict.first_error) == (outcome, first_error)


@pytest.mark.parametrize("name", ["set.jsonl", "set.jsonl.gz"])
def test_gsm8k_file(name: str, tmp_path: Path) -> None:
    rows = "\n".join(json.dumps(ROW | {"question": f"{i} {ROW['question']}"}) for i in range(60))
    path = tmp_path / name
    path.write_bytes(gzip.compress(rows.encode()) if name.endswith("gz") else rows.encode())
    task = task_named(str(path))
    for problem in draw(task, "dev", 2, seed=0):
        assert task.verify(problem, problem.messages[1:]) == Verdict(1.0, (True, True, True))
    with pytest.raises(UserError, match="dev problems, and 60 are asked for"):
        draw(task, "dev", 60, seed=0)


def test_gsm8k_file_too_small_or_torn(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(ROW))
    with pytest.raises(UserError, match="too few"):
        gsm8k(path)
    path.write_text('{"question": "?"}')
    with pytest.raises(UserError, match="every line must be"):
        gsm8k(path)


OWN = """
from nightschool.tasks.task import Verdict, lines_of
from nightschool.world.problem import Problem

def sample(rng, split):
    n = rng.randrange(1000)
    call = {"name": "double", "arguments": {"n": n}}
    calls = ((call, str(2 * n)),)
    return Problem("own", "", f"double {n}", f"Double {n}.", str(2 * n), tools=("double",), calls=calls)

def step(problem, transcript, call):
    return f"{2 * call['arguments']['n']} after {len(transcript)}"

def verify(problem, transcript):
    said = lines_of(transcript)
    right = bool(said) and said[-1].endswith(problem.answer)
    return Verdict(float(right), (right,) * len(said), None if right else 0)
"""


def test_own_task(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    task = task_named(str(path))
    assert isinstance(task, Task)
    problem = draw(task, "train", 1, seed=0)[0]
    assert task.verify(problem, problem.messages[1:]).outcome == 1.0
    assert task.step(problem, (), {"name": "double", "arguments": {"n": 4}}) == "8 after 0"
