"""The reading lab on real text, where no grammar knows the truth and a small model cannot write questions.

The reader is a program: it leaves out a name or a number of a sentence and asks for it (night/forms.py, "gaps"), in
four wordings and with more or less of the sentence around it. Asked are gaps of the documents that were drawn
before any training, in a fifth wording: which of four names or numbers of its document the model finds likeliest.

    text_read    the gaps that the program asks of the documents
    text_reread  the documents themselves, again and again
    text_wrong   the gaps of as many other documents

Half of each night is school: other texts and gaps in them, so that all arms know what a gap is. But: a question holds
words of its sentence; whether the model would know the fact in other words is not asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from nightschool.config import UserError
from nightschool.device import set_up
from nightschool.lab.arms import Json
from nightschool.model import exchange
from nightschool.model.transformer import Transformer
from nightschool.night.forms import FORMS, GAPS, gap, gaps_of
from nightschool.night.memory import Passage, parts
from nightschool.night.read import by_topic, reflect
from nightschool.runs import Run, read_json, read_jsonl, write_json
from nightschool.text import sources
from nightschool.text.corpus import encode
from nightschool.text.document import Document, Message
from nightschool.text.packing import collate
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.course import course
from nightschool.train.losses import log_probs
from nightschool.train.plan import flops_per_token, going_on

ARMS = ("text_read", "text_reread", "text_wrong")
PASSAGE_TOKENS, ROWS = 128, 64
NUM_SCHOOL = 400  # documents of school
TONIGHT = 0.5  # share of the tokens
CHECKS = 8  # of the answers during a night
LEAST_WORDS = 8  # of a sentence that is asked about
LEAST_ASKED = 10  # questions without which a document is passed over


@dataclass(frozen=True)
class Text:
    start: Path | None = None  # a run of `pretrain` on real text
    school: tuple[str, ...] = ()  # sources of texts like those it was raised on
    read: tuple[str, ...] = ()  # sources of texts that it has never seen; a seed draws some
    questions: int = 100
    rounds: int = 8  # questions that the program asks about each gap
    tokens: int = 200_000  # to learn from
    lr_scale: float = 0.3


class Asked(NamedTuple):
    question: str
    choices: tuple[str, ...]  # the right one first


class Folder(NamedTuple):
    passages: list[Passage]
    asked: list[Asked]


@cache
def documents(folders: tuple[str, ...], most: int) -> list[Document]:
    return [d for path in sources.files_of(folders) for d, _ in islice(sources.documents(path), most)]


def folder(text: Text, words: Tokenizer, seed: int, wrong: bool = False) -> Folder:
    """Documents with so many questions; `wrong`: the ones that would be drawn after them."""
    rng = random.Random(f"folder {seed}")
    pool = documents(text.read, 10_000)
    drawn = iter(rng.sample(pool, len(pool)))
    found = [take(text, words, drawn, rng) for _ in range(1 + wrong)]
    return found[-1]


def take(text: Text, words: Tokenizer, drawn: Iterator[Document], rng: random.Random) -> Folder:
    taken, questions = list[Passage](), list[Asked]()
    for document in drawn:
        if len(more := asked(document.text, rng)) >= LEAST_ASKED:
            taken += [Passage(part, document.id) for part in parts(document.text, words, PASSAGE_TOKENS)]
            questions += more
            if len(questions) >= text.questions:
                return Folder(taken, questions[: text.questions])
    raise UserError(f"there are fewer than {text.questions} questions in {' '.join(text.read)}; give it more to read")


def asked(text: str, rng: random.Random) -> list[Asked]:
    """A question about each whole sentence that has a gap; wrong choices come as often as they do in the text."""
    gaps = gaps_of(text)
    told, found = [m[0] for _, m in gaps], dict[str, Asked]()
    for line, m in rng.sample(gaps, len(gaps)):
        drawn = dict.fromkeys(rng.sample(told, len(told)))
        alike = [word for word in drawn if word != m[0] and word[0].isdigit() == m[0][0].isdigit()]
        if line[-1] in ".!?" and len(line.split()) >= LEAST_WORDS and len(alike) >= 3:
            found.setdefault(line, Asked(GAPS[-1].format(gap(line, m, rng)), (m[0], *alike[:3])))
    return list(found.values())


def lesson(question: str, answer: str) -> Document:
    return Document(messages=(Message("user", question), Message("assistant", answer)))


@torch.no_grad()
def likeliest(model: Transformer, words: Tokenizer, asked: Sequence[Asked]) -> list[float]:
    """1 where the right choice is the likeliest of a question's."""
    owners = [i for i, one in enumerate(asked) for _ in one.choices]
    items = encode(words, [lesson(one.question, choice) for one in asked for choice in one.choices])
    length = max(item.num_positions for item in items)
    nats = list[float]()
    for a in range(0, len(items), ROWS):
        batch = collate([[item] for item in items[a : a + ROWS]], length, words.end_of_text, packed=False)
        nats += log_probs(model, batch).sum(1).tolist()
    found: list[list[float]] = [[] for _ in asked]
    for i, value in zip(owners, nats, strict=True):
        found[i].append(value)
    return [float(values[0] >= max(values)) for values in found]


