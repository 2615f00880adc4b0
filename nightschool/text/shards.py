"""A tokenized corpus on disk, memory-mapped: shards of documents, read in any order at the speed of memory.

    SPLIT-00000.bin      the ids of all documents one after another, uint16 or uint32
    SPLIT-00000.offsets  int64: where each document begins, and where the last one ends
    SPLIT-00000.mask     uint8 an id, 1 = learned; only where not everything is
    SPLIT-00000.gen      uint8 a document, models between it and the world; only where there are some
    SPLIT-00000.json     tokenizer, dtype, split, counts, sources; written last: a shard without it isn't there

An epoch is a permutation of all documents, and chunk i is the i-th slice of the epochs one after another: any chunk is
a pure function of (seed, i), and nothing is buffered. But: documents are read where they lie, which wants a disk that
seeks fast or enough memory to cache it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nightschool.config import UserError
from nightschool.runs import atomic, read_json, write_json
from nightschool.text.packing import Item, windows
from nightschool.text.tokenizer import Tokenizer


def write_shard(folder: Path, name: str, tokenizer: Tokenizer, items: Sequence[Item], **facts: Any) -> None:
    """Write folder/NAME.* whole or not at all. facts: what its JSON says besides."""
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    offsets = np.cumsum([0, *(len(item.ids) for item in items)], dtype=np.int64)
    mask = np.concatenate([np.zeros(0, np.uint8), *(np.asarray(item.mask, np.uint8) for item in items)])
    ids = np.concatenate([np.zeros(0, dtype), *(np.asarray(item.ids, dtype) for item in items)])
    gen = np.array([item.gen for item in items], np.uint8)
    some = {"mask": mask} if not mask.all() else {}
    some |= {"gen": gen} if gen.any() else {}
    for suffix, array in {"bin": ids, "offsets": offsets, **some}.items():
        with atomic(folder / f"{name}.{suffix}") as path:
            array.tofile(path)
    counts = {"documents": len(items), "tokens": len(ids)}
    write_json(folder / f"{name}.json", {"tokenizer": tokenizer.fingerprint, "dtype": dtype, **counts, **facts})


@dataclass(frozen=True)
class Shard:
    ids: np.ndarray  # memory-mapped, as are the others
    offsets: np.ndarray
    mask: np.ndarray | None  # None = all is learned
    gen: np.ndarray | None  # None = all is the world's

    @staticmethod
    def open(path: Path, tokenizer: Tokenizer) -> Shard:
        """UserError if it is not whole or of another tokenizer."""
        facts = read_json(path)
        if facts["tokenizer"] != tokenizer.fingerprint:
            mend = "name the tokenizer that it was made with, or make the corpus again"
            raise UserError(f"{path.parent} was tokenized by another tokenizer; {mend}")

        def mapped(suffix: str, dtype: str, length: int) -> np.ndarray:
            file = path.with_suffix(suffix)
            if not file.exists() or file.stat().st_size != length * np.dtype(dtype).itemsize:
                raise UserError(f"{file} is not what was written; make the corpus again")
            return np.memmap(file, dtype, "r") if length else np.zeros(0, dtype)

        def some(suffix: str, length: int) -> np.ndarray | None:
            return mapped(suffix, "uint8", length) if path.with_suffix(suffix).exists() else None

        n, num = facts["tokens"], facts["documents"]
        ids, offsets = mapped(".bin", facts["dtype"], n), mapped(".offsets", "int64", num + 1)
        return Shard(ids, offsets, some(".mask", n), some(".gen", num))

    def item(self, i: int) -> Item:
        a, b = self.offsets[i : i + 2]
        mask = np.ones(b - a, np.uint8) if self.mask is None else self.mask[a:b]
        return Item(self.ids[a:b], mask, gen=0 if self.gen is None else int(self.gen[i]))


@dataclass(frozen=True)
class Corpus:
    """All shards of one split."""

    folder: Path
    shards: Sequence[Shard]
    end_of_text: int

    @staticmethod
    def open(folder: Path, split: str, tokenizer: Tokenizer) -> Corpus:
        """UserError where there is nothing of this split, or something else is wrong."""
        paths = sorted(folder.glob(f"{split}-*.json"))
        corpus = Corpus(folder, [Shard.open(path, tokenizer) for path in paths], tokenizer.end_of_text)
        if not corpus.num_documents:
            raise UserError(f"no {split} documents in {folder}; make it with `nightschool corpus`")
        return corpus

    @cached_property
    def starts(self) -> np.ndarray:
        """Number of the first document of each shard, and of all."""
        return np.cumsum([0, *(len(shard.offsets) - 1 for shard in self.shards)])

    @property
    def num_documents(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def num_tokens(self) -> int:
        return sum(len(shard.ids) for shard in self.shards)

    def item(self, i: int) -> Item:
        shard = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.shards[shard].item(i - int(self.starts[shard]))

    def items(self, numbers: Sequence[int] | np.ndarray, row_length: int) -> list[Item]:
        """Documents by number. Longer texts go on in further items; of a longer conversation the end is lost, for its
        further turns mean nothing without the first."""
        found = list[Item]()
        for i in numbers:
            item = self.item(i)
            is_text = item.ids[-1] == self.end_of_text
            found += windows(item, row_length) if is_text else [item]
        return found

    def chunk(self, i: int, seed: int, num_tokens: float, row_length: int) -> list[Item]:
        """The i-th chunk of about num_tokens tokens of an endless shuffled stream."""
        n = self.num_documents
        size = max(1, round(num_tokens * n / self.num_tokens))
        a, b = i * size, (i + 1) * size
        epochs = range(a // n, (b - 1) // n + 1)
        numbers = [permutation(n, seed, e)[max(a - e * n, 0) : b - e * n] for e in epochs]
        return self.items(np.concatenate(numbers), row_length)


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)
