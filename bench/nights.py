"""Nights in a row: five families move in, one a night. What does the last morning still know of each?

    python bench/nights.py life          10 minutes a seed on one core; resumes; writes results/nights.json

Each night begins at the morning before; of a family whose night was undone nothing is asked. Beside it the same nights
without repeating what earlier ones taught, nor a gate that asks for it. All questions are in wordings that no night
teaches; the day's skills are dev's.
"""

from __future__ import annotations

import json
import sys
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

NIGHTS, FAMILY, SEEDS = 5, 4, (0, 1, 2)
ARMS = {"repeating": night.Config.earlier, "not repeating": 0.0}
RESULTS = Path(__file__).parents[1] / "results" / "nights.json"


def examine(run: Path, families: Past) -> dict[str, Any]:
    """How much a run knows of each family, and of the day's skills."""
    model, tokenizer = exchange.load(run / "checkpoint", device.set_up(0, "auto").dtype)
    engine = Engine(model, tokenizer, slots=128)
    asked = [questions(news.facts) for news in families.news]
    known = [exam(engine, {"news": night.fixed(family)}, "dev", len(family))[0]["news"] for family in asked]
    skills = exam(engine, SKILLS, "dev", 200)[0]
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
        night.main(night.Config(out, before, family=FAMILY, earlier=ARMS[arm], seed=family))
        told = runs.read_json(out / "night.json")
        undone += [told["gate"]["reason"]] if not told["gate"]["passed"] else []
        before = out
    families = Past.of(before)
    return {"seed": seed, "undone": undone, "start": examine(life / "rl", families), "end": examine(before, families)}


def main(life: Path) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    values: dict[str, Any] = {}
    for n, seed in enumerate(SEEDS, 1):
        for arm in ARMS:
            rows[arm].append(lived(life, arm, seed))
            print(arm, json.dumps(rows[arm][-1]), file=sys.stderr, flush=True)
        first, mean = ({a: [f(r["end"]["families"]) for r in rows[a]] for a in ARMS} for f in (lambda f: f[0], fmean))
        kept, dropped = first["repeating"], first["not repeating"]
        worst = [min(r["end"]["skills"][s] - r["start"]["skills"][s] for s in SKILLS) for r in rows["repeating"]]
        bars = [
            verdict(
                "the first family that was let in, after the last night", kept, ">= 0.7", lambda v, low, high: v >= 0.7
            ),
            verdict("all that were let in", mean["repeating"], ">= 0.7", lambda v, low, high: v >= 0.7),
            verdict("the first family that was let in, not repeating", dropped, "beside it", lambda v, low, high: None),
            verdict("the skill that lost most", worst, ">= -0.05", lambda v, low, high: v >= -0.05),
        ]
        values = runs.publish(RESULTS, rows, bars, SEEDS[:n], nights=NIGHTS, people=FAMILY)
    return values


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
