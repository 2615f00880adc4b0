"""Documents -> token sequences: a seeded mixture of endless sources, and the files a user brings.

A text ends in <|endoftext|> and is trained on whole, or on those of its pieces that are learned; of a conversation,
what the assistant says. Documents with no information behind them (info="none") are refused outside a control arm.
But: no deduplication or filtering, and user files are held in memory.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool.config import UserError
from nightschool.text import chat
from nightschool.text.document import Document
from nightschool.text.packing import Item
from nightschool.text.tokenizer import Tokenizer

Source = Callable[[random.Random, float], Document]  # the float is progress: 0 at the stage's start, 1 at its end
Shares = Mapping[str, float]  # source -> its share of the tokens, in any unit
NUM_PROBES = 8  # documents by which a source's mean length is found


def encode(
    tokenizer: Tokenizer, documents: Sequence[Document], *, row_length: int = 0, control: bool = False
) -> list[Item]:
    """Documents -> items, in their order. UserError for info="none" unless `control`.

    row_length: a text of more positions goes on in a further item, so that none of it is cropped; 0 leaves it
    whole.
    """
    for document in documents:
        if document.info == "none" and not control:
            raise UserError(f"{document.id} has info 'none': words with nothing behind them are for control arms")
    conversations = [(d.messages, d.tools) for d in documents if d.messages]
    lessons = iter(chat.lessons(tokenizer, conversations))
    parts = [document.pieces or ((document.text, True),) for document in documents if not document.messages]
    encoded = iter(tokenizer.encode_many([part for pieces in parts for part, _ in pieces]))
    texts = iter(parts)
    items = []
    for document in documents:
        if document.messages:
            items += [Item(*lesson) for lesson in next(lessons)]
            continue
        ids, mask = list[int](), list[int]()
        for _, learned in next(texts):
            piece = next(encoded)
            ids += piece
            mask += [int(learned)] * len(piece)
        end = int(not document.pieces)  # where a text in pieces ends cannot be known either
        items += windows(Item([*ids, tokenizer.end_of_text], [*mask, end]), row_length)
    return items


def windows(item: Item, row_length: int) -> list[Item]:
    """An item cut into items of at most row_length positions, overlapping by one token: no target is lost."""
    if row_length == 0 or item.num_positions <= row_length:
        return [item]
    starts = range(0, item.num_positions, row_length)
    return [Item(item.ids[a : a + row_length + 1], item.mask[a : a + row_length + 1]) for a in starts]


@dataclass
class Mixture:
    """An endless stream of documents from named sources; `chunk` is what packing.batches takes.

    A chunk is a pure function of (seed, its number): each source draws from a generator of its own.
    """

    tokenizer: Tokenizer
    sources: Mapping[str, Source]
    shares: Callable[[float], Shares]  # progress -> shares; sources left out have none
    seed: int
    chunk_tokens: int = 65_536
    horizon_tokens: int = 0  # tokens of the whole stage, for progress; 0 = progress stays 0
    row_length: int = 0  # longer texts go on in a further item; 0 = they stay whole
    control: bool = False
    tokens: Counter[str] = field(default_factory=Counter)  # tokens made in this process, by source

    def chunk(self, i: int) -> list[Item]:
        """About chunk_tokens tokens, shared among the sources by tokens, not by documents."""
        progress = min(1.0, i * self.chunk_tokens / self.horizon_tokens) if self.horizon_tokens else 0.0
        shares = self.shares(progress)
        if unknown := shares.keys() - self.sources.keys():
            raise UserError(f"no such sources: {', '.join(sorted(unknown))}; known: {', '.join(self.sources)}")
        items = []
        for name, share in shares.items():
            if share > 0:
                asked = self.chunk_tokens * share / sum(shares.values())
                made = self.draw(name, random.Random(f"{self.seed} {i} {name}"), progress, asked)
                self.tokens[name] += sum(len(item.ids) for item in made)
                items += made
        return items

    def draw(self, name: str, rng: random.Random, progress: float, num_tokens: float) -> list[Item]:
        """About num_tokens tokens of one source: a few documents give its mean length, the rest follow."""
        items: list[Item] = []
        num_documents, num_made, num_more = 0, 0, NUM_PROBES
        while num_more > 0:
            documents = [self.sources[name](rng, progress) for _ in range(num_more)]
            items += encode(self.tokenizer, documents, row_length=self.row_length, control=self.control)
            num_documents += num_more
            num_made = sum(len(item.ids) for item in items)
            num_more = int((num_tokens - num_made) * num_documents / num_made)
        return items[: int(len(items) * num_tokens / num_made + rng.random())]  # rounded without bias


def epochs(items: Sequence[Item], num_epochs: int, seed: int) -> Callable[[int], list[Item]]:
    """A finite corpus as packing.batches takes it: chunk i is pass i over the items, in its own order."""

    def chunk(i: int) -> list[Item]:
        if i >= num_epochs:
            return []
        return random.Random(f"{seed} {i}").sample(items, len(items))

    return chunk


def read(path: Path) -> list[Document]:
    """A user's .txt or .jsonl file, or a folder of them -> documents. UserError for whatever is wrong.

    A .txt file is one text; a line of .jsonl an object with "text", or "messages" (and names of "tools").
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".jsonl") and p.is_file())
        if not files:
            raise UserError(f"no .txt or .jsonl files in {path}")
        return [document for file in files for document in read(file)]
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"{path} must be a .txt or .jsonl file, or a folder of them")
    text = read_text(path)
    if path.suffix == ".txt":
        return [Document(text=text, kind="real", info="doc")]
    return [
        document_from(line, f"{path} line {number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def read_text(path: Path) -> str:
    """A file's text. UserError if it is missing, unreadable, empty, binary or not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not data.strip():
        raise UserError(f"{path} is empty")
    if b"\0" in data:
        raise UserError(f"{path} is a binary file; give text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; convert it, as with `iconv`") from None


def document_from(line: str, place: str) -> Document:
    """One line of a .jsonl file -> its document. UserError names the place."""
    try:
        record: Any = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode()  # a lone surrogate could not be tokenized
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {place} as JSON: {error}") from None
    record = record if isinstance(record, dict) else {}
    text, messages, tools = record.get("text"), record.get("messages"), record.get("tools") or []
    if isinstance(text, str) and text:
        return Document(text=text, kind="real", info="doc")
    if not (isinstance(messages, list) and messages):
        raise UserError(f'{place} needs a "text" or a list of "messages"')
    if not (isinstance(tools, list) and all(isinstance(tool, str) for tool in tools)):
        raise UserError(f'{place}: "tools" must be a list of names')
    try:
        turns = tuple(chat.message_from(message) for message in messages)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    if not any(turn.role == "assistant" for turn in turns):
        raise UserError(f"{place} has no assistant turn, so there is nothing to learn from it")
    return Document(messages=turns, tools=tuple(tools), kind="real", info="doc")
