"""Sequences -> batches of packed rows (best fit), or of rows with one document each.

A sequence of n tokens fills n - 1 positions: inputs ids[:-1], targets ids[1:]. No document predicts another's
first token, and what follows the last trained token is left out. Sequences longer than a row are cropped at
the end. But: no shuffling beyond a chunk.
Sources: best-fit decreasing (Johnson 1973); packing without truncation, Ding et al. 2024 (2404.10830).
"""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from nightschool.config import UserError
from nightschool.runs import LEARNED

T = TypeVar("T")


class Item(NamedTuple):
    """One tokenized document. A stream's numbers are per token, and go where that token is the target."""

    ids: Sequence[int] | np.ndarray
    mask: Sequence[float] | np.ndarray  # per token: the weight of its loss; 0 = not trained on
    streams: dict[str, Sequence[float] | np.ndarray] = {}  # noqa: RUF012 (never written to)
    gen: int = 0  # models between it and the world

    @property
    def num_positions(self) -> int:
        return max(len(self.ids) - 1, 0)


@dataclass(frozen=True)
class Batch:
    """What a loss takes. B rows of T positions."""

    ids: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64, the next ids
    weights: Tensor  # (B, T) float32, 0 = no loss
    docs: Tensor | None  # (B, T) int32, the document's number in its row; None: one document a row
    streams: dict[str, Tensor] = field(default_factory=dict)  # (B, T) float32 each: adv, old_logp, ref_logp, ...
    num_bytes: int = 0  # raw text bytes of the targets whose weight is not 0
    cursor: dict[str, Any] = field(default_factory=dict)  # JSON: where the data goes on after this batch
    measures: dict[str, float] = field(default_factory=dict)  # how it was made, for metrics.jsonl

    def to(self, device: torch.device) -> Batch:
        """The same batch, its tensors on `device`."""
        docs = None if self.docs is None else self.docs.to(device)
        streams = {name: stream.to(device) for name, stream in self.streams.items()}
        parts = {name: getattr(self, name).to(device) for name in ("ids", "targets", "weights")}
        return replace(self, **parts, docs=docs, streams=streams)


def trim(item: Sequence[Any], row_length: int) -> Item:
    """Drop the untrained tail, which no loss sees, then crop to row_length positions."""
    whole = Item(*item)
    last = next((t for t in range(len(whole.ids) - 1, 0, -1) if whole.mask[t]), 0)
    end = min(last, row_length) + 1
    streams = {name: values[:end] for name, values in whole.streams.items()}
    return Item(whole.ids[:end], whole.mask[:end], streams, whole.gen)


def windows(item: Item, row_length: int) -> list[Item]:
    """An item cut into items of at most row_length positions, overlapping by one token: no target is lost."""
    if row_length == 0 or item.num_positions <= row_length:
        return [item]
    starts = range(0, item.num_positions, row_length)
    return [item._replace(ids=item.ids[a : a + row_length + 1], mask=item.mask[a : a + row_length + 1]) for a in starts]


def pack(sequences: Sequence[Sequence[Any]], row_length: int) -> list[list[Item]]:
    """Best-fit decreasing: each sequence, longest first, goes to the fullest row that still has room for it.

    sequences: (ids, mask) or (ids, mask, streams) each. Returns rows of at most row_length positions.
    """
    items = [item for item in (trim(s, row_length) for s in sequences) if item.num_positions]
    rows: list[list[Item]] = []
    rows_with: dict[int, list[list[Item]]] = {}  # free positions -> rows
    free = 0  # bit n is set where rows_with[n] is not empty
    for item in sorted(items, key=lambda item: -item.num_positions):
        fits = free >> item.num_positions
        if fits:
            room = item.num_positions + (fits & -fits).bit_length() - 1
            row = rows_with[room].pop()
            if not rows_with[room]:
                free &= ~(1 << room)
        else:
            room, row = row_length, []
            rows.append(row)
        row.append(item)
        left = room - item.num_positions
        rows_with.setdefault(left, []).append(row)
        free |= 1 << left
    return rows


