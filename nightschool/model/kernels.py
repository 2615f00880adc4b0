"""Which kernels attention runs on: those that agree with float64 on this very device, the fastest of them first.

On a CPU there is one, fused.causal_attention. For a GPU torch has several, and which of them work and which is fastest
depends on the card, its driver and torch's build; so each is tried at first use, forward and backward. Packed documents
go through torch's varlen_attn (FlashAttention over document boundaries) where it passes, else through a mask.

But: the parts for a GPU were written without one at hand and have not been run; `pytest -m gpu` and `nightschool
doctor` run them. No FlashAttention 3, which would have to be fetched; no flex_attention, since varlen_attn skips what a
block mask skips; no fp8, since nobody here has measured that it pays (nanochat found it slower at depth 12).

B batch, T time, H query heads, G key-value heads, D head dim.
Sources: torch.nn.attention.sdpa_kernel, torch.nn.attention.varlen.varlen_attn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from nightschool.model.fused import causal_attention

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative; bfloat16 rounds to 4e-3
CANDIDATES = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
BOUNDARIES = 256  # starts of documents are filled up to a multiple of it: few shapes to compile for

Kernel = Callable[..., Tensor | tuple[Tensor, ...]]


class Check(NamedTuple):
    """How a kernel compares with its formula in float64."""

    kernel: str
    error: float  # relative, the worst of output and gradients; inf = it does not run here
    tolerance: float
    seconds: float  # forward and backward
    needed: bool = True  # False: where it fails, training takes another

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


class Choice(NamedTuple):
    checks: list[Check]
    varlen: bool  # packed documents go by their boundaries, not by a mask
    held: ExitStack  # torch's preference lasts as long as this object


def attend(q: Tensor, k: Tensor, v: Tensor, apart: Tensor | None) -> Tensor:
    """Causal attention: q (B, H, T, D), scaled, k and v (B, G, T, D) -> (B, T, H, D).

    `apart` keeps packed documents apart: a mask (B, 1, T, T), or where they start (`starts`).
    """
    if not q.is_cuda:
        return causal_attention(q, k, v, apart)
    return varlen_attention(q, k, v, apart) if apart is not None and apart.ndim == 1 else sdpa(q, k, v, apart)


def sdpa(q: Tensor, k: Tensor, v: Tensor, apart: Tensor | None) -> Tensor:
    """By a mask or none, on the kernel that torch takes first."""
    grouped = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, apart, is_causal=apart is None, scale=1.0, enable_gqa=grouped)
    return y.transpose(1, 2)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
    """By where documents start in the flattened batch: nothing is computed between documents."""
    B, H, T, D = q.shape
    grouped = k.shape[1] != H
    q, k, v = (x.transpose(1, 2).reshape(B * T, -1, D) for x in (q, k, v))
    y = varlen_attn(q, k, v, starts, starts, T, T, scale=1.0, window_size=(-1, 0), enable_gqa=grouped)
    assert isinstance(y, Tensor)
    return y.view(B, T, H, D)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The formula that the others are checked against."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return (torch.softmax(q @ k.mT + bias, -1) @ v).transpose(1, 2)


def starts(docs: Tensor) -> Tensor:
    """Document numbers (B, T) -> where each document of the flattened batch starts, and its end: (N,) int32.

    Filled up with the end, which are documents of length 0.
    """
    first = F.pad(docs[:, 1:] != docs[:, :-1], (1, 0), value=True)
    at = first.flatten().nonzero().squeeze(1).int()
    return F.pad(at, (0, BOUNDARIES - len(at) % BOUNDARIES), value=docs.numel())


def document_bias(docs: Tensor, dtype: torch.dtype) -> Tensor:
    """Document numbers (B, T) -> (B, 1, T, T): 0 where a query may look (its own document, not ahead), else -inf."""
    T = docs.shape[1]
    apart = docs[:, :, None] != docs[:, None, :]
    ahead = torch.ones(T, T, dtype=torch.bool, device=docs.device).triu(1)
    return torch.zeros(apart.shape, dtype=dtype, device=docs.device).masked_fill_(apart | ahead, -torch.inf)[:, None]


@cache
def settle(device: torch.device, H: int, G: int, D: int, dtype: torch.dtype) -> Choice:
    """Try a GPU's attention kernels once and have torch prefer the fastest that passes, for the rest of the process."""
    checks = attention_checks(device, H, G, D, dtype)
    passed = sorted((c for c in checks if c.passed and c.kernel != "varlen"), key=lambda c: c.seconds)
    order = [*(getattr(SDPBackend, c.kernel) for c in passed), SDPBackend.MATH]
    held = ExitStack()
    held.enter_context(sdpa_kernel(order, set_priority=True))
    return Choice(checks, any(c.passed and c.kernel == "varlen" for c in checks), held)


