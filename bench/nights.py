"""Nights in a row: five families move in, one a night. What does the last morning still know of each, and of the day?

    python bench/nights.py life life1 life2      a life a seed; 8 minutes each on one core; results/nights.json

Each night begins at the morning before. Of a family whose night was undone nothing is asked; a life that let none in
knows 0 of them. Beside the first life stand the same nights without repeating what earlier ones taught, nor a gate that
asks for it. Families are asked in wordings that no night teaches, the day's skills in dev problems that no gate has
asked. Nights resume; exams don't.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from nightschool import device, runs
from nightschool.lab.arms import verdict
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.night.past import Past
from nightschool.stages import night
from nightschool.tasks.exam import exam
from nightschool.tasks.world import SKILLS
from nightschool.world.newcomers import questions

NIGHTS, FAMILY, N = 5, 4, 500
ARMS = {"repeating": night.Config.earlier, "not repeating": 0.0}
RESULTS = Path(__file__).parents[1] / "results" / "nights.json"


def examine(run: Path, families: Past) -> dict[str, Any]:
    """How much a run knows of each family, and of the day's skills."""
    model, tokenizer = exchange.load(run / "checkpoint", device.set_up(0, "bfloat16").dtype)
    engine = Engine(model, tokenizer, slots=128)
    asked = [questions(news.facts) for news in families.news]
    known = [exam(engine, {"news": night.fixed(family)}, "dev", len(family))[0]["news"] for family in asked]
    skills = exam(engine, SKILLS, "dev", N, seed=1)[0]
    return {
        "families": [score["accuracy"] for score in known],
        "skills": {name: score["accuracy"] for name, score in skills.items()},
    }


def lived(life: Path, arm: str, seed: int) -> dict[str, Any]:
    """Five nights in a row -> what the last morning knows, and which nights their gate undid."""
    before, undone = life / "rl", list[str]()
    for i in range(NIGHTS):
        out = life.parent / f"{life.name}-nights" / f"{arm.replace(' ', '-')}-{seed}" / f"night-{i + 1:03d}"
        family = NIGHTS * seed + i
        night.main(night.Config(out, before, family=FAMILY, earlier=ARMS[arm], seed=family, dtype="bfloat16"))
        told = runs.read_json(out / "night.json")
        undone += [told["gate"]["reason"]] if not told["gate"]["passed"] else []
        before = out
    families = Past.of(before)
    row = {"seed": seed, "undone": undone, "start": examine(life / "rl", families), "end": examine(before, families)}
    print(arm, json.dumps(row), file=sys.stderr, flush=True)
    return row


def known(row: dict[str, Any]) -> list[float]:
    """How much of each family that was let in the last morning knows."""
    return row["end"]["families"] or [0.0]


def bar(name: str, values: Sequence[float], least: float | None) -> dict[str, Any]:
    """least: what the value must reach; None = it is only shown."""
    asked = "beside it" if least is None else f">= {least}"
    return verdict(name, values, asked, lambda v, low, high: None if least is None else v >= least)


def main(lives: Sequence[Path]) -> dict[str, Any]:
    rows = {
        "repeating": [lived(life, "repeating", seed) for seed, life in enumerate(lives)],
        "not repeating": [lived(lives[0], "not repeating", 0)],
    }
    kept, dropped = rows.values()
    changes = [{s: row["end"]["skills"][s] - row["start"]["skills"][s] for s in SKILLS} for row in kept]
    columns: dict[str, tuple[list[float], float | None]] = {
        "the first family that was let in, after the last night": ([known(row)[0] for row in kept], 0.7),
        "all that were let in": ([fmean(known(row)) for row in kept], 0.7),
        "the first family that was let in, not repeating": ([known(row)[0] for row in dropped], None),
        "the skill that lost most": ([min(change.values()) for change in changes], -0.05),
        "word problems": ([change["word_problem"] for change in changes], None),
        f"families let in, of {NIGHTS}": ([NIGHTS - len(row["undone"]) for row in kept], None),
    }
    bars = [bar(name, values, least) for name, (values, least) in columns.items()]
    return runs.publish(RESULTS, rows, bars, list(range(len(lives))), nights=NIGHTS, people=FAMILY)


if __name__ == "__main__":
    print(json.dumps(main([Path(life) for life in sys.argv[1:]])))
