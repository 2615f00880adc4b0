"""How fast a training step is on this CPU, against transformers' Qwen3 with torch's fused AdamW: in pairs, in one run.

    python bench/train_cpu.py          about three minutes on two cores; writes results/train_cpu.json

Ours is the step a user gets: the loop's own update, with its gradient norm and clipping, cross-entropy, Muon and AdamW.
Theirs is the same configuration with bfloat16 weights, its own loss and no clipping; the allocator's settings, which
device.set_up makes for the process, help it too. The two take turns, with samples of the machine's matrix-product peak
(2048³, bfloat16) in between; ratios are medians over pairs with the least and the greatest. FLOPs are 6 for each
weight that multiplies and token, and 12 L H D T a token for attention.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from nightschool import config, device, runs
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.text.packing import Batch
from nightschool.train.loop import update
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer
from nightschool.train.plan import QUICKSTART, flops_per_token

RATIO, PEAK_SHARE, OPTIMIZER_SHARE = 1.5, 0.6, 0.08  # the bars
RESULTS = Path(__file__).parents[1] / "results" / "train_cpu.json"


@dataclass(frozen=True)
class Config:
    """Time training steps against transformers."""

    pairs: int = 7  # timings of each side
    steps: int = 2  # in a timing
    threads: int = 0  # 0 = one a core

    def __post_init__(self) -> None:
        config.at_least(self, 1, "pairs", "steps")


@dataclass(frozen=True)
class Shape:
    model: ModelConfig
    rows: int
    length: int


def shapes() -> dict[str, Shape]:
    small = QUICKSTART.model
    length = small.max_position_embeddings  # as pretraining packs its rows
    rows = QUICKSTART.batch_tokens // length
    heads = max(small.hidden_size // 128, 1)
    wide = replace(small, head_dim=128, num_attention_heads=heads, num_key_value_heads=heads)
    return {
        "quickstart": Shape(small, rows, length),
        "quickstart, head dim 128": Shape(wide, rows, length),
        "depth 4 x 256": Shape(ModelConfig(4096, 256, 768, 4, 2, 2, 128, 512), 16, 512),
    }


def our_step(shape: Shape, ids: torch.Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A whole step, and the optimizer's part of it alone."""
    model = Transformer(shape.model, torch.bfloat16)
    model.init_weights(0)
    optimizer = Optimizer(model, QUICKSTART.matrix_lr, QUICKSTART.embed_lr, QUICKSTART.norm_lr)
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(shape.rows, shape.length), None)
    return lambda: update(model, optimizer, next_token, [batch], 1.0, clip_norm=1.0), optimizer.step


def their_step(shape: Shape, ids: torch.Tensor) -> Callable[[], Any]:
    torch.manual_seed(0)
    fields = {k: v for k, v in asdict(shape.model).items() if k != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": shape.model.rope_theta}
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**fields, rope_parameters=rope, use_cache=False))
    model.to(dtype=torch.bfloat16).train()  # type: ignore[call-arg]  # its stubs want a device
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    inputs, targets = ids[:, :-1], ids[:, 1:].contiguous()

    def step() -> None:
        optimizer.zero_grad()
        model(inputs, labels=targets, shift_labels=targets).loss.backward()
        optimizer.step()

    return step


def seconds(work: Callable[[], Any], times: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def peak_flops(samples: int = 5) -> float:
    """FLOP/s of a 2048³ product in bfloat16, the median of a few samples."""
    a, b = (torch.ones(2048, 2048, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 2048**3 / statistics.median(seconds(lambda: a @ b) for _ in range(samples))


def spread(values: list[float]) -> dict[str, float]:
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}


def measure(shape: Shape, c: Config) -> dict[str, dict[str, float]]:
    ids = torch.randint(
        shape.model.vocab_size, (shape.rows, shape.length + 1), generator=torch.Generator().manual_seed(0)
    )
    (ours, optimizer), theirs = our_step(shape, ids), their_step(shape, ids)
    for work in (ours, theirs, ours, theirs):
        work()
    tokens, flops = shape.rows * shape.length, flops_per_token(shape.model, shape.length)
    peaks, a, b, alone = [peak_flops()], [], [], []
    for i in range(c.pairs):
        for side in ("ours", "theirs") if i % 2 else ("theirs", "ours"):
            if side == "ours":
                a.append(seconds(ours, c.steps))
                alone.append(seconds(optimizer, c.steps))
            else:
                b.append(seconds(theirs, c.steps))
            peaks.append(peak_flops())
    peak = statistics.median(peaks)
    return {
        "ours_tokens_per_second": spread([tokens / x for x in a]),
        "transformers_tokens_per_second": spread([tokens / x for x in b]),
        "peak_flops": spread(peaks),
        "ratio": spread([y / x for x, y in zip(a, b, strict=True)]),
        "peak_share": spread([tokens * flops / x / peak for x in a]),
        "optimizer_share": spread([y / x for x, y in zip(a, alone, strict=True)]),
    }


def main(c: Config) -> dict[str, Any]:
    machine = device.set_up(c.threads, "bfloat16")
    arms: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    print(f"{'':26} {'tokens/s':>9} {'transformers':>12} {'ratio':>6} {'of peak':>8} {'optimizer':>9}", file=sys.stderr)
    for name, shape in shapes().items():
        arm = measure(shape, c)
        arms[name] = {"shape": asdict(shape), **arm}
        for key, label, bar in (
            ("ratio", "tokens/s over transformers", RATIO),
            ("peak_share", "share of the matrix-product peak", PEAK_SHARE),
        ):
            holds = arm[key]["value"] >= bar
            bars.append({"name": f"{label}, {name}", **arm[key], "bar": f">= {bar:g}", "holds": holds})
        share = arm["optimizer_share"]
        holds = share["value"] <= OPTIMIZER_SHARE
        bars.append({"name": f"optimizer's share, {name}", **share, "bar": f"<= {OPTIMIZER_SHARE:g}", "holds": holds})
        middle = {key: value["value"] for key, value in arm.items()}
        print(
            f"{name:26} {middle['ours_tokens_per_second']:9.0f} {middle['transformers_tokens_per_second']:12.0f}"
            f" {middle['ratio']:6.2f} {middle['peak_share']:8.0%} {middle['optimizer_share']:9.1%}",
            file=sys.stderr,
            flush=True,
        )
    meta = {
        "versions": runs.versions("transformers"),
        "device": machine.name,
        "threads": machine.threads,
        "pairs": c.pairs,
        "steps": c.steps,
    }
    return runs.publish(RESULTS, arms, bars, [0], **meta)


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/train_cpu.py"))))
