"""The only training loop: pretraining, fine-tuning, RL and the night differ in batches and losses.

A step is one batch: micro-batches forward and backward, one update. The loop saves its state on a clock,
before each evaluation, at the end, and when a signal asks it to stop; started again it goes on from the
newest state, bit for bit on a CPU. Randomness is the caller's, a function of the cursor, so no generator's
state is kept. A batch is asked for when its step begins and no sooner (prefetch is the caller's), so that RL
can sample from the live model. But: one process.
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

from nightschool.config import Stopped, UserError
from nightschool.runs import Run, progress
from nightschool.text.packing import Batch
from nightschool.train import checkpoint

LossFn = Callable[[Any, Batch], dict[str, tuple[Tensor, Tensor]]]  # (model, batch) -> {name: (sum, count)}
MAX_REFUSED = 10  # steps in a row without a finite loss and gradient


class Optimizer(Protocol):
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
    save_seconds: float = 30.0,
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
    if state := checkpoint.latest(root):
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
            tensors = dict(model.named_parameters()), optimizer.state_dict()
            checkpoint.save(root, at.step, *tensors, asdict(at), keep)
        saved_at, saved_step = time.perf_counter(), at.step

    with progress(label, 1.0) as show, held() as came:
        while not came:
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
            row = update(model, optimizer, loss_fn, split(batch, micro_tokens), lr_scale, clip_norm)
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
            if now - saved_at >= save_seconds:
                save()
            smooth_loss = at.loss if smooth_loss is None else 0.9 * smooth_loss + 0.1 * (at.loss or 0)
            rate = (at.tokens - tokens_before) / (now - started)
            show(min(done(), 1), f"loss {smooth_loss or 0:.3f}  {rate:,.0f} tokens/s")
        save()
    if came:
        raise Stopped(came[0])
    return at


@contextmanager
def held() -> Iterator[list[int]]:
    """Hold SIGINT and SIGTERM back while the block lasts; yields the list of those that came, for it to end by itself.
    A second one, from a user who will not wait, raises Stopped at once."""
    came: list[int] = []

    def hold(signum: int, frame: FrameType | None) -> None:
        if came:
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


def split(batch: Batch, micro_tokens: int) -> list[Batch]:
    """A batch along its rows, into as few nearly equal parts of at most micro_tokens positions as will do."""
    B, T = batch.ids.shape
    num_parts = math.ceil(B / max(micro_tokens // T, 1))
    edges = [B * i // num_parts for i in range(num_parts + 1)]

    def rows(a: int, b: int) -> Batch:
        parts = {name: getattr(batch, name)[a:b] for name in ("ids", "targets", "weights")}
        docs = None if batch.docs is None else batch.docs[a:b]
        return replace(batch, **parts, docs=docs, streams={k: v[a:b] for k, v in batch.streams.items()})

    return [batch] if num_parts == 1 else [rows(a, b) for a, b in pairwise(edges)]


def backward(
    model: nn.Module, loss_fn: LossFn, micros: list[Batch], counts: dict[str, float] | None = None
) -> dict[str, float]:
    """Accumulate the gradient of each name's sum/count over all micro-batches, added up; return the means.

    The counts are whole only after the last micro-batch. So several are divided by the number of positions
    at first, and the gradient is scaled at the end, if all names share one count; if they do not, the
    micro-batches go through once more with the counts now known (raise micro_tokens to save that).
    """
    num_positions = sum(micro.ids.numel() for micro in micros)
    device = next(model.parameters()).device
    totals: dict[str, Tensor] = {}
    for micro in micros:
        losses = loss_fn(model, micro.to(device))  # the one place where training's tokens go to the GPU
        terms = []
        for name, (total, count) in losses.items():
            own = count + (count == 0)  # nothing to learn is 0, not 0/0
            terms.append(total / (counts[name] if counts else own if len(micros) == 1 else num_positions))
            totals[name] = totals.get(name, 0) + torch.stack((total.detach().double(), count.detach().double()))
        torch.stack(terms).sum().backward()
    found = {name: pair.tolist() for name, pair in totals.items()}
    full = {name: count or 1.0 for name, (_, count) in found.items()}
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if len(micros) > 1 and counts is None:
        if len(set(full.values())) > 1:
            torch._foreach_zero_(gradients)
            return backward(model, loss_fn, micros, full)
        torch._foreach_mul_(gradients, num_positions / next(iter(full.values())))
    return {name: total / full[name] for name, (total, _) in found.items()}


def update(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFn,
    micros: list[Batch],
    lr_scale: float,
    clip_norm: float,
) -> dict[str, Any]:
    """One step -> its numbers for the log: loss and the parts of it, grad_norm (before it is clipped). A
    loss or a
    gradient that is not finite changes nothing: {"refused": True}."""
    optimizer.zero_grad()
    means = backward(model, loss_fn, micros)
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    row = {**means, "loss": sum(means.values()), "grad_norm": norm.item()}
    if not all(map(math.isfinite, row.values())):
        return {"refused": True}
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    optimizer.step(lr_scale)
    return row
