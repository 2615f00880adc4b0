"""`nightschool lab dream`: are dreams (night/dream.py) good for anything, as replay in sleep or against overfitting?

Hypothesis 1: a sleeper who is held to its evening self in dreams forgets at most a quarter of what the same lessons
cost it without. Hypothesis 2 (Hoel 2007.09560): a learner of few lessons, many times over, that is held in dreams to
its own best self understands more than one with tuned weight decay and early stopping.

A model of a million parameters goes to the town's school for some minutes; all arms and seeds begin there. A seed draws
the news, the few lessons, the order of learning and the dreams. Sleep is night/sleep.py: every arm is told the same
facts equally often, and keeps its morning's model whatever the gate says. The few lessons are word problems of one or
two steps, which the start has never met; rate and weight decay are those that serve `tuned` best (`--sweep`, seed
100), and dreams come on top of what it may spend. Dev problems stop, test problems measure; harder ones have three
steps. But: tiny models, one world, a CPU; no dropout, since the architecture (Qwen3's) has none; no arm is taught by
the same self on the lessons' own words, so what is dreams' and what is any soft teacher's is not told apart.

    plain      the news alone
    school     most of the night is school again: what dreams are to replace
    dreams     as much is dreamt: of school it has only what was asked there
    tuned      few lessons, weight decay, early stopping
    dreaming   the same from the same start, and as many tokens of dreams, taught by what `tuned` ended with
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product

from nightschool.config import UserError
from nightschool.lab.arms import Holds, Json, Rows, verdict, walk
from nightschool.lab.dreamers import FEW, Config, learned, slept
from nightschool.lab.report import render
from nightschool.runs import publish, read_json
from nightschool.train.plan import QUICKSTART

SWEPT = "dream_sweep.json"
SWEEP_SEED = 100

# The bars, written down before the first run (issue 5)
FORGOTTEN = 0.25  # most, of what `plain` loses of the day's skills, on average
BITS, POINTS = 0.02, 0.05  # least gain over `tuned`: bits per byte, or share of the harder problems


def sweep(config: Config) -> Json:
    """`tuned` at each rate and weight decay on the sweep's seed: bits per byte of dev solutions, the fewest win."""
    tried = {}
    for rate, decay in product(config.rates, config.decays):
        name = f"{rate:g} {decay:g}"
        out = config.out / "sweep" / name.replace(" ", "-")
        tried[name] = learned(config, "tuned", SWEEP_SEED, rate, decay, out)["dev_bits_per_byte"]
        print(f"sweep {name}: {tried[name]:.4f} bits per byte", file=sys.stderr, flush=True)
    publish(config.results / SWEPT, tried, [], [SWEEP_SEED])
    return tried


def bars(arms: Rows) -> list[Json]:
    """Every bar whose arms are there. The gains are told with the most that they may be."""
    found: list[Json] = []

    def bar(name: str, values: Sequence[float], asked: str, holds: Holds) -> None:
        found.append(verdict(name, values, asked, holds))

    def columns(key: str, *names: str) -> Iterator[tuple[float, ...]]:
        return zip(*([row[key] for row in arms[name]] for name in names), strict=True)

    def gained(name: str, key: str, sign: int, least: float) -> None:
        values = [sign * (a - b) for a, b in columns(key, "dreaming", "tuned")]
        bar(f"{name}, gained", values, f">= {least}; null if high < it", lambda v, low, high: v >= least)

    for arm in ("dreams", "school"):
        if {"plain", arm} <= arms.keys():
            ratio = [a / max(b, 1e-9) for a, b in columns("forgotten", arm, "plain")]
            bar(f"replay: {arm} forgot", ratio, f"<= {FORGOTTEN} of plain's", lambda v, low, high: v <= FORGOTTEN)
    if {"tuned", "dreaming"} <= arms.keys():
        gained("held out: bits per byte", "bits_per_byte", -1, BITS)
        gained("ood: bits per byte of harder problems", "harder_bits_per_byte", -1, BITS)
        gained("ood: of harder problems", "harder", 1, POINTS)
    return found


def main(config: Config) -> Json:
    if config.sweep:
        return sweep(config)
    path = config.results / SWEPT
    rate, decay = 0.0, 0.0
    if set(config.arms) & set(FEW):
        if not path.exists():
            raise UserError(f"no {path}; run `nightschool lab dream --sweep` first")
        tried: Mapping[str, float] = read_json(path)["arms"]
        rate, decay = map(float, min(tried, key=lambda name: tried[name]).split())

    def row(arm: str, seed: int) -> Json:
        if arm in FEW:
            return learned(config, arm, seed, rate, decay, config.out / f"seed-{seed}" / arm)
        return slept(config, arm, seed)

    def page(result: Json) -> None:
        render(config.results / "dream.html", "dream.html", result | {"title": "dream", "about": __doc__})

    return walk(
        config.arms, config.seeds, row, bars, config.results / "dream.json", page, model=asdict(QUICKSTART.model)
    )
