"""What labs over arms and seeds share: a bar's verdict, and the walk through them that writes results as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nightschool.lab.statistics import bootstrap, iqm
from nightschool.runs import publish, read_json

Json = dict[str, Any]
Interval = tuple[float, float]
Holds = Callable[[float, float, float], bool | None]  # (value, low, high); None: only shown
Rows = dict[str, list[Json]]  # arm -> a row a seed, the same seeds for all


def verdict(name: str, values: Sequence[float], asked: str, holds: Holds, between: Interval | None = None) -> Json:
    """A bar over seeds, with `between` for its interval where that comes from elsewhere."""
    value, (low, high) = iqm(values), between or bootstrap(values)
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "bar": asked,
        "holds": holds(value, low, high),
        "num_seeds": len(values),
    }


def walk(
    arms: Sequence[str],
    seeds: Sequence[int],
    row_of: Callable[[str, int], Json],
    bars: Callable[[Rows], list[Json]],
    path: Path,
    page: Callable[[Json], None],
    **meta: Any,
) -> Json:
    """Every arm on every seed: `path` and the page are written anew after each. Returns the bars' values by name.

    row_of(arm, seed): its row; what is under "right", outcomes by problem, is for the bars alone.
    """
    rows: Rows = {arm: [] for arm in arms}
    values: Json = {}
    for num_seeds, seed in enumerate(seeds, 1):
        for arm in arms:
            rows[arm].append(row_of(arm, seed))
            # seeds that all arms have; while the first is under way, the arms that have it
            full = num_seeds if arm == arms[-1] else max(1, num_seeds - 1)
            told = {
                name: {"rows": [{k: v for k, v in row.items() if k != "right"} for row in found]}
                for name, found in rows.items()
                if found
            }
            found = bars({name: found[:full] for name, found in rows.items() if len(found) >= full})
            values = publish(path, told, found, seeds[:num_seeds], **meta)
            page(read_json(path))
            last = rows[arm][-1]
            judged = f", judged {last['judged']:.3f}" if "judged" in last else ""
            print(
                f"seed {seed} {arm:18} {last['start']:.3f} -> {last['final']:.3f}{judged}", file=sys.stderr, flush=True
            )
    return values
