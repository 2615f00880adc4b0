"""The model as a sampler wants it: a KV cache of slots, a prefill, and a step that costs few operations.

At small sizes the number of operations is the cost, so the decoder keeps weights of its own: projections of one input
are one matrix; each norm's weight and sqrt(n) are folded into the matrix that follows; rotary partners lie side by
side, so that a rotation is one complex product; what can be is done in place. But: no paging of the cache, no
quantisation, one device.

The cache is (layer, slot·G, key | value, column, D) and float32: one query a head is slower in bfloat16 on a CPU.
A slot's tokens fill its columns from 0. Active rows hold the first slots, so a layer's keys and values are slices.

B rows, N tokens in a pass; P threads; C channels, H query heads, G key-value heads, D head dim.
Source: gpt-fast (PyTorch) for the fused layout; the equations are model/transformer.py's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nightschool.model.lora import merged
from nightschool.model.transformer import Transformer, frequencies

Attend = Callable[
    [int, Tensor], Tensor | None
]  # (layer, rotated qkv (N, H + 2G, D) float32) -> (N, H·D); None: end here


class Layer(NamedTuple):
    """Matrices are (P, in, out / P), in the decoder's dtype."""

    qkv: Tensor
    bias: Tensor | None  # (H + 2G, D) float32; Qwen2's
    qk_norm: Tensor | None  # (H + G, D) float32; Qwen3's
    o: Tensor
    gate_up: Tensor
    down: Tensor


def project(x: Tensor, w: Tensor) -> Tensor:
    """(N, in) times (P, in, out / P) -> (N, out). For one row each of P threads reads its own part of w: MKL's plain
    product would use one thread, and take 1.6 times as long again were w stored (out, in)."""
    if len(x) == 1:
        return torch.bmm(x.expand(len(w), 1, -1), w).view(1, -1)
    y = x.new_empty(len(x), w.shape[0] * w.shape[2])
    for part, columns in zip(w, y.chunk(len(w), dim=1), strict=True):
        torch.mm(x, part, out=columns)
    return y


@lru_cache(maxsize=256)
def places(B: int, G: int, T: int, device: torch.device) -> Tensor:
    """Where column 0 of each lies in a layer's (slot, head, key | value, column); in qkv's order: row, k | v, head."""
    return (torch.arange(B * G * 2, device=device).view(B, G, 2) * T).mT.contiguous()


