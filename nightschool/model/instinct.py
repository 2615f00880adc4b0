"""What attention heads can do before the first lesson: look back, and find again.

Animals are not born blank. A transformer is, and must first find out how to look up what it was told: "job of Greta:
potter" … "job of Greta:" -> "potter". That takes two heads, neither of any use alone: one writes down at each token
which tokens came before it, the other searches these notes for what stands here and copies what it finds (an induction
head, 2209.11895). Small models spend millions of tokens on a plateau until the two have met. Here both are there from
the start. Nothing is frozen and nothing is added to the architecture: only the first weights are others, and it looks
things up after fifty steps (LOG.md). A relative of mimetic initialization (2305.09828).

C channels, H query heads in G groups of R with one key-value head each, D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nightschool.model.transformer import Attention, Transformer

SWIFT = 0.15  # radians a token: only rotary pairs that turn faster tell neighbours apart


@torch.no_grad()
def instinct(model: Transformer, seed: int) -> None:
    """Give freshly initialised weights their instincts. For models of two layers or more.

    All embeddings share channel 0: "this is a token". Head h of layer 0 attends by it alone, to the token h + 1 back,
    and writes that token's embedding into channels shifted h + 1 times. Each later group of heads takes what stands n
    tokens back, looks for the place where the same stands n + 1 tokens back, and copies the token there.
    """
    config = model.config
    C, D, H, G = config.hidden_size, config.head_dim, config.num_attention_heads, config.num_key_value_heads
    R = H // G
    g = torch.Generator().manual_seed(seed)
    embedding = model.model.embed_tokens.weight
    scale = float(embedding.std())
    embedding[:, 0] = scale * C**0.5  # as long as all other channels together
    model.lm_head.weight.copy_(embedding)  # what is copied is what is said, also where they are not tied
    shift = max(1, (C - 1) // (H + 1))

    def back(reader: Tensor, n: int) -> Tensor:
        """(D, C), reads a token's embedding -> reads that of the token n back, where layer 0 has written it."""
        return torch.cat((reader[:, :1], reader[:, 1:].roll(n * shift, 1)), 1)

    frequency = config.rope_theta ** -(torch.arange(0, D, 2) / D)
    swift = (frequency > SWIFT).repeat(2)

    def turned(x: Tensor, positions: int) -> Tensor:
        """A head's vector (D), as the rotary embedding turns it."""
        angle = (positions * frequency).repeat(2)
        swapped = torch.cat((-x[D // 2 :], x[: D // 2]))
        return x * angle.cos() + swapped * angle.sin()

    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    for layer, attention in enumerate(attentions):
        q, k, v, o = heads(attention)
        for group in range(G):
            v[group, :, 0] = 0
            token = torch.randn(D, generator=g).sign() * swift
            n = (layer - 1) * G + group  # layer by layer, all that layer 0 has noted
            reader = k[group].clone()
            reader[:, 0] = 0
            if layer == 0:
                k[group, :, 0] = token
            else:
                k[group] = back(reader, n % H + 1)
            for r in range(R):
                h = group * R + r
                if layer == 0:
                    q[h, :, 0] = turned(token, -(h + 1))
                    o[h] = scale * back(v[group], h + 1)
                else:
                    q[h] = (q[h] + back(reader, n % H)) / 2  # half its own: the queries of a group must differ
                    o[h] = scale * v[group]
        attention.o_proj.weight.copy_(o.flatten(0, 1).T)


def heads(attention: Attention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views (H, D, C), (G, D, C), (G, D, C) of the projections to queries, keys and values; (H, D, C) to fill."""
    H, G, D = attention.H, attention.G, attention.D
    q, k, v = (p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    C = q.shape[1]
    return q.view(H, D, C), k.view(G, D, C), v.view(G, D, C), torch.empty(H, D, C)
