"""Checkpoints that transformers wrote, in three families: the same logits, the same decoding, the same family back."""

import json
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nightschool.config import UserError
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.families import model_config
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.text import template
from nightschool.text.tokenizer import Tokenizer

LLAMA3: dict[str, Any] = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **foreign.SCALING}}


def take_in(folder: Path) -> tuple[Transformer, Tokenizer]:
    tokenizer = template.adopt(folder)
    return exchange.load_model(folder, model_config(folder), tokenizer, torch.float32), tokenizer


@pytest.mark.parametrize(
    ("family", "tied", "shards", "config"),
    [
        ("qwen3", True, "50KB", {}),
        ("qwen3", False, "1GB", {"num_key_value_heads": 4}),
        ("qwen2", True, "1GB", {}),
        ("qwen2", False, "50KB", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ("llama", True, "50KB", LLAMA3),
        ("llama", False, "1GB", {"num_key_value_heads": 1, "head_dim": 32}),
    ],
)
@torch.no_grad()
def test_logits_decoding_and_the_way_back(
    tmp_path: Path, family: str, tied: bool, shards: str, config: dict[str, Any]
) -> None:
    theirs = foreign.write_checkpoint(tmp_path / "theirs", family, tied, shards, **config)
    assert (tmp_path / "theirs" / "model.safetensors").exists() == (shards == "1GB")
    model, tokenizer = take_in(tmp_path / "theirs")
    ids = torch.randint(0, 300, (2, 200), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids).logits
    torch.testing.assert_close(model(ids), expected, atol=1e-4, rtol=0)

    prompts = [ids[0, :150].tolist(), ids[1, :9].tolist()]
    made = Engine(model, tokenizer).generate(prompts, Sampling(temperature=1.5, max_new_tokens=12, stop_ids=()))
    for completion in made:
        whole = torch.tensor([completion.prompt_ids + completion.ids])
        log_probs = (theirs(whole).logits[0] / 1.5).log_softmax(-1)[len(completion.prompt_ids) - 1 : -1]
        chosen = log_probs.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.log_probs), chosen, atol=1e-4, rtol=0)

    exchange.save(tmp_path / "ours", model, tokenizer, "")
    back: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(back) is type(theirs)
    torch.testing.assert_close(back(ids).logits, expected, atol=1e-4, rtol=0)
    again, same = exchange.load(tmp_path / "ours")
    assert again.config == model.config
    assert (same.turn_end, same.end_of_text) == (tokenizer.turn_end, tokenizer.end_of_text)
    assert "license: mit" not in (tmp_path / "ours" / "README.md").read_text()


@pytest.mark.parametrize("docs", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_gradients_are_theirs(tmp_path: Path, family: str, docs: bool) -> None:
    theirs = foreign.write_checkpoint(tmp_path, family)
    model, _ = take_in(tmp_path)
    ids = torch.randint(0, 300, (1, 40), generator=torch.Generator().manual_seed(0))
    number = torch.tensor([[0] * 15 + [1] * 25])
    (model(ids, number if docs else None).square().mean()).backward()
    parts = [theirs(ids[:, :15]).logits, theirs(ids[:, 15:]).logits] if docs else [theirs(ids).logits]
    torch.cat(parts, 1).square().mean().backward()
    ours, expected = dict(model.named_parameters()), dict(theirs.named_parameters())
    assert ours.keys() == expected.keys()
    for name, p in ours.items():
        torch.testing.assert_close(p.grad, expected[name].grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    foreign.write_checkpoint(tmp_path, "llama").to(dtype).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    model, _ = take_in(tmp_path)
    for name, w in model.state_dict().items():
        if name in stored:
            assert w.dtype == torch.float32
            assert torch.equal(w, stored[name].float()), name


def test_old_spellings(tmp_path: Path) -> None:
    foreign.write_checkpoint(tmp_path, "llama", **LLAMA3)
    new = model_config(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"], config["head_dim"]
    for kind in ("type", "rope_type"):
        path.write_text(json.dumps(config | {"rope_theta": 5e5, "rope_scaling": {kind: "llama3", **foreign.SCALING}}))
        assert model_config(tmp_path) == new


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("qwen3", {"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM"),
        ("qwen3", {"architectures": ["Qwen3ForCausalLM", "X"]}, "only those can be loaded"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window True is not supported"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types 'sliding_attention'"),
        ("llama", {"attention_bias": True}, "attention_bias True"),
        ("llama", {"mlp_bias": True}, "mlp_bias True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "factor must be a positive number; got None"),
        ("qwen2", {"head_dim": None, "num_attention_heads": "4"}, "num_attention_heads must be a positive number"),
    ],
)
def test_refused_by_name(tmp_path: Path, family: str, values: dict[str, Any], message: str) -> None:
    foreign.write_checkpoint(tmp_path, family)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError, match=message) as error:
        model_config(tmp_path)
    assert "\n" not in str(error.value)


def test_shards_pickles_and_vocabularies_are_checked(tmp_path: Path) -> None:
    foreign.write_checkpoint(tmp_path, "qwen2", shards="50KB")
    shard = next(tmp_path.glob("model-00002*.safetensors"))
    tensors = load_file(shard)
    gone = min(tensors)
    save_file({name: t for name, t in tensors.items() if name != gone} | {"extra": torch.ones(1)}, shard)
    with pytest.raises(UserError, match="extra has shape"):
        take_in(tmp_path)
    save_file({name: t for name, t in tensors.items() if name != gone}, shard)
    with pytest.raises(UserError, match=f"{gone} has shape None"):
        take_in(tmp_path)
    shard.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"no model-00002.*pickled \.bin weights could run code"):
        take_in(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 320}))
    with pytest.raises(UserError, match=r"\d+ tokens but vocab_size 320"):
        take_in(tmp_path)
