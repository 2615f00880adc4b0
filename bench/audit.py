"""Is the collapse audit right about collapses that were planted, quick, and small in memory?

    python bench/audit.py          about five minutes on one core; writes results/audit.json

Texts are jokes of the world's grammar, whose distribution is known: 704 texts, exact effective number 202.9. Planted,
against 6,000 jokes drawn freely: 25 told 40 times each; the same, each time with a word changed or added; a free draw;
the 50 most frequent alone. Throughput is of sketch and kinds (all three resolutions, one thread) on jokes, and on texts
of random words, all different, which is the worst case. Memory is the peak of the whole verb's process, samples and
reference of a million rows each, all different. A range is over seeds or repeats.
"""

from __future__ import annotations

import json
import math
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightschool import config, runs
from nightschool.night import collapse, diversity
from nightschool.night.kinds import kinds, sketch
from nightschool.world.grammar import derivations
from nightschool.world.jokes import jokes

RESULTS = Path(__file__).parents[1] / "results" / "audit.json"
CASES = ("repeated", "reworded", "free", "head")
NEAR = collapse.HEADLINE
SAMPLES_PER_SECOND, GIGABYTES = 10_000, 2.0  # the bars


@dataclass(frozen=True)
class Config:
    """Audit planted collapses; measure throughput and memory."""

    num_rows: int = 200_000  # for throughput
    num_rows_memory: int = 1_000_000  # in each of the two files
    num_seeds: int = 20  # of the planted cases
    repeats: int = 3  # of the timings

    def __post_init__(self) -> None:
        config.at_least(self, 1, "num_seeds", "repeats")
        config.at_least(self, 1000, "num_rows", "num_rows_memory")


def grammar() -> tuple[list[str], list[float]]:
    """Every joke, the most frequent first, with its probability."""
    told = sorted(((math.exp(nats), text) for text, nats, _ in derivations(jokes(), "joke")), reverse=True)
    return [text for _, text in told], [p for p, _ in told]


def reworded(text: str, rng: random.Random) -> str:
    """One word is another, or there is one more."""
    words = text.split()
    place = rng.randrange(len(words))
    words[place : place + rng.randrange(2)] = [rng.choice(["really", "so", "well", "then", "once", "now", "still"])]
    return " ".join(words)


def planted(case: str, seed: int) -> dict[str, Any]:
    """An audit of one planted case."""
    rng = random.Random(f"{case} {seed}")
    texts, p = grammar()
    reference = rng.choices(texts, p, k=6000)
    few = [text for text in rng.sample(texts, 25) for _ in range(40)]
    samples = {
        "repeated": lambda: few,
        "reworded": lambda: [reworded(text, rng) for text in few],
        "free": lambda: rng.choices(texts, p, k=2000),
        "head": lambda: rng.choices(texts[:50], p[:50], k=2000),
    }[case]()
    lengths, pool = (np.array([len(text) for text in side]) for side in (samples, reference))
    return collapse.audit(lambda: samples, lengths, lambda: reference, pool, seed)


def figures(found: dict[str, Any]) -> dict[str, Any]:
    mine, real = found["samples"]["kinds"], found["reference"]["kinds"]
    return {
        "effective_exact": mine["exact"]["effective_number"],
        "effective_near": mine[NEAR]["effective_number"],
        "ratio": diversity.ratio(mine[NEAR]["effective_number"], real[NEAR]["effective_number"]),
        "coverage": mine[NEAR]["coverage"],
        "coverage_of_reference": real[NEAR]["coverage"],
        "kinds_found": mine[NEAR]["kinds_found"],
        "kinds_found_of_reference": real[NEAR]["kinds_found"],
    }


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}


def share_of(holds: Iterable[bool]) -> dict[str, float]:
    """In how many seeds it holds, with the interval."""
    holds = list(holds)
    return diversity.share(sum(holds), len(holds))


