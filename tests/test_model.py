"""The model against transformers' Qwen3, and the gradients made by hand against finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from nightschool.model import fused
from nightschool.model.fused import causal_attention, normalize, normalize_rotate, swiglu
from nightschool.model.kernels import document_bias
from nightschool.model.transformer import ModelConfig, Transformer, rotary_table
from nightschool.train.losses import cross_entropy
from nightschool.train.optim import Optimizer


def small(num_key_value_heads: int = 2, tied: bool = True) -> ModelConfig:
    return ModelConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_key_value_heads,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )


def random_model(config: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> Transformer:
    """Random everywhere: norms away from 1, output matrices away from 0."""
    model, g = Transformer(config, dtype), torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data.normal_(float(p.ndim == 1), 0.2, generator=g)
    return model


def as_transformers(model: Transformer) -> Qwen3ForCausalLM:
    c = model.config
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            **{name: getattr(c, name) for name in c.__dataclass_fields__ if name != "rope_theta"},
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            attn_implementation="eager",
        )
    )
    theirs.load_state_dict(model.state_dict())
    return theirs.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_key_value_heads", [4, 2, 1])
def test_logits_equal_transformers(num_key_value_heads: int, tied: bool) -> None:
    model = random_model(small(num_key_value_heads, tied))
    ids = torch.randint(97, (2, 300), generator=torch.Generator().manual_seed(1))  # three blocks of queries
    with torch.no_grad():
        torch.testing.assert_close(model(ids), as_transformers(model)(ids).logits, atol=1e-4, rtol=0)


def test_packed_documents_do_not_see_each_other() -> None:
    model = random_model(small())
    lengths = (50, 1, 149)  # the last crosses a block of queries
    parts = [torch.randint(97, (2, n), generator=torch.Generator().manual_seed(n)) for n in lengths]
    docs = torch.cat([torch.full((2, n), i, dtype=torch.int32) for i, n in enumerate(lengths)], dim=1)
    theirs = as_transformers(model)
    with torch.no_grad():
        alone = torch.cat([theirs(part).logits for part in parts], dim=1)
        torch.testing.assert_close(model(torch.cat(parts, dim=1), docs), alone, atol=1e-4, rtol=0)


def test_padding_on_the_right_changes_nothing_before_it() -> None:
    model, ids = random_model(small()), torch.arange(90)[None]
    padded = F.pad(ids, (0, 60))
    torch.testing.assert_close(model(padded)[:, :90], model(ids), atol=1e-5, rtol=0)


def test_parameter_names_are_those_of_transformers() -> None:
    model = Transformer(small(tied=False))
    assert model.state_dict().keys() == as_transformers(model).state_dict().keys()


def numbers(*shape: int) -> Tensor:
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape))
    ).requires_grad_()


def test_gradients_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "BLOCK", 3)
    H, G, T, D = 4, 2, 7, 4
    cos, sin = (x.double() for x in rotary_table(T, D, 100.0, torch.device("cpu")))
    torch.autograd.gradcheck(lambda x: normalize(x, 1e-6), numbers(3, 5))
    torch.autograd.gradcheck(swiglu, (numbers(2, 3, 5), numbers(3, 5, 2).mT.reshape(2, 3, 5)))
    torch.autograd.gradcheck(
        lambda x, w: normalize_rotate(x, w, cos, sin, H, 1e-6), (numbers(2, T, H + 2 * G, D), numbers(H + G, D))
    )
    docs = torch.tensor([[0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1]])
    for bias in (None, document_bias(docs, torch.float64)):
        inputs = numbers(2, H, T, D), numbers(2, G, T, D), numbers(2, G, T, D).detach().cos().requires_grad_()
        torch.autograd.gradcheck(lambda q, k, v, bias=bias: causal_attention(q, k, v, bias), inputs)


@pytest.mark.parametrize("H", [1, 4])
def test_attention_equals_torch(H: int) -> None:
    q, k, v = (torch.randn(2, heads, 200, 8) for heads in (H, 1, 1))
    ours = causal_attention(q, k, v, None).transpose(1, 2)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
    torch.testing.assert_close(ours, theirs)


def gradients(model: Transformer, ids: Tensor) -> dict[str, Tensor]:
    hidden = model.hidden(ids[:, :-1])
    weight = model.lm_head.weight.to(hidden.dtype)
    total, count = cross_entropy(hidden, weight, ids[:, 1:], torch.ones(ids[:, 1:].shape))
    (total / count).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_bfloat16_gradients_point_where_float32_ones_do() -> None:
    ids = torch.randint(97, (4, 151), generator=torch.Generator().manual_seed(0))
    exact = gradients(random_model(small()), ids)
    rough = gradients(random_model(small(), torch.bfloat16), ids)
    for name, gradient in exact.items():
        assert F.cosine_similarity(gradient.flatten(), rough[name].flatten(), dim=0) > 0.98, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_seed_same_weights(dtype: torch.dtype) -> None:
    def train() -> Transformer:
        model = Transformer(small(), dtype)
        model.init_weights(3)
        optimizer, g = Optimizer(model, dtype=dtype), torch.Generator().manual_seed(3)
        for _ in range(3):
            gradients(model, torch.randint(97, (4, 101), generator=g))
            optimizer.step()
            optimizer.zero_grad()
        return model

    for (name, p), q in zip(train().named_parameters(), train().parameters(), strict=True):
        assert torch.equal(p, q), name