def collate(
    rows: Sequence[Sequence[Item]],
    num_positions: int,
    pad_id: int,
    byte_lengths: Sequence[int] | None = None,
    *,
    packed: bool = True,
    cursor: dict[str, Any] | None = None,
) -> Batch:
    """Rows of items -> a Batch of (len(rows), num_positions), padded at the right with pad_id at weight 0.

    byte_lengths: id -> raw bytes (Tokenizer.byte_lengths); None counts none.
    """
    B, T = len(rows), num_positions
    ids = np.full((B, T), pad_id, dtype=np.int64)
    targets = np.full((B, T), pad_id, dtype=np.int64)
    weights = np.zeros((B, T), dtype=np.float32)
    docs = np.zeros((B, T), dtype=np.int32)
    names = sorted({name for row in rows for item in row for name in item.streams})
    streams = {name: np.zeros((B, T), dtype=np.float32) for name in names}
    learned: Counter[str] = Counter()
    for b, row in enumerate(rows):
        at = 0
        for number, item in enumerate(row):
            to = at + item.num_positions
            ids[b, at:to], targets[b, at:to] = item.ids[:-1], item.ids[1:]
            weights[b, at:to], docs[b, at:to] = item.mask[1:], number
            learned[f"{LEARNED}{item.gen}"] += int(np.count_nonzero(weights[b, at:to]))
            for name, values in item.streams.items():
                streams[name][b, at:to] = values[1:]
            at = to
        docs[b, at:] = len(row)  # padding is a document of its own
    num_bytes = 0 if byte_lengths is None else int(np.asarray(byte_lengths)[targets[weights != 0]].sum())
    return Batch(
        ids=torch.from_numpy(ids),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(weights),
        docs=torch.from_numpy(docs) if packed else None,
        streams={name: torch.from_numpy(values) for name, values in streams.items()},
        num_bytes=num_bytes,
        cursor=cursor or {},
        measures=dict(learned),
    )


def batches(
    make_chunk: Callable[[int], Sequence[Sequence[Any]]],
    *,
    tokens_per_batch: int,
    row_length: int,
    pad_id: int,
    seed: int,
    byte_lengths: Sequence[int] | None = None,
    cursor: dict[str, Any] | None = None,
) -> Iterator[Batch]:
    """Batches of tokens_per_batch // row_length packed rows without end, or until make_chunk returns an empty chunk;
    a pure function of (seed, cursor).

    make_chunk(i) is the i-th chunk of the stream, made from its number alone, so that going on at a cursor
    {"chunk", "skip"} is making that chunk again and leaving out what was taken from it. A batch may run on into the
    next chunk.
    """
    num_rows = tokens_per_batch // row_length
    if num_rows < 1:
        raise UserError(f"a batch must hold a row: tokens {tokens_per_batch} < row_length {row_length}")
    cursor = cursor or {"chunk": 0, "skip": 0}
    chunk, skip = int(cursor["chunk"]), int(cursor["skip"])
    waiting: list[list[Item]] = []
    while sequences := make_chunk(chunk):
        rows = pack(sequences, row_length)
        random.Random(f"{seed} {chunk}").shuffle(rows)
        for used in range(skip, len(rows)):
            waiting.append(rows[used])
            if len(waiting) == num_rows:
                yield collate(waiting, row_length, pad_id, byte_lengths, cursor={"chunk": chunk, "skip": used + 1})
                waiting = []
        chunk, skip = chunk + 1, 0
    if waiting:
        yield collate(waiting, row_length, pad_id, byte_lengths, cursor={"chunk": chunk, "skip": 0})


def prefetch(iterator: Iterator[T], num_ahead: int) -> Iterator[T]:
    """The same items, up to num_ahead (>= 1) made in advance by a thread, whose exception is raised here."""
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    room = threading.Semaphore(num_ahead - 1)
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in iterator:
                made.put((item, None))
                room.acquire()
                if stopped.is_set():
                    return
            made.put((None, StopIteration()))
        except BaseException as error:  # passed on, whatever it is
            made.put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            room.release()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        room.release()
        thread.join()
