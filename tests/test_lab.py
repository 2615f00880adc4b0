"""The labs' statistics by hand; the credit lab's bars and page on made-up rows whose verdicts are known."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from test_report import Page

from nightschool.lab import judge, report
from nightschool.lab.credit import ARMS, SCALES, SMALL
from nightschool.lab.credit_bars import GOAL, bars
from nightschool.lab.statistics import bootstrap, first_crossing, iqm, paired
from nightschool.model.transformer import Transformer
from nightschool.train.plan import num_parameters


def test_iqm_by_hand() -> None:
    assert iqm([7.0]) == 7.0
    assert iqm([1, 2, 3, 100]) == 2.5  # the middle two
    assert iqm([1, 2, 6]) == pytest.approx((0.25 * 1 + 2 + 0.25 * 6) / 1.5)
    assert iqm([1.0, 3.0]) == 2.0


def test_bootstrap_covers_the_mean() -> None:
    rng = random.Random(1)
    covered = 0
    for _ in range(40):
        low, high = bootstrap([rng.gauss(5, 1) for _ in range(20)], draws=200)
        covered += low <= 5 <= high
    assert covered >= 34
    assert bootstrap([2.0]) == (2.0, 2.0)


def test_paired_by_hand() -> None:
    assert paired([1, 1, 0, 1], [1, 0, 0, 0]) == (0.5, pytest.approx((1 / 3) ** 0.5 / 2))


def test_first_crossing_by_hand() -> None:
    curve = [(0, 0.0), (10, 0.8), (20, 0.7), (30, 0.75), (40, 0.85), (50, 0.9)]
    assert first_crossing(curve, 0.8, 100) == pytest.approx(35)  # 10 does not count: the next one is below
    assert first_crossing(curve[:5], 0.8, 100) == 100  # the last one has no next


def row(seed: int, reach: float, **more: Any) -> dict[str, Any]:
    """An arm whose dev pass@1 rises in a straight line and is at the goal after `reach` of 1000 rollouts."""
    curve = [[x, min(1.0, GOAL * x / reach)] for x in range(0, 1001, 100)]
    base = {"seed": seed, "start": 0.03, "final": 0.9, "longer": 0.8, "rollouts": 1000, "flops": 5e9, "curve": curve}
    base |= {"lucky_rate": 0.1, "wrong_step_upweight": 0.0, "wrong_step_upweight_rewarded": 0.0, "credit_auc": 1.0}
    return base | {"seconds": 60.0, "lr_scale": 0.1} | more


def made_up() -> dict[str, list[dict[str, Any]]]:
    reach = {"first_error": 200, "outcome": 900, "grpo": 500, "dapo": 800, "maxrl": 300, "placebo": 5000}
    arms = {arm: [row(s, r) for s in range(3)] for arm, r in reach.items()}
    arms |= {"small_first_error": [row(s, 100) for s in range(3)], "small_grpo": [row(s, 300) for s in range(3)]}
    arms["lucky_first_error"] = [row(s, 200) for s in range(3)]
    arms["lucky_outcome"] = [row(s, 200, lucky_rate=0.5, wrong_step_upweight_rewarded=1.0) for s in range(3)]
    right, worse = [1.0] * 900 + [0.0] * 100, [1.0] * 860 + [0.0] * 140
    for arm, rows in arms.items():
        for made in rows:
            made["right"] = {"final": right, "longer": worse if arm == "first_error" else right}
    return arms


def test_bars_by_hand() -> None:
    found = {bar["name"].partition(" (")[0]: bar for bar in bars(made_up())}
    assert found["start"]["holds"]
    assert found["rollouts_vs_grpo"]["value"] == pytest.approx(500 / 200)
    assert found["rollouts_vs_grpo"]["holds"]
    assert found["rollouts_vs_maxrl"]["value"] == pytest.approx(1.5)
    assert found["flops"]["value"] == pytest.approx(2.5)
    assert found["placebo"]["value"] == pytest.approx(0.5)
    assert found["upweight"]["holds"]
    assert found["upweight of outcome"]["value"] == 1.0
    assert found["lucky"]["value"] == pytest.approx(0.2)
    assert found["final"]["holds"]
    assert found["longer"]["value"] == pytest.approx(-0.04)
    assert not found["longer"]["holds"]
    assert found["small rollouts_vs_grpo"]["value"] == pytest.approx(300 / 100)  # small_grpo's; grpo took 500


def test_the_page_shows_what_the_lab_found(tmp_path: Path) -> None:
    arms = made_up()
    result = {
        "command": "nightschool lab credit",
        "meta": {"seeds": [0, 1, 2], "commit": "0123456789abcdef"},
        "arms": {arm: {"rows": rows} for arm, rows in arms.items()},
        "bars": bars(arms),
    }
    report.write(tmp_path / "credit.html", "credit", "what & why", result, GOAL)
    html = (tmp_path / "credit.html").read_text()
    page = Page(html)
    assert "what & why" in page.text
    assert "does not hold" in page.text
    assert "rollouts_vs_grpo (grpo)" in page.text
    assert html.count('class="band"') == len(arms)
    assert "http" not in html.replace("http://www.w3.org", "")  # self-contained


def test_arms_differ_in_credit_alone() -> None:
    for name, arm in ARMS.items():
        assert set(arm.flags) <= {"credit", "average", "clip", "task", *(["again"] if name == "again" else [])}, name
        assert arm.layouts in (("2x16",), SMALL, ("6x1",)), name
        assert not arm.rates_of or ARMS[arm.rates_of].rates_of == "", name


def test_the_scale_of_a_gpu_is_built() -> None:
    with torch.device("meta"):
        model = Transformer(SCALES["gpu"].plan.model)
    assert sum(p.numel() for p in model.parameters()) == num_parameters(SCALES["gpu"].plan.model)
    assert 5e6 < num_parameters(SCALES["gpu"].plan.model) < 20e6
    assert len(SCALES["gpu"].seeds) >= 5


def test_bars_of_the_judge_by_hand() -> None:
    def of(final: float, **more: float) -> list[dict[str, Any]]:
        right = [1.0] * round(1000 * final) + [0.0] * round(1000 * (1 - final))
        return [{"seed": s, "final": final, "right": right} | more for s in range(3)]

    arms = {
        "verifier": of(0.9),
        "few_labels": of(0.6),
        "few_updates": of(0.7),
        "static": of(0.2, gap=0.6),
        "audited": of(0.86, gap=0.04, J=0.7, verified_share=0.047),
        "attack": of(0.8, gap=0.1),
    }
    found = {bar["name"]: bar for bar in judge.bars(arms)}
    assert found["true"]["value"] == pytest.approx(0.86 / 0.9)
    assert found["same_labels (few_updates)"]["value"] == pytest.approx(0.16)
    names = ("static_fails", "gap", "labels", "J", "true", "same_labels (few_updates)", "gap under attack")
    assert [found[name]["holds"] for name in names] == [True, True, True, True, True, True, None]
    worse = arms | {"static": of(0.6, gap=0.2), "audited": of(0.7, gap=0.06, J=0.5, verified_share=0.06)}
    found = {bar["name"]: bar for bar in judge.bars(worse)}
    assert not any(found[name]["holds"] for name in names)
