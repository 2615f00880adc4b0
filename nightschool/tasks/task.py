"""A task: where its problems come from, what its tools answer, and how an attempt is judged. All of it is pure.

A verifier judges line by line: the worked lines in order, then the closing line. The first line that is not the
gold one is the first error; whatever follows a wrong turn counts as wrong too. One turn is the case without tools.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from nightschool.tasks.tools import call_tool
from nightschool.text.document import Message
from nightschool.world.problem import Problem, Split


@dataclass(frozen=True)
class Verdict:
    outcome: float  # 0..1: is the final answer right?
    steps: tuple[bool, ...] = ()  # one per line the model wrote (calls included, in order)
    first_error: int | None = None  # index of the first wrong line; len(steps) where the work stops too early
    feedback: str = ""  # why, in a few words
    observation: str = ""  # the line that the world puts in place of the first wrong one; practice learns to say it


def lines_of(transcript: Sequence[Message]) -> list[str]:
    """What the model itself wrote, a line an entry; a tool call is a line of its own."""
    lines: list[str] = []
    for message in transcript:
        if message.role != "assistant":
            continue
        lines += message.content.split("\n") if message.content else []
        lines += [call_line(call) for call in message.tool_calls]
    return lines


def call_line(call: dict[str, Any]) -> str:
    return f"{call['name']}({', '.join(f'{k}={v}' for k, v in call['arguments'].items())})"


def verify_lines(problem: Problem, transcript: Sequence[Message]) -> Verdict:
    """Judge an attempt against the gold lines; the outcome looks at the last line alone."""
    gold = lines_of(problem.messages[1:])
    said = lines_of(transcript)
    outcome = float(bool(said) and said[-1].strip() == gold[-1])
    first_error = next((i for i, (s, g) in enumerate(zip_longest(said, gold)) if (s or "").strip() != g), None)
    if first_error is None:
        return Verdict(outcome, (True,) * len(said))
    steps = tuple(i < first_error for i in range(len(said)))
    if first_error >= len(gold):
        feedback = "goes on after the answer"
    elif first_error >= len(said):
        feedback = f"stops before: {gold[first_error]}"
    else:
        feedback = f"line {first_error + 1} should be: {gold[first_error]}"
    return Verdict(outcome, steps, first_error, feedback)


def verify_and_show(problem: Problem, transcript: Sequence[Message]) -> Verdict:
    """`verify_lines`, and the world shows the line that should stand where the first error is, if one should."""
    verdict, gold = verify_lines(problem, transcript), lines_of(problem.messages[1:])
    place = len(gold) if verdict.first_error is None else verdict.first_error
    return replace(verdict, observation="".join(gold[place : place + 1]))


def answer_call(problem: Problem, transcript: Sequence[Message], call: dict[str, Any]) -> str:
    """The observation that a tool call gets: the calculator's value, or the problem's own fact table."""
    return call_tool(call, problem.data.get("table", {}))


@dataclass(frozen=True)
class Task:
    """`sample` draws a problem of a split; the rest has defaults that suit the world."""

    sample: Callable[[random.Random, Split], Problem]
    verify: Callable[[Problem, Sequence[Message]], Verdict] = verify_lines
    step: Callable[[Problem, Sequence[Message], dict[str, Any]], str] = answer_call

    def start(self, problem: Problem) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        """The messages an attempt begins with, and the tools announced."""
        return (*problem.before, problem.messages[0]), problem.tools
