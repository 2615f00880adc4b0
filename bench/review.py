"""Review: does a model find the first wrong line of its own work, and does practice gain by it?

    python bench/review.py life      about 40 minutes on one core; resumes; results/review.json

1. With no solution to look at, where is the first wrong line? Reviewed are attempts of the model after practice at test
   problems, half of them right and half wrong, fresh for each seed and the same for all arms. Marks' calibration error
   is over 15 bins of equal mass, the plain estimate. The interval of first_error takes each attempt for one draw
   (Wilson's, over all seeds), that of calibration is its range.

    review      the model has learned to say what it says itself with the solutions of the day's problems at hand
    solution    it has learned those solutions instead: what it costs to be one's own teacher
    before      the model that made the attempts re-reads them as it is

2. Where no program checks steps, is credit by review better than by the outcome alone? From school as many updates of
   as many attempts each, then word problems as in the dev exam, drawn for each seed, the same for all arms. Gains are
   paired by problem; their intervals take problems for drawn and the runs for given, whose gains are beside them.

    practice_outcome       the outcome for every line
    practice_review        by the marks of the reviewer of that seed above
    practice_itself        by the marks of the model as school left it, which reads as it is
    practice_first_error   a program checks each line: what the other three do without
    reviewer               that reviewer takes the exam itself: what the day's solutions teach without any reward
    school                 where practice begins

But: one life; in favour of practice_review its reviewer began with the model after quickstart's practice, and the same
program had let pass what it learned from; one rate for all arms, that of quickstart's practice.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from nightschool import runs
from nightschool.device import set_up
from nightschool.lab.statistics import paired
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.rl.review import measured, read
from nightschool.stages import review, rl
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.exam import EXAM, interval
from nightschool.tasks.named import task_named
from nightschool.tasks.world import SKILLS, draw

Json = dict[str, Any]

RESULTS = Path(__file__).parents[1] / "results" / "review.json"
SEEDS, N = (0, 1, 2), 512
TEACHERS: dict[str, Literal["self", "solution"]] = {"review": "self", "solution": "solution"}
FIRST_ERROR, CALIBRATION = 0.85, 0.05  # the bars of issue 4, written down beforehand
PRACTICE = ("outcome", "review", "first_error", "itself")
ARMS = ("before", "review", "school", "reviewer", *(f"practice_{credit}" for credit in PRACTICE), "solution")
EXAM_N = 800
GAINS = (  # of one arm over another; the bar, written down before the first run
    ("practice_review", "practice_outcome", "low > 0"),
    ("practice_itself", "practice_outcome", "low > 0"),
    ("practice_review", "reviewer", "low > 0"),
    ("practice_first_error", "practice_outcome", "shown"),
    ("practice_outcome", "school", "shown"),
)
LOGGED = ("wrong_step_upweight", "wrong_step_upweight_rewarded", "credit_auc", "frac_reward_zero_std")


def beside(life: Path, name: str) -> Path:
    return life.parent / f"{life.name}-review" / name


# Where is the first wrong line?


def config_of(life: Path, arm: str, seed: int) -> review.Config:
    return review.Config(beside(life, f"{arm}-{seed}"), life / "rl", teacher=TEACHERS[arm], seed=seed)


@cache
def fresh(life: Path, seed: int) -> list[Attempt]:
    model, words = exchange.load(exchange.checkpoint_of(life / "rl"), set_up().dtype)
    plain = review.Config()
    engine = Engine(model, words, slots=128)
    return review.half_right(engine, task_named(plain.task), "test", N, plain.max_new_tokens, seed)


def reviews(life: Path, arm: str, seed: int) -> Json:
    path, told = life / "rl", {}
    if arm in TEACHERS:
        config = config_of(life, arm, seed)
        learned = review.main(config)
        told = {key: learned[key] for key in ("kept", "seconds", "solves_before", "solves_after")}
        path = config.out
    reviewer, words = exchange.load(exchange.checkpoint_of(path), set_up().dtype)
    return measured(fresh(life, seed), read(reviewer, words, fresh(life, seed))[0]) | told


# Does practice gain by it?


def examined(run: Path, seed: int) -> Json:
    """Each problem's outcome under "right"."""
    model, words = exchange.load(exchange.checkpoint_of(run), set_up().dtype)
    task = SKILLS["word_problem"]
    attempts = attempt(Engine(model, words, slots=128), task, draw(task, "dev", EXAM_N, seed + 1), EXAM)
    right = [a.verdict.outcome for a in attempts]
    return {"word_problem": fmean(right), "right": right}


