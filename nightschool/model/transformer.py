"""The Qwen3 architecture and its two relatives, Qwen2 and Llama: config -> logits, in one file.

RMSNorm before each block, grouped-query attention with rotary positions, SwiGLU, optionally tied embeddings. Qwen3
normalises each head's queries and keys, Qwen2 has biases on queries, keys and values instead, Llama neither. Parameter
for parameter what transformers calls Qwen3ForCausalLM, Qwen2ForCausalLM and LlamaForCausalLM, so a saved state dict is
a Hugging Face checkpoint. But: no sliding window, no mixture of experts, of the rope scalings Llama 3's alone.

B batch, T time, C channels, H query heads, G key-value heads, D head dim, V vocabulary.
Sources: Qwen3 technical report (2505.09388); The Llama 3 herd (2407.21783); names as in transformers' modeling files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nightschool.model import kernels
from nightschool.model.fused import normalize, normalize_rotate, swiglu

Family = Literal["qwen3", "qwen2", "llama"]


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretch of a context: slow frequencies are divided by `factor`, fast ones stay, between is blended."""

    factor: float
    low_freq_factor: float  # waves longer than the original context / this are stretched whole
    high_freq_factor: float  # waves shorter than the original context / this stay
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    family: Family = "qwen3"
    rope_scaling: RopeScaling | None = None


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, self.eps) * self.weight.to(x.dtype)


class Linear(nn.Linear):
    """A projection that computes in the dtype of its input; the master weight stays float32. Who gives it a bias
    adds that himself: see Attention."""

    def __init__(self, fan_in: int, fan_out: int, bias: bool = False) -> None:
        super().__init__(fan_in, fan_out, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None, device: torch.device) -> Tensor:
    """Radians a position of each of the head's D/2 pairs, float32."""
    frequency = theta ** -(torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    if scaling is None:
        return frequency
    turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)  # in the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequency * (kept + (1 - kept) / scaling.factor)


def rotary_table(
    T: int, head_dim: int, theta: float, device: torch.device, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of positions 0 to T-1, each (T, 1, D) float32: a head x turns to
    x * cos + (its halves swapped) * sin."""
    frequency = frequencies(head_dim, theta, scaling, device)
    angle = torch.arange(T, device=device).float()[:, None, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor, H: int) -> tuple[Tensor, Tensor, Tensor]:
    """What fused.normalize_rotate does, without the norm: qkv (B, T, H+2G, D) -> q scaled, k, v, each contiguous."""
    G, D = (qkv.shape[2] - H) // 2, qkv.shape[3]
    x = qkv[:, :, : H + G]
    turned = x * cos + x.roll(D // 2, -1) * sin
    q, k, v = turned[:, :, :H] * D**-0.5, turned[:, :, H:], qkv[:, :, H + G :]
    return q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()


def folded(norm: RMSNorm, *projections: Linear) -> Tensor:
    """The weights of projections that read the same normalised input, as one matrix, times the norm's own weight:
    one large product for several, and no pass over the activations to scale them. Float32."""
    return torch.cat([p.weight for p in projections]) * norm.weight


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C, D = config.hidden_size, config.head_dim
        self.H, self.G, self.D, self.family = config.num_attention_heads, config.num_key_value_heads, D, config.family
        self.q_proj = Linear(C, self.H * D, bias=self.family == "qwen2")
        self.k_proj = Linear(C, self.G * D, bias=self.family == "qwen2")
        self.v_proj = Linear(C, self.G * D, bias=self.family == "qwen2")
        self.o_proj = Linear(self.H * D, C)
        if self.family == "qwen3":
            self.q_norm = RMSNorm(D, config.rms_norm_eps)
            self.k_norm = RMSNorm(D, config.rms_norm_eps)

    def forward(self, x: Tensor, norm: RMSNorm, cos: Tensor, sin: Tensor, apart: Tensor | None) -> Tensor:
        B, T, _ = x.shape
        H, G, D = self.H, self.G, self.D
        projections = self.q_proj, self.k_proj, self.v_proj
        w, b = folded(norm, *projections).to(x.dtype), None
        if self.family == "qwen2":
            b = torch.cat([p.bias for p in projections]).to(x.dtype)
        qkv = F.linear(normalize(x, norm.eps), w, b).view(B, T, H + 2 * G, D)
        if self.family == "qwen3":
            q_scale = self.q_norm.weight * D**-0.5  # the softmax's scale rides on the query's norm
            scale = torch.cat((q_scale.expand(H, D), self.k_norm.weight.expand(G, D))).to(x.dtype)
            q, k, v = normalize_rotate(qkv, scale, cos, sin, H, self.q_norm.eps)
        else:
            q, k, v = rotate(qkv, cos, sin, H)
        return self.o_proj(kernels.attend(q, k, v, apart).reshape(B, T, H * D))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C, M = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj, self.down_proj = Linear(C, M), Linear(C, M), Linear(M, C)

    def forward(self, x: Tensor, norm: RMSNorm) -> Tensor:
        x = normalize(x, norm.eps)
        gate, up = (F.linear(x, folded(norm, p).to(x.dtype)) for p in (self.gate_proj, self.up_proj))
        return self.down_proj(swiglu(gate, up))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, apart: Tensor | None) -> Tensor:
        x = x + self.self_attn(x, self.input_layernorm, cos, sin, apart)
        return x + self.mlp(x, self.post_attention_layernorm)


class Decoder(nn.Module):
    """What Hugging Face calls `model`: everything but the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.recompute = False  # activation checkpointing: keep a block's input alone, compute the rest again

    def forward(self, ids: Tensor, docs: Tensor | None, dtype: torch.dtype) -> Tensor:
        # Rotary positions act through their differences alone, so a packed document need not start again at 0.
        c = self.config
        cos, sin = rotary_table(ids.shape[1], c.head_dim, c.rope_theta, ids.device, c.rope_scaling)
        cos, sin = cos.to(dtype), sin.to(dtype)
        heads = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        varlen = ids.is_cuda and kernels.settle(ids.device, *heads, dtype).varlen
        apart = None if docs is None else kernels.starts(docs) if varlen else kernels.document_bias(docs, dtype)
        x = self.embed_tokens(ids).to(dtype)
        for block in self.layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, apart, use_reentrant=False)
            else:
                x = block(x, cos, sin, apart)
        return self.norm(x)


class Transformer(nn.Module):
    """Token ids -> hidden states -> logits. `dtype` is what it computes in; parameters are float32."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def init_weights(self, seed: int) -> None:
        """Uniform matrices of variance 1/C; zero where a block writes to the residual, so each begins as identity;
        zero biases."""
        g = torch.Generator().manual_seed(seed)
        C = self.config.hidden_size
        for name, p in self.named_parameters():
            if p.ndim == 1:
                p.data.fill_(0.0 if name.endswith("bias") else 1.0)
            elif "embed" in name or "lm_head" in name:
                p.data.normal_(0, 0.02, generator=g)
            elif "o_proj" in name or "down_proj" in name:
                p.data.zero_()
            else:
                p.data.uniform_(-(3**0.5) * C**-0.5, 3**0.5 * C**-0.5, generator=g)

    def hidden(self, ids: Tensor, docs: Tensor | None = None) -> Tensor:
        """ids (B, T) -> final hidden states (B, T, C). `docs` (B, T) numbers the documents packed into each row:
        a token attends to its own document alone."""
        return self.model(ids, docs, self.dtype)

    def forward(self, ids: Tensor, docs: Tensor | None = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V), float32."""
        return self.lm_head(self.hidden(ids, docs)).float()
