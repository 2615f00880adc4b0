"""The chunked cross-entropy against torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.text.packing import Batch
from nightschool.train import losses


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK", 7)


def examples(B: int = 3, T: int = 11, C: int = 8, V: int = 13) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, C, generator=g, requires_grad=True)
    weight = torch.randn(V, C, generator=g, requires_grad=True)
    targets = torch.randint(V, (B, T), generator=g)
    weights = torch.rand(B, T, generator=g) * (torch.rand(B, T, generator=g) < 0.6)
    return hidden, weight, targets, weights


def test_equals_torch() -> None:
    hidden, weight, targets, weights = examples()
    total, count = losses.cross_entropy(hidden, weight, targets, weights)
    each = F.cross_entropy((hidden @ weight.t()).flatten(0, 1), targets.flatten(), reduction="none")
    expected = (each * weights.flatten()).sum()
    torch.testing.assert_close((total, count), (expected, weights.sum()))
    ours = torch.autograd.grad(total / count, (hidden, weight))
    theirs = torch.autograd.grad(expected / weights.sum(), (hidden, weight))
    torch.testing.assert_close(ours, theirs)


def test_nothing_to_learn_is_zero() -> None:
    hidden, weight, targets, weights = examples()
    total, count = losses.cross_entropy(hidden, weight, targets, 0 * weights)
    gradients = torch.autograd.grad(total, (hidden, weight))
    assert (total, count) == (0, 0)
    assert not any(g.any() for g in gradients)


def test_an_impossible_target_costs_a_finite_loss() -> None:
    weight = torch.tensor([[500.0], [-500.0]], requires_grad=True)
    total, _ = losses.cross_entropy(torch.ones(1, 1, 1), weight, torch.tensor([[1]]), torch.ones(1, 1))
    (gradient,) = torch.autograd.grad(total, weight)
    assert 80 < total < 1000
    torch.testing.assert_close(gradient, torch.tensor([[1.0], [-1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probs(dtype: torch.dtype) -> None:
    model = Transformer(ModelConfig(13, 16, 24, 2, 2, 2, 8, 64), dtype)
    model.init_weights(0)
    g = torch.Generator().manual_seed(0)
    ids, targets = (torch.randint(13, (3, 11), generator=g) for _ in range(2))
    batch = Batch(ids, targets, (torch.rand(3, 11, generator=g) < 0.5).float(), None)
    ours = losses.log_probs(model, batch)
    plain = model(ids).log_softmax(-1).gather(2, targets[..., None]).squeeze(2) * batch.weights
    assert ours.dtype == torch.float32
    tolerance = {"atol": 1e-5 if dtype == torch.float32 else 2e-2, "rtol": 0.0}
    torch.testing.assert_close(ours, plain, **tolerance)
    torch.testing.assert_close(-ours.sum(), losses.next_token(model, batch)["loss"][0], atol=0.05, rtol=1e-3)
    for a, b in zip(*(torch.autograd.grad(x.sum(), list(model.parameters())) for x in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 if dtype == torch.float32 else 0.2, rtol=0)


def test_log_probs_of_nothing() -> None:
    model = Transformer(ModelConfig(13, 16, 24, 1, 2, 2, 8, 64))
    ids = torch.zeros(2, 5, dtype=torch.int64)
    found = losses.log_probs(model, Batch(ids, ids, torch.zeros(2, 5), None))
    assert not found.any()
    found.sum().backward()  # one rank of two once had nothing to practise, and fell here


def test_the_formula_for_a_gpu_equals_the_one_in_place() -> None:
    g = torch.Generator().manual_seed(0)
    logits, targets, weights = torch.randn(9, 13, generator=g), torch.arange(9), torch.rand(9, generator=g)
    torch.testing.assert_close(
        losses.plain_loss_and_gradient(logits, targets, weights), losses.loss_and_gradient(logits, targets, weights)
    )


def test_distil_is_kl_where_it_is_dreamt_and_cross_entropy_elsewhere() -> None:
    teacher, model = (Transformer(ModelConfig(13, 16, 24, 2, 2, 2, 8, 64)) for _ in range(2))
    for seed, each in enumerate((teacher, model)):
        each.init_weights(seed)
    g = torch.Generator().manual_seed(0)
    ids, targets = (torch.randint(13, (3, 11), generator=g) for _ in range(2))
    weights, dreamt = ((torch.rand(3, 11, generator=g) < 0.5).float() for _ in range(2))
    found = losses.distil(teacher)(model, Batch(ids, targets, weights, None, {"dream": dreamt}))
    asked, logits = teacher(ids).detach(), model(ids)
    apart = F.kl_div(logits.log_softmax(-1), asked.softmax(-1), reduction="none").sum(-1)
    told = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(3, 11)
    expected = {"loss": (told * weights * (1 - dreamt)).sum(), "dream": (apart * weights * dreamt).sum()}
    torch.testing.assert_close(found, {name: (total, weights.sum()) for name, total in expected.items()})
    ours = torch.autograd.grad(sum(total for total, _ in found.values()), list(model.parameters()))
    theirs = torch.autograd.grad(sum(expected.values()), list(model.parameters()))
    torch.testing.assert_close(ours, theirs)
    awake = Batch(ids, targets, weights, None)
    torch.testing.assert_close(losses.distil(teacher)(model, awake)["loss"], losses.next_token(model, awake)["loss"])
