"""Sizes are counted on the meta device; the numbers that follow from depth are pinned."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nightschool.config import UserError
from nightschool.model.transformer import Family, ModelConfig, Transformer
from nightschool.train.plan import (
    QUICKSTART,
    QUICKSTART_ROW,
    flops_per_token,
    going_on,
    model_of_depth,
    num_matmul,
    num_parameters,
    plan,
)
from nightschool.train.schedule import warm_stay_decay


def built(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(config).parameters())


# depth: channels, heads, head dim, parameters
SIZES = {
    2: (128, 2, 64, 8_815_488),
    4: (256, 4, 64, 20_187_904),
    6: (384, 3, 128, 36_673_920),
    8: (512, 4, 128, 60_828_160),
    12: (768, 6, 128, 142_366_464),
    20: (1280, 10, 128, 509_927_680),
    26: (1664, 13, 128, 1_045_033_600),
}


@pytest.mark.parametrize("depth", SIZES)
def test_sizes(depth: int) -> None:
    model = model_of_depth(depth)
    found = (model.hidden_size, model.num_attention_heads, model.head_dim, num_parameters(model))
    assert found == SIZES[depth]
    assert built(model) == num_parameters(model)


def test_quickstart_is_small() -> None:
    assert built(QUICKSTART.model) == num_parameters(QUICKSTART.model) < 3_000_000


def test_what_follows_from_depth() -> None:
    twelve = plan(12)
    assert twelve.horizon_tokens == 12 * num_matmul(twelve.model)
    assert (twelve.batch_tokens, twelve.matrix_lr, twelve.embed_lr) == (2**19, 0.02, 0.004)
    assert twelve.weight_decay == pytest.approx(0.1)
    plans = [plan(depth) for depth in range(1, 33)]
    for small, large in pairwise(plans):
        assert small.horizon_tokens < large.horizon_tokens
        assert small.batch_tokens <= large.batch_tokens
    assert all(p.num_steps >= 700 for p in plans)  # a thousand, before the batch is rounded to a power of two
    assert plan(12, tokens=5_000_000).batch_tokens == 8192  # Muon wants 8 x 768, in powers of two
    assert plan(4, tokens=2_100_000).matrix_lr == pytest.approx(0.005)  # 2^11 tokens a step
    for shallow, deep in pairwise(p for p in plans if p.batch_tokens == 2**20):
        assert shallow.weight_decay > deep.weight_decay, "over more steps less is forgotten at each"


@pytest.mark.parametrize(("depth", "tokens"), [(0, None), (-3, None), (10**6, None), (4, 1000), (4, -1)])
def test_refuses_the_absurd(depth: int, tokens: int | None) -> None:
    with pytest.raises(UserError, match=str(depth if tokens is None else tokens).lstrip("-")[:1]):
        plan(depth, tokens)


def test_who_was_raised_here_goes_on_as_it_began() -> None:
    assert going_on(QUICKSTART.model, brought=False) == (QUICKSTART, QUICKSTART_ROW)
    assert going_on(QUICKSTART.model, brought=False, muon=False)[0] == replace(QUICKSTART, muon=False)
    model, tokens = model_of_depth(8), 10**8
    found, row_length = going_on(model, brought=False, tokens=tokens)
    assert found == replace(plan(8, tokens), weight_decay=0.0)
    assert row_length == 2048
    practising, _ = going_on(model, brought=False, muon=False)
    # 512 channels: AdamW's 0.2 RMS a matrix of C x C is Muon's 1/sqrt(C) at 0.2 sqrt(512) = 4.5 times the rate
    assert practising.embed_lr == pytest.approx(practising.matrix_lr / 4.5255, rel=1e-4)


@pytest.mark.parametrize(
    ("family", "width", "rate"),
    [("qwen3", 2000, 5e-5), ("qwen3", 1024, 5.27e-5), ("qwen2", 3584, 4.78e-5), ("llama", 4096, 2.86e-5)],
)
def test_who_was_brought_is_fine_tuned(family: Family, width: int, rate: float) -> None:
    """Qwen3-0.6B's width, Qwen2.5-7B's and Llama-3.1-8B's; the last two as tinker-cookbook's get_lr has them."""
    model = ModelConfig(1000, width, 3 * width, 28, 16, 8, 128, 32_768, family=family)
    found, row_length = going_on(model, brought=True, tokens=10**8)
    assert not found.muon
    assert found.embed_lr == found.norm_lr == pytest.approx(rate, rel=2e-3)
    assert (found.batch_tokens, row_length, found.weight_decay) == (2**16, 2048, 0.0)
    assert going_on(model, brought=True, tokens=5_000_000)[0].batch_tokens == 4096
    assert going_on(model, brought=True)[0].batch_tokens == 2048
    factors, _ = going_on(model, brought=True, lora=True)
    assert factors.embed_lr == pytest.approx(10 * rate, rel=2e-3)


def test_flops_by_hand() -> None:
    """One layer, C 4, one head of 2, MLP 8, V 16: matrices 2*4*2 + 2*4*2 + 3*4*8 = 128, head 64."""
    model = ModelConfig(16, 4, 8, 1, 1, 1, 2, 10)
    assert num_matmul(model) == 128 + 64
    assert flops_per_token(model, 10) == 6 * 192 + 12 * 1 * 2 * 10


def test_schedule() -> None:
    scale = [warm_stay_decay(i / 100, warmup=0.1, decay=0.5, floor=0.1) for i in range(101)]
    assert scale[0] == 0
    assert scale[5] == pytest.approx(0.5)
    assert scale[10] == scale[30] == scale[50] == 1
    assert scale[75] == pytest.approx(0.55)
    assert scale[100] == pytest.approx(0.1)
    assert warm_stay_decay(1.2) == warm_stay_decay(1.0)  # the last batch may pass the horizon
    assert warm_stay_decay(0.0, warmup=0, decay=0) == 1
