"""Make a training step fit a GPU: the largest micro-batch that memory holds, found by trying, no table of cards.

The batch of a step stays what the plan asks for; only in how many parts it goes through the model changes, and not its
gradient beyond rounding. Where even a small part is too much, activations are computed twice instead of kept
(activation checkpointing, 1604.06174: about a third more compute); if that is too much too, a smaller depth is named.

But: what is tried is forward and backward beside the optimizer's state, not the update's own temporaries, which are
small beside the activations that are free by then. Practice (rl) is not fitted. Untried on a GPU; tests run the same
code on a CPU whose loss pretends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from nightschool.config import UserError
from nightschool.model.transformer import Transformer
from nightschool.text.packing import Batch
from nightschool.train.loop import LossFn, backward, split

MOST = 65_536  # positions in one forward: more make no GPU faster
LEAST = 8_192  # with fewer a GPU is idle, and recomputing activations is the lesser loss


def prepare(model: Transformer, loss_fn: LossFn, batches: Iterator[Batch]) -> int:
    """Ready a model for training where it lives -> the most positions of one forward. A CPU takes it as it is.

    batches: like those to come; one is tried. The optimizer's state should be there already.
    """
    if not next(model.parameters()).is_cuda:
        return MOST
    for block in model.model.layers:
        block.compile()  # all are alike, so one compilation serves them all; TORCH_COMPILE_DISABLE=1 leaves it out
    return fit(model, loss_fn, next(batches))


def fit(model: Transformer, loss_fn: LossFn, batch: Batch, most: int = MOST, least: int = LEAST) -> int:
    """The most positions in one forward and backward that memory holds, by halving from `most`; sets
    model.model.recompute where needed. Says so on stderr if it is not `most`. UserError where one row is too much."""
    whole, row = batch.ids.numel(), batch.ids.shape[1]
    most = max(min(most, whole), row)
    for recompute, fewest in ((False, min(least, most)), (True, row)):
        model.model.recompute = recompute
        positions = most
        while positions >= fewest:
            if holds(model, loss_fn, split(batch, positions)[-1]):  # the largest, by a row
                if recompute or positions < most:
                    how = ", activations computed twice" if recompute else ""
                    print(f"memory holds {positions:,} of {whole:,} positions at a time{how}", file=sys.stderr)
                return positions
            positions //= 2
    depth = model.config.num_hidden_layers
    raise UserError(f"memory does not hold one row of {row} tokens; choose a --depth below {depth}")


def holds(model: Transformer, loss_fn: LossFn, micro: Batch) -> bool:
    """Whether forward and backward of a micro-batch find the memory they need. Leaves no gradient behind."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what an attempt before left is no use in pieces
    try:
        backward(model, loss_fn, [micro])
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad()
