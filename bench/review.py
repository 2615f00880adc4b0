"""Review: does a model find the first wrong line of its own work with no solution to look at?

    python bench/review.py life      about MINUTES minutes on one core; resumes; results/review.json

The model after practice reviews attempts of its own at test problems, half of them right and half wrong, fresh for each
seed and the same for all arms. Not given is the solution; given, as in `nightschool review`, how sure it was of each
line when it wrote it. Marks' calibration error is over 15 bins of equal mass, the plain estimate. Intervals of
first_error take each attempt for one draw (Wilson's, over all seeds).

    review      learned from the marks of itself with the solution at hand; what the verifier contradicts left out
    verifier    learned from the verifier's marks instead, as many: what the teacher costs
    sureness    nothing is read: of each sureness the share of right lines among the attempts that `review` learned from
    before      the model as it is, which has never seen a review
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from nightschool import runs
from nightschool.device import set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.rl.credit import Marks
from nightschool.rl.review import Work, measured, read, truth, work_of
from nightschool.stages import review
from nightschool.tasks.exam import interval
from nightschool.tasks.named import task_named

RESULTS = Path(__file__).parents[1] / "results" / "review.json"
SEEDS, N = (0, 1, 2), 512
TEACHERS: dict[str, Literal["self", "verifier"]] = {"review": "self", "verifier": "verifier"}
FIRST_ERROR, CALIBRATION = 0.85, 0.05  # the bars of issue 4, written down beforehand


def by_sureness(rows: Sequence[dict[str, Any]], works: Sequence[Work]) -> list[Marks]:
    """Marks that know only how sure the writer was."""
    told: dict[int, list[float]] = {sure: [1.0, 1.0] for sure in range(10)}  # of each: right lines, all lines
    for row in rows:
        for i, sure in enumerate(row["sure"][: row["truth"] + 1]):
            told[sure][0] += i < row["truth"]
            told[sure][1] += 1
    return [[told[sure][0] / (told[sure][1] + 1) for sure in work.sure] for work in works]


def main(life: Path) -> dict[str, Any]:
    dtype = set_up().dtype
    arms: dict[str, list[dict[str, float]]] = {name: [] for name in (*TEACHERS, "sureness", "before")}
    for seed in SEEDS:
        configs = {
            arm: review.Config(
                life.parent / f"{life.name}-review" / f"{arm}-{seed}", life / "rl", teacher=teacher, seed=seed
            )
            for arm, teacher in TEACHERS.items()
        }
        model, tokenizer = exchange.load(exchange.checkpoint_of(life / "rl"), dtype)
        task, tokens = task_named(configs["review"].task), configs["review"].max_new_tokens
        fresh = review.half_right(Engine(model, tokenizer, slots=128), task, "test", N, tokens, seed)
        works, true = [work_of(tokenizer, a) for a in fresh], [truth(a) for a in fresh]
        arms["before"].append(measured(true, read(model, tokenizer, works)[0]))
        for arm, config in configs.items():
            learned = review.main(config)
            reviewer, _ = exchange.load(exchange.checkpoint_of(config.out), dtype)
            told = {key: learned[key] for key in ("attempts", "kept", "seconds")}
            arms[arm].append(measured(true, read(reviewer, tokenizer, works)[0]) | told)
        rows = runs.read_jsonl(configs["review"].out / "marked.jsonl")
        arms["sureness"].append(measured(true, by_sureness(rows, works)))
        for arm, found in arms.items():
            print(f"seed {seed} {arm:10}", json.dumps(found[-1]), file=sys.stderr, flush=True)
    right = fmean(row["first_error"] for row in arms["review"])
    share = interval(right * N * len(SEEDS), N * len(SEEDS))
    errors = [row["calibration"] for row in arms["review"]]
    bars = [
        {"name": "first_error", "value": right, "low": share["low"], "high": share["high"]},
        {"name": "calibration", "value": fmean(errors), "low": min(errors), "high": max(errors)},
    ]
    bars[0] |= {"bar": f">= {FIRST_ERROR}", "holds": right >= FIRST_ERROR}
    bars[1] |= {"bar": f"<= {CALIBRATION}", "holds": fmean(errors) <= CALIBRATION}
    result = {
        "command": f"python bench/review.py {life.name}",
        "meta": {**runs.source(), "versions": runs.versions(), "seeds": list(SEEDS), "n": N, "split": "test"},
        "arms": arms,
        "bars": bars,
    }
    runs.write_json(RESULTS, result)
    return result


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))["bars"]))
