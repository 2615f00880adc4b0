"""One dial, tried where it is cheap: bits per byte against FLOPs over small depths, and rates around the plan's.

    python bench/miniseries.py TEXT.jsonl.gz     25 minutes of one core; resumes; results/miniseries.json and .svg

Each depth trains as plan() says, on RATIO tokens for each weight that multiplies where the real run has 12, and is
measured on dev documents. If the rules carry over from size to size, the points lie on one line in log-log, and the
plan's own rate is the best of half, once and twice. But: one seed a point, a twentieth of the tokens, and sizes a
thousandth of the real ones: it can refute the rules, hardly prove them.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from text_cpu import Text, ours

from nightschool import config, device, runs
from nightschool.train.plan import flops_per_token, plan
from nightschool.train.schedule import warm_stay_decay

RATIO = 0.5  # tokens for each weight that multiplies
FACTORS = (0.5, 1.0, 2.0)  # of both learning rates
RESULTS = Path(__file__).parents[1] / "results" / "miniseries.json"


@dataclass(frozen=True)
class Config:
    """Train a miniseries of depths on real text."""

    text: Annotated[Path, tyro.conf.Positional]  # .jsonl.gz
    depths: tuple[int, ...] = (2, 3, 4)
    swept: tuple[int, ...] = (2, 3)  # depths at which rates are varied
    vocab_size: int = 4096
    context: int = 256
    rows: int = 0  # stop after so many new runs; 0 = all


def point(c: Config, text: Text, depth: int, factor: float) -> dict[str, Any]:
    model = plan(depth, vocab_size=c.vocab_size, context=c.context)
    planned = plan(depth, int(RATIO * model.horizon_tokens / 12), c.vocab_size, c.context)
    scaled = {name: factor * getattr(planned, name) for name in ("matrix_lr", "embed_lr", "norm_lr")}
    step, trained = ours(replace(planned, **scaled), seed=0)
    stream, start = text.stream(planned.batch_tokens, seed=0), time.process_time()
    for i in range(planned.num_steps):
        step(next(stream), warm_stay_decay((i + 0.5) / planned.num_steps))
    return {
        "depth": depth,
        "factor": factor,
        **scaled,
        "batch_tokens": planned.batch_tokens,
        "tokens": planned.num_steps * planned.batch_tokens,
        "flops": planned.num_steps * planned.batch_tokens * flops_per_token(planned.model, c.context),
        "seconds": time.process_time() - start,
        "bits_per_byte": text.bits_per_byte(trained(), "dev"),
    }


def power_law(points: list[dict[str, Any]]) -> dict[str, float]:
    """bits per byte = scale * FLOPs^-exponent by least squares in log-log; the largest miss, as a share."""
    x, y = ([math.log(p[name]) for p in points] for name in ("flops", "bits_per_byte"))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    misses = [abs(math.expm1(b - mean_y - slope * (a - mean_x))) for a, b in zip(x, y, strict=True)]
    return {"exponent": -slope, "scale": math.exp(mean_y - slope * mean_x), "largest_miss": max(misses)}


def plot(points: list[dict[str, Any]], law: dict[str, float]) -> str:
    """The points and their line, both axes logarithmic: SVG."""
    x, y = ([math.log10(p[name]) for p in points] for name in ("flops", "bits_per_byte"))
    left, right, low, high = min(x) - 0.2, max(x) + 0.2, min(y) - 0.02, max(y) + 0.02

    def at(a: float, b: float) -> tuple[float, float]:
        return 60 + 420 * (a - left) / (right - left), 20 + 240 * (high - b) / (high - low)

    ends = [at(a, math.log10(law["scale"]) - law["exponent"] * a) for a in (left, right)]
    marks = []
    for p, a, b in zip(points, x, y, strict=True):
        px, py = at(a, b)
        label = f"depth {p['depth']}: {p['bits_per_byte']:.3f} bits per byte, {p['flops']:.1e} FLOPs"
        marks.append(
            f'<circle cx="{px:.0f}" cy="{py:.0f}" r="4"/><text x="{px + 8:.0f}" y="{py - 8:.0f}">{label}</text>'
        )
    line = '<line x1="{:.0f}" y1="{:.0f}" x2="{:.0f}" y2="{:.0f}" stroke="gray"/>'.format(*ends[0], *ends[1])
    title = f"bits per byte = {law['scale']:.2f} FLOPs^-{law['exponent']:.4f}, logarithmic axes"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 300" font-family="sans-serif" font-size="12">'
        f'<text x="60" y="290">{title}</text><path d="M60 20V260H480" fill="none" stroke="black"/>'
        f"{line}{''.join(marks)}</svg>\n"
    )


def summary(points: list[dict[str, Any]], c: Config) -> list[dict[str, Any]]:
    """Are the points on one line, and is the plan's rate the best of three?"""
    found = {(p["depth"], p["factor"]): p["bits_per_byte"] for p in points}
    series = [p for p in points if p["factor"] == 1]
    bars = []
    if len(series) == len(c.depths) > 2:
        miss = power_law(series)["largest_miss"]
        bars.append({"name": "largest miss of the power law", "value": miss, "bar": "<= 0.02", "holds": miss <= 0.02})
    for depth in c.swept:
        if all((depth, factor) in found for factor in FACTORS):
            best = min(FACTORS, key=lambda factor, depth=depth: found[depth, factor])  # type: ignore[misc]
            name = f"best factor of the plan's rates, depth {depth}"
            bars.append({"name": name, "value": best, "bar": "= 1", "holds": best == 1})
    return bars


def main(c: Config) -> dict[str, Any]:
    machine = device.set_up(1, "bfloat16")
    points: list[dict[str, Any]] = runs.read_json(RESULTS)["arms"] if RESULTS.exists() else []
    text = Text.read(c.text, c.vocab_size, c.context)
    asked = [(depth, 1.0) for depth in c.depths] + [(d, f) for d in c.swept for f in FACTORS if f != 1]
    left = [a for a in asked if a not in {(p["depth"], p["factor"]) for p in points}]
    for depth, factor in left[: c.rows or None]:
        points.append(point(c, text, depth, factor))
        print(json.dumps(points[-1]), file=sys.stderr, flush=True)
        series = [p for p in points if p["factor"] == 1]
        law = power_law(series) if len(series) > 1 else {}
        meta = {"device": machine.name, "threads": 1, "ratio": RATIO, "power_law": law}
        meta["config"] = asdict(c) | {"text": c.text.name, "rows": 0}
        command = f"python bench/miniseries.py {c.text.name}"
        runs.publish(RESULTS, points, summary(points, c), [0], command, **meta)
        if law:
            runs.write_text(RESULTS.with_suffix(".svg"), plot(series, law))
    return {bar["name"]: bar["value"] for bar in summary(points, c)}


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/miniseries.py"))))
