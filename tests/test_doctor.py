"""The doctor on this machine, with a model small enough to try at once."""

import json
import math
from pathlib import Path

import pytest

from nightschool.config import BelowBar
from nightschool.model import exchange, lora
from nightschool.model.kernels import Check
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.stages import doctor
from nightschool.text.tokenizer import train
from nightschool.train import proof
from nightschool.train.optim import Optimizer

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
    monkeypatch.setattr(proof, "step_check", lambda dtype: broken)
    monkeypatch.setattr(doctor, "disk_bytes", lambda planned: 1e18)
    with pytest.raises(BelowBar, match="whole step computes wrongly") as raised:
        doctor.main(doctor.Config(tmp_path, **QUICK))  # type: ignore[arg-type]
    assert "choose another disk" in str(raised.value)
    assert not any(row["fits"] for row in raised.value.headline["ladder"])


@pytest.mark.parametrize("brought", [False, True])
def test_room_to_go_on_is_what_is_kept(brought: bool) -> None:
    """Weights, gradients and the optimizer's state, counted on the real thing, and one row's activations."""
    config = ModelConfig(300, 64, 96, 3, 4, 2, 24, 128, tie_word_embeddings=False, family="llama")
    model = Transformer(config)
    row = 2 * 64 * (3 + 30) * 128
    blocks = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    total = sum(p.numel() for p in model.parameters())
    whole = Optimizer(model, muon=not brought)
    lora.add(model, doctor.RANK)
    factors = Optimizer(model)
    num_factors = sum(p.numel() for p in factors.parameters)
    states = [sum(tensor.numel() for tensor in each.state.values()) for each in (whole, factors)]
    found = doctor.room_of(config, brought, memory=1e12)
    slack = 8 * 1000  # norms
    assert abs(found["whole_gb"] * 1e9 - (4 * (2 * total + states[0]) + row)) < slack
    assert abs(found["factors_gb"] * 1e9 - (4 * (total + blocks + 2 * num_factors + states[1]) + row)) < slack
    assert found["whole_fits"]


def test_a_model_that_is_there_is_told_whether_it_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train(["a town"], 280)
    exchange.save(
        tmp_path / "run" / "checkpoint", Transformer(ModelConfig(280, 32, 48, 2, 2, 2, 16, 64)), tokenizer, ""
    )
    found = doctor.main(doctor.Config(tmp_path, start=tmp_path / "run", **QUICK))  # type: ignore[arg-type]
    assert found["start"]["whole_fits"]
    assert f"{tmp_path / 'run'}: 0.0 GB of memory for all weights" in capsys.readouterr().err
