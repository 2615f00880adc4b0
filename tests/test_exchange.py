import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from nightschool.config import UserError
from nightschool.model import exchange
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.text.tokenizer import Tokenizer, train

TALK = (Message("user", "Where is Ada's 12th lamp?"), Message("assistant", "In the kitchen."))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(chat.texts(TALK) * 5, 300)


def small(tokenizer: Tokenizer, tied: bool, seed: int = 0) -> Transformer:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        rope_theta=5000.0,
        tie_word_embeddings=tied,
    )
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(0.1, 0.1, generator=generator)
    return model


@pytest.fixture
def saved(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    exchange.save(tmp_path / "checkpoint", small(tokenizer, tied=True), tokenizer, "# A small model")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_transformers_gives_the_same_logits_and_ids(tokenizer: Tokenizer, tmp_path: Path, tied: bool) -> None:
    model = small(tokenizer, tied)
    exchange.save(tmp_path / "checkpoint", model, tokenizer, "# A small model")
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    ids = torch.randint(0, tokenizer.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)
    assert theirs.generation_config.eos_token_id == [tokenizer.turn_end, tokenizer.end_of_text]
    text: Any = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert text("Where is Ada's 12th lamp?\n").input_ids == tokenizer.encode("Where is Ada's 12th lamp?\n")
    talk = [{"role": m.role, "content": m.content} for m in TALK]
    assert text.apply_chat_template(talk)["input_ids"] == chat.render(tokenizer, TALK)[0]


@pytest.mark.parametrize("tied", [True, False])
def test_load_gives_what_was_saved(tokenizer: Tokenizer, tmp_path: Path, tied: bool) -> None:
    model = small(tokenizer, tied)
    exchange.save(tmp_path / "a" / "checkpoint", model, tokenizer, "")
    again, text = exchange.load(tmp_path / "a" / "checkpoint", torch.bfloat16)
    assert again.config == model.config
    assert again.dtype == torch.bfloat16
    assert text.special == tokenizer.special
    assert (again.lm_head.weight is again.get_parameter("model.embed_tokens.weight")) == tied
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_load_reads_what_transformers_saved(tokenizer: Tokenizer, tmp_path: Path, tied: bool) -> None:
    config = Qwen3Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    theirs = Qwen3ForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    ids = torch.arange(40)[None]
    torch.testing.assert_close(exchange.load(tmp_path)[0](ids), theirs(ids).logits, atol=1e-4, rtol=0)


def test_the_card_has_front_matter(saved: Path) -> None:
    front, card = (saved / "README.md").read_text().removeprefix("---\n").split("---\n")
    assert "pipeline_tag: text-generation" in front
    assert card == "\n# A small model\n"


def test_save_replaces_a_checkpoint_whole_or_not_at_all(tokenizer: Tokenizer, saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(UnicodeEncodeError):  # the card, written last, fails
        exchange.save(saved, small(tokenizer, tied=True, seed=1), tokenizer, "\ud800")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    (saved.parent / ".checkpoint.new").mkdir()  # a save that was killed leaves its folder
    exchange.save(saved, small(tokenizer, tied=True, seed=1), tokenizer, "")
    assert (saved / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_save_does_not_replace_what_is_no_checkpoint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for folder in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(UserError, match="no checkpoint; choose another folder"):
            exchange.save(folder, small(tokenizer, tied=True), tokenizer, "")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def set_config(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return edit


def truncate(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no config.json in"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors in"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json in"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is not a Qwen3ForCausalLM"),
        (truncate, "weights in .* are damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "weights in .* are damaged"),
        (drop_tensor, r"model.norm.weight has shape None; config.json asks for \(48,\)"),
        (set_config(architectures=["GPT2LMHeadModel"]), "GPT2LMHeadModel"),
        (set_config(hidden_size=64), r"shape .*48.* asks for .*64"),
        (set_config(num_hidden_layers=3), r"layers\.2\..* has shape None"),
        (set_config(num_hidden_layers=1), r"layers\.1\..* asks for None"),
        (set_config(vocab_size=100), "but vocab_size 100"),
        (set_config(vocab_size=10**12), "is of another model"),
        (set_config(hidden_size=-1), "hidden_size must be a positive number; got -1"),
        (set_config(head_dim=None), "head_dim must be a positive number; got None"),
        (set_config(attention_bias=True), "attention_bias True is not supported"),
        (set_config(rope_parameters={"rope_type": "yarn"}), "rope_type 'yarn' is not supported"),
    ],
)
def test_load_refuses(saved: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(saved)
    with pytest.raises(UserError, match=message) as error:
        exchange.load(saved)
    assert "\n" not in str(error.value)
