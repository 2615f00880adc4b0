"""Every bar of every result on one page: results/README.md, made anew from results/*.json.

    python bench/table.py

A bar was written down before its run; `shown` ones are figures without a bar.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nightschool.runs import read_json

RESULTS = Path("results")
STATE = {True: "holds", False: "**missed**", None: "shown"}


def figure(value: Any) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def line(bar: dict[str, Any]) -> str:
    value, low, high = figure(bar["value"]), bar.get("low"), bar.get("high")
    spread = "" if low is None or high is None or low == high else f" ({figure(low)} to {figure(high)})"
    asked = bar["bar"] if isinstance(bar["bar"], str) else figure(bar["bar"])
    return f"| {bar['name']} | {value}{spread} | {asked} | {STATE[bar['holds']]} |"


def part(path: Path, result: dict[str, Any]) -> list[str]:
    seeds = result["meta"].get("seeds", [])
    about = f"`{result['command']}`, seeds {', '.join(map(str, seeds))}" if seeds else f"`{result['command']}`"
    head = [
        "",
        f"## [{path.stem}]({path.name})",
        "",
        about,
        "",
        "| bar | value (95% interval) | asked | |",
        "|---|---|---|---|",
    ]
    return head + [line(bar) for bar in result["bars"]]


def main() -> None:
    results = [(path, read_json(path)) for path in sorted(RESULTS.glob("*.json"))]
    judged = [(path, result) for path, result in results if result.get("bars")]
    states = [bar["holds"] for _, result in judged for bar in result["bars"]]
    lines = [
        "# Every bar",
        "",
        f"{states.count(True)} hold, {states.count(False)} are missed; {states.count(None)} figures stand beside them. "
        "Made by `python bench/table.py`.",
    ]
    for path, result in judged:
        lines += part(path, result)
    (RESULTS / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
