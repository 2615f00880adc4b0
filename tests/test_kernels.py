"""The check that chooses kernels, and what a GPU is given: tried on a CPU as far as it goes there."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from nightschool.model import fused, kernels, transformer
from nightschool.model.kernels import attention_checks, check, document_bias, plain_attention, starts
from nightschool.model.transformer import ModelConfig, Transformer

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

    with torch.no_grad():  # an evaluation may be the first to ask
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


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the compiler's own making
def test_a_gpu_computes_the_same_and_compiles_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a GPU, on the CPU: plain formulas and torch's attention, blocks compiled without a graph break."""
    model = Transformer(ModelConfig(61, 32, 48, 2, 4, 2, 8, 64))
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data.normal_(float(p.ndim == 1), 0.2, generator=g)
    ids, docs = torch.randint(61, (2, 20), generator=g), (torch.arange(20) // 7).expand(2, 20)
    by_hand = [y.detach() for y in (model(ids), model(ids, docs))]
    for name in ("normalize", "normalize_rotate", "swiglu"):
        monkeypatch.setattr(transformer, name, getattr(fused, f"plain_{name}"))
    monkeypatch.setattr(kernels, "attend", kernels.sdpa)
    for block in model.model.layers:
        block.compile(backend="aot_eager", fullgraph=True)
    for expected, y in zip(by_hand, (model(ids), model(ids, docs)), strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    model(ids, docs).sum().backward()


@pytest.mark.gpu
def test_a_gpu_has_a_kernel_that_passes() -> None:
    choice = kernels.settle(torch.device("cuda", 0), 6, 6, 128, torch.bfloat16)
    assert any(c.passed for c in choice.checks), choice.checks
    assert choice.varlen, choice.checks
