"""A course: learn from a mixture of sources and corpora for so many tokens. Pretraining, fine-tuning and the night's
sleep are courses. Each records its corpora, so that a later one can repeat them: what is not repeated is forgotten."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from nightschool import ranks
from nightschool.model.transformer import Transformer
from nightschool.runs import Run, read_json
from nightschool.text.corpus import Mixture, Shares, Sources
from nightschool.text.packing import Batch, Item, batches, collate, pack, prefetch
from nightschool.text.shards import Corpus, permutation
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.fit import prepare
from nightschool.train.loop import LossFn, Position, backward, train
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer
from nightschool.train.plan import Plan, flops_per_token, num_parameters
from nightschool.train.schedule import warm_stay_decay
from nightschool.world.school import SOURCES

CHUNK_TOKENS = 65_536  # that are packed together: the more, the fuller the rows
CORPUS = "corpus"  # the source that a stage was asked to learn from: its epochs are counted
MAX_EPOCHS = 4  # up to which text read again is nearly as good as new (2305.16264)


def course(
    run: Run,
    model: Transformer,
    tokenizer: Tokenizer,
    plan: Plan,
    shares: Callable[[float], Shares],
    *,
    sources: Sources = SOURCES,
    tokens: int,
    minutes: float = 0.0,
    seed: int,
    row_length: int,
    lr_scale: float = 1.0,
    warmup: float = 0.02,
    decay: float = 0.6,
    loss: LossFn = next_token,
    save_seconds: float = 600.0,
    evaluate: Callable[[], dict[str, Any]] | None = None,
    eval_every: int = 0,
    control: bool = False,
) -> Position:
    """Train on sources in these shares (progress 0..1 -> source -> share) for a horizon in tokens.

    minutes: if not 0, turned into tokens once, at this machine's speed, and recorded in config.json.
    row_length: positions of a row, in which documents stand side by side, each attending to itself alone. A batch is
    thus a mixture of everything; batches of like length were measured to learn more slowly (LOG.md).
    warmup, decay: shares of the horizon over which the learning rates rise and fall.
    control: documents with nothing behind them are let in.
    """

    corpora = {name: source for name, source in sources.items() if isinstance(source, Corpus)}
    if corpora:
        where = {name: os.path.relpath(corpus.folder, run.out) for name, corpus in corpora.items()}
        run.settle("corpora", lambda: {name: (folder, shares(1.0)[name]) for name, folder in where.items()})

    def stream(cursor: dict[str, Any], horizon: int) -> Iterator[Batch]:
        size = max(CHUNK_TOKENS, 8 * plan.batch_tokens) if corpora else CHUNK_TOKENS
        return batches(
            Mixture(tokenizer, sources, shares, seed, size, horizon, row_length, control).chunk,
            tokens_per_batch=plan.batch_tokens,
            row_length=row_length,
            pad_id=tokenizer.end_of_text,
            seed=seed,
            byte_lengths=tokenizer.byte_lengths,
            cursor=cursor or None,
        )

    if minutes:
        tokens = run.settle("tokens", lambda: int(60 * minutes * ranks.size() * speed(model, stream({}, tokens))))
    if corpus := corpora.get(CORPUS):
        asked = tokens * shares(1.0)[CORPUS]
        epochs = run.settle("epochs", lambda: asked / corpus.num_tokens)
        say(run, f"{asked:,.0f} tokens, {epochs:.1f} times the {corpus.num_tokens:,} of the corpus")
        for line in run.settle("cautions", lambda: cautions(num_parameters(model.config), corpus.num_tokens, asked)):
            say(run, line)
    optimizer = Optimizer(
        model,
        plan.matrix_lr,
        plan.embed_lr,
        plan.norm_lr,
        weight_decay=plan.weight_decay,
        dtype=model.dtype,
        muon=plan.muon,
    )
    micro_tokens = prepare(model, loss, stream({}, tokens))
    return train(
        run,
        model,
        optimizer,
        lambda cursor: prefetch(stream(cursor, tokens), 4),
        loss,
        schedule=lambda done: lr_scale * warm_stay_decay(done, warmup, decay),
        horizon_tokens=tokens,
        micro_tokens=micro_tokens,
        save_seconds=save_seconds,
        evaluate=evaluate,
        eval_every=eval_every,
        label=run.verb,
    )


def account(end: Position, model: Transformer, row_length: int) -> dict[str, Any]:
    """What a course came to, for meta.json."""
    flops = end.tokens * flops_per_token(model.config, row_length)
    return {"seconds": end.seconds, "tokens": end.tokens, "flops": flops, "loss": end.loss, "refused": end.refused}


def beside(town: Shares, corpora: Shares) -> dict[str, float]:
    """The shares of corpora, and the town's in what they leave."""
    left = round(1 - sum(corpora.values()), 9)
    return {**corpora, **{name: left * share for name, share in town.items()}}


