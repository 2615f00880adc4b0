"""Which of torchrun's processes this is, and what they say to one another. Alone, everything here does nothing.

Every rank calls the same functions in the same order. A collective that fails does so because another rank is gone:
UserError says what stands. Only this file knows torch.distributed, and imports torch where there is more than one rank.
But: all ranks must see the run folders (one machine, or a disk that the nodes share); nccl is untried as yet.
`reduce_scatter` and `all_gather` are taken with lists: of their forms these alone are in gloo and warn of nothing from
torch 2.11 to 2.13. Source of the environment's names: pytorch.org/docs/stable/elastic/run.html.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from nightschool.config import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_alone = False  # while rank 0 makes what `first` was asked for
TIMEOUT = timedelta(minutes=30)  # others wait so long while rank 0 examines; torchrun itself sees a death at once


def rank() -> int:
    """0 alone. Only rank 0 writes and shows."""
    return int(os.environ.get("RANK", 0))


def size() -> int:
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", 1))


def share(num: int) -> slice:
    """Which of so many things are this rank's: as many as any other's, or one less or more."""
    return slice(num * rank() // size(), num * (rank() + 1) // size())


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other ranks, and part from them at the end."""
    if size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with heard():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    yield  # not after an error: who is left would wait for the dead
    dist.destroy_process_group()


@contextmanager
def heard() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        why = str(error).partition("\n")[0].split("] ", 1)[-1].partition(". ")[0]  # gloo is talkative
        raise UserError(f"another rank is gone ({why}); the same command goes on from the last saved state") from error


def first(make: Callable[[], T]) -> T:
    """What rank 0 makes, on every rank; the others wait. Whatever it calls meanwhile finds itself alone."""
    global _alone
    if size() == 1:
        return make()
    import torch.distributed as dist

    said: list[Any] = [None]
    if rank() == 0:
        _alone = True
        try:
            said = [make()]
        finally:
            _alone = False
    with heard():
        dist.broadcast_object_list(said)
    return said[0]


def gathered(items: list[T]) -> list[T]:
    """The items of all ranks, in the order of ranks."""
    if size() == 1:
        return items
    import torch.distributed as dist

    lists: list[Any] = [None] * size()
    with heard():
        dist.all_gather_object(lists, items)
    return [item for each in lists for item in each]


def any_rank(*flags: bool) -> list[bool]:
    """For each flag: has any rank set it?"""
    if size() == 1:
        return list(flags)
    import torch

    return (total(torch.tensor(flags, dtype=torch.float64)) > 0).tolist()


def total(tensor: Tensor) -> Tensor:
    """The tensor, summed over the ranks in place."""
    if size() > 1:
        import torch.distributed as dist

        with heard():
            dist.all_reduce(tensor)
    return tensor


def sum_to_owners(tensors: list[Tensor]) -> Callable[[], None]:
    """Begin to sum the i-th tensor, all of one size, over the ranks into rank i's; the others' are of no more use.
    Returns what waits for it."""
    import torch.distributed as dist

    with heard():
        return waiting(dist.reduce_scatter(tensors[rank()], tensors, async_op=True))


def copy_from_owners(tensors: list[Tensor]) -> Callable[[], None]:
    """Begin to copy the i-th tensor from rank i to every rank. Returns what waits for it."""
    import torch.distributed as dist

    with heard():
        return waiting(dist.all_gather(tensors, tensors[rank()], async_op=True))


def waiting(work: Any) -> Callable[[], None]:
    def wait() -> None:
        with heard():
            work.wait()

    return wait
