"""The check that chooses kernels, and what a GPU is given: tried on a CPU as far as it goes there."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from nightschool.model import fused, kernels
from nightschool.model.kernels import attention_checks, check, document_bias, plain_attention, starts

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cpu_kernels_pass(dtype: torch.dtype) -> None:
    checks = attention_checks(CPU, 4, 2, 16, dtype, T=160, B=1)
    assert [c.kernel for c in checks] == ["causal", "documents"]
    assert all(c.passed for c in checks), checks


def test_a_wrong_kernel_is_found() -> None:
    """Right in the middle of its outputs, wrong in one gradient; and one that does not run at all."""

    def close(x: Tensor) -> Tensor:
        return x.square() + 1e-3 * (x - x.detach()).sin() * 100

    def missing(x: Tensor) -> Tensor:
        raise RuntimeError("no kernel for this device")

    assert check("right", torch.square, torch.square, [(8, 8)], CPU, torch.bfloat16).passed
    assert not check("close", close, torch.square, [(8, 8)], CPU, torch.float32).passed
    assert check("missing", missing, torch.square, [(8, 8)], CPU, torch.float32).error == math.inf
    assert not check("nan", lambda x: x.square() * math.nan, torch.square, [(8, 8)], CPU, torch.float32).passed


def test_starts_by_hand() -> None:
    docs = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]])
    found = starts(docs)
    assert found[:6].tolist() == [0, 2, 4, 5, 8, 12]
    assert len(found) == kernels.BOUNDARIES
    assert set(found[6:].tolist()) == {12}


def test_documents_by_their_starts_are_documents_by_mask() -> None:
    """What varlen_attn is asked for: each stretch between two starts attends to itself alone."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 12, 8, generator=g) for heads in (4, 2, 2))
    docs = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    masked = kernels.attend(q, k, v, document_bias(docs, torch.float32)).flatten(0, 1)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    at = starts(docs).tolist()
    for a, b in pairwise(at):
        if a < b:
            alone = [x[a:b].transpose(0, 1)[None] for x in flat]
            bias = document_bias(torch.zeros(1, b - a), torch.float32)
            torch.testing.assert_close(plain_attention(*alone, bias)[0], masked[a:b])


def test_plain_formulas_equal_those_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    H, G, T, D = 4, 2, 6, 8
    qkv, weight = torch.randn(2, T, H + 2 * G, D, generator=g), torch.rand(H + G, D, generator=g)
    cos, sin = torch.randn(T, 1, D, generator=g), torch.randn(T, 1, D, generator=g)
    for plain, ours in zip(
        fused.plain_normalize_rotate(qkv, weight, cos, sin, H, 1e-6),
        fused.normalize_rotate(qkv, weight, cos, sin, H, 1e-6),
        strict=True,
    ):
        torch.testing.assert_close(plain, ours)


@pytest.mark.gpu
def test_a_gpu_has_a_kernel_that_passes() -> None:
    choice = kernels.settle(torch.device("cuda", 0), 6, 6, 128, torch.bfloat16)
    assert any(c.passed for c in choice.checks), choice.checks
    assert choice.varlen, choice.checks
