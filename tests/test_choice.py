"""Multiple choice: the likeliest continuation by the model's own logits, on forms as they are published."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from nightschool.config import UserError
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.tasks import choice
from nightschool.text import tokenizer

WORDS = ["rain", "owl", "sang", "pears", "quiet", "green", "old", "mill", "and", "the"]


def said(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choices(WORDS, k=num_words))


def test_the_likeliest_is_chosen_and_guessing_is_told(tmp_path: Path) -> None:
    rng = random.Random(0)
    tok = tokenizer.train(iter([said(rng, 400)]), 300)
    model = Transformer(
        ModelConfig(
            vocab_size=tok.vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=64,
        ),
        torch.float32,
    )
    model.init_weights(0)
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)

    def mean_log_prob(head: str, tail: str) -> float:
        """One at a time, from the logits of all places."""
        before, ids = tok.encode(head), tok.encode(f" {tail}")
        row = torch.tensor([[*before, *ids]])
        with torch.no_grad():
            logits = model.hidden(row[:, :-1], None) @ model.lm_head.weight.t()
        log_p = logits.log_softmax(-1)[0, -len(ids) :]
        return float(log_p.gather(1, row[0, -len(ids) :, None]).mean())

    records = []
    for i in range(40):
        num = 2 + i % 3
        options = [f"{word} {said(rng, rng.randint(0, 5))}".strip() for word in rng.sample(WORDS, num)]
        record = {"query": said(rng, 5) + " ", "choices": options}
        goodness = [mean_log_prob(record["query"].strip(), text) for text in options]
        if i % 2:
            record = {"context_options": options, "continuation": said(rng, 4)}
            goodness = [mean_log_prob(text, record["continuation"]) for text in options]
        best = goodness.index(max(goodness))
        records.append(record | {"gold": best if i < 30 else (best + 1) % num})
    path = tmp_path / "exam.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    score = choice.examine(model, tok, path, n=100, seed=0)
    assert (score["accuracy"], score["n"]) == (0.75, 40)
    assert score["chance"] == pytest.approx(sum(1 / (2 + i % 3) for i in range(40)) / 40)
    assert choice.examine(model, tok, path, n=7, seed=0)["n"] == 7


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Hi?", "answer": "Yes"},
        {"query": "One and", "choices": ["two"], "gold": 0},
        {"query": "One and", "choices": ["two", "three"], "gold": 2},
        {"query": "One and", "choices": ["two", " "], "gold": 0},
        {"context_options": ["a", "b"], "gold": 0},
        ["query"],
    ],
)
def test_other_forms_are_refused(record: object, tmp_path: Path) -> None:
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"exam.jsonl line 1: a question of multiple choice is"):
        choice.exam_files((str(path),))


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "exam.jsonl").touch()
    with pytest.raises(UserError, match=r"exam.jsonl holds no question"):
        choice.exam_files((str(tmp_path),))


def test_names_are_those_of_the_files(tmp_path: Path) -> None:
    record = {"query": "One and", "choices": ["two", "three"], "gold": 0}
    (tmp_path / "copa.jsonl").write_text(json.dumps(record))
    assert choice.exam_files((str(tmp_path),)) == {"copa": tmp_path / "copa.jsonl"}
