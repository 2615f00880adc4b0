"""Attempts: problems -> what a model wrote -> verdicts. Exams, RL and the night all go through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from nightschool.model.engine import Completion, Engine
from nightschool.model.sampling import Sampling
from nightschool.tasks.task import Task, Verdict
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.text.tokenizer import Tokenizer
from nightschool.world.problem import Problem


@dataclass(frozen=True)
class Attempt:
    problem: Problem
    completion: Completion
    transcript: tuple[Message, ...]  # the assistant's turns
    verdict: Verdict

    @property
    def text(self) -> str:
        return "\n".join(m.content or str(list(m.tool_calls)) for m in self.transcript)


def turns_of(tokenizer: Tokenizer, completion: Completion) -> tuple[Message, ...]:
    """What the model itself said: its sampled tokens, a turn for each stretch between tool observations."""
    pairs = groupby(zip(completion.ids, completion.mask, strict=True), key=lambda pair: pair[1])
    return tuple(chat.said(tokenizer, [i for i, _ in group]) for sampled, group in pairs if sampled)


def complete(engine: Engine, questions: Sequence[str], sampling: Sampling) -> list[str]:
    """What the model answers to each question, asked by itself and without tools."""
    prompts = chat.render_many(engine.tokenizer, [((Message("user", q),), ()) for q in questions], generate=True)
    completions = engine.generate([ids for ids, _ in prompts], sampling)
    return [chat.said(engine.tokenizer, c.ids).content for c in completions]


def sample(
    engine: Engine, task: Task, problems: Sequence[Problem], sampling: Sampling, copies: int = 1
) -> list[Completion]:
    """Try each problem `copies` times, tools answered by the task; the copies of one problem stand together."""
    prompts = chat.render_many(engine.tokenizer, [task.start(p) for p in problems], generate=True)
    asked = [p for p in problems for _ in range(copies)]
    so_far: list[list[Message]] = [[] for _ in asked]  # each attempt's calls and what they gave

    def tool(row: int, call: dict[str, Any]) -> str:
        observation = task.step(asked[row], so_far[row], call)
        so_far[row] += [Message("assistant", "", (call,)), Message("tool", observation)]
        return observation

    return engine.generate([ids for ids, _ in prompts for _ in range(copies)], sampling, tool)


def judge(
    tokenizer: Tokenizer, task: Task, problems: Sequence[Problem], completions: Sequence[Completion]
) -> list[Attempt]:
    """Have each completion of `sample` verified."""
    copies, attempts = len(completions) // max(len(problems), 1), []  # a rank may have no problem
    for i, completion in enumerate(completions):
        problem, transcript = problems[i // copies], turns_of(tokenizer, completion)
        attempts.append(Attempt(problem, completion, transcript, task.verify(problem, transcript)))
    return attempts


def attempt(
    engine: Engine, task: Task, problems: Sequence[Problem], sampling: Sampling, copies: int = 1
) -> list[Attempt]:
    return judge(engine.tokenizer, task, problems, sample(engine, task, problems, sampling, copies))


def resume(
    engine: Engine, task: Task, begun: Sequence[tuple[Attempt, int]], sampling: Sampling, copies: int = 1
) -> list[Attempt]:
    """Go on with each attempt after so many of its tokens, `copies` times; those of one stand together.

    But: a tool is not told of the calls before that place.
    """
    rows = [place for place in begun for _ in range(copies)]
    tails = engine.generate(
        [[*a.completion.prompt_ids, *a.completion.ids[:start]] for a, start in rows],
        sampling,
        lambda row, call: task.step(rows[row][0].problem, (), call),
    )
    wholes = [
        replace(
            tail,
            prompt_ids=a.completion.prompt_ids,
            ids=a.completion.ids[:start] + tail.ids,
            log_probs=a.completion.log_probs[:start] + tail.log_probs,
            mask=a.completion.mask[:start] + tail.mask,
        )
        for (a, start), tail in zip(rows, tails, strict=True)
    ]
    return judge(engine.tokenizer, task, [a.problem for a, _ in rows], wholes) if rows else []
