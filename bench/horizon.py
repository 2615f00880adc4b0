"""Accuracy against tokens: quickstart's day, at a third of its horizon, at the horizon and at three times it.

    python bench/horizon.py FOLDER      about half an hour on two cores; resumes; results/horizon.json

Dev problems, one seed. What a skill misses at the horizon and reaches at three times it wants tokens, not another idea.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from quickstart import BARS

from nightschool import runs
from nightschool.stages import evaluate, pretrain, sft, tokenizer
from nightschool.train.plan import QUICKSTART

RESULTS = Path(__file__).parents[1] / "results" / "horizon.json"
SCALES = {"1/3": 1 / 3, "1": 1.0, "3": 3.0}


def day(folder: Path, scale: float) -> dict[str, Any]:
    """Read and go to school for this share of the horizon -> tokens, seconds and dev accuracy by skill."""
    words, read, school = folder / "tokenizer", folder / f"pretrain-{scale:.2f}", folder / f"sft-{scale:.2f}"
    pretrain.main(pretrain.Config(read, words, tokens=round(scale * pretrain.Config.tokens)))
    sft.main(sft.Config(school, read, tokens=round(scale * sft.Config.tokens), exam_n=0))
    metas = [runs.read_json(run / "meta.json") for run in (read, school)]
    scores = school / "scores.json"
    found = runs.read_json(scores) if scores.exists() else evaluate.main(evaluate.Config(school, n_probes=0))
    return {key: sum(meta[key] for meta in metas) for key in ("tokens", "seconds")} | {"skills": found["skills"]}


def main(folder: Path) -> dict[str, Any]:
    tokenizer.main(tokenizer.Config(folder / "tokenizer"))
    arms = {name: day(folder, scale) for name, scale in SCALES.items()}
    result = {
        "command": "python bench/horizon.py FOLDER",
        "meta": {**runs.source(), "versions": runs.versions(), "seeds": [0], "split": "dev"}
        | {"horizon_tokens": QUICKSTART.horizon_tokens},
        "arms": arms,
        "bars": [
            {"name": f"{skill} at {name} of the horizon", "value": score["accuracy"], "low": score["low"]}
            | {"high": score["high"], "bar": BARS[skill], "holds": score["accuracy"] >= BARS[skill]}
            for name, arm in arms.items()
            for skill, score in arm["skills"].items()
        ],
    }
    runs.write_json(RESULTS, result)
    return result


if __name__ == "__main__":
    for bar in main(Path(sys.argv[1]))["bars"]:
        print(f"{bar['name']:36} {bar['value']:.3f}  bar {bar['bar']:g}")