def attention_checks(
    device: torch.device, H: int, G: int, D: int, dtype: torch.dtype, T: int = 1024, B: int = 2
) -> list[Check]:
    """Every kernel that attention could choose on this device against the plain formula."""
    shapes = (B, H, T, D), (B, G, T, D), (B, G, T, D)
    docs = (torch.arange(T) * 3 // T).expand(B, T)  # three documents a row
    checked: list[Check] = []

    def add(name: str, kernel: Kernel, docs: Tensor, apart: Tensor | None) -> None:
        exact = document_bias(docs, torch.float64)
        ours, plain = (lambda q, k, v: kernel(q, k, v, apart)), (lambda q, k, v: plain_attention(q, k, v, exact))
        checked.append(check(name, ours, plain, shapes, device, dtype, D**-0.5)._replace(needed=device.type == "cpu"))

    if device.type == "cpu":
        add("causal", attend, torch.zeros_like(docs), None)
        add("documents", attend, docs, document_bias(docs, dtype))
        return checked
    for backend in CANDIDATES:

        def only(*x: Tensor | None, backend: SDPBackend = backend) -> Tensor:
            with sdpa_kernel(backend):
                return attend(*x)  # type: ignore[arg-type]

        add(backend.name, only, torch.zeros_like(docs), None)
    add("varlen", attend, docs, starts(docs).to(device))
    return checked


def check(
    name: str,
    kernel: Kernel,
    formula: Kernel,
    shapes: Sequence[tuple[int, ...]],
    device: torch.device,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> Check:
    """Outputs and gradients of `kernel` in `dtype` on `device` against those of `formula` in float64 on the CPU.

    The same normal numbers for both, rounded to `dtype`; the first input times `scale`.
    """
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=g) for shape in shapes]
    inputs = [(x * (scale if i == 0 else 1)).to(dtype) for i, x in enumerate(inputs)]
    exact = with_gradients(formula, [x.double() for x in inputs])
    here = [x.to(device) for x in inputs]
    try:
        found = with_gradients(kernel, here)  # the first call builds and warms
        start = time.perf_counter()
        for _ in range(3):
            last = with_gradients(kernel, here)
        float(last[-1].flatten()[0])  # waits for a GPU
        seconds = (time.perf_counter() - start) / 3
    except RuntimeError:  # what torch raises where a kernel is not for this device, dtype or shape
        return Check(name, math.inf, TOLERANCE[dtype], math.inf)
    errors = [float((a.double().cpu() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    worst = max(math.inf if math.isnan(e) else e for e in errors)
    return Check(name, worst, TOLERANCE[dtype], seconds)


def with_gradients(kernel: Kernel, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The kernel's output, and its gradients where the output's are a fixed wave; also amid an evaluation."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = kernel(*leaves)
        y = y if isinstance(y, Tensor) else torch.cat([part.flatten() for part in y])
        wave = torch.arange(y.numel(), device=y.device, dtype=torch.float32).cos().to(y.dtype).view(y.shape)
        return [y.detach(), *torch.autograd.grad(y, leaves, wave)]
