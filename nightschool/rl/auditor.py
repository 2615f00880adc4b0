"""An auditor: it holds a judge against the true verifier, and takes the policy back when the judge was fooled.

First it has some attempts of the start marked, lets the judge learn from most of them until the rest show no gain, and
sends away a judge that cannot tell right lines from wrong ones. Then, of each update's attempts, all of which the judge
rewards, it has some drawn at random marked for measuring alone, and of the others a few for the judge to learn from,
those first that the judge has passed. At the end of each window of updates it

    1. adds the measured attempts to a table of judged against true, in which earlier windows fade,
    2. reads gap (judged less true reward), precision and Youden's J from it, and is alarmed where one is bad by more
       than its standard error,
    3. keeps the policy where none is; else puts the last kept one back, starts the table and the optimizer's averages
       anew, and writes the texts that fooled the judge to incidents.jsonl,
    4. lets the judge learn from all marked attempts, half of them the newest.

So the policy itself is the clone that is set on the judge: what it finds is marked, and where it was too much the find
stays and the policy goes. Judge, kept policy and policy are one module to the training loop and so of one saved state;
the table is in its cursor; marked attempts are in audits.jsonl, from which what came after that state is dropped. A
killed run thus goes on as if nothing had been. But: one process; the marks of measured attempts never reach the judge,
who is nonetheless chosen by them, through alarms and the end of the first lessons.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import zip_longest
from typing import Any

from torch import nn

from nightschool.config import UserError, at_least
from nightschool.model.engine import Completion, Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl.judge import Judge, from_row, marks, to_row, unmarked
from nightschool.rl.table import Table, by_line
from nightschool.runs import Run, read_jsonl, rewound
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.task import Task
from nightschool.tasks.world import draw
from nightschool.train.optim import Optimizer
from nightschool.world.problem import Problem

HELD_OUT = 4  # one in so many of the first attempts measures the first lessons
READY = 0.8  # least J, line by line, after these
ROUND, MOST_ROUNDS, STEPS = 30, 6, 20  # steps of a round of first lessons; rounds; steps after each window
SHOWN = 8  # texts of an incident


@dataclass(frozen=True)
class Plan:
    """How much the auditor may ask of the verifier."""

    first: int = 256  # attempts of the start, for the judge to begin with; 0 = it has begun elsewhere
    learned: int = 2  # attempts an update that the judge learns from; 0 = never, and it stays as it began
    measured: int = 1  # attempts an update for measuring alone
    window: int = 10  # updates from audit to audit

    def __post_init__(self) -> None:
        at_least(self, 1, "window")
        at_least(self, 0, "first", "learned", "measured")


@dataclass
class Auditor:
    """`before` each update, then `judged` with its attempts; `state` goes into the cursor."""

    run: Run
    task: Task
    engine: Engine
    policy: Transformer  # that the judge rewards
    judge: Judge
    optimizer: Optimizer
    plan: Plan
    seed: int

    def __post_init__(self) -> None:
        self.kept = copy.deepcopy(self.policy)  # as it was when nothing was alarming
        self.module = nn.ModuleDict({"policy": self.policy, "kept": self.kept, "judge": self.judge.module})

    def begin(self, cursor: dict[str, Any]) -> None:
        """Go on where a cursor points, and forget what came after it."""
        step, state = cursor.get("step", 0), cursor.get("auditor", {})
        rows = rewound(self.run.path("audits.jsonl"), step)
        rewound(self.run.path("incidents.jsonl"), step)
        self.pool = [from_row(self.engine.tokenizer, row) for row in rows if row["use"] == "learn"]
        self.faded, self.table = Table(*state.get("faded", ())), Table(*state.get("table", ()))
        self.kept_step = state.get("kept_step", 0)

    @property
    def state(self) -> dict[str, Any]:
        return {"faded": astuple(self.faded), "table": astuple(self.table), "kept_step": self.kept_step}

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
        row = {f"judge/{name}": value for name, value in self.faded.row.items()}
        if not self.plan.learned:
            return row
        if why := self.faded.alarm():
            self.roll_back(step, why)
        else:
            self.kept.load_state_dict(self.policy.state_dict())
            self.kept_step = step
        return row | {"judge/alarm": float(bool(why))} | self.learn(ROUND if why else STEPS, step)

    def first_lessons(self, sampling: Sampling) -> dict[str, float]:
        problems = draw(self.task, "train", -(-self.plan.first // 4), seed=1_000_000 * self.seed + 999_999)
        marked = attempt(self.engine, self.task, problems, replace(sampling, seed=900_000), copies=4)
        held_out, positions, found = marked[::HELD_OUT], 0.0, [-1.0]
        self.file(1, "learn", [a for i, a in enumerate(marked) if i % HELD_OUT])
        for lesson in range(MOST_ROUNDS):
            row = self.learn(ROUND, lesson - MOST_ROUNDS)
            said, more = self.judge.verdicts(held_out, self.pool)
            positions += row.get("judge/positions", 0) + more
            found.append(by_line(said, held_out).row.get("J", 0.0))
            if found[-1] <= found[-2]:
                break
        self.file(1, "measure", held_out, said)
        if found[-1] < READY:
            raise UserError(
                f"after its first lessons the judge tells right lines from wrong ones with J {found[-1]:.2f}, and "
                f"{READY} is asked; raise --audit.first, or practise with the verifier"
            )
        return row | {"judge/verified": len(marked), "judge/positions": positions, "judge/J_by_line": found[-1]}

    def learn(self, num_steps: int, step: int) -> dict[str, float]:
        return self.judge.learn(self.pool, num_steps, 1_000_000 * self.seed + step)

    def roll_back(self, step: int, why: str) -> None:
        since = step - self.plan.window
        rows = [row for row in read_jsonl(self.run.path("audits.jsonl")) if row["step"] > since and row["judged"]]
        texts = [{k: row[k] for k in ("step", "question", "text", "feedback")} for row in rows if not row["right"]]
        incident = {"step": step + 1, "back_to": self.kept_step, "why": why, "num_fooled": len(texts)}
        self.write("incidents.jsonl", [incident | {"fooled_by": texts[-SHOWN:]}])
        self.policy.load_state_dict(self.kept.state_dict())
        for average in self.optimizer.state.values():
            average.zero_()
        self.optimizer.num_steps = 0
        self.faded = Table()

    def judged(
        self, step: int, problems: Sequence[Problem], completions: Sequence[Completion]
    ) -> tuple[list[Attempt], dict[str, float]]:
        """An update's attempts with the judge's verdicts, and numbers for metrics.jsonl; some are verified as well."""
        copies = len(completions) // len(problems)
        attempts = [unmarked(self.engine.tokenizer, problems[i // copies], made) for i, made in enumerate(completions)]
        attempts, positions = self.judge.verdicts(attempts, self.pool)
        shuffled = random.Random(f"audit {self.seed} {step}").sample(attempts, len(attempts))
        measured, others = shuffled[: self.plan.measured], shuffled[self.plan.measured :]
        others.sort(key=lambda a: a.verdict.outcome < 1)  # those that it passed first
        learned = others[: self.plan.learned]
        self.file(step + 1, "learn", self.verified(learned), learned)
        true = self.verified(measured)
        self.file(step + 1, "measure", true, measured)
        self.table = self.table.plus([a.verdict.outcome >= 1 for a in measured], [all(marks(a)) for a in true])
        return attempts, {"judge/verified": len(measured) + len(learned), "judge/positions": positions}

    def verified(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        return [replace(a, verdict=self.task.verify(a.problem, a.transcript)) for a in attempts]

    def file(self, step: int, use: str, true: Sequence[Attempt], said: Sequence[Attempt] = ()) -> None:
        """Write verified attempts to audits.jsonl, and what the judge had said of each where it was asked."""
        rows = [
            {"step": step, "use": use, "judged": b and b.verdict.outcome >= 1, "right": all(marks(a)), **to_row(a)}
            for a, b in zip_longest(true, said)
        ]
        self.write("audits.jsonl", rows)
        self.pool += true if use == "learn" else []
