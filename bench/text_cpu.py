"""What equal time on one CPU core buys of real text: ours against transformers' Qwen3 with a tuned AdamW loop.

    python bench/text_cpu.py TEXT.jsonl.gz      half an hour of a core; resumes, row by row; results/text_cpu.json

The same shape, tokenizer, rows, batch, allocator and schedule on both sides, bfloat16 over float32 masters. Ours is
what plan() gives, and begins with instinct as pretraining does; theirs is the best rate on dev documents, each run as
long as the final ones. Then, on test documents, seeds in turn. Time is what the process's one thread computes for,
batches included, so that a busy machine costs both alike. Bits per byte come from one function on our Transformer, into
which their weights are loaded. But: one small text, one small shape, minutes; the batch is the plan's for both.

A line of TEXT is an object with a "text". Documents go to dev, test or training by the hash of their text.
"""

from __future__ import annotations

import gzip
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import tyro

from nightschool import config, device, runs
from nightschool.model.instinct import instinct
from nightschool.model.transformer import Transformer
from nightschool.text import tokenizer
from nightschool.text.corpus import encode, epochs
from nightschool.text.document import Document
from nightschool.text.packing import Batch, Item, batches, collate, pack
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.loop import update
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer
from nightschool.train.plan import Plan, plan
from nightschool.train.schedule import warm_stay_decay

BAR = 0.05  # bits per byte below theirs
LRS = (1e-3, 3e-3, 6e-3)  # of theirs, and on by factors of two until the best lies between two others
SPEED = 3000  # tokens a second of one core, near enough: what plan() is told of the horizon
RESULTS = Path(__file__).parents[1] / "results" / "text_cpu.json"


@dataclass(frozen=True)
class Config:
    """Train on real text for equal time, ours and transformers'."""

    text: Annotated[Path, tyro.conf.Positional]  # .jsonl.gz
    seconds: float = 120.0  # of the process, for each run
    seeds: int = 3
    depth: int = 4
    vocab_size: int = 4096
    context: int = 256
    rows: int = 0  # stop after so many new runs, so that others get the machine in between; 0 = all

    def __post_init__(self) -> None:
        config.at_least(self, 1, "seconds", "seeds")


@dataclass(frozen=True)
class Text:
    tokenizer: Tokenizer
    items: dict[str, list[Item]]  # split -> windows of its documents
    context: int

    @staticmethod
    def read(path: Path, vocab_size: int, context: int) -> Text:
        documents: dict[str, list[Document]] = {"train": [], "dev": [], "test": []}
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                document = Document(text=json.loads(line)["text"], kind="real", info="doc")
                documents[{0: "test", 1: "dev"}.get(int(document.id, 16) % 80, "train")].append(document)
        made = tokenizer.train((document.text for document in documents["train"]), vocab_size)
        items = {split: encode(made, those, row_length=context) for split, those in documents.items()}
        return Text(made, items, context)

    def stream(self, tokens_per_batch: int, seed: int) -> Iterator[Batch]:
        return batches(
            epochs(self.items["train"], 1000, seed),
            tokens_per_batch=tokens_per_batch,
            row_length=self.context,
            pad_id=self.tokenizer.end_of_text,
            seed=seed,
        )

    @torch.no_grad()
    def bits_per_byte(self, model: Transformer, split: str) -> float:
        rows = pack(self.items[split], self.context)
        nats, num_bytes = 0.0, 0
        for i in range(0, len(rows), 16):
            batch = collate(rows[i : i + 16], self.context, self.tokenizer.end_of_text, self.tokenizer.byte_lengths)
            nats += float(next_token(model, batch)["loss"][0])
            num_bytes += batch.num_bytes
        return nats / math.log(2) / num_bytes


def ours(planned: Plan, seed: int) -> tuple[Callable[[Batch, float], Any], Callable[[], Transformer]]:
    """One training step of ours, and the model."""
    model = Transformer(planned.model, torch.bfloat16)
    model.init_weights(seed)
    instinct(model, seed)  # as pretraining begins
    rates = planned.matrix_lr, planned.embed_lr, planned.norm_lr
    optimizer = Optimizer(model, *rates, weight_decay=planned.weight_decay)

    def step(batch: Batch, lr_scale: float) -> None:
        update(model, optimizer, next_token, [batch], lr_scale, clip_norm=1.0)

    return step, lambda: model


