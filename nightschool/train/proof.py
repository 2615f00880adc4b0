"""Does this device compute rightly? Every kernel that training would choose runs once, small, against float64.

But: at one size each; a kernel that fails at others is not found.
"""

from __future__ import annotations

import math
import sys
import time

import torch
import torch.nn.functional as F

from nightschool.device import place
from nightschool.model import fused, kernels
from nightschool.model.kernels import Check
from nightschool.model.transformer import ModelConfig, Transformer, rotary_table
from nightschool.text.packing import Batch
from nightschool.train.loop import backward
from nightschool.train.losses import cross_entropy, next_token
from nightschool.train.optim import orthogonalize

STEP_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # a whole step's gradient; errors add up along the layers


def all_checks(model: ModelConfig, dtype: torch.dtype) -> list[Check]:
    """Each kernel that training this model would choose, in its dtype on this device, against float64."""
    device, H, G, D = place(), model.num_attention_heads, model.num_key_value_heads, model.head_dim
    T, C, V, eps = 256, model.hidden_size, 1000, model.rms_norm_eps
    if device.type == "cuda":
        checks = list(kernels.settle(device, H, G, D, dtype).checks)
    else:
        checks = kernels.attention_checks(device, H, G, D, dtype, T, B=1)
    cos, sin = (x.double() for x in rotary_table(T, D, model.rope_theta, torch.device("cpu")))
    targets = torch.arange(T)[None]

    def add(name: str, kernel: kernels.Kernel, formula: kernels.Kernel, *shapes: tuple[int, ...]) -> None:
        checks.append(kernels.check(name, kernel, formula, shapes, device, dtype))

    add("normalize", lambda x: fused.normalize(x, eps), lambda x: fused.plain_normalize(x, eps), (T, C))
    add("swiglu", fused.swiglu, fused.plain_swiglu, (T, C), (T, C))
    add(
        "rotate",
        lambda x, w: fused.normalize_rotate(x, w, cos.to(x), sin.to(x), H, eps),
        lambda x, w: fused.plain_normalize_rotate(x, w, cos, sin, H, eps),
        *((1, T, H + 2 * G, D), (H + G, D)),
    )
    add(
        "cross-entropy",
        lambda x, w: cross_entropy(x, w / 8, targets.to(x.device), torch.ones(1, T, device=x.device))[0],
        lambda x, w: F.cross_entropy((x @ w.mT / 8).flatten(0, 1), targets[0], reduction="sum"),
        *((1, T, 64), (V, 64)),
    )
    return [*checks, muon_check(dtype), step_check(dtype)]


def muon_check(dtype: torch.dtype) -> Check:
    """Muon's update: how far its singular values are from 1; five steps of Newton-Schulz leave 0.68 to 1.14."""
    matrix = torch.randn(1, 128, 384, generator=torch.Generator().manual_seed(0)).to(place())
    start = time.perf_counter()
    values = torch.linalg.svdvals(orthogonalize(matrix, dtype).cpu().double())
    return Check("muon", float((values - 1).abs().max()), 0.5, time.perf_counter() - start)


def step_check(dtype: torch.dtype) -> Check:
    """Loss and gradient of a small model with packed documents, as training computes them, against float64."""
    small = ModelConfig(512, 128, 384, 2, 2, 1, 64, 128, tie_word_embeddings=False)
    exact = Transformer(small, torch.float64)
    g = torch.Generator().manual_seed(0)
    for p in exact.parameters():
        p.data.normal_(float(p.ndim == 1), 0.1, generator=g)
    here = Transformer(small, dtype)
    here.load_state_dict(exact.state_dict())
    here.to(place())
    if place().type == "cuda":
        for block in here.model.layers:
            block.compile()
    batch = examples(small, 2, 128)
    backward(exact.double(), next_token, [batch])
    start = time.perf_counter()
    try:
        backward(here, next_token, [batch])
    except RuntimeError as error:  # of a compiler that is not there, or of a kernel
        print(error, file=sys.stderr)
        return Check("whole step", math.inf, STEP_TOLERANCE[dtype], math.inf)
    seconds = time.perf_counter() - start
    errors = []
    for a, b in zip(exact.parameters(), here.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        errors.append(float((b.grad.cpu().double() - a.grad).norm() / a.grad.norm()))
    return Check("whole step", max(errors), STEP_TOLERANCE[dtype], seconds)


def examples(model: ModelConfig, rows: int, length: int) -> Batch:
    """Random tokens, three documents a row."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(model.vocab_size, (rows, length + 1), generator=g)
    docs = (torch.arange(length) * 3 // length).expand(rows, length).int()
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(rows, length), docs)
