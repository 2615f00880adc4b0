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
    dtype = set_up().dtype
    arms: dict[str, list[dict[str, Any]]] = {name: [] for name in (*TEACHERS, "before")}
    for seed in SEEDS:
        config = config_of(life, "review", seed)
        model, words = exchange.load(exchange.checkpoint_of(life / "rl"), dtype)
        engine, task = Engine(model, words, slots=128), task_named(config.task)
        fresh = review.half_right(engine, task, "test", N, config.max_new_tokens, seed)
        arms["before"].append(measured(fresh, read(model, words, fresh)[0]))
        for arm in TEACHERS:
            config = config_of(life, arm, seed)
            learned = review.main(config)
            reviewer, _ = exchange.load(exchange.checkpoint_of(config.out), dtype)
            told = {key: learned[key] for key in ("kept", "seconds", "solves_before", "solves_after")}
            arms[arm].append(measured(fresh, read(reviewer, words, fresh)[0]) | told)
        for arm, found in arms.items():
            print(f"seed {seed} {arm:10}", json.dumps(found[-1]), file=sys.stderr, flush=True)
    right, errors = fmean(row["first_error"] for row in arms["review"]), [row["calibration"] for row in arms["review"]]
    share = interval(right * N * len(SEEDS), N * len(SEEDS))
    result = {
        "command": f"python bench/review.py {life.name}",
        "meta": {**runs.source(), "versions": runs.versions(), "seeds": list(SEEDS), "n": N, "split": "test"},
        "arms": arms,
        "bars": [
            {
                "name": "first_error",
                "value": right,
                "low": share["low"],
                "high": share["high"],
                "bar": f">= {FIRST_ERROR}",
                "holds": right >= FIRST_ERROR,
            },
            {
                "name": "calibration",
                "value": fmean(errors),
                "low": min(errors),
                "high": max(errors),
                "bar": f"<= {CALIBRATION}",
                "holds": fmean(errors) <= CALIBRATION,
            },
        ],
    }
    runs.write_json(RESULTS, result)
    return result


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))["bars"]))
