"""A course: learn from a mixture of sources for so many tokens. Pretraining and fine-tuning are courses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nightschool.model.transformer import Transformer
from nightschool.runs import Run
from nightschool.text.corpus import Mixture, Source
from nightschool.text.packing import Batch, batches, prefetch
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.fit import prepare
from nightschool.train.loop import Position, backward, train
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer
from nightschool.train.plan import Plan
from nightschool.train.schedule import warm_stay_decay
from nightschool.world.school import SOURCES


def course(
    run: Run,
    model: Transformer,
    tokenizer: Tokenizer,
    plan: Plan,
    shares: Callable[[float], Mapping[str, float]],
    *,
    sources: Mapping[str, Source] = SOURCES,
    tokens: int,
    minutes: float = 0.0,
    seed: int,
    row_length: int,
    lr_scale: float = 1.0,
    warmup: float = 0.02,
    decay: float = 0.6,
    save_seconds: float = 30.0,
    evaluate: Callable[[], dict[str, Any]] | None = None,
    eval_every: int = 0,
) -> Position:
    """Train on the world's sources in these shares (progress 0..1 -> source -> share) for a horizon in tokens.

    minutes: if not 0, turned into tokens once, at this machine's speed, and recorded in config.json.
    row_length: positions of a row, in which documents stand side by side, each attending to itself alone. A batch is
    thus a mixture of everything; batches of like length were measured to learn more slowly (LOG.md).
    warmup, decay: shares of the horizon over which the learning rates rise and fall.
    """

    def stream(cursor: dict[str, Any], horizon: int) -> Iterator[Batch]:
        mixture = Mixture(tokenizer, sources, shares, seed, horizon_tokens=horizon, row_length=row_length)
        return batches(
            mixture.chunk,
            tokens_per_batch=plan.batch_tokens,
            row_length=row_length,
            pad_id=tokenizer.end_of_text,
            seed=seed,
            byte_lengths=tokenizer.byte_lengths,
            cursor=cursor or None,
        )

    if minutes:
        tokens = run.settle("tokens", lambda: int(60 * minutes * speed(model, stream({}, tokens))))
    optimizer = Optimizer(
        model, plan.matrix_lr, plan.embed_lr, plan.norm_lr, weight_decay=plan.weight_decay, dtype=model.dtype
    )
    micro_tokens = prepare(model, next_token, stream({}, tokens))
    return train(
        run,
        model,
        optimizer,
        lambda cursor: prefetch(stream(cursor, tokens), 4),
        next_token,
        schedule=lambda done: lr_scale * warm_stay_decay(done, warmup, decay),
        horizon_tokens=tokens,
        micro_tokens=micro_tokens,
        save_seconds=save_seconds,
        evaluate=evaluate,
        eval_every=eval_every,
        label=run.verb,
    )


def speed(model: Transformer, stream: Iterator[Batch], seconds: float = 5.0) -> float:
    """Tokens a second of forward and backward on this machine, the first batch left out."""
    backward(model, next_token, [next(stream)])
    tokens, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        batch = next(stream)
        backward(model, next_token, [batch])
        tokens += batch.ids.numel()
    model.zero_grad()
    return tokens / passed
