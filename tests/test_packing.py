import json
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from nightschool.config import UserError
from nightschool.text.packing import Batch, Item, batches, collate, pack, prefetch

PAD = 0


def sequences(seed: int, num: int, longest: int = 60) -> list[tuple[list[int], list[int]]]:
    """Random ids 1..99; the first half of each is a prompt that is not trained on."""
    rng = random.Random(seed)
    lengths = [rng.randint(2, longest) for _ in range(num)]
    return [([rng.randint(1, 99) for _ in range(n)], [0] * (n // 2) + [1] * (n - n // 2)) for n in lengths]


def pairs(batch: Batch) -> list[tuple[int, int, float]]:
    """Every (input, target, weight) that is no padding."""
    flat = zip(batch.ids.flatten(), batch.targets.flatten(), batch.weights.flatten(), strict=True)
    return [(int(i), int(t), float(w)) for i, t, w in flat if int(i) != PAD]


def expected_pairs(made: list[tuple[list[int], list[int]]]) -> list[tuple[int, int, float]]:
    return [pair for ids, mask in made for pair in zip(ids[:-1], ids[1:], map(float, mask[1:]), strict=True)]


def test_pack_by_hand() -> None:
    # Positions: 7, 5, 3, 2 of rows of 8. 7 takes a row; 5 and 3 fill the next; 2 needs a third.
    items = [Item(range(n + 1), [1] * (n + 1)) for n in (3, 7, 2, 5)]
    rows = pack(items, row_length=8)
    assert [[item.num_positions for item in row] for row in rows] == [[7], [5, 3], [2]]


def test_pack_wastes_and_crops_little() -> None:
    made = sequences(0, 2000)
    rows = pack(made, row_length=256)
    used = sum(item.num_positions for row in rows for item in row)
    assert all(sum(item.num_positions for item in row) <= 256 for row in rows)
    assert used == sum(len(ids) - 1 for ids, _ in made)
    assert used / (256 * len(rows)) > 0.99


def test_the_untrained_tail_is_dropped_and_the_overlong_end_cropped() -> None:
    rows = pack([([1, 2, 3, 4, 5], [0, 0, 1, 0, 0]), ([6] * 12, [1] * 12), ([7, 7], [1, 0]), ([8], [1])], 8)
    assert sorted(list(item.ids) for row in rows for item in row) == [[1, 2, 3], [6] * 9]


def test_collate_by_hand() -> None:
    adv: dict[str, Sequence[float]] = {"adv": [0.0, 0.5, -0.5]}
    rows = [[Item([1, 2, 3], [0, 1, 1], adv), Item([4, 5], [0, 1])], [Item([6, 7, 8, 9], [1, 1, 0, 2])]]
    batch = collate(rows, 4, PAD, byte_lengths=[0, 1, 10, 100, 1000, 10_000, 1, 7, 20, 3])
    assert batch.ids.tolist() == [[1, 2, 4, 0], [6, 7, 8, 0]]
    assert batch.targets.tolist() == [[2, 3, 5, 0], [7, 8, 9, 0]]
    assert batch.weights.tolist() == [[1, 1, 1, 0], [1, 0, 2, 0]]
    assert batch.docs is not None
    assert batch.docs.tolist() == [[0, 0, 1, 2], [0, 0, 0, 1]]
    assert batch.streams["adv"].tolist() == [[0.5, -0.5, 0, 0], [0, 0, 0, 0]]
    assert batch.num_bytes == 10 + 100 + 10_000 + 7 + 3
    assert [t.dtype for t in (batch.ids, batch.weights, batch.docs)] == [torch.int64, torch.float32, torch.int32]


def stream(cursor: dict[str, Any] | None = None, last: int = 4) -> Iterator[Batch]:
    return batches(
        lambda i: sequences(i, 50) if i < last else [],
        tokens_per_batch=256,
        row_length=64,
        pad_id=PAD,
        seed=3,
        cursor=cursor,
    )


def test_every_target_comes_once() -> None:
    made = [s for i in range(4) for s in sequences(i, 50)]
    seen = [pair for batch in stream() for pair in pairs(batch)]
    assert sorted(seen) == sorted(expected_pairs(made))


def test_batches_go_on_from_every_cursor() -> None:
    whole = list(stream())
    assert len(whole) > 20
    for k, batch in enumerate(whole):
        rest = list(stream(json.loads(json.dumps(batch.cursor))))
        assert len(rest) == len(whole) - k - 1
        for ours, theirs in zip(rest, whole[k + 1 :], strict=True):
            assert torch.equal(ours.ids, theirs.ids)
            assert torch.equal(ours.weights, theirs.weights)
            assert ours.cursor == theirs.cursor


def test_shapes() -> None:
    made = list(stream())
    assert {tuple(batch.ids.shape) for batch in made[:-1]} == {(4, 64)}
    assert all(batch.docs is not None for batch in made)


def test_a_batch_must_hold_a_row() -> None:
    with pytest.raises(UserError, match="tokens 32 < row_length 64"):
        next(batches(lambda i: [], tokens_per_batch=32, row_length=64, pad_id=PAD, seed=0))


def test_prefetch_keeps_order_and_stays_near() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    ahead = prefetch(numbers(), 3)
    assert next(ahead) == 0
    assert len(made) <= 5
    assert list(ahead) == list(range(1, 100))


def test_prefetch_passes_exceptions_on_and_ends_its_thread() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk on fire")

    ahead = prefetch(broken(), 2)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="on fire"):
        next(ahead)
    before = threading.active_count()
    endless = prefetch(iter(int, 1), 2)
    next(endless)
    endless.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_batch_moves_whole() -> None:
    ones = torch.ones(2, 3)
    batch = Batch(ones.long(), ones.long(), ones, ones.int(), {"adv": ones}, num_bytes=7)
    moved = batch.to(torch.device("meta"))
    tensors = moved.ids, moved.targets, moved.weights, moved.docs, moved.streams["adv"]
    assert all(x is not None and x.is_meta for x in tensors)
    assert moved.num_bytes == 7


def test_a_batch_counts_what_each_generation_taught() -> None:
    rows = [[Item([1, 2, 3], [0, 1, 1]), Item([4, 5, 6], [0, 1, 0], gen=2)], [Item([6, 7, 8, 9], [1, 1, 0, 2])]]
    assert collate(rows, 4, PAD).measures == {"learned_gen_0": 4, "learned_gen_2": 1}
    assert [item.gen for row in pack(rows[0], 8) for item in row] == [0, 2]
