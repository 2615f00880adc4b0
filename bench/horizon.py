"""Accuracy against tokens: the day of a finished life beside days of a third and of three times its tokens.

    python bench/horizon.py life      about 25 minutes on two cores; resumes; results/horizon.json

Dev problems at the end of school, one seed. What is missed at the horizon and reached at three times it wants tokens,
not another idea.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from quickstart import judge

from nightschool import runs
from nightschool.stages import evaluate, pretrain, sft

RESULTS = Path(__file__).parents[1] / "results" / "horizon.json"
SCALES = {"1/3": 1 / 3, "1": 1.0, "3": 3.0}


def day(life: Path, scale: float) -> tuple[Path, Path]:
    """The runs of reading and school for this share of the horizon."""
    if scale == 1:
        return life / "pretrain", life / "sft"
    folder = life.parent / f"{life.name}-horizon"
    read, school = folder / f"pretrain-{scale:.2f}", folder / f"sft-{scale:.2f}"
    pretrain.main(pretrain.Config(read, life / "tokenizer", tokens=round(scale * pretrain.TOKENS)))
    sft.main(sft.Config(school, read, tokens=round(scale * sft.TOKENS), exam_n=0))
    return read, school


def main(life: Path) -> list[dict[str, Any]]:
    arms, bars = dict[str, Any](), list[dict[str, Any]]()
    for name, scale in SCALES.items():
        read, school = day(life, scale)
        metas = [runs.read_json(run / "meta.json") for run in (read, school)]
        skills = evaluate.main(evaluate.Config(school, n_probes=0))["skills"]
        arms[name] = {key: sum(meta[key] for meta in metas) for key in ("tokens", "seconds")} | {"skills": skills}
        bars += [{**bar, "name": f"{bar['name']} at {name}"} for bar in judge(skills)]
    runs.publish(RESULTS, arms, bars, [0], split="dev")
    return bars


if __name__ == "__main__":
    for bar in main(Path(sys.argv[1])):
        print(f"{bar['name']:22} {bar['value']:.3f}  bar {bar['bar']:g}  {'holds' if bar['holds'] else 'missed'}")