def random_words(n: int, seed: int) -> list[str]:
    """n texts of twelve words of the jokes, about 65 characters each and all different."""
    words = sorted({word for text in grammar()[0] for word in text.split()})
    rng = np.random.default_rng(seed)
    return [" ".join(words[i] for i in row) for row in rng.integers(len(words), size=(n, 12))]


def texts_per_second(texts: list[str]) -> float:
    start = time.perf_counter()
    kinds(sketch(texts))
    return len(texts) / (time.perf_counter() - start)


def memory(num_rows: int) -> dict[str, float]:
    """Peak gigabytes and seconds of the verb on two files of num_rows rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("samples.jsonl", "reference.jsonl")]
        for seed, path in enumerate(paths):
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": text}) + "\n" for text in random_words(num_rows, seed))
        samples, reference = map(str, paths)
        command = (sys.executable, "-m", "nightschool", "audit", samples, "--ref", reference, "--out", f"{folder}/out")
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - start
    return {"gigabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, "seconds": seconds}


def main(c: Config) -> dict[str, Any]:
    arms: dict[str, Any] = {}
    for case in CASES:
        arms[case] = [figures(planted(case, seed)) for seed in range(c.num_seeds)]
        print(case, {name: round(m["value"], 3) for name, m in arms[case][0].items()}, file=sys.stderr, flush=True)
    texts, p = grammar()
    told = {
        "jokes": random.Random(0).choices(texts, p, k=c.num_rows),
        "all different": random_words(c.num_rows, 0),
    }
    for name, rows in told.items():
        rates = spread(texts_per_second(rows) for _ in range(c.repeats))
        arms[f"texts per second, {name}"] = rates
        print(name, f"{rates['value']:,.0f} texts/s", file=sys.stderr, flush=True)
    arms["memory"] = memory(c.num_rows_memory)
    print("memory", arms["memory"], file=sys.stderr, flush=True)

    truth = 1 / sum(x * x for x in p)
    repeated, told_anew, free, head = (arms[case] for case in CASES)
    lost = [a["kinds_found"]["high"] < a["kinds_found_of_reference"]["low"] for a in head]
    flat = [a["ratio"]["low"] <= 1 <= a["ratio"]["high"] for a in free]
    known = [a["effective_exact"]["low"] <= truth <= a["effective_exact"]["high"] for a in free]
    caught = [a["effective_exact"]["value"] / a["effective_near"]["value"] for a in told_anew]
    rows = [
        ("repeated: exact effective number of 25", spread(a["effective_exact"]["value"] for a in repeated), 25.7, "<="),
        ("repeated: near-duplicate ratio to reference", spread(a["ratio"]["high"] for a in repeated), 0.5, "<="),
        ("reworded: exact over near-duplicate effective number", spread(caught), 10, ">="),
        ("free draw: seeds whose interval of the ratio holds 1", share_of(flat), 0.9, ">="),
        ("free draw: seeds whose interval holds the grammar's exact number", share_of(known), 0.9, ">="),
        ("head alone: seeds whose kinds found are surely fewer", share_of(lost), 0.9, ">="),
        ("samples per second, jokes", arms["texts per second, jokes"], SAMPLES_PER_SECOND, ">="),
        ("samples per second, all different", arms["texts per second, all different"], SAMPLES_PER_SECOND, ">="),
        ("gigabytes at the peak", spread([arms["memory"]["gigabytes"]]), GIGABYTES, "<="),
    ]
    bars = []
    for name, measure, bar, side in rows:
        holds = measure["value"] >= bar if side == ">=" else measure["value"] <= bar
        bars.append({"name": name, **measure, "bar": f"{side} {bar:g}", "holds": holds})
    sizes = {"num_rows": c.num_rows, "num_rows_memory": c.num_rows_memory, "repeats": c.repeats, "true_exact": truth}
    return runs.publish(RESULTS, arms, bars, range(c.num_seeds), threads=1, **sizes)


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/audit.py"))))
