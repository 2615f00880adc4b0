"""The picture and the page of `lab collapse`: they only read its result."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from nightschool.lab.report import render
from nightschool.runs import write_text
from nightschool.stages.figures import called

SHOWN = {  # arm -> its colour, readable on white and on black
    "naive": "#d1495b",
    "replace": "#e08e45",
    "accumulate": "#9a8c98",
    "peers": "#8e6fc1",
    "real_only": "#4f83cc",
    "ours": "#2a9d6f",
}
WIDTH, HEIGHT = 340, 220  # of a panel


def write(folder: Path, about: str, result: dict[str, Any]) -> None:
    """collapse.svg and collapse.html."""
    drawing = picture(result)
    write_text(folder / "collapse.svg", drawing)
    arms = {name: means(arm["rows"]) for name, arm in result["arms"].items()}
    svg = b64encode(drawing.encode()).decode()
    story = {"title": "collapse", "about": about, "means": arms, "svg": svg}
    render(folder / "collapse.html", "collapse.html", result | story)


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """An arm's numbers at each generation: means over the seeds."""
    lives = [row["generations"] for row in rows]
    keys = [key for key, value in lives[0][0].items() if isinstance(value, int | float)]
    return [{key: fmean(row[key] for row in rows) for key in keys} for rows in zip(*lives, strict=True)]


def picture(result: dict[str, Any]) -> str:
    """Two panels over the generations: what is right of what is said, and how many kinds are still told."""
    most = result["meta"]["truth"]["kinds"]
    arms = {name: arm["rows"] for name, arm in result["arms"].items() if name in SHOWN}
    ends = len(result["meta"]["drift"]["replace"]) - 1
    right = {name: [[g["validity"] for g in row["generations"]] for row in rows] for name, rows in arms.items()}
    kinds = {name: [[g["kinds"] / most for g in row["generations"]] for row in rows] for name, rows in arms.items()}
    copier = [g["kinds"] / most for g in result["meta"]["drift"]["replace"]]
    legend = "".join(
        f'<text x="{40 + 120 * i}" y="{HEIGHT + 84}" fill="{colour}" font-weight="600">{called(name)}</text>'
        for i, (name, colour) in enumerate(SHOWN.items())
        if name in arms
    )
    dashed = f'<polyline points="{line(copier, ends)}" fill="none" stroke="#888" stroke-dasharray="2 4"/>'
    seen = f'<text x="{WIDTH}" y="{HEIGHT * (1 - copier[-1]) - 6:.1f}" text-anchor="end">a perfect copier</text>'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {HEIGHT + 96}" role="img" fill="#888"
 font-family="system-ui, sans-serif" font-size="13">
<title>Each sample looks fine; together they say fewer and fewer things</title>
{panel(48, "right, of what it says", right, ends)}
{panel(448, "kinds it still tells, of the real ones", kinds, ends, dashed + seen)}
{legend}
</svg>
"""


def line(ys: Sequence[float], ends: int) -> str:
    return " ".join(f"{WIDTH * g / ends:.1f},{HEIGHT * (1 - y):.1f}" for g, y in enumerate(ys))


def panel(x: int, title: str, lives: dict[str, list[list[float]]], ends: int, more: str = "") -> str:
    """Lines of means over bands from the least to the most of the seeds, 0 to 1."""
    shapes = []
    for name, rows in lives.items():
        by_g = list(zip(*rows, strict=True))
        band = f"{line([max(c) for c in by_g], ends)} {' '.join(reversed(line([min(c) for c in by_g], ends).split()))}"
        shapes.append(f'<polygon points="{band}" fill="{SHOWN[name]}" opacity=".2"/>')
        mean = line([fmean(c) for c in by_g], ends)
        shapes.append(f'<polyline points="{mean}" stroke="{SHOWN[name]}" stroke-width="2"/>')
    ticks = "".join(
        f'<path d="M0,{HEIGHT * (1 - y)} H{WIDTH}" stroke="#8884"/>'
        f'<text x="-6" y="{HEIGHT * (1 - y) + 4}" text-anchor="end">{y:.0%}</text>'
        for y in (0, 0.5, 1)
    )
    names = (
        f'<text y="-10">{title}</text><text x="{WIDTH}" y="{HEIGHT + 20}" text-anchor="end">generation {ends}</text>'
    )
    return f'<g transform="translate({x},30)">{ticks}{names}<g fill="none">{"".join(shapes)}</g><g>{more}</g></g>'
