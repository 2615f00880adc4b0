"""Bits of texts: the model's own sums, and what is lost of the rare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nightschool.model.transformer import Transformer
from nightschool.night.bits import excess_bits, nats_of
from nightschool.text import tokenizer
from nightschool.train.plan import QUICKSTART


def test_nats_of_is_the_models_own_sum() -> None:
    texts = ["A duck walks into the inn.", "A cow.", "Why did the clock leave town? " * 3]
    words = tokenizer.train(texts, 300)
    model = Transformer(replace(QUICKSTART.model, vocab_size=words.vocab_size, num_hidden_layers=1))
    model.init_weights(0)
    expected = []
    for text in texts:
        head, ids = words.encode("Joke:\n"), [*words.encode("Joke:\n" + text), words.end_of_text]
        log_p = model(torch.tensor([ids])).log_softmax(-1)[0]
        expected.append(sum(log_p[i - 1, ids[i]].item() for i in range(len(head), len(ids))))
    assert nats_of(model, words, texts, ["Joke:\n"] * 3) == pytest.approx(expected, rel=1e-4)


def test_a_text_longer_than_the_context_is_read_in_windows() -> None:
    words = tokenizer.train(["a"], 261)
    config = replace(QUICKSTART.model, vocab_size=words.vocab_size, num_hidden_layers=1, max_position_embeddings=8)
    model = Transformer(config)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()  # every token is as likely: what is summed is their number
    (nats,) = nats_of(model, words, ["a" * 20], ["b"])
    assert nats == pytest.approx(-21 * np.log(words.vocab_size))


def test_excess_bits_find_the_lost_tail() -> None:
    rng = np.random.default_rng(0)
    num_bytes = rng.integers(20, 60, 2000).astype(float)
    rarity = rng.random(2000)  # from common to rare: 0.5 to 2.5 bits a byte
    before = -(0.5 + 2 * rarity) * num_bytes * np.log(2)
    after = before - 0.4 * (rarity > 0.9) * num_bytes * np.log(2)
    found = excess_bits(after, before, num_bytes)
    assert [m["value"] for m in found[:-1]] == pytest.approx([0] * 9, abs=0.02)
    assert found[-1]["value"] == pytest.approx(0.4, abs=0.02)
    noise = rng.normal(0, 3, (2, 2000))  # two models of equal worth: by either's own bits the ends would lean
    equal = excess_bits(before + noise[0], before + noise[1], num_bytes)
    assert sum(m["low"] <= 0 <= m["high"] for m in equal) >= 8
