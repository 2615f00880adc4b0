"""What would have happened otherwise: controls beside a finished life, on dev problems.

    python bench/quickstart_control.py life      about fifteen minutes on two cores; results/quickstart_control.json

Practice: the same seconds of more school (sft, at the rates of practice) in place of rl. Night: the same tokens of
re-reading the raw text in place of the model's own questions, for three families. Everything resumes but exams.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nightschool import runs
from nightschool.device import set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.night.gate import lost
from nightschool.stages import night, rl, sft
from nightschool.tasks.exam import exam, interval
from nightschool.tasks.world import SKILLS

RESULTS = Path(__file__).parents[1] / "results" / "quickstart_control.json"
N, SEEDS = 500, (0, 1, 2)


def outcomes(run: Path) -> dict[str, list[float]]:
    """Each dev problem's outcome by skill."""
    model, tokenizer = exchange.load(exchange.checkpoint_of(run), set_up().dtype)
    _, samples = exam(Engine(model, tokenizer, slots=128), SKILLS, "dev", N)
    return {skill: [s["outcome"] for s in samples if s["skill"] == skill] for skill in SKILLS}


def paired(before: list[float], after: list[float]) -> dict[str, float]:
    """Mean difference after - before and its 95% interval."""
    mean, high = lost(before, after)
    return {"value": mean, "low": 2 * mean - high, "high": high}


def main(life: Path) -> dict[str, Any]:
    controls = life.parent / f"{life.name}-controls"
    seconds = runs.read_json(life / "rl" / "meta.json")["seconds"]
    scale = rl.Config.lr_scale
    sft.main(sft.Config(controls / "more_sft", life / "sft", minutes=seconds / 60, lr_scale=scale, seed=1))
    scores = {name: outcomes(run) for name, run in (("sft", life / "sft"), ("rl", life / "rl"))}
    scores["more_sft"] = outcomes(controls / "more_sft")
    gains = {
        f"{arm} - {base}": {skill: paired(scores[base][skill], scores[arm][skill]) for skill in SKILLS}
        for arm, base in (("rl", "sft"), ("more_sft", "sft"), ("rl", "more_sft"))
    }
    facts: dict[str, list[float]] = {"night": [], "control": []}
    gates = []
    for seed in SEEDS:
        for arm in facts:
            config = night.Config(controls / f"{arm}-{seed}", life / "rl", control=arm == "control", seed=seed)
            night.main(config)
            facts[arm] += runs.read_json(config.out / "morning.json")["outcomes"]["news"]
            if arm == "night":
                gates.append(runs.read_json(config.out / "night.json")["gate"])
    ahead = paired(facts["control"], facts["night"])
    word = gains["rl - sft"]["word_problem"]
    worst = min(gains["rl - sft"].values(), key=lambda gain: gain["high"])
    arms = {arm: interval(sum(found), len(found)) for arm, found in facts.items()}
    bars = [
        {"name": "news_over_rereading", **ahead, "bar": 0.30, "holds": ahead["value"] >= 0.30},
        {"name": "rl_word_problem_gain", **word, "bar": 0.0, "holds": word["low"] > 0},
        {"name": "rl_worst_skill_high", **worst, "bar": -0.01, "holds": worst["high"] >= -0.01},
    ]
    return runs.publish(RESULTS, {**arms, "practice": gains, "gates": gates}, bars, SEEDS, n=N, split="dev")


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
