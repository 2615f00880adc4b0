"""`nightschool evaluate`: sit the exams. Dev by default; test is opened by the last evaluation alone.

Beside the town's exams: published ones of multiple choice (--exams), bits per byte of held-out text and conversations
(--texts), and answers to the first turns of the latter, by a fixed seed: nobody chooses them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from nightschool.config import at_least
from nightschool.device import Dtype, set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.runs import write_json, write_jsonl
from nightschool.tasks import choice
from nightschool.tasks import exam as exams
from nightschool.tasks.world import PROBES, SKILLS
from nightschool.text import chat, sources
from nightschool.text.corpus import encode
from nightschool.text.packing import Item
from nightschool.text.shards import Corpus
from nightschool.text.tokenizer import Tokenizer
from nightschool.train import course

ANSWER_TOKENS = 128
NUM_PROBLEMS, NUM_PROBES = 500, 100


@dataclass(frozen=True)
class Config:
    run: Annotated[Path, tyro.conf.Positional] = Path("life/sft")  # the run folder whose checkpoint is examined
    split: Literal["dev", "test"] = "dev"  # test: once, at the very end
    n: int | None = None  # problems per skill of the town; None = 500, none if it was brought
    n_probes: int | None = None  # problems per harder probe; None = 100, none if it was brought
    exams: tuple[str, ...] = ()  # files of multiple choice, as tasks/choice.py has them
    n_choices: int = 500  # questions of each at most
    texts: tuple[str, ...] = ()  # held out: runs of `nightschool corpus`, or sources as it takes them
    eval_bytes: int = 500_000  # of each
    n_answers: int = 30  # held-out conversations whose first turn is answered
    seed: int = 0  # of the problems
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe

    def __post_init__(self) -> None:
        at_least(self, 1, "n_choices", "eval_bytes")
        at_least(self, 0, "n", "n_probes", "n_answers", "threads")


def items_of(source: str, tokenizer: Tokenizer, num_bytes: int, row_length: int) -> list[Item]:
    """About num_bytes: of a corpus from what was held out, in a fixed order; of other sources from their beginning."""
    if (Path(source) / "shards").is_dir():
        return course.held_out(Corpus.open(Path(source) / "shards", "dev", tokenizer), tokenizer, num_bytes, row_length)
    items, found, lengths = list[Item](), 0, tokenizer.byte_lengths
    for path in sources.files_of([source]):
        for document, _ in sources.documents(path):
            if found < num_bytes:
                items += encode(tokenizer, [document], row_length=row_length)
                found += sum(lengths[i] for i in items[-1].ids)
    return items


def first_answer(item: Item) -> slice:
    """Where the assistant speaks for the first time; nowhere in a text."""
    spoken = np.asarray(item.mask, bool)
    if spoken.all() or not spoken.any():
        return slice(0, 0)
    start = int(spoken.argmax())
    return slice(start, start + (int((~spoken[start:]).argmax()) or len(spoken) - start))


def answers(engine: Engine, held_out: Mapping[str, Sequence[Item]], n: int, seed: int) -> list[dict[str, str]]:
    """n conversations by the seed: what the user said first, what the model answers, and what was answered there."""
    tokenizer, most = engine.tokenizer, min(ANSWER_TOKENS, engine.context // 2)
    talks = [(name, item.ids, first_answer(item)) for name, items in held_out.items() for item in items]
    fitting = [talk for talk in talks if 0 < talk[2].start <= engine.context - most]
    drawn = random.Random(f"talk {seed}").sample(fitting, min(n, len(fitting)))
    sampling = Sampling(temperature=0.7, max_new_tokens=most, seed=seed)
    completions = engine.generate([list(map(int, ids[: there.start])) for _, ids, there in drawn], sampling)
    rows = []
    for (name, ids, there), completion in zip(drawn, completions, strict=True):
        asked = tokenizer.decode(map(int, ids[: there.start])).rpartition("<|im_start|>user\n")[2]
        reference, answer = (chat.said(tokenizer, list(map(int, x))).content for x in (ids[there], completion.ids))
        asked = asked.partition("<|im_end|>")[0]
        rows.append({"source": name, "prompt": asked, "answer": answer, "reference": reference})
    return rows


def main(config: Config) -> dict[str, Any]:
    files = choice.exam_files(config.exams)
    sources.check([source for source in config.texts if not (Path(source) / "shards").is_dir()])
    checkpoint = exchange.checkpoint_of(config.run)
    device = set_up(config.threads, config.dtype)
    model, tokenizer = exchange.load(checkpoint, device.dtype)
    engine = Engine(model, tokenizer, slots=128)
    scores: dict[str, Any] = {"split": config.split, "skills": {}, "probes": {}}
    samples: list[dict[str, Any]] = []
    n = NUM_PROBLEMS * (not tokenizer.brought) if config.n is None else config.n
    n_probes = NUM_PROBES * (not tokenizer.brought) if config.n_probes is None else config.n_probes
    if n:
        scores["skills"], samples = exams.exam(engine, SKILLS, config.split, n, config.seed)
        scores["bits_per_byte"] = exams.bits_per_byte(model, tokenizer, config.split)
    if n_probes:
        scores["probes"], _ = exams.exam(engine, PROBES, config.split, n_probes, config.seed)
    if files:
        sat = {k: choice.examine(model, tokenizer, path, config.n_choices, config.seed) for k, path in files.items()}
        scores["choices"] = sat
    if config.texts:
        T = min(engine.context, 2048)
        held_out = {source: items_of(source, tokenizer, config.eval_bytes, T) for source in config.texts}
        batches = {source: course.in_batches(items, tokenizer, T) for source, items in held_out.items()}
        scores["texts"] = {source: course.bits_per_byte(model, batches[source]) for source in config.texts}
        write_jsonl(config.run / "answers.jsonl", answers(engine, held_out, config.n_answers, config.seed))
    suffix = "-test" if config.split == "test" else ""
    write_json(config.run / f"scores{suffix}.json", scores)
    write_jsonl(config.run / "samples.jsonl", samples)
    write_jsonl(config.run / "off_template.jsonl", exams.off_template(engine))
    return scores
