"""LoRA against the same update made by hand, and what is frozen, saved and taken up again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nightschool.model import lora
from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Linear, ModelConfig, Transformer
from nightschool.runs import Run
from nightschool.stages import sft
from nightschool.text.packing import Batch
from nightschool.text.tokenizer import train as train_tokenizer
from nightschool.train import checkpoint
from nightschool.train.loop import train
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer

CONFIG = ModelConfig(300, 32, 48, 2, 4, 2, 8, 64, family="llama")
IDS = torch.randint(0, 300, (2, 17), generator=torch.Generator().manual_seed(0))
BATCH = Batch(IDS[:, :-1], IDS[:, 1:], torch.ones(2, 16), None)


def small() -> Transformer:
    model = Transformer(CONFIG)
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data.normal_(1.0 if p.ndim == 1 else 0.0, 0.2, generator=g)
    return model


def loss(model: Transformer) -> Tensor:
    total, count = next_token(model, BATCH)["loss"]
    return total / count


def test_at_first_nothing_changes_and_only_factors_learn() -> None:
    model, plain = small(), small()
    lora.add(model, rank=3, seed=0)
    assert torch.equal(model(IDS), plain(IDS))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    linears = [module for module in model.model.layers.modules() if isinstance(module, Linear)]
    assert len(linears) == 2 * 7
    assert len(names) == 2 * 2 * 7
    for factors in (p for name, p in model.named_parameters() if name.endswith(".B")):
        factors.data.normal_(0, 0.1)
    before, weight = lora.before(model), model.get_parameter("model.norm.weight")
    assert not torch.equal(model(IDS), plain(IDS))
    assert torch.equal(before(IDS), plain(IDS))
    assert before.get_parameter("model.norm.weight").data_ptr() == weight.data_ptr()
    assert all(name.endswith((".A", ".B")) for name in names)


def test_a_step_is_the_dense_one_by_hand() -> None:
    """With G the gradient of W: dA = s BᵀG and dB = s G Aᵀ, and the merged weight is W + s B A."""
    model, dense = small(), small()
    lora.add(model, rank=2, alpha=6.0, seed=0)
    name = "model.layers.1.mlp.down_proj"
    factors: Any = model.get_submodule(name).parametrizations.weight[0]  # type: ignore[union-attr,index]
    factors.B.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    W, s = dense.get_parameter(f"{name}.weight"), 3.0
    W.data += s * factors.B.data @ factors.A.data
    assert torch.allclose(lora.merged(model)[f"{name}.weight"], W, atol=1e-6)
    loss(model).backward()
    loss(dense).backward()
    assert W.grad is not None
    torch.testing.assert_close(factors.A.grad, s * factors.B.T @ W.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(factors.B.grad, s * W.grad @ factors.A.T, atol=1e-6, rtol=1e-4)


def test_the_factors_go_to_adamw_and_the_rest_stays_bit_for_bit() -> None:
    model, plain = small(), small()
    lora.add(model, rank=2, seed=0)
    optimizer = Optimizer(model, embed_lr=0.01)
    assert {kind for _, kind in optimizer.state} == {"mean", "square"}
    before = loss(model).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step(1.0)
    assert loss(model).item() < before - 0.1
    for name, w in plain.state_dict().items():
        there = name.replace(".weight", ".parametrizations.weight.original")
        state = model.state_dict()
        assert torch.equal(state.get(there, state.get(name, w)), w), name
    merged = Transformer(CONFIG)
    merged.load_state_dict(lora.merged(model))
    torch.testing.assert_close(merged(IDS), model(IDS), atol=1e-5, rtol=0)


def test_the_engine_speaks_with_the_factors() -> None:
    model = small()
    lora.add(model, rank=2, seed=0)
    for name, p in model.named_parameters():
        if name.endswith(".B"):
            p.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(3))
    tokenizer = train_tokenizer(["a town, its people and what they say"], 280)
    made = Engine(model, tokenizer).generate([[5, 6, 7]], Sampling(max_new_tokens=8, stop_ids=()))[0]
    ids = torch.tensor([made.prompt_ids + made.ids])
    log_probs = model(ids)[0, 2:-1].log_softmax(-1).gather(1, torch.tensor(made.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(made.log_probs), log_probs.detach(), atol=1e-4, rtol=0)


def test_resume_takes_up_the_factors_alone(tmp_path: Path) -> None:
    def batches(cursor: dict[str, Any]) -> Iterator[Batch]:
        for i in range(cursor.get("i", 0), 4):
            yield Batch(IDS[:, :-1], IDS[:, 1:], torch.ones(2, 16), None, cursor={"i": i + 1})

    def go(out: Path, steps: int) -> Transformer:
        model = small()
        lora.add(model, rank=2, seed=0)
        train(
            Run.open(out, "sft", sft.Config()),
            model,
            Optimizer(model),
            lambda cursor: (batch for batch in batches(cursor) if batch.cursor["i"] <= steps),
            next_token,
            schedule=lambda done: 1.0,
            num_steps=4,
        )
        return model

    go(tmp_path / "a", 2)
    state = checkpoint.latest(tmp_path / "a" / "state")
    assert state is not None
    assert all(name.endswith((".A", ".B")) for name in state.model())
    resumed, whole = go(tmp_path / "a", 4), go(tmp_path / "b", 4)
    for (name, p), q in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_sft_refuses_a_negative_rank() -> None:
    with pytest.raises(Exception, match="lora_rank must be at least 0"):
        sft.Config(lora_rank=-1)
