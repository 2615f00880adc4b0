"""`nightschool tokenizer`: learn a vocabulary from the world's own text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool.config import at_least
from nightschool.runs import Run
from nightschool.text import chat, tokenizer
from nightschool.world import lexicon, school


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/tokenizer")  # the run folder
    vocab_size: int = 2048  # ids, the 256 bytes and 5 special tokens included
    documents: int = 8000  # of the world, to count pairs in
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "documents")


def texts(config: Config) -> Iterator[str]:
    """What is read and said by day, and the word lists, so that each name and noun becomes one token."""
    rng = random.Random(f"tokenizer {config.seed}")
    shares = {**school.read(1.0), **school.study(1.0)}
    for name in rng.choices(list(shares), list(shares.values()), k=config.documents):
        document = school.SOURCES[name](rng, 1.0)
        yield from chat.texts(document.messages, document.tools) if document.messages else [document.text]
    words = (*lexicon.FIRST_NAMES, *lexicon.NEW_NAMES, *lexicon.SPELL_WORDS)
    for _ in range(config.documents // 40):
        yield "".join(f" {word}" for word in words)


def main(config: Config) -> dict[str, Any]:
    run = Run.open(config.out, "tokenizer", config)
    if not run.done:
        made = tokenizer.train(texts(config), config.vocab_size)
        made.save(run.path("checkpoint"))
        sample = "".join(text for text, _ in zip(texts(config), range(1000), strict=False))
        num_bytes = len(sample.encode())
        run.finish(vocab_size=made.vocab_size, bytes_per_token=num_bytes / len(made.encode(sample)))
    return {name: run.meta[name] for name in ("seconds", "vocab_size", "bytes_per_token")}
