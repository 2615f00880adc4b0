"""`nightschool doctor`: before a paid minute. What is this machine, does it compute rightly, what fits, at what cost?

Every kernel that training would choose runs once, small, against float64; then a model of --depth trains for some
seconds. Exit code 1 where something is wrong that would cost money later, with its mend.

But: hours and dollars of other depths follow from the measured one's FLOP/s, as if all reached it and several GPUs were
as good as their sum; what fits is an estimate but for the depth that was tried. Untried on a GPU.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nightschool.config import BelowBar, UserError, at_least
from nightschool.device import Device, Dtype, place, set_up
from nightschool.model import exchange
from nightschool.model.kernels import Check
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.runs import Costs, versions
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.fit import prepare
from nightschool.train.loop import backward, update
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer
from nightschool.train.plan import Plan, flops_per_token, num_parameters, plan
from nightschool.train.proof import all_checks, examples

DEPTHS = (4, 8, 12, 16, 20, 24, 32)
DATA = ("text", "conversations")  # what `speedrun --until conversations` fetches and tokenizes, below the life's folder
GB = 1e9
RANK = 16  # of the factors


@dataclass(frozen=True)
class Config:
    out: Path = Path("life")  # where a life is to be: its disk is looked at
    depth: int = 12  # the model to try
    start: Path | None = None  # a run, such as `nightschool import` made: whether its model can go on learning here
    seconds: float = 20.0  # of training it
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 0, "seconds", "threads")
        plan(self.depth)  # refuses an absurd depth


def main(config: Config) -> dict[str, Any]:
    device = set_up(config.threads, config.dtype)
    planned = plan(config.depth)
    checkpoint = config.start and exchange.checkpoint_of(config.start)
    facts, problems = machine(config.out, device)
    checks = all_checks(planned.model, device.dtype)
    mend = "try --dtype float32, TORCH_COMPILE_DISABLE=1, or another torch"
    problems += [
        f"{c.kernel} computes wrongly here (error {c.error:.2g}); {mend}" for c in checks if c.needed and not c.passed
    ]
    memory, disk, speed = facts["memory_gb"] * GB, facts["disk_free_gb"] * GB, None
    if state_bytes(planned.model) > memory:
        problems.append(f"memory does not hold depth {config.depth}; choose a smaller --depth or a larger machine")
    else:
        try:
            speed = measure(planned, config.seconds, device.dtype)
        except UserError as error:  # too large when tried
            problems.append(str(error))
    if disk < disk_bytes(planned):
        needed = disk_bytes(planned) / GB
        problems.append(
            f"depth {config.depth} writes about {needed:.0f} GB; free some, or choose another disk by --out"
        )
    ladder = [rung(depth, memory, disk, speed, facts["gpus"] or 1, config.costs) for depth in DEPTHS]
    own = checkpoint and room_of(exchange.model_config(checkpoint), Tokenizer.load(checkpoint).brought, memory)
    if own and not own["factors_fit"]:
        problems.append(f"memory does not hold {config.start}, even with --lora-rank; bring a smaller model")
    missing = [name for name in DATA if not (config.out / name / "meta.json").exists()]
    show(facts, checks, planned, speed, ladder, missing, config)
    if own:
        need = f"{own['whole_gb']:.1f} GB of memory for all weights, {own['factors_gb']:.1f} GB by factors"
        advice = "" if own["whole_fits"] else f"; give --lora-rank {RANK}"
        print(f"{config.start}: {need}{advice}", file=sys.stderr)
    headline = {
        "machine": facts,
        "kernels": {c.kernel: c.error if c.passed else None for c in checks},  # None: not to be used
        "depth": config.depth,
        "training": speed,
        "ladder": ladder,
        "start": own,
        "missing": missing,
        "assumptions": asdict(config.costs),
        "problems": problems,
    }
    if problems:
        raise BelowBar("; ".join(problems), headline)
    return headline


def machine(out: Path, device: Device) -> tuple[dict[str, Any], list[str]]:
    """What there is to compute with, and what is wrong with it."""
    folder = next(p for p in (out.absolute(), *out.absolute().parents) if p.is_dir())
    gpus = torch.cuda.device_count()
    driver, problems = nvidia_driver(), list[str]()
    if driver and not gpus:
        problems.append(
            "there is an NVIDIA driver but this torch does not see a GPU: pip install torch from plain PyPI"
        )
    if not os.access(folder, os.W_OK):
        problems.append(f"{folder} cannot be written; choose another --out")
    if gpus:
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = {
        **device.facts,
        "gpus": gpus,
        "driver": driver,
        "memory_gb": memory / GB,  # of one GPU, or of the machine
        "cores": os.cpu_count(),
        "disk_free_gb": shutil.disk_usage(folder).free / GB,
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda, **versions()},
    }
    return facts, problems


def nvidia_driver() -> str | None:
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return None
    return answer.stdout.split("\n")[0].strip() or None if answer.returncode == 0 else None


def measure(planned: Plan, seconds: float, dtype: torch.dtype) -> dict[str, float]:
    """Train on random tokens: tokens a second of whole steps of the plan's batch, one of which need not be reached."""
    model = Transformer(planned.model, dtype)
    model.init_weights(0)
    model.to(place())
    optimizer = Optimizer(model, dtype=dtype)
    length = planned.model.max_position_embeddings
    batch = examples(planned.model, planned.batch_tokens // length, length)
    micro_tokens = prepare(model, next_token, iter([batch]))
    rows = micro_tokens // length if place().type == "cuda" else 1
    micro = examples(planned.model, min(rows, len(batch.ids)), length)
    update(model, optimizer, next_token, [micro], 1.0, 1.0)  # builds and warms
    start, count = time.perf_counter(), 0
    while not count or time.perf_counter() - start < seconds:
        backward(model, next_token, [micro])
        count += 1
    if place().type == "cuda":
        torch.cuda.synchronize()
    each = (time.perf_counter() - start) / count
    start = time.perf_counter()
    update(model, optimizer, next_token, [micro], 1.0, 1.0)  # waits for a GPU itself, to read the loss
    optimizing = max(time.perf_counter() - start - each, 0.0)
    step_seconds = planned.batch_tokens / micro.ids.numel() * each + optimizing
    tokens_per_second = planned.batch_tokens / step_seconds
    return {
        "tokens_per_second": tokens_per_second,
        "flops_per_second": tokens_per_second * flops_per_token(planned.model, length),
        "step_seconds": step_seconds,
        "micro_tokens": micro.ids.numel(),
        "peak_memory_gb": torch.cuda.max_memory_allocated() / GB if place().type == "cuda" else 0.0,
    }


def state_bytes(model: ModelConfig, adamw: bool = False, rank: int = 0) -> float:
    """Weights, gradients, Muon's momentum or AdamW's two averages: float32, and one row's activations, computed twice.

    adamw: two averages of the blocks' matrices too. rank: of factors (model/lora.py), which alone have gradients and
    averages then; a backward pass wants the sums that they make of the blocks' matrices.
    """
    total, C, D = num_parameters(model), model.hidden_size, model.head_dim
    others = model.vocab_size * C * (1 if model.tie_word_embeddings else 2)
    row = 2 * C * (model.num_hidden_layers + 30) * model.max_position_embeddings
    if rank:
        heads = 2 * model.num_attention_heads * D + 2 * model.num_key_value_heads * D
        sides = 4 * C + heads + 3 * (C + model.intermediate_size)
        return 4 * total + 4 * (total - others) + 16 * rank * model.num_hidden_layers * sides + row
    return 12 * total + 4 * (total if adamw else others) + row


def room_of(model: ModelConfig, brought: bool, memory: float) -> dict[str, Any]:
    """What fine-tuning a model that is there would need, of all weights and of factors."""
    model = replace(model, max_position_embeddings=min(model.max_position_embeddings, 2048))
    whole, factors = state_bytes(model, adamw=brought), state_bytes(model, rank=RANK)
    return {
        "parameters": num_parameters(model),
        "whole_gb": whole / GB,
        "factors_gb": factors / GB,
        "whole_fits": whole < memory,
        "factors_fit": factors < memory,
    }


def disk_bytes(planned: Plan) -> float:
    """Three saved states (two kept, one being written) and the tokens as uint16."""
    return 3 * 12 * num_parameters(planned.model) + 2 * planned.horizon_tokens


def rung(
    depth: int, memory: float, disk: float, speed: dict[str, float] | None, machines: int, costs: Costs
) -> dict[str, Any]:
    planned = plan(depth)
    length = planned.model.max_position_embeddings
    flops = planned.horizon_tokens * flops_per_token(planned.model, length)
    seconds = flops / (speed["flops_per_second"] * machines) if speed else None
    return {
        "depth": depth,
        "parameters": num_parameters(planned.model),
        "tokens": planned.horizon_tokens,
        "state_gb": state_bytes(planned.model) / GB,
        "disk_gb": disk_bytes(planned) / GB,
        "fits": state_bytes(planned.model) < memory and disk_bytes(planned) < disk,
        "hours": seconds and seconds / 3600,
        "dollars": seconds and costs.of(seconds)["dollars"],
    }


def show(
    facts: dict[str, Any],
    checks: list[Check],
    planned: Plan,
    speed: dict[str, float] | None,
    ladder: list[dict[str, Any]],
    missing: list[str],
    config: Config,
) -> None:
    console = Console(stderr=True)
    gpu = f"{facts['gpus']} x, driver {facts['driver']}" if facts["gpus"] else "no GPU"
    console.print(f"{facts['device']} ({gpu}), {facts['cores']} cores, computing in {facts['dtype']}")
    console.print(
        f"{facts['memory_gb']:.1f} GB of memory, {facts['disk_free_gb']:.1f} GB free on the disk of {config.out}"
    )
    console.print(", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version))

    table = Table("kernel", "error", "at most", "ms", "", title="against float64")
    for c in checks:
        table.add_row(
            c.kernel,
            f"{c.error:.1e}",
            f"{c.tolerance:g}",
            f"{1000 * c.seconds:.1f}",
            "ok" if c.passed else "WRONG" if c.needed else "not used",
        )
    console.print(table)

    if speed:
        console.print(
            f"depth {config.depth}: {speed['tokens_per_second']:,.0f} tokens/s, {speed['flops_per_second'] / 1e12:.2f} "
            f"TFLOP/s, {speed['micro_tokens']:,.0f} of {planned.batch_tokens:,} positions at a time"
        )
    table = Table("depth", "weights", "tokens", "memory", "disk", "fits", "hours", "dollars", title="pretraining")
    for row in ladder:
        hours, dollars = ("?" if row[key] is None else f"{row[key]:,.1f}" for key in ("hours", "dollars"))
        sizes = f"{row['parameters'] / 1e6:,.0f} M", f"{row['tokens'] / 1e9:.2f} G"
        space = f"{row['state_gb']:.1f} GB", f"{row['disk_gb']:.0f} GB"
        table.add_row(str(row["depth"]), *sizes, *space, "yes" if row["fits"] else "no", hours, dollars)
    console.print(table)
    costs = config.costs
    console.print(
        f"assuming {costs.watts:g} W at ${costs.dollars_per_kwh:g} a kWh, ${costs.dollars_per_hour:g} an hour of rent"
    )
    if missing:
        console.print(f"not yet in {config.out}: {', '.join(missing)}; nightschool speedrun --until conversations")
