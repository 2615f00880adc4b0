"""How pages tell numbers: words for them, and pictures as SVG that place things in per cent, so that lines stretch with
the page while letters keep their size. Pure functions, of a life's report and of the labs'."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]
Point = tuple[float, float]


def called(name: str) -> str:
    """'night-001' -> 'night', 'word_problem' -> 'word problem'"""
    return name.removesuffix("-001").replace("_", " ")


def pct(share: float) -> str:
    return f"{100 * share:.1f}" if share < 1 else "100"


def short(x: float) -> str:
    """1234567 -> '1.23 million'"""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if x >= size:
            return f"{x / size:.3g}\N{NBSP}{word}"
    return f"{x:.0f}"


def power(x: float) -> str:
    """31e12 -> '3.1 times 10 to the 13th', in signs"""
    digits, exponent = f"{x:.1e}".split("e")
    high = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits}\N{NBSP}\N{MULTIPLICATION SIGN}\N{NBSP}10{high}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s".replace(" ", "\N{NBSP}") if minutes else f"{rest}\N{NBSP}s"


def money(dollars: float) -> str:
    return f"${dollars:.2f}" if dollars >= 1 or dollars == 0 else f"{100 * dollars:.2g}\N{NBSP}cents"


def signed(x: float) -> str:
    return f"{x:+.2f}".replace("-", "\N{MINUS SIGN}")


# Pictures: numbers -> SVG


def ticks(xs: Iterable[float], over: int = 0) -> str:
    """Faint rules at these per cents, `over` per cent longer than the picture, to meet the next row's."""
    rules = (f'x1="{x:.2f}%" x2="{x:.2f}%" y1="-{over}%" y2="{100 + over}%"' for x in xs)
    return "".join(f'<line class="tick" {rule}/>' for rule in rules)


def whiskers(marks: Sequence[tuple[str, Json]]) -> str:
    """Dots with their 95% intervals on a line from 0 to 100%, and a rule where guessing would lie, if the scores say
    where; a mark is (its name and CSS class, a score)."""
    svg = ticks(range(0, 101, 25), over=14)
    if chance := marks[0][1].get("chance"):
        svg += f'<line class="chance" x1="{pct(chance)}%" x2="{pct(chance)}%" y1="2" y2="34"/>'
    for place, (name, score) in enumerate(marks):
        y = 18 + 10 * (place - (len(marks) - 1) / 2)
        at, low, high = (pct(score[key]) for key in ("accuracy", "low", "high"))
        svg += f'<g class="{name}"><title>{name}: {at}% ({low}&ndash;{high}), n = {score["n"]}</title>'
        svg += f'<line x1="{low}%" x2="{high}%" y1="{y}" y2="{y}"/><circle cx="{at}%" cy="{y}" r="4"/></g>'
    return f'<svg class="whiskers" height="36" aria-hidden="true">{svg}</svg>'


def line_chart(
    points: Sequence[Point], width: float, low: float, high: float, dots: Sequence[Point] = (), under: str = ""
) -> str:
    """A line through (x, y) points, x from 0 to width and y from low to high, and dots at other points; with
    dots, a faint rule at each whole x. Either may be empty. under: SVG to draw it over."""
    place = [(100 * x / (width or 1), 100 * (high - y) / ((high - low) or 1)) for x, y in (*points, *dots)]
    line = " ".join(f"{x:.2f},{y:.2f}" for x, y in place[: len(points)])
    svg = under + (ticks(100 * x / width for x in range(int(width) + 1)) if dots else "")
    svg += f'<svg viewBox="0 0 100 100" preserveAspectRatio="none"><polyline points="{line}"/></svg>'
    for (x, y), (_, share) in zip(place[len(points) :], dots, strict=True):
        svg += f'<circle cx="{x:.2f}%" cy="{y:.2f}%" r="3.5"><title>{pct(share)}%</title></circle>'
    return f'<svg class="chart" height="96" aria-hidden="true">{svg}</svg>'


def shade(spans: Sequence[Point], width: float, low: float, high: float, bad: Point) -> str:
    """What lies under a line_chart: the ys that are bad, a rule where they begin, and these spans of its xs."""
    top, bottom = (100 * (high - y) / (high - low) for y in reversed(bad))
    edge = bottom if top == 0 else top
    svg = f'<rect class="bad" width="100%" y="{top:.2f}%" height="{bottom - top:.2f}%"/>'
    svg += f'<line class="edge" x2="100%" y1="{edge:.2f}%" y2="{edge:.2f}%"/>'
    for start, end in spans:
        x, wide = 100 * start / width, 100 * (end - start) / width
        svg += (
            f'<rect class="lost" x="{x:.2f}%" width="{wide:.2f}%" height="100%"><title>{start} to {end}</title></rect>'
        )
    return svg


def smooth(points: Sequence[Point], most: int = 90) -> list[Point]:
    """Means of at most `most` equal runs of points: the noise of a training curve is not its news."""
    size = max(1, -(-len(points) // most))
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(run[-1][0], sum(y for _, y in run) / len(run)) for run in runs]
