"""Tasks by name, as `--task` takes them: the town's, those made for practice, a file of GSM8K, a file of your own."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

from nightschool.config import UserError, closest
from nightschool.tasks.countdown import countdown, verify_countdown
from nightschool.tasks.gsm8k import gsm8k
from nightschool.tasks.sudoku import sudoku, verify_sudoku
from nightschool.tasks.task import Task, Verdict, lines_of, verify_and_show
from nightschool.tasks.world import PROBES, SKILLS, draw
from nightschool.world.problem import Problem, Split
from nightschool.world.programs import trace
from nightschool.world.totals import totals
from nightschool.world.word_problems import LONGEST, word_problem


def practice(rng: random.Random, split: Split) -> Problem:
    """Word problems, three in ten of them a step longer than any in school. With longer ones alone the model learns
    that the end is far, and loses of the short ones what it gains (LOG.md)."""
    longest = rng.random() < 0.3
    return word_problem(rng, split, (LONGEST + 1, LONGEST + 1) if longest else (1, LONGEST))


TASKS: dict[str, Task] = {
    **SKILLS,
    **PROBES,
    "practice": Task(practice),
    "trace": Task(trace),
    "totals": Task(totals),
    "totals_18": Task(lambda rng, split: totals(rng, split, (18, 18))),
    "totals_lucky": Task(lambda rng, split: totals(rng, split, lucky=True)),
    "totals_shown": Task(totals, verify_and_show),
    "countdown": Task(countdown, verify_countdown),
    "sudoku": Task(sudoku, verify_sudoku),
}
PRACTICE = "practice"


def task_named(name: str) -> Task:
    """A name above, a .jsonl(.gz) file of GSM8K's form, or a .py file that defines `sample` and `verify`, maybe `step`.

    Raises UserError for anything else, and where a task turns its own gold answer down, or judges another number of
    lines than it has.
    """
    path = Path(name)
    if path.suffix == ".py":
        task = from_file(path)
    elif name.endswith((".jsonl", ".jsonl.gz")):
        task = gsm8k(path)
    elif name in TASKS:
        task = TASKS[name]
    else:
        near = closest(name, list(TASKS)) or f": {', '.join(TASKS)}"
        raise UserError(
            f"no task {name!r}{near}; or name a .py file with `sample` and `verify`, or a .jsonl of GSM8K's form"
        )
    verdict, gold = gold_verdict(task)
    judged = isinstance(verdict, Verdict) and len(verdict.steps) in (0, len(gold))
    if not judged or verdict.outcome != 1 or verdict.first_error is not None:
        raise UserError(f"task {name}: its own gold answer gets {verdict}; mend `verify` or `sample`")
    return task


def gold_verdict(task: Task) -> tuple[Verdict, list[str]]:
    """What a problem's own gold answer gets, and its lines."""
    problem = draw(task, "train", 1, seed=0)[0]
    gold = problem.messages[1:]
    return task.verify(problem, gold), lines_of(gold)


def module_of(path: Path) -> ModuleType:
    """The user's own code, run because the user named it."""
    if not path.is_file():
        raise UserError(f"no file {path}; name a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_file(path: Path) -> Task:
    """A file that defines what tasks/task.py's Task holds."""
    module = module_of(path)
    missing = [name for name in ("sample", "verify") if not hasattr(module, name)]
    if missing:
        raise UserError(f"{path} must define {' and '.join(missing)}; see nightschool/tasks/task.py for what they take")
    more = {"step": module.step} if hasattr(module, "step") else {}
    return Task(module.sample, module.verify, **more)
