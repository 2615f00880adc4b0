"""One self-contained page for a lab's results: its bars with their verdicts, and each arm's curve over its seeds.

It only reads what the lab wrote, in the style of a life's report (stages/report.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2

from nightschool.runs import write_text
from nightschool.stages import report as life
from nightschool.stages.report import called, pct, short

Curve = Sequence[Sequence[float]]  # (x, y) pairs


def band_chart(curves: Sequence[Curve], width: float, goal: float) -> str:
    """The mean of curves that share their xs, over a band from the least to the most of them; y from 0 to 1."""
    xs = [x for x, _ in curves[0]]
    columns = [[curve[i][1] for curve in curves] for i in range(min(map(len, curves)))]

    def line(ys: Sequence[float], xs: Sequence[float] = xs) -> str:
        return " ".join(f"{100 * x / width:.2f},{100 * (1 - y):.2f}" for x, y in zip(xs, ys, strict=False))

    most, least = [max(c) for c in columns], [min(c) for c in columns]
    band = f"{line(most)} {' '.join(reversed(line(least).split()))}"
    rule = f'<line class="tick" x1="0" x2="100%" y1="{100 * (1 - goal)}%" y2="{100 * (1 - goal)}%"/>'
    shapes = f'<polygon class="band" points="{band}"/><polyline points="{line([fmean(c) for c in columns])}"/>'
    inner = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{shapes}</svg>'
    return f'<svg class="chart" height="96" aria-hidden="true">{rule}{inner}</svg>'


def figure(x: float | None) -> str:
    """Of any size, to about three digits."""
    return "none" if x is None else f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def write(path: Path, title: str, about: str, result: dict[str, Any], goal: float) -> None:
    """result: a lab's, as in results/NAME.json; each row of an arm has a "curve"."""
    folders = [Path(__file__).parent, Path(life.__file__).parent]
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters |= {f.__name__: f for f in (called, figure, pct, short)}
    width = max(row["curve"][-1][0] for arm in result["arms"].values() for row in arm["rows"])
    arms = []
    for name, arm in result["arms"].items():
        rows = arm["rows"]
        numbers = {key: fmean(values) for key in rows[0] if len(values := numbers_of(rows, key)) == len(rows)}
        arms.append(
            {"name": name, "chart": band_chart([row["curve"] for row in rows], width, goal), "rows": rows} | numbers
        )
    style = Path(life.__file__).with_name("report.html").read_text(encoding="utf-8")
    story = {"title": title, "about": about, "arms": arms, "width": width, "goal": goal}
    story["style"] = style.partition("<style>")[2].partition("</style>")[0]
    write_text(path, pages.get_template("lab.html").render(result | story))


def numbers_of(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if isinstance(row.get(key), int | float)]
