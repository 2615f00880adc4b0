"""What marked work has to say: telling attempts, what each method paid, where a judge was wrong; all by hand."""

from __future__ import annotations

from typing import Any

from nightschool.stages import marked

EVIL = "<script>alert('x')</script>"


def rollout(outcome: float, *ok: bool, credit: float = 0.1, told: bool = True, **more: Any) -> dict[str, Any]:
    steps = [{"ok": o, "credit": credit, **more} for o in ok]
    return {"outcome": outcome, "outcome_credit": (outcome - 0.5) * told, "steps": steps}


def test_the_most_telling_rollouts_are_chosen() -> None:
    late, clean = rollout(0, True, True, False), rollout(1, True)
    lucky, avoided = rollout(1, False, True), rollout(1, False, credit=-0.5)
    alike = [rollout(1, True, False, credit=-1, told=False), rollout(0, True, True, True, False, told=False)]
    chosen = marked.telling([*alike, rollout(0, False), clean, lucky, avoided, rollout(0, True, False), late])
    assert [r["steps"] for r in chosen] == [avoided["steps"], late["steps"], clean["steps"]]
    assert chosen[1]["wrong"] == [2]


def test_what_was_paid_to_the_wrong_side_is_counted() -> None:
    lucky = rollout(1, True, False, False, review=0.04)  # outcome and step credit praise all, review hardly
    lucky["steps"][2]["review"] = -1.0
    outcome, by_step, by_review = marked.methods_of(lucky)
    assert [m["key"] for m in (outcome, by_step, by_review)] == ["outcome", "credit", "review"]
    assert (outcome["praised"], outcome["blamed"]) == (2, 0)
    assert (by_review["praised"], by_review["blamed"]) == (0, 0)
    assert [cell["size"] for cell in by_review["cells"]] == [4, 4, 100]
    blamed = marked.methods_of(rollout(0, True, False))[0]
    assert (blamed["praised"], blamed["blamed"]) == (0, 1)


def audited(step: int, text: str, first_error: int | None, judged: bool | None) -> dict[str, Any]:
    lines = text.split("\n")
    steps = [first_error is None or i < first_error for i in range(len(lines))]
    row = {"step": step, "use": "measure", "judged": judged, "right": first_error is None, "question": EVIL}
    return row | {"text": text, "steps": steps, "first_error": first_error, "feedback": "line 2 should be: 7"}


INCIDENT = {"step": 21, "back_to": 10, "why": "gap 0.30, J 0.10", "num_fooled": 2}
AUDITS = [
    audited(1, "1\n2", 0, judged=None),  # a first lesson
    audited(10, "4\n5", 1, judged=True),  # before the policy was kept
    audited(11, "4\n6\n8", 1, judged=True),
    audited(15, "4\n6\n8", 1, judged=True),  # said again
    audited(20, "4\n7\n8", None, judged=False),
    audited(20, "4\n7\n9", None, judged=True),
    audited(21, "4\n6", 1, judged=True),  # after it
]


def test_an_incident_by_hand() -> None:
    found = marked.incident_of(INCIDENT, AUDITS)
    assert (found["asked"], found["passed"], found["refused"]) == (4, 2, 1)
    assert [e["lines"] for e in found["examples"]] == [
        [("4", ""), ("6", "slip"), ("8", "after")],
        [("4", ""), ("7", ""), ("8", "")],
    ]
