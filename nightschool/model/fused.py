"""The arithmetic between the matrix products: normalise, rotate, attend, gate. On a CPU with gradients by hand.

On a CPU the matrix products of a small model already run at the machine's peak; what is left to win lies between
them, where autograd makes a dozen passes over memory for each formula. Each Function here makes the fewest passes
it can, works in any dtype on any device, and is tested against the plain formula. Gains in bench/train_cpu.py.
On a GPU the compiler fuses the plain formulas, so they stand here too (untried on a GPU).

But: no second derivatives, no dropout. B batch, T time, H query heads, G key-value heads, R = H / G, D head dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

BLOCK = 128  # queries at a time: causal attention then skips keys in the future, and the scores stay in cache


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x²) + eps) over the last axis, kept; summed in float32 at least."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return (norm.square() / x.shape[-1] + eps).rsqrt().to(x.dtype)


class Normalize(Function):
    """x / rms(x). The norm's weight is folded into the projection that follows (see transformer.py)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        inverse = inverse_rms(x, eps)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors
        mean = (grad * y).mean(dim=-1, keepdim=True)
        return torch.addcmul(grad, y, mean, value=-1).mul_(inverse), None


class NormalizeRotate(Function):
    """QK-norm and rotary positions: qkv (B, T, H+2G, D) -> q (B, H, T, D), k and v (B, G, T, D), each contiguous.

    `weight` (H+G, D) scales the heads of q and k after normalising; `cos`, `sin` (T, 1, D) as
    transformer.rotary_table makes them: rotated = x * cos + halves_swapped(x) * sin.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, H: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, D = qkv.shape[2:]
        G, half = (heads - H) // 2, D // 2
        x = qkv[:, :, : H + G]
        inverse = inverse_rms(x, eps)
        y = x * inverse
        by_cos, by_sin = weight * cos, weight.roll(half, -1) * sin  # (T, H+G, D): small beside (B, T, H+G, D)
        # All arithmetic on whole contiguous tensors, copies for the rest: over half heads it is six times slower.
        rotated = (y * by_cos).addcmul_(y.roll(half, -1), by_sin)
        q, k, v = (z.transpose(1, 2).contiguous() for z in (rotated[:, :, :H], rotated[:, :, H:], qkv[:, :, H + G :]))
        ctx.save_for_backward(y, inverse, weight, cos, sin)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        y, inverse, weight, cos, sin = ctx.saved_tensors
        B, T, heads, D = y.shape
        half = D // 2
        dqkv = y.new_empty(B, T, heads + dv.shape[1], D)
        dqkv[:, :, heads:] = dv.transpose(1, 2)
        grad = torch.cat((dq, dk), dim=1).transpose(1, 2).contiguous()
        unrotated = (grad * cos).addcmul_(grad.roll(half, -1), sin.roll(half, -1))  # before the weight
        product = unrotated * y
        dweight = product.sum(dim=(0, 1))
        mean = (product * weight).mean(dim=-1, keepdim=True)
        unrotated.mul_(weight).addcmul_(y, mean, value=-1)
        torch.mul(unrotated, inverse, out=dqkv[:, :, :heads])
        return dqkv, dweight, None, None, None, None


class CausalAttention(Function):
    """softmax(q kᵀ + mask) v by explicit matrix products over blocks of queries; q comes scaled.

    q (B, H, T, D), k and v (B, G, T, D) -> (B, T, H, D). `bias` (B, 1, T, T), 0 or -inf, replaces the causal mask: a
    query's own document alone, of documents one after another.
    PyTorch's flash kernel for the CPU runs at 15-30% of the matrix peak, its backward lowest; this one keeps the
    probabilities (in q's dtype) for the backward. Blocks of keys that end before the documents of its queries begin
    are left out: in rows of 2048 with conversations of 370 tokens that is two thirds of them.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        B, H, T, D = q.shape
        G = k.shape[1]
        R = H // G
        k, v = k.view(B * G, T, D), v.view(B * G, T, D)
        q = q.view(B, G, R, T, D)
        y = q.new_empty(B, T, H, D)
        future = torch.full((BLOCK, BLOCK), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        starts = [0] * -(-T // BLOCK) if bias is None else (bias[:, 0, ::BLOCK] == 0).int().argmax(-1).amin(0).tolist()
        saved = []
        for a, start in zip(range(0, T, BLOCK), starts, strict=True):
            b, c = min(a + BLOCK, T), start // BLOCK * BLOCK
            q_block = q[:, :, :, a:b].reshape(B * G, R * (b - a), D)  # the R heads of a group share their keys
            scores = torch.bmm(q_block, k[:, c:b].transpose(1, 2)).view(B, H, b - a, b - c)
            if bias is None:
                scores[..., a - c :] += future[: b - a, : b - a]
            else:
                scores += bias[:, :, a:b, c:b]
            p = torch.softmax(scores, dim=-1).view(B * G, R * (b - a), b - c)
            y[:, a:b] = torch.bmm(p, v[:, c:b]).view(B, H, b - a, D).transpose(1, 2)
            saved += [q_block, p]
        ctx.save_for_backward(k, v, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        k, v, *saved = ctx.saved_tensors
        B, T, H, D = grad.shape
        G = k.shape[0] // B
        dq = grad.new_empty(B, H, T, D)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for i, a in enumerate(range(0, T, BLOCK)):
            b = min(a + BLOCK, T)
            q_block, p = saved[2 * i : 2 * i + 2]
            c = b - p.shape[-1]
            g = grad[:, a:b].transpose(1, 2).reshape(q_block.shape)
            dp = torch.bmm(g, v[:, c:b].transpose(1, 2))
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            dq[:, :, a:b] = torch.bmm(ds, k[:, c:b]).view(B, H, b - a, D)
            dk[:, c:b] += torch.bmm(ds.transpose(1, 2), q_block)
            dv[:, c:b] += torch.bmm(p.transpose(1, 2), g)
        return dq, dk.view(B, G, T, D), dv.view(B, G, T, D), None


class SwiGLU(Function):
    """silu(gate) * up. Gate and up come from two products, not halves of one: strided passes cost twice as much."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        silu = F.silu(gate)
        ctx.save_for_backward(gate, up, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up, silu = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), grad * silu


def plain_normalize(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=eps)


def plain_normalize_rotate(
    qkv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, H: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """NormalizeRotate as a formula. q, k and v are views (B, heads, T, D) of tensors (B, T, heads, D)."""
    q_and_k, v = qkv.split((len(weight), qkv.shape[2] - len(weight)), dim=2)
    y = plain_normalize(q_and_k, eps) * weight
    rotated = y * cos + y.roll(y.shape[-1] // 2, -1) * sin
    return rotated[:, :, :H].transpose(1, 2), rotated[:, :, H:].transpose(1, 2), v.transpose(1, 2)


def plain_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def normalize(x: Tensor, eps: float) -> Tensor:
    return (plain_normalize if x.is_cuda else Normalize.apply)(x, eps)


def normalize_rotate(
    qkv: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, H: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return (plain_normalize_rotate if qkv.is_cuda else NormalizeRotate.apply)(qkv, weight, cos, sin, H, eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return (plain_swiglu if gate.is_cuda else SwiGLU.apply)(gate, up)


causal_attention = CausalAttention.apply
