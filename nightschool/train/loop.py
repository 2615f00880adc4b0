"""The only training loop: pretraining, fine-tuning, RL and the night differ in batches and losses.

A step is one batch: micro-batches forward and backward, one update. The loop saves its state on a clock,
before each evaluation, at the end, and when a signal asks it to stop; started again it goes on from the
newest state, bit for bit on a CPU. Randomness is the caller's, a function of the cursor, so no generator's
state is kept. A batch is asked for when its step begins and no sooner (prefetch is the caller's), so that RL
can sample from the live model. Each rank has all batches and takes its rows of them, so that another number of ranks
goes on with the same data. But: a batch's positions are shared among ranks by rows, not by what they cost.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nightschool import ranks
from nightschool.config import Stopped, UserError
from nightschool.runs import Run, progress
from nightschool.text.packing import Batch
from nightschool.train import checkpoint

LossFn = Callable[[Any, Batch], dict[str, tuple[Tensor, Tensor]]]  # (model, batch) -> {name: (sum, count)}
MAX_REFUSED = 10  # steps in a row without a finite loss and gradient


class Optimizer(Protocol):
    def expect(self) -> None: ...
    def reduce(self) -> list[Tensor]: ...
    def step(self, lr_scale: float) -> None: ...
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class Position:
    """Where training stands: what a state keeps besides tensors, and what `train` returns."""

    step: int = 0  # batches consumed
    tokens: int = 0  # positions computed, padding included
    seconds: float = 0.0  # of all the processes that worked on it
    refused: int = 0  # steps whose loss or gradient was not finite
    loss: float | None = None  # of the last step that was not refused, nats
    cursor: dict[str, Any] = field(default_factory=dict)  # where the data goes on; {} = at the start


def train(
    run: Run,
    model: nn.Module,
    optimizer: Optimizer,
    batches: Callable[[dict[str, Any]], Iterator[Batch]],
    loss_fn: LossFn,
    *,
    schedule: Callable[[float], float],
    horizon_tokens: int | None = None,
    num_steps: int | None = None,
    micro_tokens: int = 65_536,
    clip_norm: float = 1.0,
    save_seconds: float = 600.0,
    keep: int = 2,
    evaluate: Callable[[], dict[str, Any]] | None = None,
    eval_every: int = 0,
    label: str = "train",
) -> Position:
    """Train until the horizon, or until the batches end; resume from run's state/ if there is one.

    batches(cursor) goes on where the cursor of an earlier batch points, {} = at the start. schedule maps the
    share of the horizon that is done to the scale of the learning rates. One of horizon_tokens and num_steps
    is given. micro_tokens: the most positions in one forward; clip_norm: 0 = no clipping; save_seconds: 0 =
    after every step; evaluate: its numbers go to metrics.jsonl as `dev`; eval_every: steps, 0 = never.
    Raises UserError after 10 refused steps in a row, Stopped when a signal came and the state is saved.
    """
    assert (horizon_tokens is None) != (num_steps is None), (horizon_tokens, num_steps)
    root, at = run.path("state"), Position()
    if state := ranks.first(lambda: checkpoint.latest(root)):
        checkpoint.restore(model, state.model())
        optimizer.load_state_dict(state.optimizer())
        at = Position(**state.info)
    evaluated = {row["step"] for row in run.rewind(at.step) if "dev" in row}
    source = batches(at.cursor)
    started = saved_at = time.perf_counter()
    seconds_before, tokens_before, saved_step = at.seconds, at.tokens, at.step
    smooth_loss, refused_in_a_row = at.loss, 0

    def done(tokens: float = 0, steps: float = 0) -> float:
        """Share of the horizon that is done so many tokens or steps from here."""
        return (at.step + steps) / num_steps if num_steps else (at.tokens + tokens) / (horizon_tokens or 1)

    def save() -> None:
        nonlocal saved_at, saved_step
        if saved_step != at.step:
            tensors = checkpoint.trained(model), optimizer.state_dict()
            ranks.first(lambda: checkpoint.save(root, at.step, *tensors, asdict(at), keep))
        saved_at, saved_step = time.perf_counter(), at.step

    with progress(label, 1.0) as show, held() as came:
        while True:
            stop, late = ranks.any_rank(bool(came), time.perf_counter() - saved_at >= save_seconds)
            if late:
                save()
            if stop:
                break
            due = eval_every and at.step and at.step % eval_every == 0 and at.step not in evaluated
            if evaluate and due:  # also where a process was killed in the midst of it
                save()
                run.log(step=at.step, tokens=at.tokens, dev=evaluate())
                evaluated.add(at.step)
            start = time.perf_counter()
            batch = next(source, None) if done() < 1 else None
            if batch is None:
                break
            num_tokens = batch.ids.numel()
            lr_scale = schedule(done(num_tokens / 2, 1 / 2))  # of the middle of the step: the first is not 0
            row = update(model, optimizer, loss_fn, split(own_rows(batch), micro_tokens), lr_scale, clip_norm)
            at.step, at.tokens, at.cursor = at.step + 1, at.tokens + num_tokens, batch.cursor
            at.loss = row.get("loss", at.loss)
            refused_in_a_row = refused_in_a_row + 1 if "refused" in row else 0
            at.refused += "refused" in row
            now = time.perf_counter()
            at.seconds, rate = seconds_before + now - started, num_tokens / (now - start)
            run.log(
                step=at.step,
                tokens=at.tokens,
                **row,
                **batch.measures,
                lr=lr_scale,
                tokens_per_second=rate,
                seconds=at.seconds,
            )
            if refused_in_a_row == MAX_REFUSED:
                raise UserError(f"no finite loss and gradient in {MAX_REFUSED} steps in a row; lower the rates")
            smooth_loss = at.loss if smooth_loss is None else 0.9 * smooth_loss + 0.1 * (at.loss or 0)
            rate = (at.tokens - tokens_before) / (now - started)
            show(min(done(), 1), f"loss {smooth_loss or 0:.3f}  {rate:,.0f} tokens/s")
        save()
    if stop:
        raise Stopped(came[0] if came else signal.SIGTERM)
    return at


@contextmanager
def held() -> Iterator[list[int]]:
    """Hold SIGINT and SIGTERM back while the block lasts; yields the list of those that came, for it to end by itself.
    A second one raises Stopped at once, for a user who will not wait; under torchrun it is the first, passed on."""
    came: list[int] = []

    def hold(signum: int, frame: FrameType | None) -> None:
        if came and ranks.size() == 1:
            raise Stopped(signum)
        came.append(signum)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield came
        return
    before = {s: signal.signal(s, hold) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def rows(batch: Batch, some: slice) -> Batch:
    parts = {name: getattr(batch, name)[some] for name in ("ids", "targets", "weights")}
    docs = None if batch.docs is None else batch.docs[some]
    return replace(batch, **parts, docs=docs, streams={k: v[some] for k, v in batch.streams.items()})


def own_rows(batch: Batch) -> Batch:
    """This rank's share of a batch; if there are more ranks than rows, for some a row of which nothing counts."""
    own = ranks.share(len(batch.ids))
    if own.start < own.stop:
        return rows(batch, own)
    part = rows(batch, slice(1))
    streams = {name: torch.zeros_like(values) for name, values in part.streams.items()}
    return replace(part, weights=torch.zeros_like(part.weights), streams=streams)


