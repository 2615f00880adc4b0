"""Which documents are worth learning from: none that was there before, none that holds an exam's text.

Texts are compared as words, lower case, each a hash. MinHash estimates how much two texts share of their runs of five
words; banded, texts that share about three quarters or more are taken for one (datatrove's setting for FineWeb: 112
hashes in 14 bands). What was seen is kept in a Bloom filter, of fixed size whatever the corpus, which can be filled
again from the bands' keys alone. Contamination is any run of 13 words in common with an exam (GPT-3's length). By hand
because the library for it keeps every signature in Python dictionaries and brings scipy. But: which document another
is like isn't known; shorter exam texts go unseen, and counted; with 512 MB the filter takes one in 230 of ten million
texts for known that are not.
Sources: Broder 1997; LSHBloom (2411.04257); FineWeb (2406.17557); GPT-3, appendix C (2005.14165).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import numpy as np

from nightschool.text.document import Document

WORD = re.compile(r"[\u3040-\u9fff]|[^\W_\u3040-\u9fff]+")  # a Chinese or Japanese character is a word of its own
RUN, EXAM_RUN = 5, 13  # words
BANDS, ROWS = 14, 8
PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd; 2^64 / golden ratio
FACTORS, TERMS = np.random.default_rng(0).integers(2**64, size=(2, BANDS * ROWS), dtype=np.uint64)
FACTORS |= np.uint64(1)
BITS_PER_KEY = 4


def words(text: str) -> np.ndarray:
    """Text -> the hashes of its words, uint64 [N]; the same on every machine."""
    found = WORD.findall(text.lower())
    return np.fromiter((zlib.crc32(word.encode()) for word in found), np.uint64, len(found))


def runs(hashes: np.ndarray, length: int) -> np.ndarray:
    """Word hashes [N] -> hashes of each run of so many words [N - length + 1]; of all words, where there are fewer."""
    length = min(length, len(hashes))
    mixed = np.zeros(len(hashes) - length + 1 if length else 0, np.uint64)
    for i in range(length):
        mixed = mixed * PRIME + hashes[i : i + len(mixed)]
    return mix(mixed)


def mix(x: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the end of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def signature(hashes: np.ndarray) -> np.ndarray:
    """Hashes of a text's runs, at least one -> its MinHash, uint64 [BANDS * ROWS]: two texts agree in the share of its
    places that they have of their runs in common."""
    least = (hashes[a : a + 1024, None] * FACTORS + TERMS for a in range(0, len(hashes), 1024))
    return np.minimum.reduce([block.min(0) for block in least])


def keys_of(document: Document, hashes: np.ndarray) -> np.ndarray:
    """uint64: of the whole document; then, of a text, one a band. Conversations often share a passage or a question
    and differ in what counts, so only their exact copies are found."""
    whole = np.array([int(document.id, 16)], np.uint64)
    if document.messages or not len(hashes):
        return whole
    bands = signature(runs(hashes, RUN)).reshape(BANDS, ROWS)
    key = np.arange(BANDS, dtype=np.uint64)
    for row in bands.T:
        key = mix(key * PRIME + row)
    return np.append(whole, key)


class Seen:
    """A Bloom filter of 64-bit keys; `num_bytes` is a power of two."""

    def __init__(self, num_bytes: int) -> None:
        self.bits = np.zeros(num_bytes, np.uint8)

    def places(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keys [N] -> bytes and bits in them [BITS_PER_KEY, N]."""
        steps = np.arange(1, BITS_PER_KEY + 1, dtype=np.uint64)[:, None] * PRIME
        bits = mix(keys + steps) & np.uint64(8 * len(self.bits) - 1)
        return bits >> np.uint64(3), np.uint8(1) << (bits & np.uint64(7)).astype(np.uint8)

    def has(self, keys: np.ndarray) -> np.ndarray:
        """bool [N]"""
        where, bits = self.places(keys)
        return (self.bits[where] & bits).astype(bool).all(0)

    def add(self, keys: np.ndarray) -> None:
        np.bitwise_or.at(self.bits, *self.places(keys))


class Exams:
    """The runs of 13 words of many exams. texts: (name of the exam, text)."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self.names: list[str] = []
        self.num_texts = self.num_short = 0
        found, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for name, text in texts:
            hashes = words(text)
            self.num_texts += 1
            self.num_short += len(hashes) < EXAM_RUN
            if len(hashes) >= EXAM_RUN:
                if name not in self.names:
                    self.names.append(name)
                found.append(runs(hashes, EXAM_RUN))
                owners.append(np.full(len(found[-1]), self.names.index(name)))
        self.runs, first = np.unique(np.concatenate(found), return_index=True)
        self.owners = np.concatenate(owners)[first]

    def hit(self, text: str, hashes: np.ndarray) -> tuple[str, str] | None:
        """The exam that a text has a run in common with, and that run; None for none."""
        if len(hashes) < EXAM_RUN or not len(self.runs):
            return None
        own = runs(hashes, EXAM_RUN)
        near = np.searchsorted(self.runs, own).clip(max=len(self.runs) - 1)
        hits = np.flatnonzero(self.runs[near] == own)
        if not len(hits):
            return None
        run = WORD.findall(text.lower())[hits[0] : hits[0] + EXAM_RUN]
        return self.names[self.owners[near[hits[0]]]], " ".join(run)
