"""A state is whole or not there; what is damaged is found and passed over."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from nightschool.config import UserError
from nightschool.model import exchange
from nightschool.train import checkpoint

TENSORS = {"a": torch.arange(12.0).view(3, 4).t(), "b": torch.ones(2, dtype=torch.bfloat16)}


def save(root: Path, step: int, keep: int = 2) -> Path:
    return checkpoint.save(root, step, TENSORS, {"n": torch.tensor(step)}, {"step": step, "cursor": {"x": [1]}}, keep)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path / "state", 7)
    state = checkpoint.latest(tmp_path / "state")
    assert state is not None
    assert state.folder.name == "step-000007"
    assert state.info == {"step": 7, "cursor": {"x": [1]}}
    for name, tensor in state.model().items():
        assert torch.equal(tensor, TENSORS[name])
        assert tensor.dtype == TENSORS[name].dtype
    assert state.optimizer()["n"] == 7
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_keeps_the_last_by_number(tmp_path: Path) -> None:
    for step in (5, 999_999, 1_000_001, 1_000_000):
        save(tmp_path, step, keep=3)
    assert [p.name for p in checkpoint.folders(tmp_path)] == ["step-999999", "step-1000000", "step-1000001"]
    save(tmp_path, 1_000_001)  # the same step again
    assert [p.name for p in checkpoint.folders(tmp_path)] == ["step-1000000", "step-1000001"]


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("model.safetensors", "truncate"),
        ("model.safetensors", "flip"),
        ("optim.safetensors", "remove"),
        ("state.json", "flip"),
        ("manifest.json", "truncate"),
        ("manifest.json", "remove"),
    ],
)
def test_passes_over_a_damaged_state(tmp_path: Path, file: str, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / file
    body = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(body[:-3] if harm == "truncate" else body[:-3] + b"#" + body[-2:])
    state = checkpoint.latest(tmp_path)
    assert state is not None
    assert state.info["step"] == 1
    said = capsys.readouterr().err
    assert "step-000002 is damaged" in said
    assert said.count("\n") == 1
    shutil.rmtree(state.folder)
    assert checkpoint.latest(tmp_path) is None


def test_what_a_kill_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "writing").mkdir()
    (tmp_path / "writing" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None
    save(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003"]


def test_a_full_disk_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors reports it with an error of its own, which is no OSError."""
    save(tmp_path, 1)

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(exchange, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        save(tmp_path, 2)
    assert error.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_restore_names_the_tensor_that_does_not_fit() -> None:
    module = nn.Linear(3, 2)
    checkpoint.restore(module, {"weight": torch.zeros(2, 3), "bias": torch.ones(2)})
    assert module.bias.tolist() == [1, 1]
    with pytest.raises(UserError, match=r"bias has shape \(3,\), not \(2,\)"):
        checkpoint.restore(module, {"weight": torch.zeros(2, 3), "bias": torch.ones(3)})
    with pytest.raises(UserError, match=r"bias has shape None, not \(2,\)"):
        checkpoint.restore(module, {"weight": torch.zeros(2, 3)})
    assert module.bias.tolist() == [1, 1]
