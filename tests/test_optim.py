"""One optimizer against two of torch's."""

import copy

import pytest
import torch
from torch import nn

from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.train.optim import Optimizer, orthogonalize


def model(seed: int = 0) -> Transformer:
    m = Transformer(ModelConfig(50, 32, 64, 2, 4, 2, 8, 128))
    m.init_weights(seed)
    return m


def set_gradients(m: nn.Module, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in m.parameters():
        p.grad = torch.randn(p.shape, generator=g)


def test_equals_torch() -> None:
    ours = model()
    theirs = copy.deepcopy(ours)
    optimizer = Optimizer(ours, 0.02, 0.003, 0.004, weight_decay=0.1)
    named = dict(theirs.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
    norms = [p for p in named.values() if p.ndim == 1]
    muon = torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original")
    adamw = torch.optim.AdamW(
        [{"params": [theirs.lm_head.weight], "lr": 0.003}, {"params": norms, "lr": 0.004}],
        betas=(0.9, 0.95),
        weight_decay=0.0,
    )
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        for group in (*muon.param_groups, *adamw.param_groups):
            group["lr"] *= 0.5 if step == 3 else 1  # our lr_scale
        optimizer.step(0.5 if step >= 3 else 1.0)
        muon.step()
        adamw.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6, msg=name)


def test_singular_values_come_near_one() -> None:
    u, _, v = torch.linalg.svd(torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    spectrum = torch.logspace(0, torch.log10(torch.tensor(0.004)).item(), 24)
    x = orthogonalize(u * spectrum @ v, torch.float32)
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.66
    assert values.max() < 1.22
    assert (torch.linalg.matrix_norm(x - u @ v, ord=2) < 0.35).all()  # the directions are kept


def test_a_gradient_of_rank_one_stays_tame_in_bfloat16() -> None:
    """A cheaper polynomial once blew such updates up a thousandfold: rounding had left them a hair longer than 1."""
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        matrices = torch.randn(4, 128, 1, generator=g) @ torch.randn(4, 1, 256, generator=g)
        assert orthogonalize(matrices, torch.bfloat16).abs().max() < 0.5


def test_state_goes_on_bit_for_bit() -> None:
    straight, cut = model(), model()
    a, b = Optimizer(straight), Optimizer(cut)
    for step in range(4):
        if step == 2:
            saved = {name: value.clone() for name, value in b.state_dict().items()}
            b = Optimizer(cut)
            b.load_state_dict(saved)
        for m, optimizer in ((straight, a), (cut, b)):
            set_gradients(m, step)
            optimizer.step()
    for p, q in zip(straight.parameters(), cut.parameters(), strict=True):
        assert torch.equal(p, q)


def test_state_of_another_model_is_refused() -> None:
    optimizer = Optimizer(model())
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="another model"):
        optimizer.load_state_dict({k: v for k, v in state.items() if "embed" not in k})
    with pytest.raises(ValueError, match="shape"):
        optimizer.load_state_dict({**state, "model.norm.weight.mean": torch.zeros(3)})


def test_what_needs_no_gradient_is_not_its_business() -> None:
    m = model()
    before = copy.deepcopy(m.state_dict())
    frozen = m.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    optimizer = Optimizer(m, weight_decay=0.1)
    assert not any("layers.0.mlp.up_proj" in name for name in optimizer.state_dict())
    frozen.grad = torch.ones_like(frozen)
    optimizer.reduce()
    optimizer.step()
    assert torch.equal(frozen, before["model.layers.0.mlp.up_proj.weight"])
    assert not torch.equal(m.model.layers[1].mlp.up_proj.weight, before["model.layers.1.mlp.up_proj.weight"])


def test_a_missing_gradient_is_zero() -> None:
    m, n = model(), model()
    for p in n.parameters():
        p.grad = torch.zeros_like(p)
    for each in (m, n):
        optimizer = Optimizer(each, weight_decay=0.1)
        optimizer.reduce()
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(m.parameters(), n.parameters(), strict=True))