def theirs(planned: Plan, seed: int, lr: float) -> tuple[Callable[[Batch, float], Any], Callable[[], Transformer]]:
    """One training step as is usual with transformers: autocast, fused AdamW, decay of the matrices, clipping."""
    torch.manual_seed(seed)
    fields = {k: v for k, v in asdict(planned.model).items() if k != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": planned.model.rope_theta}
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**fields, rope_parameters=rope, use_cache=False))
    model.train()
    decayed = [p for p in model.parameters() if p.ndim == 2]
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)

    def step(batch: Batch, lr_scale: float) -> None:
        labels = batch.targets.masked_fill(batch.weights == 0, -100)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch.ids, labels=labels, shift_labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_scale
        optimizer.step()

    def trained() -> Transformer:
        same = Transformer(planned.model, torch.bfloat16)
        same.load_state_dict(model.state_dict())
        return same

    return step, trained


def row(c: Config, text: Text, arm: str, seed: int, split: str, lr: float) -> dict[str, Any]:
    """Train for c.seconds -> what came of it. `lr` is theirs."""
    horizon = max(int(SPEED * c.seconds), 1000 * c.context)  # the least that plan() takes
    planned = plan(c.depth, horizon, c.vocab_size, c.context)
    step, trained = ours(planned, seed) if arm == "ours" else theirs(planned, seed, lr)
    stream, num_steps = text.stream(planned.batch_tokens, seed), 0
    step(next(stream), 0.0)  # kernels are built, nothing is learned
    start = time.process_time()
    while (passed := time.process_time() - start) < c.seconds:
        step(next(stream), warm_stay_decay(passed / c.seconds))
        num_steps += 1
    return {
        "arm": arm,
        "seed": seed,
        "split": split,
        "lr": lr if arm == "transformers" else planned.matrix_lr,
        "steps": num_steps,
        "batch_tokens": planned.batch_tokens,
        "seconds": passed,
        "bits_per_byte": text.bits_per_byte(trained(), split),
    }


def todo(c: Config, rows: list[dict[str, Any]]) -> list[tuple[str, int, str, float]]:
    """What is still to be run, in order: the sweep of theirs, then both in turn."""
    tried = {r["lr"]: r["bits_per_byte"] for r in rows if r["split"] == "dev"}
    if left := [("transformers", 1000, "dev", lr) for lr in LRS if lr not in tried]:
        return left
    best = min(tried, key=lambda lr: tried[lr])
    if best in (min(tried), max(tried)):  # not yet known to be the best
        return [("transformers", 1000, "dev", best / 2 if best == min(tried) else best * 2)]
    done = {(r["arm"], r["seed"]) for r in rows if r["split"] == "test"}
    pairs = [(arm, seed) for seed in range(c.seeds) for arm in ("ours", "transformers")]
    return [(arm, seed, "test", best) for arm, seed in pairs if (arm, seed) not in done]


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The gain by seed: mean and 95% interval of Student's t."""
    test = {(r["arm"], r["seed"]): r["bits_per_byte"] for r in rows if r["split"] == "test"}
    seeds = sorted({seed for _, seed in test})
    if len(seeds) < 2 or len(test) != 2 * len(seeds):
        return []
    gains = [test["transformers", seed] - test["ours", seed] for seed in seeds]
    mean, t = statistics.mean(gains), {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(gains), 2.6)
    half = t * statistics.stdev(gains) / math.sqrt(len(gains))
    name = "bits per byte below transformers after equal time"
    return [{"name": name, "value": mean, "low": mean - half, "high": mean + half, "bar": BAR, "holds": mean >= BAR}]


def main(c: Config) -> dict[str, Any]:
    machine = device.set_up(1, "bfloat16")
    asked = {**asdict(c), "text": c.text.name, "rows": 0}
    rows: list[dict[str, Any]] = []
    if RESULTS.exists():
        before = runs.read_json(RESULTS)
        if before["meta"]["config"] != json.loads(json.dumps(asked, default=str)):
            raise config.UserError(f"{RESULTS} holds rows of another configuration; move it away to start anew")
        rows = before["arms"]
    text = Text.read(c.text, c.vocab_size, c.context)
    for _ in range(c.rows or 1000):
        left = todo(c, rows)
        if not left:
            break
        rows.append(row(c, text, *left[0]))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        meta = {
            "versions": runs.versions("transformers"),
            "device": machine.name,
            "threads": 1,
            "config": asked,
            "windows": {split: len(items) for split, items in text.items.items()},
        }
        command = f"python bench/text_cpu.py {c.text.name} --seconds {c.seconds:g} --seeds {c.seeds}"
        runs.publish(RESULTS, rows, bars(rows), range(c.seeds), command, **meta)
    return {bar["name"]: bar["value"] for bar in bars(rows)}


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/text_cpu.py"))))
