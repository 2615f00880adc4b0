"""From logits to tokens: temperature, truncation, and one draw per row from the row's own uniform number.

The draw inverts the cumulative distribution, so a row's token depends on its own logits and its own number alone, and
rows with nearly equal logits draw equal tokens. But: no top-k, no repetition penalties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nightschool.config import UserError, at_least


@dataclass(frozen=True)
class Sampling:
    """How to sample. Rows of one call share it, each with a seed of its own."""

    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0  # keep the likeliest tokens that together hold this mass; 1 = all
    min_p: float = 0.0  # keep tokens at least this likely, relative to the likeliest; 0 = all
    max_new_tokens: int = 256  # tokens sampled; what tools say is not counted
    max_calls: int = 4  # tool calls answered in one row; the turn that makes one more ends the row
    seed: int = 0  # row i draws from seed + i
    stop_ids: tuple[int, ...] | None = None  # None = <|im_end|> and <|endoftext|>
    overflow: Literal["error", "slide"] = "error"  # at the context's end: stop, or forget the window's older half

    def __post_init__(self) -> None:
        at_least(self, 0, "temperature", "min_p", "max_calls")
        at_least(self, 1, "max_new_tokens")
        if not math.isfinite(self.temperature):
            raise UserError(f"temperature must be finite; got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1]; got {self.top_p!r}")
        if self.min_p > 1:
            raise UserError(f"min_p must be at most 1; got {self.min_p!r}")
        if self.overflow not in ("error", "slide"):
            raise UserError(f"overflow must be 'error' or 'slide'; got {self.overflow!r}")


def uniforms(seed: int, count: int) -> Tensor:
    """(count,) numbers in (0, 1], a function of the seed alone."""
    return 1 - torch.rand(count, generator=torch.Generator().manual_seed(seed))


def truncate(p: Tensor, top_p: float, min_p: float) -> Tensor:
    """Probabilities (B, V) -> the same with the tail set to zero, not renormalised; ties at the border stay in."""
    least = min_p * p.amax(-1, keepdim=True)
    if top_p < 1:
        ordered = p.sort(-1, descending=True).values
        before = ordered.cumsum(-1) - ordered
        least = torch.maximum(least, ordered.masked_fill_(before >= top_p, math.inf).amin(-1, keepdim=True))
    return p * (p >= least)


@torch.inference_mode()
def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """One token a row. logits (B, V) float32, uniform (B,) in (0, 1] -> ids (B,), log_probs (B,), p (B, V).

    log_probs are under the distribution drawn from, after temperature and truncation (greedy: 0); p is before
    truncation, at temperature 1 where greedy.
    """
    if sampling.temperature not in (0, 1):
        logits = logits / sampling.temperature
    p = torch.softmax(logits, -1)
    if sampling.temperature == 0:
        ids = p.argmax(-1)
        return ids, p.new_zeros(len(p)), p
    whole = sampling.top_p == 1 and sampling.min_p == 0
    kept = p if whole else truncate(p, sampling.top_p, sampling.min_p)
    mass = kept.cumsum(-1)
    total = mass[:, -1:]
    # the first token whose cumulative mass reaches a number in (0, total]: never one of probability zero
    ids = torch.searchsorted(mass, uniform[:, None] * total)
    return ids[:, 0], (kept.gather(1, ids) / total).log_()[:, 0], p
