"""Training on one GPU: how fast, how much memory, and what equal time and equal text buy, beside nanochat.

    python bench/train_gpu.py TEXT ... --work DIR                      ours
    python bench/train_gpu.py TEXT ... --work DIR --nanochat CHECKOUT  a checkout of nanochat, on the same text

Ours trains for --seconds after a warm-up that compiles; then, in a run of its own, on --tokens. So does nanochat's own
scripts.base_train, unchanged but for full attention (--window-pattern L), which it asks for itself where
FlashAttention 3 cannot be had. Each has its own tokenizer of 32,768 of the same training documents. The held-out
documents are the same; nanochat's loader crops long ones and ours does not, so that a third decimal means little.
MFU counts 6 FLOPs a weight that multiplies and 12 L H D T for attention, for both, over --peak. A call takes less than
nine minutes; DIR keeps tokens and rows, so that the next call goes on, and prints all rows so far as one table.

But: written without a GPU and not yet run on one. nanochat's part follows its command line of September 2026.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from nightschool import config, device, runs
from nightschool.model.instinct import instinct
from nightschool.model.transformer import Transformer
from nightschool.text import sources, tokenizer
from nightschool.text.corpus import encode, epochs
from nightschool.text.document import Document
from nightschool.text.packing import Item, batches, prefetch, windows
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.course import bits_per_byte, in_batches
from nightschool.train.fit import prepare
from nightschool.train.loop import split, update
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer
from nightschool.train.plan import flops_per_token, plan
from nightschool.train.proof import all_checks
from nightschool.train.schedule import warm_stay_decay

WARMUP = 3  # steps that compile and fill caches
VOCABULARY, CONTEXT = 32_768, 2048
RESULTS = Path(__file__).parents[1] / "results" / "train_gpu.json"


@dataclass(frozen=True)
class Config:
    """Train on one GPU, ours or nanochat."""

    text: Annotated[tuple[str, ...], tyro.conf.Positional]  # files as `nightschool corpus` takes them
    work: Path = Path("out/train_gpu")  # tokens and, for nanochat, all that it writes
    nanochat: Path | None = None  # a checkout; None = ours
    depth: int = 12
    seconds: float = 150.0  # of timed steps
    tokens: int = 60_000_000  # of the run of equal text
    until: str = "seconds"  # or tokens
    seed: int = 0
    peak: float = 989e12  # dense bfloat16 FLOP/s of the card: H100 SXM and H200

    def __post_init__(self) -> None:
        if self.until not in ("seconds", "tokens"):
            raise config.UserError(f"until must be seconds or tokens; got {self.until!r}")


def documents(c: Config) -> dict[str, list[Document]]:
    """train and dev, by the hash of the text: one in a hundred is held out."""
    found: dict[str, list[Document]] = {"train": [], "dev": []}
    for path in sources.files_of(c.text):
        for document, _ in sources.documents(path):
            found["dev" if int(document.id, 16) % 100 == 0 else "train"].append(document)
    return found


def encoded(c: Config) -> tuple[Tokenizer, dict[str, list[Item]]]:
    """Our tokenizer and the tokens of each split, made once and kept in c.work."""
    folder = c.work / "ours"
    if not (folder / "whole").exists():
        folder.mkdir(parents=True, exist_ok=True)
        texts = documents(c)
        made = tokenizer.train((d.text for d in texts["train"]), VOCABULARY)
        made.save(folder)
        for name, those in texts.items():
            items = encode(made, those)
            np.save(folder / f"{name}.npy", np.concatenate([np.asarray(i.ids, np.uint16) for i in items]))
            np.save(folder / f"{name}-lengths.npy", [len(i.ids) for i in items])
        (folder / "whole").touch()
    splits = {}
    for name in ("train", "dev"):
        ids, lengths = np.load(folder / f"{name}.npy"), np.load(folder / f"{name}-lengths.npy")
        parts = np.split(ids, np.cumsum(lengths)[:-1])
        splits[name] = [Item(part, np.ones(len(part), np.uint8)) for part in parts]
    return Tokenizer.load(folder), splits


def ours(c: Config) -> dict[str, Any]:
    words, splits = encoded(c)
    place = device.place()
    planned = plan(c.depth, c.tokens if c.until == "tokens" else None, VOCABULARY, CONTEXT)
    model = Transformer(planned.model, torch.bfloat16)
    model.init_weights(c.seed)
    instinct(model, c.seed)
    model.to(place)
    rates = planned.matrix_lr, planned.embed_lr, planned.norm_lr
    optimizer = Optimizer(model, *rates, weight_decay=planned.weight_decay)
    pieces = [piece for item in splits["train"] for piece in windows(item, CONTEXT)]
    stream = prefetch(
        batches(
            epochs(pieces, 1000, c.seed),
            tokens_per_batch=planned.batch_tokens,
            row_length=CONTEXT,
            pad_id=words.end_of_text,
            seed=c.seed,
        ),
        4,
    )
    micro_tokens = prepare(model, next_token, stream)

    def step(lr_scale: float) -> None:
        update(model, optimizer, next_token, split(next(stream), micro_tokens), lr_scale, clip_norm=1.0)

    for _ in range(WARMUP):
        step(0.0)
    start, num_steps, done = time.perf_counter(), 0, 0.0
    while done < 1:
        step(warm_stay_decay(done))  # its loss is read by the host, so that the clock waits for the GPU
        num_steps += 1
        seconds = time.perf_counter() - start
        done = seconds / c.seconds if c.until == "seconds" else num_steps * planned.batch_tokens / c.tokens
    tokens = num_steps * planned.batch_tokens
    dev = in_batches([piece for item in splits["dev"] for piece in windows(item, CONTEXT)], words, CONTEXT)
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "mfu": tokens / seconds * flops_per_token(planned.model, CONTEXT) / c.peak,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        "micro_tokens": micro_tokens,
        "bits_per_byte": bits_per_byte(model, dev),
        "kernels": {check.kernel: check.error for check in all_checks(planned.model, torch.bfloat16)},
    }


def nanochat(c: Config) -> dict[str, Any]:
    """Its own training script in a process of its own; numbers are read from what it prints."""
    assert c.nanochat
    base = c.work / "nanochat"
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base.absolute()), "PYTHONPATH": str(c.nanochat.absolute())}

    def script(name: str, *args: str) -> str:
        command = [sys.executable, "-m", f"scripts.{name}", *args]
        made = subprocess.run(command, cwd=c.nanochat, env=environment, capture_output=True, text=True)
        if made.returncode:
            raise config.UserError(f"{' '.join(command)} failed: {made.stderr.strip().splitlines()[-1:]}")
        return made.stdout

    if not (base / "whole").exists():
        import pyarrow
        from pyarrow import parquet

        folder = base / "base_data_climbmix"
        folder.mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(("train", "dev")):  # its last file is its validation set
            table = pyarrow.table({"text": [d.text for d in documents(c)[name]]})
            parquet.write_table(table, folder / f"shard_{i:05d}.parquet", row_group_size=1024)
        script("tok_train", "--vocab-size", str(VOCABULARY))
        (base / "whole").touch()
    batch = plan(c.depth, None, VOCABULARY, CONTEXT).batch_tokens
    common = [
        "--depth",
        str(c.depth),
        "--window-pattern",
        "L",
        "--total-batch-size",
        str(batch),
        "--model-tag",
        "bench",
    ]
    common += ["--eval-every", "-1", "--core-metric-every", "-1", "--sample-every", "-1"]
    num_steps = c.tokens // batch
    if c.until == "seconds":
        milliseconds = times(script("base_train", *common, "--num-iterations", "12"))
        num_steps = round(c.seconds * 1000 / milliseconds[-1])
    said = script(
        "base_train",
        *common,
        "--num-iterations",
        str(num_steps),
        "--eval-every",
        "1000000",
        "--eval-tokens",
        str(2**19),
    )
    milliseconds = times(said)[WARMUP:]
    rate = batch * len(milliseconds) / (sum(milliseconds) / 1000)
    parts = plan(c.depth, None, VOCABULARY, CONTEXT).model
    return {
        "tokens": num_steps * batch,
        "seconds": num_steps * batch / rate,
        "tokens_per_second": rate,
        "mfu": rate * flops_per_token(parts, CONTEXT) / c.peak,  # of our shape: nearly its own, whose MLP has no gate
        "own_mfu": float(re.findall(r"bf16_mfu: ([\d.]+)", said)[-1]) / 100,
        "peak_memory_gb": float(re.findall(r"Peak memory usage: ([\d.]+)MiB", said)[-1]) * 2**20 / 1e9,
        "bits_per_byte": float(re.findall(r"Validation bpb: ([\d.]+)", said)[-1]),
        "attention": "FlashAttention 3" if "Using Flash Attention 3" in said else "SDPA or FlashAttention 2",
    }


def times(said: str) -> list[float]:
    """Milliseconds of each step."""
    return [float(x) for x in re.findall(r"\| dt: ([\d.]+)ms", said)]


def show(rows: list[dict[str, Any]]) -> None:
    names = ("tokens_per_second", "mfu", "peak_memory_gb", "tokens", "seconds", "bits_per_byte")
    table = Table("arm", "until", "seed", *names)
    for row in rows:
        table.add_row(row["arm"], row["until"], str(row["seed"]), *(f"{row[name]:,.4g}" for name in names))
    Console(width=140).print(table)


def main(c: Config) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise config.UserError("this bench needs a CUDA GPU; bench/train_cpu.py is the CPU's")
    machine = device.set_up(0, "bfloat16")
    path = c.work / "rows.json"
    rows: list[dict[str, Any]] = runs.read_json(path) if path.exists() else []
    row = {"arm": "nanochat" if c.nanochat else "ours", "until": c.until, "seed": c.seed, "depth": c.depth}
    rows.append(row | {"device": machine.name} | (nanochat(c) if c.nanochat else ours(c)))
    runs.write_json(path, rows)
    seeds, command = sorted({r["seed"] for r in rows}), "python bench/train_gpu.py"
    runs.publish(RESULTS, rows, bars(rows), seeds, command, device=machine.name, peak_flops=c.peak)
    show(rows)
    return rows[-1]


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    mine = [r["mfu"] for r in rows if r["arm"] == "ours"]
    if mine:
        made.append({"name": "MFU", "value": min(mine), "bar": ">= 0.5", "holds": min(mine) >= 0.5})
    for until in ("seconds", "tokens"):
        both = {arm: [r["bits_per_byte"] for r in rows if (r["arm"], r["until"]) == (arm, until)] for arm in ARMS}
        if all(both.values()):
            gap = sum(both["ours"]) / len(both["ours"]) - sum(both["nanochat"]) / len(both["nanochat"])
            made.append({"name": f"bits per byte above nanochat, equal {until}", "value": gap, "holds": gap <= 0})
    return made


ARMS = ("ours", "nanochat")


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/train_gpu.py"))))
