"""The state a killed run goes on from: state/step-000123/ with model, optimizer and counters.

Written under a temporary name with its manifest (sizes and blake2b of the files) last, synced, then renamed:
a folder that carries the name is whole unless the disk lied, and `latest` checks even that. No pickle. Only what is
trained is kept: the rest is where the run began. But: one rank writes it all, however many there are.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from nightschool.config import UserError
from nightschool.model.exchange import write_tensors
from nightschool.runs import read_json, sync, write_json

NAME = re.compile(r"step-\d+")


@dataclass(frozen=True)
class State:
    folder: Path
    info: dict[str, Any]  # what `save` was given: step, tokens, cursor, ...

    def model(self) -> dict[str, Tensor]:
        return load_file(self.folder / "model.safetensors")

    def optimizer(self) -> dict[str, Tensor]:
        return load_file(self.folder / "optim.safetensors")


def save(
    root: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    info: Any,
    keep: int = 2,
) -> Path:
    """Write root/step-000123 whole or not at all, then remove all but the newest `keep`."""
    root.mkdir(exist_ok=True)
    folder, temporary = root / f"step-{step:06d}", root / "writing"
    shutil.rmtree(temporary, ignore_errors=True)  # what a kill left
    temporary.mkdir()
    try:
        for file, tensors in (("model", model), ("optim", optimizer)):
            write_tensors(temporary / f"{file}.safetensors", {k: t.detach().contiguous() for k, t in tensors.items()})
        write_json(temporary / "state.json", info)
        write_json(temporary / "manifest.json", {p.name: fingerprint(p) for p in sorted(temporary.iterdir())})
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one of the same step
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # give a full disk its space back
        raise
    sync(root)
    for old in folders(root)[:-keep]:
        shutil.rmtree(old)
    return folder


def latest(root: Path) -> State | None:
    """The newest state whose files are those of its manifest, or None; a damaged one is named on stderr."""
    for folder in reversed(folders(root)):
        if fault := damage(folder):
            print(f"{folder} is damaged ({fault}); going back to the one before", file=sys.stderr)
        else:
            return State(folder, read_json(folder / "state.json"))
    return None


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """What a state keeps of a model: all but what is frozen, which the stage loads anew."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved parameters into a model's trained ones. UserError if a name or a shape differs."""
    parameters = trained(module)
    ours, theirs = ({k: tuple(v.shape) for k, v in t.items()} for t in (parameters, tensors))
    for name in ours.keys() | theirs.keys():
        if ours.get(name) != theirs.get(name):
            raise UserError(f"another model's checkpoint: {name} has shape {theirs.get(name)}, not {ours.get(name)}")
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[name])


def folders(root: Path) -> list[Path]:
    """Oldest first."""
    if not root.exists():
        return []
    return sorted((p for p in root.iterdir() if NAME.fullmatch(p.name)), key=lambda p: int(p.name[5:]))


def damage(folder: Path) -> str:
    """What is wrong with a state, or ''."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return "no manifest"
    try:
        expected = read_json(manifest)
    except UserError as error:
        return str(error)
    for name, written in expected.items():
        path = folder / name
        if not path.exists() or fingerprint(path) != written:
            return f"{name} is not what was written"
    return ""


def fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "blake2b": hashlib.file_digest(file, "blake2b").hexdigest()}