class Decoder:
    """Computes with the weights a model had when it was last loaded."""

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        self.config = c = model.config
        self.dtype = dtype
        self.H, self.G, self.D = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.load(model)

    @torch.inference_mode()
    def load(self, model: Transformer) -> None:
        """Copy the model's weights as they are now. Milliseconds where the model is small."""
        assert model.config == self.config, f"the decoder was built for {self.config}, not {model.config}"
        c, weights = self.config, {name: w.detach().float() for name, w in merged(model).items()}
        C, H, G, D = c.hidden_size, self.H, self.G, self.D
        device = weights["model.norm.weight"].device
        partners = torch.arange(D, device=device).view(2, D // 2).t().reshape(-1)  # 0, D/2, 1, D/2 + 1, ...

        def matrix(w: Tensor) -> Tensor:  # (out, in) -> (P, in, out / P)
            parts = math.gcd(len(w), torch.get_num_threads() if device.type == "cpu" else 1)
            return w.t().unflatten(1, (parts, -1)).transpose(0, 1).to(self.dtype).contiguous()

        def layer(i: int) -> Layer:
            def get(*names: str, kind: str = "weight") -> Tensor:
                return torch.cat([weights[f"model.layers.{i}.{name}.{kind}"] for name in names])

            def arranged(qkv: Tensor) -> Tensor:  # partners side by side; the attention's scale, where no norm bears it
                q, k, v = qkv.view(H + 2 * G, D, -1).split((H, G, G))
                scale = 1 if c.family == "qwen3" else D**-0.5
                return torch.cat((q[:, partners] * scale, k[:, partners], v))

            names = "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"
            qkv = arranged(get(*names)).view(-1, C) * get("input_layernorm") * math.sqrt(C)
            bias = arranged(get(*names, kind="bias")).view(-1, D) if c.family == "qwen2" else None
            qk_norm = None
            if c.family == "qwen3":
                q_norm = get("self_attn.q_norm")[partners]  # its sqrt(D) cancels against the attention's scale
                k_norm = get("self_attn.k_norm")[partners] * math.sqrt(D)
                qk_norm = torch.cat((q_norm.expand(H, D), k_norm.expand(G, D)))
            gate_up = get("mlp.gate_proj", "mlp.up_proj") * get("post_attention_layernorm") * math.sqrt(C)
            o, down = matrix(get("self_attn.o_proj")), matrix(get("mlp.down_proj"))
            return Layer(matrix(qkv), bias, qk_norm, o, matrix(gate_up), down)

        self.layers = [layer(i) for i in range(c.num_hidden_layers)]
        self.embed = weights["model.embed_tokens.weight"].to(self.dtype, copy=True)
        head = weights["model.embed_tokens.weight" if c.tie_word_embeddings else "lm_head.weight"]
        self.head = matrix(head * weights["model.norm.weight"] * math.sqrt(C))
        frequency = frequencies(D, c.rope_theta, c.rope_scaling, device)
        angle = torch.arange(c.max_position_embeddings, device=device).float()[:, None, None] * frequency
        self.rotations = torch.polar(torch.ones_like(angle), angle)  # (context, 1, D/2) complex
        self.floor = {n: torch.tensor(math.sqrt(n * c.rms_norm_eps), device=device) for n in (C, D)}

    def norm(self, x: Tensor) -> Tensor:
        """sqrt(|x|² + n·eps) over the last dimension of length n, float32: x over it is an RMSNorm without its
        sqrt(n) and weight. Two short operations; torch's rms_norm is six on a CPU."""
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).hypot_(self.floor[x.shape[-1]])

    def forward(self, ids: Tensor, rotations: Tensor, attend: Attend) -> Tensor:
        """ids (N,), rotations (N, 1, D/2) -> the residual stream after the last layer, (N, C)."""
        N, num_rotated, D, dtype = len(ids), self.H + self.G, self.D, self.dtype
        x = self.embed[ids]
        for i, layer in enumerate(self.layers):
            qkv = project((x / self.norm(x)).to(dtype), layer.qkv).float().view(N, -1, D)
            qk = qkv[:, :num_rotated]
            if layer.bias is not None:
                qkv += layer.bias
            if layer.qk_norm is not None:
                qk.div_(self.norm(qk)).mul_(layer.qk_norm)
            torch.view_as_complex(qk.view(N, num_rotated, D // 2, 2)).mul_(rotations)
            y = attend(i, qkv)
            if y is None:
                break
            x += project(y.to(dtype), layer.o)
            gate, up = project((x / self.norm(x)).to(dtype), layer.gate_up).chunk(2, dim=-1)
            x += project(F.silu(gate, inplace=True).mul_(up), layer.down)
        return x

    @torch.inference_mode()
    def reserve(self, cache: Tensor | None, slots: int, columns: int) -> Tensor:
        """A cache of so many slots and columns; a narrower one is widened."""
        if cache is None:
            shape = len(self.layers), slots * self.G, 2, columns, self.D
            return self.rotations.real.new_zeros(
                shape
            )  # not empty: what was never written is read, at probability zero
        missing = columns - cache.shape[3]
        return F.pad(cache, (0, 0, 0, missing)) if missing > 0 else cache

    @torch.inference_mode()
    def move(self, cache: Tensor, source: int, target: int, columns: int) -> None:
        """Copy a slot's first columns to another slot."""
        slots = cache.unflatten(1, (-1, self.G))
        slots[:, target, :, :, :columns] = slots[:, source, :, :, :columns]

    @torch.inference_mode()
    def prefill(self, cache: Tensor, start: int, contexts: list[list[int]]) -> None:
        """Fill the slots from `start` with the keys and values of contexts; equal ones are computed once."""
        H, G, D = self.H, self.G, self.D
        unique = {context: i for i, context in enumerate(dict.fromkeys(map(tuple, contexts)))}
        B, T = len(unique), max(map(len, unique))
        which = torch.tensor([unique[tuple(context)] for context in contexts])
        ids = torch.tensor([context + (0,) * (T - len(context)) for context in unique], device=self.embed.device)
        slots = cache.unflatten(1, (-1, G))[:, start : start + len(contexts)]

        def attend(layer: int, qkv: Tensor) -> Tensor | None:
            # padding stands right of what is real, so causality hides it; steps overwrite it in the cache
            q, k, v = qkv.view(B, T, -1, D).transpose(1, 2).split((H, G, G), dim=1)
            slots[layer, :, :, 0, :T] = k[which]
            slots[layer, :, :, 1, :T] = v[which]
            if layer == len(self.layers) - 1:
                return None  # its keys and values were all that was wanted
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != G, scale=1.0)
            return y.transpose(1, 2).reshape(B * T, -1)

        if T:
            self.forward(ids.view(-1), self.rotations[:T].repeat(B, 1, 1), attend)

    @torch.inference_mode()
    def step(self, cache: Tensor, last: list[int], lengths: list[int]) -> Tensor:
        """Feed row i, in slot i, the last of its lengths[i] ids -> logits of the next one, (B, V) float32."""
        H, G, D, device = self.H, self.G, self.D, cache.device
        B, T, longest = len(last), cache.shape[3], max(lengths)
        position = torch.tensor(lengths, device=device) - 1
        place = places(B, G, T, device)
        column = (place + position[:, None, None]).view(-1)
        columns = cache.flatten(1, 3).unbind()
        keys, values = (cache[:, : B * G, i, :longest].unbind() for i in (0, 1))
        if B > 1:  # (B·H, longest): where each head finds its values
            read = place[:, 1].reshape(-1, 1).int() + torch.arange(longest, dtype=torch.int32, device=device)
            read = read.repeat_interleave(H // G, 0)
        bias = None
        if min(lengths) < longest:
            unused = torch.arange(longest, device=device) > position[:, None]  # (B, longest)
            bias = torch.zeros(B, longest, device=device).masked_fill_(unused, -math.inf)
            bias = bias.repeat_interleave(G, 0)[:, :, None]

        def attend(layer: int, qkv: Tensor) -> Tensor:
            columns[layer].index_put_((column,), qkv[:, H:].reshape(-1, D))
            # (B·G, longest, H/G): for one query a head, keys @ q is twice as fast as q @ keys.mT
            scores = torch.bmm(keys[layer], qkv[:, :H].reshape(B * G, -1, D).mT)
            if bias is not None:
                scores += bias
            p = torch.softmax(scores.mT, -1)  # (B·G, H/G, longest)
            if B == 1:
                return torch.bmm(p, values[layer]).view(1, -1)
            # the same weighted sum of values; it reads many rows' 1.6 times as fast as bmm
            p = p.view(B * H, longest)
            return F.embedding_bag(read, columns[layer], mode="sum", per_sample_weights=p).view(B, -1)

        x = self.forward(torch.tensor(last, device=device), self.rotations[position], attend)
        return project((x / self.norm(x)).to(self.dtype), self.head).float()
