"""Multiple choice as published exams have it: the right continuation is to be the likeliest one.

A line of .jsonl(.gz) is one question:
    {"query", "choices", "gold"}                   a text, its continuations, the number of the right one
    {"context_options", "continuation", "gold"}    texts, of which one goes on like this
as llm-foundry's local data have ARC, HellaSwag, PIQA, COPA, Winograd and others. A choice is as good as the mean log
probability of its tokens, with no examples before it. But: raw text, no chat; what is too long loses its beginning.
Source of form and score: llm-foundry's in-context evaluation, as in DCLM's CORE (2406.11794) without examples.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nightschool.config import UserError
from nightschool.model.transformer import Transformer
from nightschool.tasks.exam import Score, interval
from nightschool.text import sources
from nightschool.text.packing import Item, collate
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.losses import log_probs

ROWS = 32  # choices that go through the model together


class Choice(NamedTuple):
    options: tuple[tuple[str, str], ...]  # (what stands before, what is scored)
    gold: int


def choice_from(record: Any, place: str) -> Choice:
    try:
        if "choices" in record:
            options = tuple((record["query"], text) for text in record["choices"])
        else:
            options = tuple((text, record["continuation"]) for text in record["context_options"])
        gold = int(record["gold"])
        whole = all(text.strip() for pair in options for text in pair)
        if len(options) < 2 or not 0 <= gold < len(options) or not whole:
            raise ValueError(record)
    except (ValueError, KeyError, TypeError, AttributeError):
        forms = '{"query", "choices", "gold"} or {"context_options", "continuation", "gold"}'
        raise UserError(f"{place}: a question of multiple choice is {forms}") from None
    return Choice(options, gold)


def exam_files(exams: tuple[str, ...]) -> dict[str, Path]:
    """Name -> file. UserError where there is none, or it holds anything else."""
    files = {path.name.removesuffix(".gz").removesuffix(".jsonl"): path for path in sources.files_of(exams)}
    for path in files.values():
        first = next(sources.rows(path), None)
        if not first:
            raise UserError(f"{path} holds no question")
        choice_from(first.record, first.place)
    return files


@torch.no_grad()
def examine(model: Transformer, tokenizer: Tokenizer, path: Path, n: int, seed: int) -> Score:
    """At most n questions of a file, drawn by the seed -> accuracy with its interval, and what guessing would have."""
    questions = [choice_from(row.record, row.place) for row in sources.rows(path)]
    questions = random.Random(f"choice {seed}").sample(questions, min(n, len(questions)))
    heads, tails = zip(*((a.rstrip(), f" {b.strip()}") for q in questions for a, b in q.options), strict=True)
    T = model.config.max_position_embeddings
    items = [
        Item([*head, *tail][-T - 1 :], ([0] * len(head) + [1] * len(tail))[-T - 1 :])
        for head, tail in zip(tokenizer.encode_many(heads), tokenizer.encode_many(tails), strict=True)
    ]
    order = sorted(range(len(items)), key=lambda i: items[i].num_positions)
    goodness = [0.0] * len(items)
    for start in range(0, len(order), ROWS):
        part = order[start : start + ROWS]
        length = max(items[i].num_positions for i in part)
        batch = collate([[items[i]] for i in part], length, tokenizer.end_of_text, packed=False)
        means = log_probs(model, batch).sum(1) / batch.weights.sum(1)
        for i, mean in zip(part, means.tolist(), strict=True):
            goodness[i] = mean
    right, at = 0, 0
    for question in questions:
        mine = goodness[at : at + len(question.options)]
        right += mine.index(max(mine)) == question.gold
        at += len(question.options)
    chance = sum(1 / len(question.options) for question in questions) / len(questions)
    return interval(right, len(questions)) | {"chance": chance}
