"""A finished life against the bars that were written down before it: reads its run folders, computes nothing anew.

bash runs/quickstart.sh --out life >headline.json && python bench/quickstart.py life headline.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nightschool import runs

RESULTS = Path(__file__).parents[1] / "results" / "quickstart.json"
BARS = {
    "story": 0.90,
    "passage": 0.90,
    "absent": 0.90,
    "arithmetic": 0.95,
    "word_problem": 0.80,
    "letter_count": 0.90,
    "tool": 0.95,
}
SECONDS, GIGABYTES = 600.0, 3.0


def judge(skills: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Scores by skill against their bars; `absent` counts only where passages are understood."""
    bars = list[dict[str, Any]]()
    for skill, bar in BARS.items():
        score = skills[skill]
        holds = score["accuracy"] >= bar and (skill != "absent" or skills["passage"]["accuracy"] >= 0.9)
        bars.append(
            {"name": skill, "value": score["accuracy"], "low": score["low"], "high": score["high"]}
            | {"bar": bar, "holds": holds}
        )
    return bars


def main(life: Path, headline: Path) -> dict[str, Any]:
    said = json.loads(headline.read_text().splitlines()[-1])
    metas = {run.parent.name: runs.read_json(run) for run in sorted(life.glob("*/meta.json"))}
    first = metas["sft"]
    bars = judge(said["skills"])
    for name, bar in (("seconds", SECONDS), ("peak_rss_gb", GIGABYTES)):
        bars.append(
            {"name": name, "value": said[name], "low": None, "high": None, "bar": bar, "holds": said[name] <= bar}
        )
    result = {
        "command": "bash runs/quickstart.sh",
        "meta": {key: first[key] for key in ("commit", "diff", "versions", "device", "threads", "dtype")}
        | {"seeds": [first["seed"]], "seconds": {name: meta["seconds"] for name, meta in metas.items()}}
        | {"tokens": {name: meta["tokens"] for name, meta in metas.items()}},
        "arms": {
            "morning": said["skills"],
            "evening": said["skills_evening"],
            "probes": said["probes"],
            "facts": said["facts"],
        },
        "bars": bars,
    }
    runs.write_json(RESULTS, result)
    return result


if __name__ == "__main__":
    for bar in main(Path(sys.argv[1]), Path(sys.argv[2]))["bars"]:
        print(f"{bar['name']:14} {bar['value']:8.3f}  bar {bar['bar']:g}  {'holds' if bar['holds'] else 'missed'}")