def practises(life: Path, arm: str, seed: int) -> Json:
    config = rl.Config(
        out=beside(life, f"practice-{arm}-{seed}"),
        start=life / "sft",
        credit="review" if arm == "itself" else arm,
        reviewer={"itself": life / "sft", "review": config_of(life, "review", seed).out}.get(arm),
        problems=8,
        group_size=8,
        again=0,
        eval_every=0,
        exam_n=0,
        seed=seed,
        save_seconds=20.0,
    )
    rl.main(config)
    rows = [row for row in runs.read_jsonl(config.out / "metrics.jsonl") if "rollouts" in row]
    logged = {key: fmean(row[key] for row in rows if key in row) for key in LOGGED}
    meta = runs.read_json(config.out / "meta.json")
    return logged | {key: meta[key] for key in ("rollouts", "tokens", "flops", "seconds")} | examined(config.out, seed)


def bars(arms: dict[str, list[Json]]) -> list[Json]:
    """Every bar whose arms are there."""
    found = list[Json]()
    if rows := arms.get("review", []):
        right, errors = fmean(row["first_error"] for row in rows), [row["calibration"] for row in rows]
        share, error = interval(right * N * len(rows), N * len(rows)), fmean(errors)
        first = {"name": "first_error", "value": right, "low": share["low"], "high": share["high"]}
        second = {"name": "calibration", "value": error, "low": min(errors), "high": max(errors)}
        found += [
            first | {"bar": f">= {FIRST_ERROR}", "holds": right >= FIRST_ERROR},
            second | {"bar": f"<= {CALIBRATION}", "holds": error <= CALIBRATION},
        ]
    return found + [gain(arms, *pair) for pair in GAINS if arms.keys() >= set(pair[:2])]


def gain(arms: dict[str, list[Json]], ours: str, theirs: str, bar: str) -> Json:
    """By how much more of the word problems are right than another arm's."""
    found = [paired(a["right"], b["right"]) for a, b in zip(arms[ours], arms[theirs], strict=True)]
    gains = [gain for gain, _ in found]
    mean, half = fmean(gains), 1.96 * sum(error**2 for _, error in found) ** 0.5 / len(found)
    between = {"value": mean, "low": mean - half, "high": mean + half, "of_each_seed": gains}
    return {"name": f"{ours} over {theirs}", **between, "bar": bar, "holds": mean > half if bar != "shown" else None}


def row_of(life: Path, arm: str, seed: int) -> Json:
    """Made once."""

    def make() -> Json:
        if arm == "school":
            return examined(life / "sft", seed)
        if arm == "reviewer":
            return examined(config_of(life, "review", seed).out, seed)
        return practises(life, arm.removeprefix("practice_"), seed) if "_" in arm else reviews(life, arm, seed)

    path = beside(life, f"{arm}-{seed}.json")
    runs.make_once(path, lambda: runs.write_json(path, make()))
    return {"seed": seed} | runs.read_json(path)


def main(life: Path) -> Json:
    """results/review.json is written anew after each arm."""
    arms: dict[str, list[Json]] = {}
    values: Json = {}
    for arm in ARMS:
        arms[arm] = [row_of(life, arm, seed) for seed in SEEDS]
        told = {name: [{k: v for k, v in row.items() if k != "right"} for row in rows] for name, rows in arms.items()}
        meta = {"n": N, "split": "test", "practice_n": EXAM_N, "practice_split": "dev"}
        values = runs.publish(RESULTS, told, bars(arms), SEEDS, **meta)
        shown = (row.get("word_problem", row.get("first_error")) for row in arms[arm])
        print(f"{arm:20}", *(f"{value:.3f}" for value in shown), file=sys.stderr, flush=True)
    return values


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
