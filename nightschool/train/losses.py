"""Losses: (model, batch) -> {name: (sum, count)}; the loop divides each by its own count over all micro-batches.

Logits are made only where a loss is asked for (weight > 0), a chunk of tokens at a time, and the gradient of the
cross-entropy is computed in the forward while the chunk's probabilities are still in cache: the (tokens, V) matrix
never exists. Source: Cut Your Losses (2411.09009), Liger Kernel (2410.10989).

N tokens, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from nightschool.model.transformer import Transformer
    from nightschool.text.packing import Batch

CHUNK = 1024  # tokens whose logits exist at a time: what a CPU's cache likes
GPU_CHUNK = 8192  # what keeps a GPU busy: half a gigabyte of bfloat16 logits at a vocabulary of 32,768
ROUND = 128  # learned tokens are filled up to a multiple of it

Losses = dict[str, tuple[Tensor, Tensor]]


def loss_and_gradient(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """logits (N, V), targets and weights (N,) -> sum of weights * -log p, float32; its gradient in logits' dtype."""
    p = torch.softmax(logits.float(), dim=-1)
    chosen = torch.arange(len(p), device=p.device), targets
    p_chosen = p[chosen].clamp(min=torch.finfo(torch.float32).tiny)  # a finite loss where p is 0
    p.mul_(weights[:, None])[chosen] = weights * (p_chosen - 1)
    return -(weights @ p_chosen.log()), p.to(logits.dtype)


def plain_loss_and_gradient(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The same as a formula without writes, which the compiler makes one kernel of."""
    p = torch.softmax(logits.float(), dim=-1)
    p_chosen = p.gather(1, targets[:, None]).squeeze(1).clamp(min=torch.finfo(torch.float32).tiny)
    is_target = torch.arange(p.shape[1], device=p.device) == targets[:, None]
    return -(weights * p_chosen.log()).sum(), ((p - is_target.float()) * weights[:, None]).to(logits.dtype)


@cache
def compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    """For a GPU, where a pass over the logits costs as much as the product that made them."""
    return torch.compile(plain_loss_and_gradient)


class CrossEntropy(Function):
    """sum of weights * -log softmax(hidden weightᵀ)[targets]; gradients are ready when the forward returns."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        size, from_logits = (GPU_CHUNK, compiled()) if hidden.is_cuda else (CHUNK, loss_and_gradient)
        for a in range(0, len(hidden), size):
            h = hidden[a : a + size]
            loss, d_logits = from_logits(h @ weight.t(), targets[a : a + size], weights[a : a + size])
            total += loss
            torch.mm(d_logits, weight, out=d_hidden[a : a + size])
            d_weight += d_logits.t() @ h
        ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grad.to(d_hidden.dtype), d_weight * grad.to(d_weight.dtype), None, None


def learned(weights: Tensor) -> tuple[Tensor, int]:
    """weights (B, T) -> places in it, flattened, of what has weight, filled up with 0s; how many before the filling.

    On a CPU a kernel is built and kept for every shape that a product meets. With each number of learned tokens a
    shape of its own, memory grew to 4 GB in ten minutes and a step took a quarter longer (LOG.md).
    """
    chosen = weights.flatten().nonzero().squeeze(1)
    return F.pad(chosen, (0, -len(chosen) % ROUND)), len(chosen)


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """hidden (B, T, C), weight (V, C) of its dtype, targets and weights (B, T) -> (sum in nats, sum of weights)."""
    chosen, num_learned = learned(weights)
    picked = (x.flatten(0, 1).index_select(0, chosen) for x in (hidden, targets, weights))
    h, target, w = picked
    w[num_learned:] = 0
    return CrossEntropy.apply(h, weight, target, w), weights.sum()


def next_token(model: Transformer, batch: Batch) -> Losses:
    """Pretraining and fine-tuning: the cross-entropy of the next token where the batch gives it weight."""
    hidden = model.hidden(batch.ids, batch.docs)
    return {"loss": cross_entropy(hidden, model.lm_head.weight.to(hidden.dtype), batch.targets, batch.weights)}


def log_probs(model: Transformer, batch: Batch) -> Tensor:
    """log p of each target, (B, T) float32 with gradient, 0 where the weight is 0; logits a chunk at a time.

    The chunks' logits are made again in the backward (checkpointing), so none is kept. The batch may be on another
    device than the model; the result is on the batch's.
    """
    home = batch.ids.device
    batch = batch.to(model.lm_head.weight.device)
    hidden = model.hidden(batch.ids, batch.docs)
    weight = model.lm_head.weight.to(hidden.dtype)
    chosen, num_learned = learned(batch.weights)
    h, targets = hidden.flatten(0, 1).index_select(0, chosen), batch.targets.flatten()[chosen]
    parts = [
        checkpoint(chosen_log_probs, h[a : a + CHUNK], weight, targets[a : a + CHUNK], use_reentrant=False)
        for a in range(0, max(len(h), 1), CHUNK)  # a rank on which nothing counts has a gradient too, of zeros
    ]
    out = torch.zeros(batch.ids.numel(), dtype=torch.float32, device=h.device)
    return out.index_copy(0, chosen[:num_learned], torch.cat(parts)[:num_learned]).view(batch.ids.shape).to(home)


def chosen_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """hidden (N, C), weight (V, C), targets (N,) -> log p of the targets (N,), float32."""
    logits = (hidden @ weight.t()).float()
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(dim=-1)


def distil(teacher: Transformer) -> Callable[[Transformer, Batch], Losses]:
    """A loss for batches in which some tokens are dreamt (stream "dream", 1 = dreamt): there the teacher's whole
    distribution is learned, forward KL, and elsewhere the next token. Both sums go by the count of all that is
    learned, so that each token weighs the same."""

    def loss(model: Transformer, batch: Batch) -> Losses:
        dreamt = batch.streams.get("dream", torch.zeros_like(batch.weights))
        hidden, weight = model.hidden(batch.ids, batch.docs), model.lm_head.weight
        told, _ = cross_entropy(hidden, weight.to(hidden.dtype), batch.targets, batch.weights * (1 - dreamt))
        chosen, num_dreamt = learned(dreamt * batch.weights)
        with torch.no_grad():
            asked = teacher.hidden(batch.ids, batch.docs).flatten(0, 1).index_select(0, chosen)
        mine = hidden.flatten(0, 1).index_select(0, chosen)
        heads = weight.to(hidden.dtype), teacher.lm_head.weight.detach().to(hidden.dtype)
        apart = [told.new_zeros(0)]
        for a in range(0, len(chosen), CHUNK):
            rows = mine[a : a + CHUNK], asked[a : a + CHUNK]
            apart.append(checkpoint(divergence, *rows, *heads, use_reentrant=False))
        count = batch.weights.sum()
        return {"loss": (told, count), "dream": (torch.cat(apart)[:num_dreamt].sum(), count)}

    return loss


def divergence(hidden: Tensor, asked: Tensor, weight: Tensor, teacher_weight: Tensor) -> Tensor:
    """hidden, asked (N, C), weights (V, C) -> KL(teacher || model) of each of N, in nats."""
    log_q = torch.log_softmax((hidden @ weight.t()).float(), dim=-1)
    log_p = torch.log_softmax((asked @ teacher_weight.t()).float(), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
