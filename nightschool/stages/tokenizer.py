"""`nightschool tokenizer`: learn a vocabulary from the world's own text, or from a sample of any corpus.

A corpus is read twice as a stream: to count the bytes of each script in each source, and to draw the sample. A source's
script gets a share of it that grows with its bytes to the power of 0.7 (as multilingual BERT does it), so that what is
rare is heard; no text is taken twice. What is held in memory are the words of the sample, each once. But: script is all
that is known of a language, and the bytes a token are measured on texts of which some were in the sample.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool.config import UserError, at_least
from nightschool.runs import Run, progress
from nightschool.text import chat, sources, tokenizer
from nightschool.text.document import Document
from nightschool.text.tokenizer import Tokenizer, script_of
from nightschool.world import lexicon, school

TEMPERATURE = 0.7
PROBE = 100_000  # characters of each script by which bytes a token are measured
Texts = Iterator[tuple[Document, tuple[str, str]]]  # a document; its source and script


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/tokenizer")  # the run folder
    vocab_size: int = 2048  # ids, the 256 bytes and 5 special tokens included
    documents: int = 8000  # of the world, to count pairs in
    corpus: tuple[str, ...] = ()  # files, folders, globs, hub:owner/name/pattern to learn from; none = the world
    sample_mb: float = 250.0  # of the corpus, to count pairs in
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "documents")
        at_least(self, 0.01, "sample_mb")


def texts(config: Config) -> Iterator[str]:
    """What is read and said by day, and the word lists, so that each name and noun becomes one token."""
    rng = random.Random(f"tokenizer {config.seed}")
    shares = {**school.read(1.0), **school.STUDY}
    for name in rng.choices(list(shares), list(shares.values()), k=config.documents):
        document = school.SOURCES[name](rng, 1.0)
        yield from spoken(document)
    words = (*lexicon.FIRST_NAMES, *lexicon.NEW_NAMES, *lexicon.SPELL_WORDS)
    for _ in range(config.documents // 40):
        yield "".join(f" {word}" for word in words)


def spoken(document: Document) -> list[str]:
    """A document's text as it will be encoded."""
    return chat.texts(document.messages, document.tools) if document.messages else [document.text]


def stream(files: dict[str, list[Path]], label: str) -> Texts:
    """Every document of the sources, with progress."""
    sizes = {path: path.stat().st_size for paths in files.values() for path in paths}
    before = 0
    with progress(label, sum(sizes.values())) as show:
        for source, paths in files.items():
            for path in paths:
                for document, row in sources.documents(path):
                    show(before + row.position, path.name)
                    yield document, (source, script_of("".join(spoken(document))))
                before += sizes[path]


def census(documents: Texts) -> tuple[Counter[tuple[str, str]], dict[str, str]]:
    """Bytes of each source's scripts, and the first texts of each script."""
    num_bytes, probes = Counter[tuple[str, str]](), dict[str, str]()
    for document, bucket in documents:
        text = "".join(spoken(document))
        num_bytes[bucket] += len(text.encode())
        if len(probe := probes.get(bucket[1], "")) < PROBE:
            probes[bucket[1]] = probe + text[:PROBE]
    return num_bytes, probes


def sample(documents: Texts, num_bytes: Counter[tuple[str, str]], config: Config) -> Iterator[str]:
    """About sample_mb of the documents' texts; which ones depends on the seed and on each document alone."""
    weights = {bucket: n**TEMPERATURE for bucket, n in num_bytes.items()}
    each = 1e6 * config.sample_mb / sum(weights.values())
    for document, bucket in documents:
        if random.Random(f"{config.seed} {document.id}").random() < each * weights[bucket] / num_bytes[bucket]:
            yield from spoken(document)


def bytes_per_token(made: Tokenizer, text: str) -> float:
    return len(text.encode()) / len(made.encode(text))


def main(config: Config) -> dict[str, Any]:
    sources.check(config.corpus)
    run = Run.open(config.out, "tokenizer", config)
    if not run.done:
        facts: dict[str, Any] = {}
        if config.corpus:
            files = {source: sources.files_of([source]) for source in config.corpus}
            num_bytes, probes = census(stream(files, "counting"))
            if not num_bytes:
                raise UserError(f"there is no text in {' '.join(config.corpus)}")
            made = tokenizer.train(sample(stream(files, "sampling"), num_bytes, config), config.vocab_size)
            text = "".join(probes.values())
            facts["bytes_by_script"] = {s: sum(n for b, n in num_bytes.items() if b[1] == s) for s in probes}
            facts["bytes_per_token_by_script"] = {s: bytes_per_token(made, probe) for s, probe in probes.items()}
        else:
            made = tokenizer.train(texts(config), config.vocab_size)
            text = "".join(text for text, _ in zip(texts(config), range(1000), strict=False))
        made.save(run.path("checkpoint"))
        run.finish(vocab_size=made.vocab_size, bytes_per_token=bytes_per_token(made, text), **facts)
    return {name: run.meta[name] for name in ("seconds", "vocab_size", "bytes_per_token")}