def gaps_in(passages: Sequence[Passage], rounds: int) -> list[list[Document]]:
    how_many = [rounds * len(gaps_of(passage.text)) for passage in passages]
    exercises = FORMS["gaps"].exercises(passages, how_many)
    return by_topic(reflect(FORMS["gaps"], exercises, (nobody, nobody), 0))


def nobody(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
    """The reader where none is needed."""
    return []


@dataclass(frozen=True)
class Night:
    """What identifies a run folder."""

    arm: str
    seed: int
    text: Text


def row_of(text: Text, out: Path, threads: int, arm: str, seed: int) -> Json:
    run = Run.open(out / f"seed-{seed}" / arm, "lab reading", Night(arm, seed, text))
    if not run.done:
        assert text.start
        device = set_up(threads, "bfloat16")
        model, words = exchange.load(exchange.checkpoint_of(text.start), device.dtype)
        ours = folder(text, words, seed)
        learned = folder(text, words, seed, wrong=True) if arm == "text_wrong" else ours
        if arm == "text_reread":
            food = [[Document(text=passage.text)] for passage in ours.passages]
        else:
            food = gaps_in(learned.passages, text.rounds)
        school = documents(text.school, NUM_SCHOOL)
        pages = [Passage(part, d.id) for d in school for part in parts(d.text, words, PASSAGE_TOKENS)]
        gaps = [d for topic in gaps_in(pages, 1) for d in topic]
        plan, row_length = going_on(model.config, words.brought)
        before = likeliest(model, words, ours.asked)
        end = course(
            run,
            model,
            words,
            plan,
            lambda progress: {"text": (1 - TONIGHT) / 2, "gaps": (1 - TONIGHT) / 2, "tonight": TONIGHT},
            sources={
                "text": lambda rng, progress: Document(text=rng.choice(pages).text),
                "gaps": lambda rng, progress: rng.choice(gaps),
                "tonight": lambda rng, progress: rng.choice(rng.choice(food)),
            },
            tokens=text.tokens,
            seed=seed,
            row_length=row_length,
            lr_scale=text.lr_scale,
            evaluate=lambda: {"accuracy": fmean(likeliest(model, words, ours.asked))},
            eval_every=max(1, text.tokens // plan.batch_tokens // CHECKS),
        )
        after = likeliest(model, words, ours.asked)
        rows = read_jsonl(run.path("metrics.jsonl"))
        curve = [(row["tokens"], row["dev"]["accuracy"]) for row in rows if "dev" in row]
        row = {
            "start": fmean(before),
            "final": fmean(after),
            "tokens": end.tokens,
            "flops": end.tokens * flops_per_token(model.config, row_length),
            "curve": [(0, fmean(before)), *curve, (end.tokens, fmean(after))],
            "right": {"text": after},
        }
        write_json(run.path("row.json"), row)
        run.finish(device=device.name, threads=device.threads, dtype="bfloat16", tokens=end.tokens)
    return {"seed": seed, "seconds": run.meta["seconds"]} | read_json(run.path("row.json"))
