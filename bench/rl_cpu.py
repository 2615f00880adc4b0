"""An update of RL on this CPU: seconds of sampling, verifying and training; sampling against transformers' generate.

    python bench/rl_cpu.py          about a minute on two cores; writes results/rl_cpu.json

Quickstart's model (1.2M parameters, vocabulary 2048) with weights that never end a turn, 16 groups of 8 attempts at
running totals, 64 tokens each. transformers samples for the same prompts from the same weights in the same dtype; both
sides get a warm-up and take turns. A figure is the median with the least and the greatest.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from nightschool import config, device, runs
from nightschool.model.engine import Engine
from nightschool.model.transformer import Transformer
from nightschool.rl.credit import first_error
from nightschool.rl.practice import earned
from nightschool.rl.update import policy
from nightschool.stages import rl
from nightschool.stages import tokenizer as stage
from nightschool.tasks.named import task_named
from nightschool.tasks.world import draw
from nightschool.text import chat, tokenizer
from nightschool.train.loop import update
from nightschool.train.optim import Optimizer
from nightschool.train.plan import QUICKSTART

NEW, PROBLEMS, ATTEMPTS = 64, 16, 8
UPDATE_SECONDS, SAMPLING_RATIO, VERIFYING_SHARE = 1.0, 5.0, 0.05
RESULTS = Path(__file__).parents[1] / "results" / "rl_cpu.json"


@dataclass(frozen=True)
class Config:
    """Time updates of RL, and sampling against transformers' generate."""

    updates: int = 7  # timed, after two to warm up
    threads: int = 0  # 0 = one a core
    dtype: device.Dtype = "auto"  # auto = a second's probe

    def __post_init__(self) -> None:
        config.at_least(self, 1, "updates")


def spread(values: list[float]) -> dict[str, float]:
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}


def reference(model: Transformer, prompts: list[list[int]], dtype: torch.dtype) -> float:
    """Seconds of transformers' generate for these prompts, padded at the left."""
    with torch.device("meta"):
        theirs: Any = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**asdict(model.config)))
    theirs.load_state_dict({k: v.to(dtype) for k, v in model.state_dict().items()}, assign=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(theirs.config)  # its buffers were on meta too
    theirs.eval().tie_weights()
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    settings = transformers.GenerationConfig(do_sample=True, top_k=0, max_new_tokens=NEW, pad_token_id=0)
    start = time.perf_counter()
    with torch.inference_mode():
        out = theirs.generate(ids, attention_mask=mask, generation_config=settings)
    assert out.shape == (len(prompts), longest + NEW)
    return time.perf_counter() - start


def main(c: Config) -> dict[str, Any]:
    machine = device.set_up(c.threads, c.dtype)
    task = task_named("totals")
    vocabulary = tokenizer.train(stage.texts(stage.Config(documents=2000)), QUICKSTART.model.vocab_size)
    model = Transformer(QUICKSTART.model, machine.dtype)
    model.init_weights(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
    optimizer = Optimizer(model, 0.0, 0.0, 0.0, dtype=machine.dtype)
    settings = rl.Config(
        steps=c.updates + 2,
        problems=PROBLEMS,
        group_size=ATTEMPTS,
        again=0,
        replay_tokens=0,
        max_new_tokens=NEW,
        average="token",
    )
    engine = Engine(model, vocabulary, slots=128)
    credit = partial(earned, first_error, engine, task, model)
    rows: list[dict[str, float]] = []
    start = time.perf_counter()
    for step, batch in enumerate(rl.batches(settings, task, model, engine, credit, None, {})):
        made = time.perf_counter()
        update(model, optimizer, policy, [batch], 1.0, clip_norm=1.0)
        end = time.perf_counter()
        problems = draw(task, "train", PROBLEMS, seed=step)
        prompts = [chat.render(vocabulary, p.messages[:1], generate=True)[0] for p in problems for _ in range(ATTEMPTS)]
        parts = {k: batch.measures[f"seconds/{k}"] for k in ("sampling", "verifying", "crediting")}
        theirs = reference(model, prompts, machine.dtype)
        rows.append(parts | {"training": end - made, "update": end - start, "tokens": batch.measures["sampled_tokens"]})
        rows[-1] |= {"ratio": theirs / parts["sampling"], "verifying_share": parts["verifying"] / (end - start)}
        print({k: round(v, 3) for k, v in rows[-1].items()}, file=sys.stderr, flush=True)
        start = time.perf_counter()
    arm = {key: spread([row[key] for row in rows[2:]]) for key in rows[0]}
    bars = [
        {"name": name, **arm[key], "bar": f"{'>=' if up else '<='} {bar:g}", "holds": (arm[key]["value"] >= bar) == up}
        for name, key, bar, up in (
            ("seconds an update", "update", UPDATE_SECONDS, False),
            ("sampling over transformers' generate", "ratio", SAMPLING_RATIO, True),
            ("verifying's share of an update", "verifying_share", VERIFYING_SHARE, False),
        )
    ]
    meta = {
        "versions": runs.versions("transformers"),
        "device": machine.name,
        "threads": machine.threads,
        "dtype": str(machine.dtype),
    }
    return runs.publish(RESULTS, {"quickstart": arm}, bars, [0], **meta)


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/rl_cpu.py"))))
