"""GGUF written and read back, and what the gate catches."""

from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers

from nightschool.config import UserError
from nightschool.model import exchange, gguf
from nightschool.model.families import model_config
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.text import template
from nightschool.text.tokenizer import Tokenizer, train

LLAMA3: dict[str, Any] = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **foreign.SCALING}}


@pytest.fixture(scope="module", params=["qwen3", "qwen2", "llama"])
def taken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, Tokenizer]:
    folder = tmp_path_factory.mktemp(request.param)
    config: dict[str, Any] = LLAMA3 if request.param == "llama" else {}
    foreign.write_checkpoint(folder, request.param, tied=request.param != "qwen2", **config)
    tokenizer = template.adopt(folder)
    return exchange.load_model(folder, model_config(folder), tokenizer, torch.float32), tokenizer


@pytest.mark.parametrize(("quant", "near"), [("f32", 0.0), ("f16", 2e-2), ("q8_0", 0.3)])
@torch.no_grad()
def test_what_is_read_back_is_the_model(
    taken: tuple[Transformer, Tokenizer], tmp_path: Path, quant: gguf.Quant, near: float
) -> None:
    model, tokenizer = taken
    gguf.write(tmp_path / "m.gguf", model, tokenizer, "m", quant)
    again = gguf.check(tmp_path / "m.gguf", model, tokenizer)
    ids = torch.arange(100)[None]
    torch.testing.assert_close(again(ids), model(ids), atol=near, rtol=0)
    assert quant == "f32" or not torch.equal(again(ids), model(ids))


def test_names_keys_and_tokens(taken: tuple[Transformer, Tokenizer], tmp_path: Path) -> None:
    model, tokenizer = taken
    c = model.config
    gguf.write(tmp_path / "m.gguf", model, tokenizer, "m", "q8_0")
    reader = GGUFReader(tmp_path / "m.gguf")
    key = {name: field.contents() for name, field in reader.fields.items()}
    assert key["general.architecture"] == c.family
    assert key[f"{c.family}.attention.head_count_kv"] == 2
    assert key[f"{c.family}.rope.freq_base"] == c.rope_theta
    assert key["tokenizer.ggml.pre"] == ("llama-bpe" if c.family == "llama" else "qwen2")
    assert key["tokenizer.ggml.tokens"][tokenizer.turn_end] == tokenizer.config["eos_token"]
    assert key["tokenizer.ggml.eos_token_id"] == tokenizer.turn_end
    assert key["tokenizer.ggml.token_type"][tokenizer.turn_end] == 3
    assert key["tokenizer.ggml.token_type"][-1] == 5  # an id that no text gives
    assert key["tokenizer.ggml.add_bos_token"] == (c.family == "llama")
    assert len(key["tokenizer.ggml.tokens"]) == c.vocab_size
    assert key["tokenizer.chat_template"] == tokenizer.template
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.1.ffn_norm.weight"] == "F32"
    assert ("output.weight" in kinds) == (not c.tie_word_embeddings)
    assert ("blk.0.attn_q.bias" in kinds) == (c.family == "qwen2")
    assert ("rope_freqs.weight" in kinds) == (c.family == "llama")


def test_rotary_partners_lie_side_by_side_in_llama() -> None:
    """One head of four rows, halves (0, 1) and (2, 3): partners are 0, 2 and 1, 3."""
    config = model_config_of("llama")
    w = torch.arange(8.0)[:, None]
    made = gguf.paired(w, "model.layers.0.self_attn.q_proj.weight", config)
    assert made.flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(gguf.paired(made, "x.k_proj.weight", config, back=True), w)
    assert torch.equal(gguf.paired(w, "x.v_proj.weight", config), w)
    assert torch.equal(gguf.paired(w, "x.q_proj.weight", model_config_of("qwen3")), w)


def model_config_of(family: Any) -> ModelConfig:
    return ModelConfig(8, 8, 8, 1, 2, 2, 4, 8, family=family)


@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0"])
def test_the_gate_sees_one_wrong_weight(
    taken: tuple[Transformer, Tokenizer], tmp_path: Path, quant: gguf.Quant
) -> None:
    model, tokenizer = taken
    path = tmp_path / "m.gguf"
    gguf.write(path, model, tokenizer, "m", quant)
    tensor = next(t for t in GGUFReader(path).tensors if t.name == "blk.0.ffn_up.weight")
    written = bytearray(path.read_bytes())
    written[tensor.data_offset + 3] ^= 0x40  # a high bit of one weight
    path.write_bytes(written)
    with pytest.raises(UserError, match=r"ffn_up\.weight read back is not what was written"):
        gguf.check(path, model, tokenizer)


def test_slack_is_the_rounding_and_no_more() -> None:
    library = gguf.library()
    w = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-8, 3, 64)[:, None]
    for name, kind in (("F16", library.GGMLQuantizationType.F16), ("Q8_0", library.GGMLQuantizationType.Q8_0)):
        stored = library.quants.dequantize(library.quants.quantize(w.numpy(), kind), kind)
        off = (torch.from_numpy(np.array(stored)) - w).abs() / gguf.slack(w, name)
        assert 0.9 < off.max() <= 1


def test_a_tensor_or_a_splitting_without_a_name_is_refused(
    taken: tuple[Transformer, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = taken
    monkeypatch.setattr(gguf, "PRE", {})
    with pytest.raises(UserError, match="no name in GGUF for how the tokenizer splits text"):
        gguf.write(tmp_path / "m.gguf", model, tokenizer, "m", "f16")
    monkeypatch.undo()
    monkeypatch.setattr(gguf, "tensors_of", lambda model: {"model.layers.0.self_attn.sinks": torch.ones(4)})
    with pytest.raises(UserError, match=r"no name for the tensor model\.layers\.0\.self_attn\.sinks"):
        gguf.write(tmp_path / "m.gguf", model, tokenizer, "m", "f16")
    assert not (tmp_path / "m.gguf").exists()


def test_how_a_tokenizer_splits_has_a_name() -> None:
    """SmolLM2 splits by GPT-2's words after single digits; what transformers makes of its GGUF lost the digits."""
    tokenizer = train(["a town"], 270)
    assert gguf.pre_tokenizer(tokenizer) == "qwen2"
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.plain.pre_tokenizer = words
    assert gguf.pre_tokenizer(tokenizer) == "gpt-2"
    tokenizer.plain.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    assert gguf.pre_tokenizer(tokenizer) == "smollm"
