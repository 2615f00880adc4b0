"""`nightschool lab collapse`: each sample looks fine, together they say three jokes. What keeps a loop of models alive?

Hypothesis: models that learn from the words of the one before lose what is rare while all they say stays right; words
made with chance from outside, kept, and dealt out by kind as real text has them, with at most a tenth of real text for
what nobody said, keep it.

The world is the jokes of world/jokes.py, 320 kinds with Zipf weights, known exactly: see lab/exact.py. A model of 175
thousand parameters learns from real jokes; for ten generations it goes on from the weights of the one before and
learns from what that one told. All arms spend equal FLOPs a generation, those of sampling counted.
But: one small grammar, with an exact parser as verifier; tiny models, and no more is claimed; `ours` keeps all the real
jokes that it was ever given, as a user would, and looks up there what it lacks.

    real_only     learns from all the real jokes that `ours` has been given by then, again and again
    naive         the common recipe: nucleus 0.9, keep what is right, train on it, again
    replace       the same at temperature 1 with nothing cut off
    accumulate    replace, but all that was made stays, and one generation's worth of real jokes with it
    peers         half of the food is a peer's words, who has another seed and other real jokes; else as replace
    ours          night/generate.py: seeds and sets; all that was made stays; a quota by kind, filled up with real jokes
    no_seeds, no_keep, no_quota     ours without that piece; without a quota the real tenth is fresh jokes as they come
    surprise      no_quota, with the words that surprise the model weighing more
    drift         no model at all: the same jokes drawn again from their own counts, by a perfect copier (neutral drift)
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace

import numpy as np

from nightschool.config import UserError
from nightschool.lab import collapse_page, exact
from nightschool.lab.arms import Holds, Json, Rows, verdict
from nightschool.lab.generations import MODEL, TENTH, Config, generation
from nightschool.runs import publish, read_json

SWEPT = "collapse_sweep.json"  # what the sweep found, in the folder of results

# The bars, written down before the first run (issue 5)
ALIVE = 0.9  # of the real kinds and exp-entropy, net of drift under the same floor
TAIL_BITS = 0.1  # a token in the rarest decile
FEWER, FLAT = 5.0, -0.02  # of naive: at least; validity falls by no more
DOWNSTREAM = -0.01  # ours less real_only, the interval's lower end


def bars(arms: Rows, drifts: dict[str, list[dict[str, float]]]) -> list[Json]:
    """Every bar whose arms are there. arms[name] = a row a seed with its `generations`."""
    found: list[Json] = []
    truth, copier = exact.spread(exact.world().p, exact.DRAWS), drifts["floor"][-1]

    def bar(name: str, values: np.ndarray, asked: str, holds: Holds) -> None:
        found.append(verdict(name, values.tolist(), asked, holds))

    def end(arm: str, key: str, g: int = -1) -> np.ndarray:
        return np.array([row["generations"][g][key] for row in arms[arm]])

    if "ours" in arms:
        for name, key in (("kinds", "kinds"), ("entropy", "exp_entropy")):
            for whose, most in (("net of drift", copier[key]), ("not net", truth[key])):
                bar(f"{name}, {whose}", end("ours", key) / most, f"value >= {ALIVE}", lambda v, low, high: v >= ALIVE)
        bar("tail_bits", end("ours", "tail_bits"), f"value <= {TAIL_BITS}", lambda v, low, high: v <= TAIL_BITS)
    if "naive" in arms:
        lost = truth["kinds"] / end("naive", "kinds")
        change = end("naive", "validity") - end("naive", "validity", 0)
        bar("naive_fails: kinds, times fewer", lost, f"value >= {FEWER:g}", lambda v, low, high: v >= FEWER)
        bar("naive_fails: validity, change", change, f"value >= {FLAT}", lambda v, low, high: v >= FLAT)
    if {"ours", "real_only"} <= arms.keys():
        more = end("ours", "downstream") - end("real_only", "downstream")
        bar("downstream, less real_only's", more, f"low >= {DOWNSTREAM}", lambda v, low, high: low >= DOWNSTREAM)
    return found


def sweep(config: Config) -> Json:
    """Generation 0 at each rate on seed 100: excess bits a token. The fewest win, and all arms learn at one rate."""
    tried = {}
    for rate in config.rates:
        row = generation(replace(config, out=config.out / "sweep" / f"{rate:g}"), "replace", 100, 0, rate)
        tried[f"{rate:g}"] = row["excess_bits"]
        print(f"sweep {rate:g}: {row['excess_bits']:.4f} excess bits a token", file=sys.stderr, flush=True)
    publish(config.results / SWEPT, tried, [], [100], model=asdict(MODEL))
    return tried


def main(config: Config) -> Json:
    path = config.results / SWEPT
    if config.sweep:
        return sweep(config)
    if not path.exists():
        raise UserError(f"no {path}; run `nightschool lab collapse --sweep` first")
    tried = read_json(path)["arms"]
    best = float(min(tried, key=lambda rate: tried[rate]))
    sizes = config.start_jokes, config.jokes, config.generations
    drifts = {
        "replace": exact.drift(*sizes, 0.0, False),
        "floor": exact.drift(*sizes, TENTH, False),
        "accumulate": exact.drift(*sizes, 0.0, True),
    }
    arms: Rows = {arm: [] for arm in config.arms}
    values: Json = {}
    for place, seed in enumerate(config.seeds):
        life: dict[str, list[Json]] = {arm: [] for arm in config.arms}
        for g in range(config.generations + 1):
            for arm in config.arms:
                life[arm].append(row := generation(config, arm, seed, g, best))
                note = f"valid {row['validity']:.3f}  kinds {row['kinds']:5.1f}  exp-entropy {row['exp_entropy']:5.1f}"
                print(f"seed {seed} gen {g:2} {arm:12} {note}", file=sys.stderr, flush=True)
        for arm in config.arms:
            arms[arm].append({"seed": seed, "generations": life[arm]})
        values = publish(
            config.results / "collapse.json",
            {arm: {"rows": rows} for arm, rows in arms.items()},
            bars(arms, drifts),
            config.seeds[: place + 1],
            model=asdict(MODEL),
            truth={**exact.spread(exact.world().p, exact.DRAWS), "draws": exact.DRAWS},
            drift=drifts,
        )
        collapse_page.write(config.results, __doc__ or "", read_json(config.results / "collapse.json"))
    return values
