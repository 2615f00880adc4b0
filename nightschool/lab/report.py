"""One self-contained page for a lab's results: its bars with their verdicts, and each arm's curve over its seeds.

It only reads what the lab wrote, in the style of a life's report (stages/report.html).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2

from nightschool.runs import write_text
from nightschool.stages import report as life
from nightschool.stages.figures import called, pct, short

Curve = Sequence[Sequence[float]]  # (x, y) pairs


CREDIT = {  # columns of the table of arms: key -> heading
    "lr_scale": "rate",
    "start": "start",
    "final": "final",
    "longer": "half as long again",
    "lucky_rate": "lucky",
    "wrong_step_upweight": "wrong steps made likelier",
    "wrong_step_upweight_rewarded": "of rewarded ones",
    "credit_auc": "credit AUC",
    "flops": "FLOPs",
    "seconds": "seconds",
}


def band_chart(curves: Sequence[Curve], width: float, goal: float, beside: Sequence[Curve] = ()) -> str:
    """The mean of curves that share their xs, over a band from the least to the most of them; y from 0 to 1. The mean
    of those `beside`, if any, is a dashed line."""
    xs = [x for x, _ in curves[0]]
    columns = [[curve[i][1] for curve in curves] for i in range(min(map(len, curves)))]

    def line(ys: Sequence[float], xs: Sequence[float] = xs) -> str:
        return " ".join(f"{100 * x / width:.2f},{100 * (1 - y):.2f}" for x, y in zip(xs, ys, strict=False))

    most, least = [max(c) for c in columns], [min(c) for c in columns]
    band = f"{line(most)} {' '.join(reversed(line(least).split()))}"
    rule = f'<line class="tick" x1="0" x2="100%" y1="{100 * (1 - goal)}%" y2="{100 * (1 - goal)}%"/>'
    shapes = f'<polygon class="band" points="{band}"/><polyline points="{line([fmean(c) for c in columns])}"/>'
    if beside:
        means = [fmean(ys) for ys in zip(*([y for _, y in curve] for curve in beside), strict=False)]
        shapes += f'<polyline class="beside" points="{line(means, [x for x, _ in beside[0]])}"/>'
    inner = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{shapes}</svg>'
    return f'<svg class="chart" height="96" aria-hidden="true">{rule}{inner}</svg>'


def figure(x: float | None) -> str:
    """Of any size, to about three digits."""
    return "none" if x is None else f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def write(
    path: Path,
    title: str,
    about: str,
    result: dict[str, Any],
    goal: float,
    unit: str = "attempts",
    columns: Mapping[str, str] = CREDIT,
) -> None:
    """result: a lab's, as in results/NAME.json; each row of an arm has a "curve", over so many of a unit, and may have
    another "beside" it. columns: of the table of arms, key -> heading."""
    width = max(row["curve"][-1][0] for arm in result["arms"].values() for row in arm["rows"])
    arms = []
    for name, arm in result["arms"].items():
        rows = arm["rows"]
        curves, beside = ([row[key] for row in rows if key in row] for key in ("curve", "beside"))
        numbers = {key: fmean(values) for key in rows[0] if len(values := numbers_of(rows, key)) == len(rows)}
        arms.append({"name": name, "chart": band_chart(curves, width, goal, beside), "rows": rows} | numbers)
    story = {"title": title, "about": about, "arms": arms, "width": width, "goal": goal, "unit": unit}
    render(path, "lab.html", result | story | {"columns": columns})


def render(path: Path, template: str, story: dict[str, Any]) -> None:
    """Fill a template of this folder, in the style of a life's report. story: as base.html asks, and the template."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters |= {f.__name__: f for f in (called, figure, pct, short)}
    style = Path(life.__file__).with_name("report.html").read_text(encoding="utf-8")
    style = style.partition("<style>")[2].partition("</style>")[0]
    write_text(path, pages.get_template(template).render(story, style=style))


def numbers_of(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if isinstance(row.get(key), int | float)]
