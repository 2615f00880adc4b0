"""What texts cost a model in bits, and what one model has lost of them against another, from the common to the rare.

A model that collapses still finds common texts likely; it forgets the rare ones. So texts are put in ten equal parts
by how likely both models together find them (by one alone, its luck would count as rarity), each with its excess.
But: a text counts by its bytes, whatever its kind; where the true probabilities are known see lab/collapse.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from nightschool.model.transformer import Transformer
from nightschool.night.diversity import Measured, Z, measured
from nightschool.text.packing import Item, collate, windows
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.losses import log_probs

NUM_PARTS, NUM_ROWS = 10, 128


@torch.no_grad()
def nats_of(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """log p(text and its end | prompt) for each, [N]. What is longer than the context is read a window at a time."""
    rows: list[tuple[int, Item]] = []
    pairs = zip(tokenizer.encode_many(prompts), tokenizer.encode_many(texts), strict=True)
    for i, (head, body) in enumerate(pairs):
        item = Item([*head, *body, tokenizer.end_of_text], [0] * len(head) + [1] * (len(body) + 1))
        rows += [(i, part) for part in windows(item, model.config.max_position_embeddings)]
    rows.sort(key=lambda row: row[1].num_positions)
    nats = np.zeros(len(texts))
    for start in range(0, len(rows), NUM_ROWS):
        owners, items = zip(*rows[start : start + NUM_ROWS], strict=True)
        batch = collate([[item] for item in items], items[-1].num_positions, tokenizer.end_of_text, packed=False)
        np.add.at(nats, np.array(owners), log_probs(model, batch).sum(1).double().numpy())
    return nats


def excess_bits(after: np.ndarray, before: np.ndarray, num_bytes: np.ndarray) -> list[Measured]:
    """Bits a byte that `after` needs more than `before`, of ten parts of the texts from the likeliest to the rarest.

    after, before: nats_of each text, [N]; num_bytes: of each. Intervals: of a ratio of sums over texts (delta method).
    """
    order = np.argsort(-(after + before) / num_bytes, kind="stable")
    found = []
    for part in np.array_split(order, NUM_PARTS):
        bits, size = (before - after)[part] / math.log(2), num_bytes[part]
        excess = bits.sum() / size.sum()
        half = Z * (bits - excess * size).std(ddof=1) * math.sqrt(len(part)) / size.sum()
        found.append(measured(excess, excess - half, excess + half))
    return found
