"""Review: does a model find the first wrong line of its own work with no solution to look at?

    python bench/review.py life      about 20 minutes on one core; resumes; results/review.json

Reviewed are attempts of the model after practice at test problems, half of them right and half wrong, fresh for each
seed and the same for all arms. Marks' calibration error is over 15 bins of equal mass, the plain estimate. The
interval of first_error takes each attempt for one draw (Wilson's, over all seeds), that of calibration is its range.

    review      the model has learned to say what it says itself with the solutions of the day's problems at hand
    solution    it has learned those solutions instead: what it costs to be one's own teacher
    before      the model that made the attempts re-reads them as it is
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from nightschool import runs
from nightschool.device import set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.rl.review import measured, read
from nightschool.stages import review
from nightschool.tasks.attempt import Attempt
from nightschool.tasks.exam import interval
from nightschool.tasks.named import task_named

RESULTS = Path(__file__).parents[1] / "results" / "review.json"
SEEDS, N = (0, 1, 2), 512
TEACHERS: dict[str, Literal["self", "solution"]] = {"review": "self", "solution": "solution"}
FIRST_ERROR, CALIBRATION = 0.85, 0.05  # the bars of issue 4, written down beforehand


def config_of(life: Path, arm: str, seed: int) -> review.Config:
    out = life.parent / f"{life.name}-review" / f"{arm}-{seed}"
    return review.Config(out, life / "rl", teacher=TEACHERS[arm], seed=seed)


def main(life: Path) -> dict[str, Any]:
    model, words = exchange.load(exchange.checkpoint_of(life / "rl"), set_up().dtype)
    engine, plain = Engine(model, words, slots=128), review.Config()
    task, fresh, arms = task_named(plain.task), dict[int, list[Attempt]](), dict[str, list[dict[str, Any]]]()
    result: dict[str, Any] = {}
    for arm in ("before", *TEACHERS):
        for seed in SEEDS:
            if seed not in fresh:
                fresh[seed] = review.half_right(engine, task, "test", N, plain.max_new_tokens, seed)
            reviewer, told = model, {}
            if arm in TEACHERS:
                config = config_of(life, arm, seed)
                learned = review.main(config)
                told = {key: learned[key] for key in ("kept", "seconds", "solves_before", "solves_after")}
                reviewer, _ = exchange.load(exchange.checkpoint_of(config.out), model.dtype)
            row = {"seed": seed} | measured(fresh[seed], read(reviewer, words, fresh[seed])[0]) | told
            print(f"{arm:10}", json.dumps(row), file=sys.stderr, flush=True)
            arms.setdefault(arm, []).append(row)
            result = {
                "command": f"python bench/review.py {life.name}",
                "meta": {**runs.source(), "versions": runs.versions(), "seeds": list(SEEDS), "n": N, "split": "test"},
                "arms": arms,
                "bars": bars(arms.get("review", [])),
            }
            runs.write_json(RESULTS, result)
    return result


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    right, errors = fmean(row["first_error"] for row in rows), [row["calibration"] for row in rows]
    share, error = interval(right * N * len(rows), N * len(rows)), fmean(errors)
    first = {"name": "first_error", "value": right, "low": share["low"], "high": share["high"]}
    second = {"name": "calibration", "value": error, "low": min(errors), "high": max(errors)}
    return [
        first | {"bar": f">= {FIRST_ERROR}", "holds": right >= FIRST_ERROR},
        second | {"bar": f"<= {CALIBRATION}", "holds": error <= CALIBRATION},
    ]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))["bars"]))
