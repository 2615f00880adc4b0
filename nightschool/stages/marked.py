"""What marked work has to say, for a life's report: line by line what each method of credit paid for it, and where a
learned judge was wrong about it. Pure functions of what practice and its auditor wrote."""

from __future__ import annotations

from collections.abc import Sequence

from nightschool.rl.table import BOUNDS
from nightschool.stages.figures import Json, line_chart, shade

METHODS = {"outcome": "Outcome reward", "credit": "First-error credit", "review": "Its own review"}
COUNTS = 0.05  # of a method's largest credit: the least that is a fault where it goes to the wrong side
ASKED = {  # of the measures of a judge: heading, least and most that are drawn
    "gap": ("judged less true reward", -0.5, 0.5),
    "precision": ("of what it passed, right", 0.0, 1.0),
    "J": ("Youden's J", 0.0, 1.0),
}
EXAMPLES = 4  # of an incident


def telling(rollouts: Sequence[Json]) -> list[Json]:
    """The rollouts that show how the methods differ: a right answer over a wrong step that the others at the same
    problem avoid, the longest right start that ends wrong, one right throughout. Chosen by the verifier alone: of what
    the review said of them nothing is asked."""
    rows = []
    for r in rollouts:
        wrong = [place for place, step in enumerate(r["steps"]) if not step["ok"]]
        rows.append(r | {"wrong": wrong, "right": r["outcome"] >= 1, "methods": methods_of(r)})
    told = [r for r in rows if r["outcome_credit"]]  # elsewhere all attempts at the problem ended alike
    lucky = min((r for r in told if r["right"] and r["wrong"]), key=first_credit, default=None)
    spoiled = [r for r in told if not r["right"] and r["wrong"]]
    latest = max(spoiled, key=lambda r: (r["wrong"][0], -first_credit(r)), default=None)
    clean = next((r for r in told if r["right"] and not r["wrong"]), None)
    return [r for r in (lucky, latest, clean) if r]


def first_credit(r: Json) -> float:
    """What step credit gave to the first wrong step."""
    return r["steps"][r["wrong"][0]]["credit"]


def methods_of(r: Json) -> list[Json]:
    """What each method gave to each step, and where it praised what was wrong or blamed what was right."""
    found = []
    for key, name in METHODS.items():
        steps = [step | {"outcome": r["outcome_credit"]} for step in r["steps"]]
        if not all(key in step for step in steps):
            continue
        credits = [round(step[key], 2) + 0.0 for step in steps]  # no -0.00
        most = max(map(abs, credits), default=0) or 1
        cells = [
            {
                "credit": credit,
                "side": "up" if credit > 0 else "down" if credit < 0 else "",
                "size": round(100 * abs(credit) / most),
                "fault": abs(credit) >= COUNTS * most and (credit > 0) != step["ok"],
            }
            for credit, step in zip(credits, steps, strict=True)
        ]
        praised, blamed = (sum(c["fault"] for c in cells if c["side"] == side) for side in ("up", "down"))
        found.append({"key": key, "name": name, "cells": cells, "praised": praised, "blamed": blamed})
    return found


def audit_of(metrics: Sequence[Json], audits: Sequence[Json], incidents: Sequence[Json]) -> Json:
    """How a judge fared under its auditor; {} where none was measured."""
    updates = [row for row in metrics if "judge/verified" in row]
    if not updates:
        return {}
    num_updates = updates[-1]["step"]
    lost = [(i["back_to"], i["step"] - 1) for i in incidents]
    charts = []
    for name, (heading, low, high) in ASKED.items():
        points = [(row["step"] - 1, row[f"judge/{name}"]) for row in updates if f"judge/{name}" in row]
        way, bound = BOUNDS[name]
        bad = (bound, high) if way > 0 else (low, bound)
        under = shade(lost, num_updates, low, high, bad)
        inside = [(x, min(max(y, low), high)) for x, y in points]
        if points:
            chart = line_chart(inside, num_updates, low, high, under=under)
            charts.append({"name": name, "heading": heading, "chart": chart, "last": round(points[-1][1], 2) + 0.0})
    return {
        "num_updates": num_updates,
        "share": sum(row["judge/verified"] for row in updates) / sum(row["rollouts"] for row in updates),
        "may_learn": any("judge/alarm" in row for row in updates),
        "charts": charts,
        "incidents": [incident_of(i, audits) for i in incidents],
    }


def incident_of(incident: Json, audits: Sequence[Json]) -> Json:
    """An incident with what was audited since the policy was last kept, and some of what the judge was wrong about."""
    since = [row for row in audits if incident["back_to"] < row["step"] < incident["step"]]
    asked = [row for row in since if row["judged"] is not None]
    wrong = {(row["question"], row["text"]): row for row in asked if row["judged"] != row["right"]}
    passed, refused = ([row for row in wrong.values() if row["judged"] == said] for said in (True, False))
    shown = passed[:EXAMPLES]
    shown += refused[: EXAMPLES - len(shown)]
    return incident | {
        "asked": len(asked),
        "passed": sum(row["judged"] and not row["right"] for row in asked),
        "refused": sum(row["right"] and not row["judged"] for row in asked),
        "examples": [row | {"lines": lines_with(row)} for row in shown],
    }


def lines_with(row: Json) -> list[tuple[str, str]]:
    """Each line of an audited attempt, and where it stands: "" before the first mistake, "slip" at it, "after" it."""
    lines, first = row["text"].split("\n"), row["first_error"]
    return [
        (line, "" if first is None or i < first else "slip" if i == first else "after") for i, line in enumerate(lines)
    ]
