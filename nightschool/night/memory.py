"""Documents as passages that fit a model's context, and an index that finds the ones a question is about.

BM25 over words, by hand because the kept libraries for it bring stemmers and sparse matrices for what is one product of
term weights. But: no stems and no meaning, so "cycles" does not find "bicycle"; the index lives in memory.
Source: Robertson and Zaragoza 2009, with Lucene's non-negative idf.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nightschool.text import sources
from nightschool.text.document import Document
from nightschool.text.tokenizer import Tokenizer

K1, B = 1.2, 0.75  # how soon a repeated word stops counting; how much a long passage is held against it
MOST_PASSAGES = 3  # to answer from
MOST_TOKENS = 384  # of a passage: one that says more answers a question less well
SENTENCE = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'\u201d\u2019)]))\s+(?=[\"'\u201c\u2018(\[]?[A-Z0-9])|\n\s*\n")
WORD = re.compile(r"\w+")


class Passage(NamedTuple):
    text: str
    source: str  # the id of its document
    place: str = ""  # where it stands; "" = it was told
    gen: int = 0  # its document's


def passage_tokens(context: int) -> int:
    """Tokens of a passage, or of what is said of it: two passages, the ask and an answer fit into the context."""
    return min(MOST_TOKENS, context // 4)


def told(document: Document) -> str:
    """What there is to read in a document: its text, or what the user said in a conversation."""
    return document.text or " ".join(m.content for m in document.messages if m.role == "user")


def sentences(text: str) -> list[str]:
    """'"One." Two, e.g. three? 4' -> ['"One."', 'Two, e.g. three?', '4']"""
    return [part.strip() for part in SENTENCE.split(text) if part.strip()]


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def passages(folders: Sequence[str], tokenizer: Tokenizer, num_tokens: int) -> list[Passage]:
    """Every document of these files and folders in passages of whole sentences, num_tokens at most but for a longer
    sentence. UserError where there is none."""
    return [
        Passage(text, document.id, row.place, document.gen)
        for path in sources.files_of(folders)
        for document, row in sources.documents(Path(path))
        for text in parts(told(document), tokenizer, num_tokens)
    ]


def parts(text: str, tokenizer: Tokenizer, num_tokens: int) -> Iterator[str]:
    part, size = list[str](), 0
    found = sentences(text)
    for sentence, ids in zip(found, tokenizer.encode_many(found), strict=True):
        if part and size + len(ids) > num_tokens:
            yield " ".join(part)
            part, size = [], 0
        part.append(sentence)
        size += len(ids)
    if part:
        yield " ".join(part)


class Index:
    """texts -> which of them a question is about."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(words(text)) for text in texts]
        lengths = [sum(count.values()) for count in counts]
        mean = sum(lengths) / max(len(lengths), 1)
        self.weights: dict[str, dict[int, float]] = defaultdict(dict)  # word -> text -> what it adds to the score
        for i, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            for word, n in count.items():
                self.weights[word][i] = n * (K1 + 1) / (n + K1 * (1 - B + B * length / mean))
        for found in self.weights.values():
            rarity = math.log(1 + (len(texts) - len(found) + 0.5) / (len(found) + 0.5))
            for i in found:
                found[i] *= rarity

    def search(self, question: str, most: int) -> list[int]:
        """Numbers of the texts that have a word of the question, best first."""
        scores: dict[int, float] = defaultdict(float)
        for word in sorted(set(words(question))):
            for i, weight in self.weights.get(word, {}).items():
                scores[i] += weight
        return [i for i, _ in sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:most]]


def look_up(index: Index, read: Sequence[Passage], question: str, tokenizer: Tokenizer, room: int) -> list[Passage]:
    """The passages that a question is about, best first, as many of the first few as fit into so many tokens."""
    found = [read[i] for i in index.search(question, MOST_PASSAGES)]
    lengths = [len(tokenizer.encode(f"{passage.text}\n\n")) for passage in found]
    return [passage for i, passage in enumerate(found) if sum(lengths[: i + 1]) <= room]
