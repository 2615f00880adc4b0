"""`nightschool ask "question" --documents FOLDER`: an answer, and the sentences of the documents that say so.

The index finds passages, the model answers with them before it, and of their sentences those that hold the answer are
cited. Without documents it answers from memory. What it does not find it says it does not know. But: a sentence is
cited for its words; whether it means the answer is for the reader to see.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from nightschool.config import UserError, at_least
from nightschool.device import Dtype, set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.night.forms import content, holds
from nightschool.night.memory import Index, Passage, look_up, passage_tokens, passages, sentences, words
from nightschool.night.read import CHAT_TOKENS, by_engine
from nightschool.serve.speaker import newest_checkpoint
from nightschool.text.tokenizer import Tokenizer
from nightschool.world.passages import UNKNOWN
from nightschool.world.school import DONT_KNOW

MOST_CITED = 3
ANSWER_TOKENS = 96


@dataclass(frozen=True)
class Config:
    question: tyro.conf.Positional[str]
    documents: tuple[str, ...] = ()  # files, folders, globs to look it up in; none = from memory
    run: Path = Path("life")  # a life folder (its newest checkpoint), a run folder or a checkpoint
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe

    def __post_init__(self) -> None:
        at_least(self, 0, "threads")
        if not words(self.question):
            raise UserError("the question is empty; ask something")


def cite(answer: str, question: str, read: list[Passage]) -> list[dict[str, str]]:
    """The sentences that hold most of what the answer's last line adds to the question, likeliest first; of these such
    as have a word of the question, if any does."""
    said = answer.strip().rpartition("\n")[2].removeprefix("Answer: ")
    pool = [(passage.place, sentence) for passage in read for sentence in sentences(passage.text)]
    order = Index([sentence for _, sentence in pool]).search(f"{question} {said}", len(pool))
    holding = [pool[i] for i in order if holds(pool[i][1], question, said)]
    holding = [pair for pair in holding if content(question) & content(pair[1])] or holding
    return [{"file": place, "sentence": sentence} for place, sentence in holding[:MOST_CITED]]


def main(config: Config) -> dict[str, Any]:
    checkpoint = newest_checkpoint(config.run)
    tokenizer = Tokenizer.load(checkpoint)
    context = exchange.model_config(checkpoint).max_position_embeddings
    read = passages(config.documents, tokenizer, passage_tokens(context)) if config.documents else []
    index = Index([passage.text for passage in read])
    asked, room = len(tokenizer.encode(config.question)), context - ANSWER_TOKENS - CHAT_TOKENS
    if asked > room:
        raise UserError(f"the question has {asked:,} tokens and this model has room for {max(room, 0):,}; shorten it")
    found = look_up(index, read, config.question, tokenizer, room - asked)
    if config.documents and not found:
        return told(UNKNOWN, [], known=False)
    model, tokenizer = exchange.load(checkpoint, set_up(config.threads, config.dtype).dtype)
    prompt = "\n\n".join((*(passage.text for passage in found), config.question))
    (answer,) = by_engine(Engine(model, tokenizer), ANSWER_TOKENS)([prompt], 0, 0)
    cited = cite(answer, config.question, found)
    known = answer.strip() != "" and not answer.endswith((UNKNOWN, DONT_KNOW))
    if known and config.documents and not cited:
        print("no sentence of the documents holds this answer:", file=sys.stderr)
    return told(answer, cited if known else [], known and (bool(cited) or not config.documents))


def told(answer: str, cited: list[dict[str, str]], known: bool) -> dict[str, Any]:
    print(answer, file=sys.stderr)
    for citation in cited:
        print(f"  {citation['file']}: {citation['sentence']}", file=sys.stderr)
    return {"answer": answer, "known": known, "citations": cited}
