"""Documents -> token sequences: a seeded mixture of endless sources.

A text ends in <|endoftext|> and is trained on whole, or on those of its pieces that are learned; of a conversation,
what the assistant says. Documents with no information behind them (info="none") are refused outside a control arm.
Files are read by sources.py, and go through shards.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nightschool.config import UserError
from nightschool.text import chat
from nightschool.text.document import Document
from nightschool.text.packing import Item, windows
from nightschool.text.shards import Corpus
from nightschool.text.tokenizer import Tokenizer

Source = Callable[[random.Random, float], Document]  # the float is progress: 0 at the stage's start, 1 at its end
Sources = Mapping[str, Source | Corpus]
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
        weight, gen = document.weight, document.gen
        if document.messages:
            # Of a dream all is learned, from a teacher's distribution (train/losses.py distil): no token of it is true.
            for turns, spoken in next(lessons):
                dreamt = [1.0] * len(turns) if document.kind == "dream" else []
                mask = [weight * m for m in dreamt or spoken]
                items.append(Item(turns, mask, {"dream": dreamt} if dreamt else {}, gen=gen))
            continue
        ids = list(tokenizer.begin_of_text)
        mask = [weight] * len(ids)
        for _, learned in next(texts):
            piece = next(encoded)
            ids += piece
            mask += [weight * learned] * len(piece)
        end = weight * (not document.pieces)  # where a text in pieces ends cannot be known either
        items += windows(Item([*ids, tokenizer.end_of_text], [*mask, end], gen=gen), row_length)
    return items


@dataclass
class Mixture:
    """An endless stream of documents from named sources; `chunk` is what packing.batches takes.

    A chunk is a pure function of (seed, its number): each source draws from a generator of its own, and a tokenized
    corpus is read in an order of its own.
    """

    tokenizer: Tokenizer
    sources: Sources
    shares: Callable[[float], Shares]  # progress -> shares; sources left out have none
    seed: int
    chunk_tokens: int = 65_536
    horizon_tokens: int = 0  # tokens of the whole stage, for progress; 0 = progress stays 0
    row_length: int = 0  # longer texts go on in a further item; 0 = they stay whole
    control: bool = False

    def chunk(self, i: int) -> list[Item]:
        """About chunk_tokens tokens, shared among the sources by tokens, not by documents."""
        progress = min(1.0, i * self.chunk_tokens / self.horizon_tokens) if self.horizon_tokens else 0.0
        shares = self.shares(progress)
        if unknown := shares.keys() - self.sources.keys():
            raise UserError(f"no such sources: {', '.join(sorted(unknown))}; known: {', '.join(self.sources)}")
        items = []
        for name, share in shares.items():
            if share > 0:
                asked, source = self.chunk_tokens * share / sum(shares.values()), self.sources[name]
                if isinstance(source, Corpus):
                    items += source.chunk(i, self.seed, asked, self.row_length)
                else:
                    items += self.draw(source, random.Random(f"{self.seed} {i} {name}"), progress, asked)
        return items

    def draw(self, source: Source, rng: random.Random, progress: float, num_tokens: float) -> list[Item]:
        """About num_tokens tokens of one source: a few documents give its mean length, the rest follow."""
        items: list[Item] = []
        num_documents, num_made, num_more = 0, 0, NUM_PROBES
        while num_more > 0:
            documents = [source(rng, progress) for _ in range(num_more)]
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
