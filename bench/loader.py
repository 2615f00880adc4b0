"""Does a GPU ever wait for text? Tokens a second from shards to packed batches, on this machine.

    python bench/loader.py          about a minute on two cores; writes results/loader.json

Shards of random ids with documents of web pages' lengths (log-normal, median 500 tokens, mean 825), and others with
masks, as conversations have them, go the way of training: permutation, windows, best fit, batches of 2^17 tokens in
rows of 2,048, bytes counted, by one thread. A rate is of positions that are no padding, over a whole pass; the range
is over passes, each in another order, after one that brings the shards into memory.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightschool import config, device, runs
from nightschool.text.packing import Item, batches
from nightschool.text.shards import Corpus, write_shard
from nightschool.text.tokenizer import Tokenizer, train

TOKENS_PER_SECOND = 2_000_000  # the bar
RESULTS = Path(__file__).parents[1] / "results" / "loader.json"
BATCH, ROW = 2**17, 2048


@dataclass(frozen=True)
class Config:
    """Time the loader."""

    tokens: int = 30_000_000  # of each corpus
    repeats: int = 5

    def __post_init__(self) -> None:
        config.at_least(self, 2**20, "tokens")
        config.at_least(self, 1, "repeats")


def build(folder: Path, tokenizer: Tokenizer, tokens: int, masked: bool) -> Corpus:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(500), 1.0, size=tokens // 800), 16, 50_000).astype(int)
    items = list[Item]()
    for length in lengths:
        ids = rng.integers(0, 256, length, dtype=np.uint16)
        mask = (np.arange(length) // 64 % 2 if masked else np.ones(length)).astype(np.uint8)
        ids[-1] = tokenizer.end_of_text if not masked else 0
        items.append(Item(ids, mask))
    for number, start in enumerate(range(0, len(items), 10_000)):
        write_shard(folder, f"train-{number:05d}", tokenizer, items[start : start + 10_000])
    return Corpus.open(folder, "train", tokenizer)


def one_pass(corpus: Corpus, tokenizer: Tokenizer, seed: int) -> dict[str, float]:
    """Every document once, or a little more: tokens a second, and how full the rows were."""
    drawn = filled = positions = 0

    def chunk(i: int) -> list[Item]:
        nonlocal drawn
        items = corpus.chunk(i, seed, 8 * BATCH, ROW) if drawn < corpus.num_tokens else []
        drawn += sum(len(item.ids) for item in items)
        return items

    start = time.perf_counter()
    stream = batches(
        chunk,
        tokens_per_batch=BATCH,
        row_length=ROW,
        pad_id=tokenizer.end_of_text,
        seed=seed,
        byte_lengths=tokenizer.byte_lengths,
    )
    for batch in stream:
        positions += batch.ids.numel()
        filled += int((batch.ids != tokenizer.end_of_text).sum())  # which is never read but in padding
    return {"rate": filled / (time.perf_counter() - start), "full": filled / positions}


def middle(values: list[float]) -> dict[str, float]:
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}


def main(c: Config) -> dict[str, Any]:
    tokenizer = train(["some text"], 300)
    arms, bars = dict[str, Any](), list[dict[str, Any]]()
    for name in ("text", "conversations"):
        with tempfile.TemporaryDirectory() as folder:
            corpus = build(Path(folder), tokenizer, c.tokens, name == "conversations")
            passes = [one_pass(corpus, tokenizer, seed) for seed in range(c.repeats + 1)][1:]
        rate = middle([one["rate"] for one in passes])
        arms[name] = {"tokens": corpus.num_tokens, "documents": corpus.num_documents, "tokens_per_second": rate}
        arms[name]["share_of_rows_filled"] = middle([one["full"] for one in passes])
        holds = rate["value"] >= TOKENS_PER_SECOND
        bars.append({"name": f"tokens/s, {name}", **rate, "bar": f">= {TOKENS_PER_SECOND:,}", "holds": holds})
    meta = {"device": device.device_name("cpu"), "threads": 1, **asdict(c)}
    return runs.publish(RESULTS, arms, bars, range(1, c.repeats + 1), **meta)


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/loader.py"))))
