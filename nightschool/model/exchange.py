"""A checkpoint is a Hugging Face directory: saved here, loaded here and by any reader of those.

    config.json  model.safetensors  generation_config.json  tokenizer.json  tokenizer_config.json
    chat_template.jinja  README.md

A folder is whole or not there: it is written beside its place, synced and renamed. But: weights are read from shards
too, and written as one file of float32.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nightschool.config import UserError
from nightschool.device import place
from nightschool.model.families import config_json, model_config
from nightschool.model.lora import merged
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.runs import read_json, sync, write_json, write_text
from nightschool.text.tokenizer import TEMPLATE, Tokenizer

FRONT_MATTER = """---
{license}library_name: transformers
pipeline_tag: text-generation
tags: [nightschool, {family}]
---
"""
OURS = "license: mit\nlanguage: en\n"  # of one that was taken in, who made it has the say
TAKEN_IN = "A model that was taken in by nightschool, and what school made of it. Its maker's licence holds."


def save(folder: Path, model: Transformer, tokenizer: Tokenizer, card: str) -> None:
    """Write a checkpoint; one that lies there already is replaced. `card` is the model card's Markdown, where the model
    was raised here.

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
        write_text(new / TEMPLATE.name, tokenizer.template or TEMPLATE.read_text(encoding="utf-8"))
        front = FRONT_MATTER.format(license="" if tokenizer.brought else OURS, family=model.config.family)
        card = TAKEN_IN if tokenizer.brought else card.strip()
        (new / "README.md").write_text(f"{front}\n{card}\n", encoding="utf-8")
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
    return load_model(folder, config, tokenizer, dtype).to(place()), tokenizer


def load_model(folder: Path, config: ModelConfig, tokenizer: Tokenizer, dtype: torch.dtype) -> Transformer:
    """A checkpoint's model; its tokenizer is told of ids that the model has and no text gives."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{folder}: {tokenizer.vocab_size} tokens but vocab_size {config.vocab_size}")
    tokenizer.vocab_size = config.vocab_size
    tensors = read_tensors(folder, config)
    model = Transformer(config, dtype)
    model.load_state_dict(tensors)
    return model


def is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def checkpoint_of(run: Path) -> Path:
    """The checkpoint of a run folder. UserError where there is none."""
    if not is_checkpoint(run / "checkpoint"):
        raise UserError(f"no checkpoint in {run}; name the folder of a run that has finished")
    return run / "checkpoint"


def tensors_of(model: Transformer) -> dict[str, Tensor]:
    """The state dict as transformers saves it: float32, a tied lm_head left out."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    state = merged(model)
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


def weight_files(folder: Path) -> list[Path]:
    """Where a checkpoint's tensors lie: one file, or the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    sharded = index.is_file() and not (folder / "model.safetensors").is_file()
    names = sorted(set(read_json(index).get("weight_map", {}).values())) if sharded else ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            pickled = " (pickled .bin weights could run code and are not read)" if any(folder.glob("*.bin")) else ""
            raise UserError(f"no {name} in {folder}{pickled}; copy the checkpoint again or name another")
    return [folder / name for name in names]


def read_tensors(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The state dict of a checkpoint, checked by name and shape before anything is allocated."""
    with torch.device("meta"):
        asked = {name: tuple(t.shape) for name, t in Transformer(config).state_dict().items()}
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(path, "pt")) for path in weight_files(folder)]
            where = {name: file for file in files for name in file.keys()}  # noqa: SIM118
            there = {name: tuple(file.get_slice(name).get_shape()) for name, file in where.items()}
            for name in sorted((asked.keys() | there.keys()) - tied.keys()):
                if asked.get(name) != there.get(name):
                    raise UserError(
                        f"{folder} is of another model: {name} has shape {there.get(name)}; "
                        f"config.json asks for {asked.get(name)}"
                    )
            return {name: where[tied.get(name, name)].get_tensor(tied.get(name, name)) for name in asked}
    except SafetensorError as error:
        raise UserError(f"the weights in {folder} are damaged ({error}); copy the checkpoint again") from None
