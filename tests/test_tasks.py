"""Verifiers, tools, exams: a task's own gold answer scores 1.0, and each kind of wrong turn is found where it is."""

import random
from dataclasses import replace

import pytest

from nightschool.tasks.exam import interval
from nightschool.tasks.named import TASKS
from nightschool.tasks.task import lines_of, verify_lines
from nightschool.tasks.tools import calculate, call_tool
from nightschool.tasks.world import SKILLS, draw
from nightschool.text.document import Message
from nightschool.world.arithmetic import columns
from nightschool.world.letters import counted
from nightschool.world.problem import Problem, split_of


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_gold_scores_one_and_splits_are_disjoint(name: str, split: str) -> None:
    task = TASKS[name]
    for problem in draw(task, split, 20, seed=3):
        assert split_of(problem.key) == split
        verdict = task.verify(problem, problem.messages[1:])
        assert verdict.outcome == 1.0
        assert all(verdict.steps)
        assert verdict.first_error is None
        for call, observation in problem.calls:
            assert task.step(problem, (), call) == observation


def test_draw_is_a_function_of_its_seed() -> None:
    task = SKILLS["passage"]
    assert draw(task, "dev", 5, seed=1) == draw(task, "dev", 5, seed=1) != draw(task, "dev", 5, seed=2)


PROBLEM = Problem("arithmetic", "add", "k", "58+67", "125", steps=("58+67: 8+7=15; 5", "5+6+1: 5+6+1=12; 25"))


@pytest.mark.parametrize(
    ("said", "outcome", "first_error"),
    [
        ("58+67: 8+7=15; 5\n5+6+1: 5+6+1=12; 25\nAnswer: 125", 1.0, None),
        ("58+67: 8+7=14; 4\n5+6+1: 5+6+1=12; 24\nAnswer: 124", 0.0, 0),
        ("58+67: 8+7=15; 5\n5+6+1: 5+6+1=11; 15\nAnswer: 125", 1.0, 1),  # a lucky answer after a wrong turn
        ("58+67: 8+7=15; 5", 0.0, 1),  # stops too early: the error is the line that is not there
        ("58+67: 8+7=15; 5\n5+6+1: 5+6+1=12; 25\nAnswer: 125\nAnswer: 125", 1.0, 3),  # does not stop
        ("", 0.0, 0),
    ],
)
def test_first_error(said: str, outcome: float, first_error: int | None) -> None:
    verdict = verify_lines(PROBLEM, [Message("assistant", said)])
    assert (verdict.outcome, verdict.first_error) == (outcome, first_error)
    assert len(verdict.steps) == len(lines_of([Message("assistant", said)]))


def test_columns_by_hand() -> None:
    assert columns(472, "+", 59) == ["472+59: 2+9=11; 1", "47+5+1: 7+5+1=13; 31", "4+0+1: 4+0+1=5; 531"]
    assert columns(203, "-", 17) == ["203-17: 13-7=6; 6", "20-1-1: 10-1-1=8; 86", "2-0-1: 2-0-1=1; 186"]
    assert columns(5, "+", 7) == ["5+7: 5+7=12; 2", "0+0+1: 0+0+1=1; 12"]


@pytest.mark.parametrize("op", ["+", "-"])
def test_columns_end_in_the_answer(op: str) -> None:
    rng = random.Random(0)
    for _ in range(200):
        a, b = sorted((rng.randrange(10000), rng.randrange(10000)), reverse=True)
        assert int(columns(a, op, b)[-1].split("; ")[1]) == (a + b if op == "+" else a - b)


def test_counted() -> None:
    assert counted("noon", "o") == "n0 o1 o2 n2"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("347*28", "9716"),
        ("2*(3+4)", "14"),
        ("-5+2", "-3"),
        ("7/2", "3.5"),
        ("1/0", "error: no such number"),
        ("__import__('os')", "error: only numbers and + - * / // %"),
        ("9**9**9", "error: only numbers and + - * / // %"),
        ("1+", "error: only numbers and + - * / // %"),
        ("\x00", "error: only numbers and + - * / // %"),
        ("(" * 60 + "1" + ")" * 60, "error: longer than 100 characters"),
        ("1e308*1e308", "inf"),
        ("True", "error: only numbers and + - * / // %"),
    ],
)
def test_calculate(expression: str, value: str) -> None:
    assert calculate(expression) == value


def test_lookup() -> None:
    facts = {"Ada": {"job": "miller"}}
    assert call_tool({"name": "lookup", "arguments": {"name": "Ada", "fact": "job"}}, facts) == "miller"
    assert call_tool({"name": "lookup", "arguments": {"name": "Ada", "fact": "pet"}}, facts) == "not found"
    assert call_tool({"name": "eval", "arguments": {}}, facts) == "error: no such call: eval"
    assert call_tool({"name": "lookup", "arguments": "Ada"}, facts).startswith("error")


def test_interval_of_wilson() -> None:
    score = interval(90, 100)  # by hand: centre 0.8852, half-width 0.0597
    assert score["low"] == pytest.approx(0.8256, abs=1e-3)
    assert score["high"] == pytest.approx(0.9448, abs=1e-3)
    assert interval(0, 10)["low"] == 0.0


def test_prompt_and_solution() -> None:
    problem = replace(PROBLEM, context="Read this.")
    assert problem.prompt == "Read this.\n\n58+67"
    assert problem.solution.endswith("\nAnswer: 125")
