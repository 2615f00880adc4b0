"""By meaning: texts are as near as a model's hidden states, in a planted case and through the verb."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from test_audit import REFERENCE, effective

from nightschool.__main__ import main
from nightschool.model import exchange
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.night import meaning
from nightschool.text import tokenizer as tokenizers


def test_a_text_means_its_mean_hidden_state() -> None:
    tokenizer = tokenizers.train(REFERENCE[:50], 400)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 48, 2, 2, 2, 16, 64))
    model.init_weights(0)
    texts = ["duck", REFERENCE[0], "", 9 * REFERENCE[1]]
    found = meaning.vectors(model, tokenizer, texts)
    for text, vector in zip(texts, found, strict=True):
        ids = (tokenizer.encode(text) or [tokenizer.end_of_text])[:64]  # the context
        assert vector == pytest.approx(model.hidden(torch.tensor([ids]))[0].float().mean(0).tolist(), abs=1e-5)


def test_one_meaning_in_many_words() -> None:
    """25 ideas 40 times each, no two in the same words; 1,000 real texts far from one another but for ten pairs."""
    rng = np.random.default_rng(0)
    ideas = np.repeat(rng.normal(size=(25, 64)), 40, axis=0) + 0.05 * rng.normal(size=(1000, 64))
    real = rng.normal(size=(1000, 64))
    real[990:] = real[980:990] + 0.5 * rng.normal(size=(10, 64))  # nearer than usual, as in any real texts
    found = np.concatenate([ideas, real]).astype(np.float32) + 3  # all states lean one way
    labels = meaning.same_meaning(found, np.arange(2000), np.arange(1000, 2000))
    assert len(set(labels[:1000])) == 25
    assert all(len(set(labels[i : i + 40])) == 1 for i in range(0, 1000, 40))
    assert 985 <= len(set(labels[1000:])) <= 1000


def test_audit_by_meaning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tokenizers.train(REFERENCE[:200], 400)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 48, 2, 2, 2, 16, 64))
    model.init_weights(0)
    exchange.save(tmp_path / "run" / "checkpoint", model, tokenizer, "")
    rng = Random(0)
    told = [" ".join(rng.sample(text.split(), 14)) for text in REFERENCE[:5] for _ in range(20)]
    for name, texts in (("told", told), ("real", REFERENCE[:400])):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    files = (tmp_path / "told.txt", "--ref", tmp_path / "real.txt", "--out", tmp_path / "audit")
    assert main(["audit", *map(str, (*files, "--embed", tmp_path / "run"))]) == 0
    assert "semantic" in capsys.readouterr().err
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert effective(found, resolution="semantic")["value"] < 8  # five ideas in any order of their words
    assert effective(found, "reference", "semantic")["high"] is None  # no pair
