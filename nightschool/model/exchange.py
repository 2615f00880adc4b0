"""A checkpoint is a Hugging Face directory: saved here, loaded here and by any reader of those.

    config.json  model.safetensors  generation_config.json  tokenizer.json  tokenizer_config.json
    chat_template.jinja  README.md

A folder is whole or not there: it is written beside its place, synced and renamed. But: one file of weights,
no shards; no other architecture than Qwen3's.
Sources: transformers' Qwen3Config, with rope_parameters as version 5 and rope_theta as older readers have it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nightschool.config import UserError
from nightschool.device import place
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.runs import read_json, sync, write_json
from nightschool.text import chat
from nightschool.text.tokenizer import Tokenizer

ARCHITECTURE = "Qwen3ForCausalLM"
FIXED: dict[str, Any] = {  # what our Transformer does, in Qwen3Config's words
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "rope_scaling": None,
}
FRONT_MATTER = """---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [nightschool, qwen3]
---
"""


def save(folder: Path, model: Transformer, tokenizer: Tokenizer, card: str) -> None:
    """Write a checkpoint; one that lies there already is replaced. `card` is the model card's Markdown.

    Weights are stored as float32. UserError if `folder` holds anything that is no checkpoint.
    """
    if folder.exists() and not (folder.is_dir() and (is_checkpoint(folder) or not any(folder.iterdir()))):
        raise UserError(f"{folder} holds something that is no checkpoint; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}.{age}") for age in ("new", "old"))
    if old.exists() and not folder.exists():  # a save was killed between its two renames
        old.rename(folder)
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    try:
        new.mkdir()
        write_tensors(new / "model.safetensors", tensors_of(model))
        write_json(new / "config.json", config_json(model.config, tokenizer))
        stop = [tokenizer.turn_end, tokenizer.end_of_text]
        write_json(
            new / "generation_config.json",
            {
                "do_sample": True,
                "temperature": 1.0,
                "eos_token_id": stop,
                "pad_token_id": tokenizer.end_of_text,
            },
        )
        tokenizer.save(new)
        shutil.copyfile(chat.TEMPLATE, new / chat.TEMPLATE.name)
        (new / "README.md").write_text(f"{FRONT_MATTER}\n{card.strip()}\n", encoding="utf-8")
        for path in (*new.iterdir(), new):
            sync(path)
        if folder.exists():
            folder.rename(old)  # between these two renames the name is free for an instant
        new.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Transformer, Tokenizer]:
    """A checkpoint's model on this process's device, computing in `dtype`, and its tokenizer. UserError where it
    isn't one of ours."""
    config = model_config(folder)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{folder}: {tokenizer.vocab_size} tokens but vocab_size {config.vocab_size}")
    tensors = read_tensors(folder / "model.safetensors", config)
    model = Transformer(config, dtype)
    model.load_state_dict(tensors)
    return model.to(place()), tokenizer


def is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def checkpoint_of(run: Path) -> Path:
    """The checkpoint of a run folder. UserError where there is none."""
    if not is_checkpoint(run / "checkpoint"):
        raise UserError(f"no checkpoint in {run}; name the folder of a run that has finished")
    return run / "checkpoint"


def config_json(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3",
        **asdict(config),
        **FIXED,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": tokenizer.turn_end,
        "pad_token_id": tokenizer.end_of_text,
    }


def model_config(folder: Path) -> ModelConfig:
    """What a checkpoint's config.json asks for. UserError where that is not what our Transformer is."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"no config.json in {folder}; name the checkpoint/ folder of a run")
    saved = read_json(path)
    if not isinstance(saved, dict) or saved.get("architectures") != [ARCHITECTURE]:
        found = saved.get("architectures") if isinstance(saved, dict) else saved
        raise UserError(f"{path} is not a {ARCHITECTURE} but {found}; only that architecture can be loaded")
    rope = saved.get("rope_parameters") or {}
    saved = {"rope_theta": rope.get("rope_theta"), **saved}
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"{path}: rope_type {rope['rope_type']!r} is not supported; only 'default' is")
    for name, value in FIXED.items():
        if saved.get(name, value) != value:
            raise UserError(f"{path}: {name} {saved[name]!r} is not supported; only {value!r} is")
    sizes = {f.name: saved.get(f.name) for f in fields(ModelConfig)}
    for name, value in sizes.items():
        if not isinstance(value, int | float) or (value <= 0 and not isinstance(value, bool)):
            raise UserError(f"{path}: {name} must be a positive number; got {value!r}")
    return ModelConfig(**sizes)  # type: ignore[arg-type]


def tensors_of(model: Transformer) -> dict[str, Tensor]:
    """The state dict as transformers saves it: float32, a tied lm_head left out."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    state = model.state_dict()
    return {name: state[name].detach().cpu().float().clone() for name in state if name not in tied}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. OSError, as for any other file, where the disk is full or read-only."""
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk comes as "... (os error 28)"
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    sync(path)


def read_tensors(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The state dict in a safetensors file, checked by name and shape before anything is allocated."""
    if not path.is_file():
        raise UserError(f"no {path.name} in {path.parent}; copy the checkpoint again or name another")
    with torch.device("meta"):
        asked = {name: tuple(t.shape) for name, t in Transformer(config).state_dict().items()}
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
    try:
        with safe_open(path, "pt") as file:
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for name in sorted((asked.keys() | there.keys()) - tied.keys()):
                if asked.get(name) != there.get(name):
                    raise UserError(
                        f"{path} is of another model: {name} has shape {there.get(name)}; "
                        f"config.json asks for {asked.get(name)}"
                    )
            return {name: file.get_tensor(tied.get(name, name)) for name in asked}
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); copy the checkpoint again") from None
