"""A newborn looks back and finds again; a blank slate does not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nightschool.model.fused import normalize, normalize_rotate
from nightschool.model.instinct import instinct
from nightschool.model.transformer import ModelConfig, Transformer, rotary_table
from nightschool.train.optim import Optimizer

NAMES, VALUES = 48, 64  # ids: names, then values


def newborn(born: bool = True, num_layers: int = 2) -> Transformer:
    config = ModelConfig(NAMES + VALUES, 96, 192, num_layers, 4, 2, 48, 512)
    model = Transformer(config)
    model.init_weights(0)
    if born:
        instinct(model, 0)
    return model


def pairs(g: torch.Generator, B: int, num_pairs: int = 4) -> Tensor:
    """(B, 4 x pairs): names with their values, in some order, and again in another."""
    names = torch.stack([torch.randperm(NAMES, generator=g)[:num_pairs] for _ in range(B)])
    values = NAMES + torch.randint(VALUES, (B, num_pairs), generator=g)
    halves = []
    for _ in range(2):
        order = torch.stack([torch.randperm(num_pairs, generator=g) for _ in range(B)])
        halves.append(torch.stack((names.gather(1, order), values.gather(1, order)), 2).flatten(1))
    return torch.cat(halves, 1)


@torch.no_grad()
def test_heads_of_the_first_layer_look_back() -> None:
    model = newborn()
    config, T = model.config, 40
    attention = model.model.layers[0].self_attn
    H, G, D = attention.H, attention.G, attention.D
    ids = torch.randint(NAMES, (8, T), generator=torch.Generator().manual_seed(1))
    x = normalize(model.model.embed_tokens(ids), 1e-6)
    w = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    scale = torch.cat((torch.full((H, D), D**-0.5), torch.ones(G, D)))
    cos, sin = rotary_table(T, D, config.rope_theta, ids.device)
    q, k, _ = normalize_rotate(F.linear(x, w).view(8, T, H + 2 * G, D), scale, cos, sin, H, 1e-6)
    for h in range(H):
        logits = q[:, h] @ k[:, h // (H // G)].mT
        weights = logits.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
        assert weights.diagonal(-(h + 1), 1, 2).mean() > 0.5, h


@pytest.mark.parametrize(("born", "low", "high"), [(True, 0.8, 1.0), (False, 0.0, 0.45)])
def test_a_newborn_learns_to_find_a_value_again_at_once(born: bool, low: float, high: float) -> None:
    model = newborn(born)
    optimizer, g = Optimizer(model, 0.015, 0.004, 0.004), torch.Generator().manual_seed(2)
    for step in range(120):
        ids = pairs(g, 64)
        logits = model(ids)[:, 8:-1:2]  # at the names of the second half
        F.cross_entropy(logits.flatten(0, 1), ids[:, 9::2].flatten()).backward()
        optimizer.step(min(1, (step + 1) / 20))
        optimizer.zero_grad()
    ids = pairs(torch.Generator().manual_seed(3), 128)
    right = (model(ids)[:, 8:-1:2].argmax(-1) == ids[:, 9::2]).float().mean()
    assert low < right < high


def test_the_model_stays_an_ordinary_one() -> None:
    blank, born = newborn(False).state_dict(), newborn().state_dict()
    assert {n: p.shape for n, p in blank.items()} == {n: p.shape for n, p in born.items()}
    again = newborn().state_dict()
    assert all(torch.equal(p, again[n]) and p.isfinite().all() for n, p in born.items())
