"""How fast the engine samples on this CPU, against transformers' generate: same weights, dtype and run, in pairs.

    python bench/decode_cpu.py          about two minutes on two cores; writes results/decode_cpu.json

Depth 4 x 256 channels, vocabulary 4096, prompts of 64 tokens, 192 new ones, temperature 1. Both sides get one warm-up,
then take turns; a ratio is the median over pairs, with the least and the greatest. llama.cpp's figures were measured
once on such a machine with the same shape (its file format and build are not part of this run): a distance, no bar.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from nightschool import config, runs
from nightschool.model.engine import Engine, Sampling
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.text import tokenizer

PROMPT, NEW = 64, 192
BARS = {1: 4.0, 64: 3.0}  # at least this many times transformers, by batch
LLAMA_CPP_F32 = {1: 1877, 64: 5427}  # tokens/s
RESULTS = Path(__file__).parents[1] / "results" / "decode_cpu.json"


@dataclass(frozen=True)
class Config:
    """Time sampling against transformers' generate."""

    pairs: int = 5  # timings of each side
    head_dims: tuple[int, ...] = (128, 64)  # 256 channels hold 2 or 4 heads
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    batches: tuple[int, ...] = (1, 64)

    def __post_init__(self) -> None:
        config.at_least(self, 1, "pairs")


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sides(head_dim: int, dtype: torch.dtype, batch: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One call each of ours and of transformers, generating for the same prompts from the same weights."""
    heads = 256 // head_dim
    model_config = ModelConfig(4096, 256, 768, 4, heads, heads, head_dim, PROMPT + NEW)
    model = Transformer(model_config)
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data.normal_(1.0 if p.ndim == 1 else 0.0, 0.05, generator=generator)
    with torch.device("meta"):
        theirs: Any = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**asdict(model_config)))
    theirs.load_state_dict({k: v.to(dtype) for k, v in model.state_dict().items()}, assign=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(theirs.config)  # its buffers were on meta too
    theirs.eval().tie_weights()
    prompts = torch.randint(0, 4096, (batch, PROMPT), generator=generator)
    # a vocabulary of bytes is enough: nothing is decoded here
    engine = Engine(model, tokenizer.train([""], 261), dtype=dtype)
    sampling = Sampling(max_new_tokens=NEW, stop_ids=())

    def ours() -> None:
        completions = engine.generate(prompts.tolist(), sampling)
        assert all(len(c.ids) == NEW for c in completions)

    @torch.inference_mode()
    def reference() -> None:
        settings = transformers.GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW, pad_token_id=0
        )
        out = theirs.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=settings)
        assert out.shape == (batch, PROMPT + NEW)

    return ours, reference


def spread(values: list[float]) -> dict[str, float]:
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}


def measure(head_dim: int, dtype: str, batch: int, pairs: int) -> dict[str, Any]:
    ours, reference = sides(head_dim, getattr(torch, dtype), batch)
    ours()
    reference()
    timed = []
    for i in range(pairs):
        if i % 2:
            b, a = seconds(reference), seconds(ours)
        else:
            a, b = seconds(ours), seconds(reference)
        timed.append((a, b))
    return {
        "head_dim": head_dim,
        "dtype": dtype,
        "batch": batch,
        "ours_tokens_per_second": spread([batch * NEW / a for a, _ in timed]),
        "transformers_tokens_per_second": spread([batch * NEW / b for _, b in timed]),
        "ratio": spread([b / a for a, b in timed]),
    }


def main(c: Config) -> dict[str, Any]:
    arms, bars = {}, []
    print(
        f"{'head dim':>8} {'dtype':>9} {'batch':>5} {'tokens/s':>9} {'transformers':>12}  ratio (range)",
        file=sys.stderr,
    )
    for head_dim in c.head_dims:
        for dtype in c.dtypes:
            for batch in c.batches:
                arm = measure(head_dim, dtype, batch, c.pairs)
                ratio, ours, theirs = (
                    arm[k] for k in ("ratio", "ours_tokens_per_second", "transformers_tokens_per_second")
                )
                arms[f"{dtype}, head dim {head_dim}, batch {batch}"] = arm
                bar = BARS.get(batch, 1.0)
                name = f"tokens/s over transformers, {dtype}, head dim {head_dim}, batch {batch}"
                bars.append({"name": name, **ratio, "bar": f">= {bar:g}", "holds": ratio["value"] >= bar})
                if dtype == "float32" and batch in LLAMA_CPP_F32:
                    arm["llama_cpp_f32_tokens_per_second"] = LLAMA_CPP_F32[batch]
                    arm["of_llama_cpp_f32"] = ours["value"] / LLAMA_CPP_F32[batch]
                print(
                    f"{head_dim:8} {dtype:>9} {batch:5} {ours['value']:9.0f} {theirs['value']:12.0f}"
                    f"  {ratio['value']:.1f} ({ratio['low']:.1f}-{ratio['high']:.1f})",
                    file=sys.stderr,
                    flush=True,
                )
    meta = {
        "versions": runs.versions("transformers"),
        "threads": torch.get_num_threads(),
        "shape": {"layers": 4, "channels": 256, "intermediate": 768, "vocabulary": 4096, "prompt": PROMPT, "new": NEW},
        "pairs": c.pairs,
    }
    return runs.publish(RESULTS, arms, bars, [0], **meta)


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/decode_cpu.py"))))
