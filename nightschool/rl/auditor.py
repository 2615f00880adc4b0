"""An auditor: it holds a learned judge against the true verifier, and takes the policy back when the judge was fooled.

Of each update's attempts, all of which the judge rewards, it has a few drawn at random verified for the judge to learn
from, and some others for measuring alone. At the end of each window of updates it

    1. adds the measured attempts to a table of judged against true, in which earlier windows fade,
    2. reads gap (judged less true reward), precision and Youden's J from it, and is alarmed where one is bad,
    3. keeps the policy where nothing is; in the second alarmed window in a row puts the last kept one back, starts the
       table and the optimizer's averages anew, and writes the texts that fooled the judge to incidents.jsonl,
    4. lets the judge learn from all marked attempts, half of them the newest.

Judge, kept policy and policy are one module to the training loop and so of one saved state; the table is in its
cursor; marked attempts are in audits.jsonl, from which what came after that state is dropped. A killed run thus goes on
as if nothing had been. But: one process; the verifier's marks of measured attempts never reach the judge, who is
nonetheless chosen by them, through alarms.

Sources: Youden's J of a noisy verifier decides between learning slowly and collapse, see 2510.00915; EWMA charts
(Roberts 1959).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import zip_longest
from typing import Any

from torch import nn

from nightschool.config import at_least
from nightschool.model.engine import Completion, Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl.judge import Judge, fit, from_row, marks, to_row, unmarked, verdicts
from nightschool.runs import Run, read_jsonl, rewound
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.task import Task
from nightschool.tasks.world import draw
from nightschool.train.optim import Optimizer
from nightschool.world.problem import Problem

GAP, YOUDEN, PRECISION = 0.05, 0.5, 0.8  # beyond which a window alarms
IN_A_ROW = 2  # alarmed windows that take the policy back
FADE = 0.7  # what a table counts one window later
ENOUGH = 8  # attempts that a share must be of
FIRST_STEPS, STEPS = 300, 30  # of the judge's learning, at the start and after each window
SHOWN = 8  # texts of an incident


@dataclass(frozen=True)
class Table:
    """Measured attempts by what the judge said and what is true; earlier windows count less."""

    right: float = 0.0  # judged right, and right
    fooled: float = 0.0  # judged right, and wrong
    missed: float = 0.0  # judged wrong, and right
    wrong: float = 0.0

    def plus(self, judged: Sequence[bool], true: Sequence[bool]) -> Table:
        pairs = list(zip(judged, true, strict=True))
        cells = ((True, True), (True, False), (False, True), (False, False))
        return Table(*(n + pairs.count(cell) for n, cell in zip(astuple(self), cells, strict=True)))

    def faded_into(self, window: Table) -> Table:
        return Table(*(FADE * old + new for old, new in zip(astuple(self), astuple(window), strict=True)))

    def measures(self) -> dict[str, float]:
        """gap, precision and J, each where there are enough attempts to tell."""
        said, good, bad = self.right + self.fooled, self.right + self.missed, self.fooled + self.wrong
        found = {}
        if good + bad >= ENOUGH:
            found["gap"] = (self.fooled - self.missed) / (good + bad)
        if said >= ENOUGH:
            found["precision"] = self.right / said
        if min(good, bad) >= ENOUGH:
            found["J"] = self.right / good - self.fooled / bad
        return found

    def alarm(self) -> str:
        """What is bad, or ""."""
        bounds = {"gap": (1, GAP), "precision": (-1, PRECISION), "J": (-1, YOUDEN)}
        bad = [f"{k} {v:.2f}" for k, v in self.measures().items() if bounds[k][0] * (v - bounds[k][1]) > 0]
        return ", ".join(bad)


@dataclass(frozen=True)
class Plan:
    """How much the auditor may ask of the verifier."""

    first: int = 1024  # attempts of the start, for the judge to begin with; 0 = it has begun elsewhere
    learned: int = 2  # attempts an update that the judge learns from; 0 = never, and it stays as it began
    measured: int = 1  # attempts an update for measuring alone
    window: int = 10  # updates from audit to audit

    def __post_init__(self) -> None:
        at_least(self, 1, "window")
        at_least(self, 0, "first", "learned", "measured")


class Auditor:
    """`before` each update, then `judged` with its attempts; `state` goes into the cursor."""

    def __init__(
        self,
        run: Run,
        task: Task,
        engine: Engine,
        policy: Transformer,
        kept: Transformer,
        judge: Judge,
        optimizer: Optimizer,
        plan: Plan,
        seed: int,
    ) -> None:
        self.run, self.task, self.engine, self.tokenizer = run, task, engine, engine.tokenizer
        self.policy, self.kept, self.judge, self.optimizer = policy, kept, judge, optimizer
        self.plan, self.seed = plan, seed
        self.module = nn.ModuleDict({"policy": self.policy, "kept": kept, "judge": judge})

    def begin(self, cursor: dict[str, Any]) -> None:
        """Go on where a cursor points, and forget what came after it."""
        step, state = cursor.get("step", 0), cursor.get("auditor", {})
        rows = rewound(self.run.path("audits.jsonl"), step)
        rewound(self.run.path("incidents.jsonl"), step)
        self.pool = [from_row(self.tokenizer, row) for row in rows if row["use"] == "learn"]
        self.faded, self.table = Table(*state.get("faded", ())), Table(*state.get("table", ()))
        self.num_alarms, self.kept_step = state.get("num_alarms", 0), state.get("kept_step", 0)

    @property
    def state(self) -> dict[str, Any]:
        tables = {"faded": astuple(self.faded), "table": astuple(self.table)}
        return {**tables, "num_alarms": self.num_alarms, "kept_step": self.kept_step}

    def write(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        with self.run.path(name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def before(self, step: int, sampling: Sampling) -> dict[str, float]:
        """At the first update, the judge's first lessons; at a window's end, the audit. Numbers for metrics.jsonl."""
        if step == 0 and self.plan.first:
            return self.first_lessons(sampling)
        if step == 0 or step % self.plan.window:
            return {}
        self.faded, self.table = self.faded.faded_into(self.table), Table()
        row = {f"judge/{name}": value for name, value in self.faded.measures().items()}
        if not self.plan.learned:
            return row
        why = self.faded.alarm()
        self.num_alarms = self.num_alarms + 1 if why else 0
        if self.num_alarms == IN_A_ROW:
            self.roll_back(step, why)
        elif not why:
            self.kept.load_state_dict(self.policy.state_dict())
            self.kept_step = step
        return row | {"judge/alarms": self.num_alarms} | self.learn(STEPS, step)

    def first_lessons(self, sampling: Sampling) -> dict[str, float]:
        problems = draw(self.task, "train", -(-self.plan.first // 4), seed=1_000_000 * self.seed + 999_999)
        self.file(1, "learn", attempt(self.engine, self.task, problems, replace(sampling, seed=900_000), copies=4))
        return {"judge/verified": len(self.pool)} | self.learn(FIRST_STEPS, 0)

    def learn(self, num_steps: int, step: int) -> dict[str, float]:
        loss, positions = fit(self.judge, self.tokenizer, self.pool, num_steps, seed=1_000_000 * self.seed + step)
        return {"judge/loss": loss, "judge/positions": 3 * positions}  # forward and backward

    def roll_back(self, step: int, why: str) -> None:
        since = step - IN_A_ROW * self.plan.window
        rows = [row for row in read_jsonl(self.run.path("audits.jsonl")) if row["step"] > since and row["judged"]]
        texts = [{k: row[k] for k in ("step", "question", "text", "feedback")} for row in rows if not row["right"]]
        incident = {"step": step + 1, "back_to": self.kept_step, "why": why, "num_fooled": len(texts)}
        self.write("incidents.jsonl", [incident | {"fooled_by": texts[-SHOWN:]}])
        self.policy.load_state_dict(self.kept.state_dict())
        for average in self.optimizer.state.values():
            average.zero_()
        self.optimizer.num_steps = 0
        self.faded, self.num_alarms = Table(), 0

    def judged(
        self, step: int, problems: Sequence[Problem], completions: Sequence[Completion]
    ) -> tuple[list[Attempt], dict[str, float]]:
        """An update's attempts with the judge's verdicts, and numbers for metrics.jsonl; some are verified as well."""
        copies = len(completions) // len(problems)
        attempts = [unmarked(self.tokenizer, problems[i // copies], made) for i, made in enumerate(completions)]
        attempts, positions = verdicts(self.judge, self.tokenizer, attempts)
        rng, plan = random.Random(f"audit {self.seed} {step}"), self.plan
        chosen = [attempts[i] for i in rng.sample(range(len(attempts)), plan.learned + plan.measured)]
        true = [replace(a, verdict=self.task.verify(a.problem, a.transcript)) for a in chosen]
        said = [a.verdict.first_error is None for a in chosen]
        self.file(step + 1, "learn", true[: plan.learned], said)
        self.file(step + 1, "measure", true[plan.learned :], said[plan.learned :])
        self.table = self.table.plus(said[plan.learned :], [all(marks(a)) for a in true[plan.learned :]])
        return attempts, {"judge/verified": len(true), "judge/positions": positions}

    def file(self, step: int, use: str, true: Sequence[Attempt], said: Sequence[bool] = ()) -> None:
        """Write verified attempts to audits.jsonl, and what the judge had said of each where he was asked."""
        rows = [
            {"step": step, "use": use, "judged": judged, "right": all(marks(a)), **to_row(a)}
            for a, judged in zip_longest(true, said[: len(true)])
        ]
        self.write("audits.jsonl", rows)
        self.pool += true if use == "learn" else []
