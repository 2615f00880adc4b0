"""Texts -> kinds by meaning, as a model sees it: texts whose mean hidden states point the same way.

A text's vector is the mean over its tokens of a checkpoint's last hidden states, less the mean of the reference's, at
length 1. Two texts are of one kind where their cosine is higher than nearly all (USUAL) that a reference text has with
its nearest neighbour of other words: what real texts have among themselves is no repetition.
But: a language model's states tell topics and form better than sense, and a better model's better; pairs join into
chains; every pair is looked at, so only MOST texts; a text counts by its first tokens, as many as the context holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nightschool.model.transformer import Transformer
from nightschool.night.kinds import Kinds, merged
from nightschool.text.tokenizer import Tokenizer

USUAL, MOST, NUM_ROWS = 0.99, 20_000, 64


@torch.no_grad()
def vectors(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Mean of the last hidden states of each text, [N, C] float32."""
    context = model.config.max_position_embeddings
    rows = [(ids or [tokenizer.end_of_text])[:context] for ids in tokenizer.encode_many(texts)]
    found = np.empty((len(rows), model.config.hidden_size), np.float32)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), NUM_ROWS):
        some = order[start : start + NUM_ROWS]
        ids = torch.full((len(some), len(rows[some[-1]])), tokenizer.end_of_text)
        for place, i in enumerate(some):
            ids[place, : len(rows[i])] = torch.tensor(rows[i])
        lengths = torch.tensor([len(rows[i]) for i in some])
        inside = torch.arange(ids.shape[1]) < lengths[:, None]  # what comes after a text cannot change it
        hidden = model.hidden(ids).float() * inside[:, :, None]
        found[some] = (hidden.sum(1) / lengths[:, None]).numpy()
    return found


def same_meaning(found: np.ndarray, near: Kinds, reference: np.ndarray) -> Kinds:
    """found: vectors [N, C]; near: the texts' kinds by words [N]; reference: rows of real texts -> kinds by meaning."""
    centred = found - found[reference].mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    real = centred[reference[np.unique(near[reference], return_index=True)[1]]]  # one of each kind
    apart = real @ real.T
    np.fill_diagonal(apart, -1)
    least = np.quantile(apart.max(axis=1), USUAL)
    _, first, of = np.unique(near, return_index=True, return_inverse=True)
    labels = first[of]  # as `merged` has them
    for start in range(0, len(centred), 1024):
        i, j = np.nonzero(centred[start : start + 1024] @ centred.T > least)
        labels = merged(labels, start + i, j)
    return labels
