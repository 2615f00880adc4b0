"""`nightschool import`: take in a model that others raised, so that every verb works on it.

A Qwen3, Qwen2 or Llama checkpoint from a folder or the hub becomes a run: its weights as float32, its tokenizer and its
chat template as they are. Where transformers is installed its logits and greedy text must be ours. But: chat models
only; what of a conversation can be learned is as its template has it (text/template.py).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from nightschool.config import UserError
from nightschool.model import exchange, peers
from nightschool.model.families import model_config
from nightschool.runs import Run
from nightschool.text import template

FILES = ["*.safetensors", "*.json", "*.jinja"]  # of a hub repository: no pickles, no code


@dataclass(frozen=True)
class Config:
    path: tyro.conf.Positional[str]  # a folder, or a model's name on the hub, as in Qwen/Qwen3-0.6B
    out: Path = Path("life/import")  # the run folder
    check: bool = True  # compare with transformers where it is installed; takes the memory of a second model


def folder_of(name: str) -> Path:
    """A checkpoint's folder, fetched from the hub if it is no folder here; what was fetched is kept in its cache."""
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"no folder {name}; give one, or a model's name on the hub such as Qwen/Qwen3-0.6B")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=FILES))
    except (OSError, ValueError) as error:  # what the library's own errors derive from
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"no folder {name}, and the hub did not give it: {reason}; the same command goes on") from None


def main(config: Config) -> dict[str, Any]:
    folder = folder_of(config.path)
    sizes = model_config(folder)
    files = exchange.weight_files(folder)
    tokenizer = template.adopt(folder)
    run = Run.open(config.out, "import", config)
    if not run.done:
        print(f"reading {len(files)} file(s) of {sizes.family} weights", file=sys.stderr)
        model = exchange.load_model(folder, sizes, tokenizer, torch.float32)
        asked = peers.ask_transformers(folder, model, tokenizer) if config.check else "transformers: not asked"
        print(asked, file=sys.stderr)
        exchange.save(run.path("checkpoint"), model, tokenizer, "")
        run.finish(
            family=sizes.family,
            parameters=sum(p.numel() for p in model.parameters()),
            context=sizes.max_position_embeddings,
            checks=[asked],
        )
    return {name: run.meta[name] for name in ("seconds", "family", "parameters", "context", "checks")}
