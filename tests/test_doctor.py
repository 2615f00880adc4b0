"""The doctor on this machine, with a model small enough to try at once."""

import json
import math
from pathlib import Path

import pytest

from nightschool.config import BelowBar
from nightschool.model.kernels import Check
from nightschool.stages import doctor

QUICK = {"depth": 1, "seconds": 0.0, "threads": 1, "dtype": "float32"}


def test_a_healthy_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor.main(doctor.Config(tmp_path / "life", **QUICK))  # type: ignore[arg-type]
    assert found["problems"] == []
    assert all(error is not None for error in found["kernels"].values())
    assert found["training"]["tokens_per_second"] > 0
    hours = [row["hours"] for row in found["ladder"]]
    assert hours == sorted(hours)
    assert not (tmp_path / "life").exists(), "a doctor only looks"
    json.dumps(found, allow_nan=False)
    assert "whole step" in capsys.readouterr().err


def test_what_would_cost_money_later_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Check("whole step", math.nan, 1e-3, 0.0)
    monkeypatch.setattr(doctor, "step_check", lambda dtype: broken)
    monkeypatch.setattr(doctor, "disk_bytes", lambda planned: 1e18)
    with pytest.raises(BelowBar, match="whole step computes wrongly") as raised:
        doctor.main(doctor.Config(tmp_path, **QUICK))  # type: ignore[arg-type]
    assert "choose another disk" in str(raised.value)
    assert not any(row["fits"] for row in raised.value.headline["ladder"])