def corpora_of(verb: str, start: Path, tokenizer: Tokenizer) -> tuple[dict[str, Corpus], dict[str, float]]:
    """What the last course of this verb learned from, among `start` and the runs that it began with: corpora, as
    VERB/NAME, and their shares. What these leave was the town's, and all of it where nothing is known."""
    run: Path | None = start
    while run and (run / "config.json").exists():
        asked = read_json(run / "config.json")
        if asked["verb"] == verb:
            kept = {f"{verb}/{name}": value for name, value in asked["settled"].get("corpora", {}).items()}
            corpora = {name: Corpus.open(run / folder, "train", tokenizer) for name, (folder, _) in kept.items()}
            return corpora, {name: share for name, (_, share) in kept.items()}
        run = run / asked["config"]["start"] if "start" in asked["config"] else None
    return {}, {}


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


def say(run: Run, line: str) -> None:
    if ranks.rank() == 0:
        print(f"{run.verb}: {line}", file=sys.stderr)


def cautions(parameters: int, corpus_tokens: int, tokens: float) -> list[str]:
    """What to say where a model will rather learn a corpus by heart."""
    lines = list[str]()
    if (epochs := tokens / corpus_tokens) > MAX_EPOCHS:
        mend = "more text, or fewer --tokens, would serve it better"
        lines.append(f"the corpus will be read {epochs:.1f} times; {mend}")
    if parameters > corpus_tokens:
        what = f"{parameters:,} parameters for {corpus_tokens:,} tokens of text"
        lines.append(f"{what}: it can learn them by heart; more text or a smaller model is better")
    return lines


def held_out(corpus: Corpus, tokenizer: Tokenizer, num_bytes: int, row_length: int) -> list[Item]:
    """About num_bytes of a dev split: whole documents, the same ones whatever the tokenizer."""
    items, found = list[Item](), 0
    lengths = torch.tensor(tokenizer.byte_lengths).numpy()
    for i in permutation(corpus.num_documents, 0, 0):
        if found >= num_bytes:
            break
        found += int(lengths[corpus.item(i).ids].sum())
        items += corpus.items([i], row_length)
    return items


def in_batches(items: Sequence[Item], tokenizer: Tokenizer, row_length: int, num_rows: int = 8) -> list[Batch]:
    rows = pack(items, row_length)
    parts = [rows[i : i + num_rows] for i in range(0, len(rows), num_rows)]
    return [collate(part, row_length, tokenizer.end_of_text, tokenizer.byte_lengths) for part in parts]


@torch.no_grad()
def bits_per_byte(model: Transformer, batches: Sequence[Batch]) -> float:
    """Bits that the model needs per byte of what is learned in these batches; comparable across tokenizers."""
    device = model.lm_head.weight.device
    nats = sum(float(next_token(model, batch.to(device))["loss"][0]) for batch in batches)
    return nats / math.log(2) / sum(batch.num_bytes for batch in batches)