def split(batch: Batch, micro_tokens: int) -> list[Batch]:
    """A batch along its rows, into as few nearly equal parts of at most micro_tokens positions as will do."""
    B, T = batch.ids.shape
    num_parts = math.ceil(B / max(micro_tokens // T, 1))
    edges = [B * i // num_parts for i in range(num_parts + 1)]
    return [batch] if num_parts == 1 else [rows(batch, slice(a, b)) for a, b in pairwise(edges)]


def backward(
    model: nn.Module,
    loss_fn: LossFn,
    micros: list[Batch],
    counts: dict[str, float] | None = None,
    last: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Accumulate over micro-batches the gradient of each name's sum / counts, added up; return (sum, count) by name.

    Without counts, a batch that is one micro-batch on one rank has its own; else the gradient is that of the plain
    sums, and still to be divided. `last` is called before the last micro-batch's backward pass.
    """
    whole = len(micros) == 1 and ranks.size() == 1
    device = next(model.parameters()).device
    totals: dict[str, Tensor] = {}
    for micro in micros:
        losses = loss_fn(model, micro.to(device))  # the one place where training's tokens go to the GPU
        terms = []
        for name, (total, count) in losses.items():
            own = count + (count == 0)  # nothing to learn is 0, not 0/0
            terms.append(total / (counts[name] if counts else own if whole else 1))
            totals[name] = totals.get(name, 0) + torch.stack((total.detach().double(), count.detach().double()))
        if micro is micros[-1]:
            last()
        torch.stack(terms).sum().backward()
    return totals


def mean_gradients(
    model: nn.Module, optimizer: Optimizer, loss_fn: LossFn, micros: list[Batch]
) -> tuple[dict[str, float], list[Tensor]]:
    """Each name's sum/count over all micro-batches and ranks, and the gradient of their sum: this rank's share of it.

    The counts are whole only when all is done. If all names share one count, the gradient is divided then; if they do
    not, the micro-batches go through once more with the counts now known (raise micro_tokens to save that).
    """
    optimizer.zero_grad()
    totals = backward(model, loss_fn, micros, last=optimizer.expect)
    gradients = optimizer.reduce()
    pairs = ranks.total(torch.stack(list(totals.values()))).tolist()
    sums = dict(zip(totals, pairs, strict=True))
    counts = {name: count or 1.0 for name, (_, count) in sums.items()}
    if len(micros) > 1 or ranks.size() > 1:
        different = {count for _, count in sums.values() if count}
        if len(different) > 1:
            optimizer.zero_grad()
            backward(model, loss_fn, micros, counts, optimizer.expect)
            gradients = optimizer.reduce()
        else:
            torch._foreach_div_(gradients, max(different, default=1.0))
    return {name: total / counts[name] for name, (total, _) in sums.items()}, gradients


def update(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFn,
    micros: list[Batch],
    lr_scale: float,
    clip_norm: float,
) -> dict[str, Any]:
    """One step -> its numbers for the log: loss and the parts of it, grad_norm (before it is clipped). A loss or a
    gradient that is not finite changes nothing: {"refused": True}. All ranks see the same numbers and do the same."""
    means, gradients = mean_gradients(model, optimizer, loss_fn, micros)
    norm = torch.nn.utils.get_total_norm(gradients)
    if ranks.size() > 1:
        norm = ranks.total(norm.square()).sqrt()
    row = {**means, "loss": sum(means.values()), "grad_norm": norm.item()}
    if not all(map(math.isfinite, row.values())):
        return {"refused": True}
    if clip_norm:
        torch._foreach_mul_(gradients, (clip_norm / (norm + 1e-6)).clamp(max=1.0))
    optimizer.step(lr_scale)
    return row
