"""The dream lab: its bars by hand, and a few tokens of every arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightschool.lab import dream as lab
from nightschool.lab import dreamers
from nightschool.runs import read_json, read_jsonl


def rows(**values: Any) -> list[dict[str, Any]]:
    return [{"seed": seed} | values for seed in range(3)]


def test_bars_by_hand() -> None:
    arms = {
        "plain": rows(forgotten=0.4),
        "school": rows(forgotten=0.12),
        "dreams": rows(forgotten=0.08),
        "tuned": rows(bits_per_byte=0.5, harder_bits_per_byte=0.8, harder=0.3),
        "dreaming": rows(bits_per_byte=0.47, harder_bits_per_byte=0.79, harder=0.32),
    }
    found = {bar["name"]: (pytest.approx(bar["value"]), bar["holds"]) for bar in lab.bars(arms)}
    assert found == {
        "replay: dreams forgot": (0.2, True),
        "replay: school forgot": (0.3, False),
        "held out: bits per byte, gained": (0.03, True),
        "ood: bits per byte of harder problems, gained": (0.01, False),
        "ood: of harder problems, gained": (0.02, False),
    }


def test_every_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreamers, "KNOWN", ("arithmetic",))  # an untaught model answers at full length
    config = dreamers.Config(
        out=tmp_path / "runs",
        results=tmp_path,
        seeds=(0,),
        arms=("plain", "dreams", "tuned", "dreaming"),
        rates=(0.3,),
        decays=(1.0,),
        day_tokens=2048,
        news_tokens=1024,
        num_lessons=8,
        few_tokens=2048,
        exam_n=1,
        threads=1,
    )
    assert set(lab.sweep(config)) == {"0.3 1"}
    lab.main(config)
    arms = {name: arm["rows"][0] for name, arm in read_json(tmp_path / "dream.json")["arms"].items()}
    assert arms["plain"]["skills"].keys() == {"arithmetic", "unknown"}
    assert arms["dreams"]["tokens"] == round(1024 / 0.15)  # the news as often as in plain
    assert arms["dreaming"]["tokens"] == 2 * arms["tuned"]["tokens"]  # as much of the lessons, and as many dreams
    assert arms["tuned"]["bits_per_byte"] > 0
    assert len(arms["tuned"]["curve"]) > 1
    dreams = list(read_jsonl(tmp_path / "runs" / "seed-0" / "dreams" / "dreams.jsonl"))
    assert {dream["kind"] for dream in dreams} == {"dream"}
    assert "the news" in (tmp_path / "dream.html").read_text()
