"""One dial: depth -> the model, its batch, learning rates, weight decay, horizon. Pure functions.

But: the rules for real scale are others' measurements on other text. bench/miniseries.py checks them where it is cheap
(depths 2 to 4: one power law, no better rate at half or twice); nothing here knows how much memory a machine has.
QUICKSTART is measured: it is what two CPU cores learn most in.

L layers, C channels, H heads, D head dim, T time, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nightschool.config import UserError
from nightschool.model.transformer import ModelConfig


@dataclass(frozen=True)
class Plan:
    model: ModelConfig
    horizon_tokens: int
    batch_tokens: int  # a step
    matrix_lr: float  # Muon
    embed_lr: float  # AdamW: embeddings and head
    norm_lr: float  # AdamW: norms
    weight_decay: float  # of the matrices, per unit of learning rate

    @property
    def num_steps(self) -> int:
        return math.ceil(self.horizon_tokens / self.batch_tokens)


QUICKSTART = Plan(
    model=ModelConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,  # with QK-norm a head is no sharper than its width allows: 32 learned more slowly (LOG.md)
        max_position_embeddings=512,
    ),
    horizon_tokens=7_600_000,  # of which two fifths to read, the rest at school
    batch_tokens=1024,  # many small steps: looking things up is learned by the step, not by the token
    matrix_lr=0.01,
    embed_lr=0.004,
    norm_lr=0.004,
    weight_decay=0.0,
)
QUICKSTART_ROW = 256  # positions of a packed row: longer ones cost more attention than they save in padding


def model_of_depth(depth: int, vocab_size: int = 32_768, context: int = 2048) -> ModelConfig:
    """The model at real scale: 64 channels a layer (nanochat); MLP of 3 x C, heads of 128 (Qwen3-0.6B)."""
    if not 1 <= depth <= 64:
        raise UserError(f"depth must be between 1 and 64; got {depth}")
    C = 64 * depth
    D = 128 if depth >= 6 else 64  # a model below 384 channels needs its few heads more than it needs wide ones
    H = math.ceil(C / D)  # Qwen3 does not ask that H x D = C
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=C,
        intermediate_size=3 * C,
        num_hidden_layers=depth,
        num_attention_heads=H,
        num_key_value_heads=H,
        head_dim=D,
        max_position_embeddings=context,
        tie_word_embeddings=False,
    )


def plan(depth: int, tokens: int | None = None, vocab_size: int = 32_768, context: int = 2048) -> Plan:
    """Everything that follows from depth; `tokens` overrides the horizon. UserError for absurd values.

    The reference is depth 12 with 2^19 tokens a step, where nanochat tuned its rates. From there
    - horizon D: 12 tokens for each weight that multiplies (nanochat's default, its own sweeps gave 10.5; Chinchilla,
      2203.15556, has 20);
    - batch B ~ D^0.383 (2505.13738), a power of two, and small enough for about a thousand steps: 447 large
      steps taught no retrieval where 1,700 small ones did (ours, one seed); but at least 8 C, below which Muon's
      orthogonalisation (about 26 C FLOPs a weight and step) costs half as much as the products it follows;
    - Muon's rate ~ B^(1/4). Those who measured disagree: sqrt(B) is nanochat's assumption, and Scion's law
      B^0.62 D^-0.56 (2510.03871) falls with D where B ~ D^0.383. The fourth root lies between them, and at 2^11 tokens
      a step gives 0.005, 0.04 bits per byte better than 0.02 (ours, depth 4, 140 steps of real text, one seed);
    - AdamW's rates ~ 1/sqrt(C) (nanochat), whatever B: a third of that was 0.11 bits per byte worse there;
    - weight decay ~ B / (rate D), which averages weights over a fixed share of the run (2405.13698); at most the 0.4
      that nanochat's sweep gave its shallowest model, since nothing above has been tried.
    """
    model, reference = model_of_depth(depth, vocab_size, context), model_of_depth(12, vocab_size, context)
    horizon = 12 * num_matmul(model) if tokens is None else tokens
    if horizon < 1000 * context:
        raise UserError(f"tokens must be at least {1000 * context:,}, a thousand rows; got {horizon:,}")
    of_reference = horizon / (12 * num_matmul(reference))
    batch = max(min(2**19 * of_reference**0.383, horizon / 1000), 8 * model.hidden_size, context)
    batch = 2 ** round(math.log2(batch))
    rates = (batch / 2**19) ** 0.25
    width = math.sqrt(768 / model.hidden_size)
    return Plan(
        model=model,
        horizon_tokens=horizon,
        batch_tokens=batch,
        matrix_lr=0.02 * rates,  # Muon's own default; nanochat
        embed_lr=0.004 * width,  # nanochat's for the head, where embeddings are not normal(0, 1)
        norm_lr=0.004 * width,
        weight_decay=min(0.1 * (batch / 2**19) / (rates * of_reference), 0.4),
    )


def going_on(model: ModelConfig, tokens: int = 0) -> tuple[Plan, int]:
    """How a model that is there goes on learning, and the positions of a row. Nothing decays: it would be forgotten."""
    if model == QUICKSTART.model:
        return QUICKSTART, QUICKSTART_ROW
    row_length = min(model.max_position_embeddings, 2048)
    of_depth = plan(model.num_hidden_layers, max(tokens, 1000 * row_length), model.vocab_size, row_length)
    return replace(of_depth, weight_decay=0.0), row_length


def num_matmul(model: ModelConfig) -> int:
    """Weights that multiply: the blocks' matrices and the head, not the embeddings' look-up nor the norms."""
    C, M = model.hidden_size, model.intermediate_size
    q, kv = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    return model.num_hidden_layers * (2 * C * q + 2 * C * kv + 3 * C * M) + model.vocab_size * C


def num_parameters(model: ModelConfig) -> int:
    """All weights; tied embeddings count once."""
    C, D, L = model.hidden_size, model.head_dim, model.num_hidden_layers
    embeddings = 0 if model.tie_word_embeddings else model.vocab_size * C
    return num_matmul(model) + embeddings + L * (2 * C + 2 * D) + C


def flops_per_token(model: ModelConfig, length: int) -> int:
    """Forward and backward of one token in rows of `length`: 6 N_matmul + 12 L H D T (PaLM, 2204.02311, app. B).
    The forward alone, as in generation, is a third."""
    width = model.num_attention_heads * model.head_dim
    return 6 * num_matmul(model) + 12 * model.num_hidden_layers * width * length
