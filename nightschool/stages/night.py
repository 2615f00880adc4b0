"""`nightschool night`: what the day told becomes the model's own, and nothing else is lost; or the night is undone.

    review the day's attempts (--review) -> read: write questions about the news, check them -> sleep: train on what was
    kept, beside replay; the gate

A night that begins at another's run goes on from it: what earlier nights taught is repeated beside school, and the gate
asks for it too, and for what the first evening could do. With --control the same tokens go into re-reading the raw text
instead. `nightschool read` is this with any documents.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nightschool import ranks
from nightschool.config import UserError, at_least
from nightschool.device import Dtype, set_up_for
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.night.forms import FORMS
from nightschool.night.homework import Homework, review
from nightschool.night.memory import Passage, told
from nightschool.night.past import Past
from nightschool.night.read import Reflection, by_engine, by_topic, read_back, reflect
from nightschool.night.sleep import Day, Night, sleep
from nightschool.runs import Costs, Run, make_once, read_json, read_jsonl, write_jsonl
from nightschool.tasks.exam import exam
from nightschool.tasks.named import PRACTICE, task_named
from nightschool.tasks.task import Task
from nightschool.tasks.world import SKILLS
from nightschool.text.corpus import Source
from nightschool.text.document import Document, record_of
from nightschool.train.course import beside, corpora_of
from nightschool.world import school
from nightschool.world.attributes import Fact
from nightschool.world.newcomers import News, newcomers, questions
from nightschool.world.problem import Problem

CARD = "A small model of the Qwen3 architecture, raised in a made-up town, the morning after a night of reading."
NUM_HEARD = 512  # of the day's questions, to dream of
LESSONS = {**school.STUDY, "lesson/unknown": 0.15, "lesson/passage": 0.3}  # shares of what is repeated
REVIEW = 0.2  # beside these, where the day was reviewed


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/night-001")  # the run folder
    start: Path = Path("life/rl")  # the evening's run
    family: int = 8  # people who move in: 8, or 4
    per_document: int = 128  # questions the model asks itself about each document
    tokens: int = 400_000  # to train on
    replay: float = 0.8  # share of these that is school again
    earlier: float = 0.25  # share of what earlier nights taught, beside school's 1; 0 = not asked for either
    dreams: float = 0.0  # share of the replay that is dreamt instead of repeated
    lr_scale: float = 0.2  # of the learning rates by which the model goes on
    lora_rank: int = 0  # train factors of this rank beside the blocks' matrices; 0 = train all weights
    review: int = 0  # attempts at the day's problems to review before sleep; 0 = none
    reviewer: Path | None = None  # who marks them: a run of `nightschool review`
    n_gate: int = 300  # dev problems per skill for the gate
    max_drift: float = 0.0  # nats a token from the evening self at which the night ends; 0 = the exam alone decides
    control: bool = False  # re-read the raw text for the same tokens instead
    seed: int = 0  # of the family that moves in, and of the training
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "per_document", "tokens", "n_gate")
        at_least(self, 0, "replay", "earlier", "dreams", "lr_scale", "lora_rank", "review", "max_drift", "threads")
        at_least(self, 0, "save_seconds")
        if self.review and not self.reviewer:
            raise UserError("review needs a reviewer; name a run of `nightschool review`")
        if self.family not in (4, 8):
            raise UserError(f"family must be 4 or 8; got {self.family}")
        if self.replay > 1 or self.dreams > 1:
            raise UserError(f"replay and dreams are shares, at most 1; got {self.replay} and {self.dreams}")


def fixed(problems: list[Problem]) -> Task:
    """A task over a closed list, drawn without end."""
    return Task(lambda rng, split: rng.choice(problems))


def skills_of(strangers: Sequence[str]) -> dict[str, Task]:
    """The skills of the day, and whether it still knows what it does not know."""
    return {**SKILLS, "unknown": Task(lambda rng, split: school.unknown(rng, split, strangers))}


def sources_of(strangers: Sequence[str], together: int = 2) -> dict[str, Source]:
    """School again; of nobody but strangers does it say that it does not know them, `together` questions at a time."""
    lesson = school.several(lambda rng, split: school.unknown(rng, split, strangers), together)
    unknown = school.spoken(lesson, earlier=0)
    return {**school.SOURCES, "lesson/unknown": unknown}


def heard_at_school(sources: Mapping[str, Source], seed: int, shares: Mapping[str, float] = LESSONS) -> list[Document]:
    """What was asked by day, without the answers."""
    rng, names = random.Random(f"heard {seed}"), list(shares)
    lessons = (sources[rng.choices(names, list(shares.values()))[0]](rng, 1.0) for _ in range(NUM_HEARD))
    return [replace(lesson, messages=lesson.messages[:1]) for lesson in lessons]


def sit(engine: Engine, news: News, earlier: Sequence[Fact], n: int) -> dict[str, Any]:
    """Every dev question's outcome by skill, and the news' answers."""
    tasks, sizes = {**skills_of(news.strangers), "news": fixed(questions(news.facts))}, {"news": len(news.facts)}
    if earlier:
        tasks, sizes = {**tasks, "earlier": fixed(questions(earlier))}, {**sizes, "earlier": len(earlier)}
    samples = {skill: exam(engine, {skill: task}, "dev", sizes.get(skill, n))[1] for skill, task in tasks.items()}
    return {
        "outcomes": {skill: [s["outcome"] for s in rows] for skill, rows in samples.items()},
        "news": samples["news"],
    }


def precision(reflections: list[Reflection], news: News) -> float | None:
    """Share of the kept reflections whose notes are all true of the town: for the report, unknown to the model."""
    true = {fact.note for fact in news.facts}
    kept = [all(note in true for note in r.turns[1].split("\n")[:-1]) for r in reflections if r.kept]
    return sum(kept) / len(kept) if kept else None


def reviewed_day(run: Run, config: Config, engine: Engine, reviewer: Path) -> list[Homework]:
    path = run.path("homework.jsonl")

    def write() -> None:
        model, _ = exchange.load(reviewer, engine.decoder.dtype)
        done = review(engine, model, task_named(PRACTICE), config.review, config.seed)
        write_jsonl(path, map(asdict, done))

    make_once(path, write)
    return [Homework(**row) for row in read_jsonl(path)]


def told_of(homework: Sequence[Homework]) -> dict[str, Any]:
    """What the report says of it. found: of the wrong attempts, how many the review placed where the verifier does."""
    wrong = [h for h in homework if h.truth <= len(h.lines)]
    return {
        "attempts": len(homework),
        "marked_right": sum(h.place == h.truth for h in homework),
        "wrong": len(wrong),
        "found": sum(h.place == h.truth for h in wrong),
        "mended": sum(bool(h.mended) for h in wrong),
    }


def main(config: Config) -> dict[str, Any]:
    start = exchange.checkpoint_of(config.start)
    reviewer = exchange.checkpoint_of(config.reviewer) if config.review and config.reviewer else None
    run = Run.open(config.out, "night", config)
    if run.done:
        return headline(run)
    device = set_up_for(run, config.threads, config.dtype)
    model, tokenizer = exchange.load(start, device.dtype)
    engine = Engine(model, tokenizer, slots=128)
    past = Past.of(start.parent)
    news = newcomers(config.seed, config.family, past.names)
    reader = by_engine(engine, max_new_tokens=64)
    passages = [Passage(told(d), d.id) for d in news.documents]
    exercises = FORMS["town"].exercises(passages, [config.per_document] * len(passages))
    written = run.path("written.jsonl")

    def write() -> None:
        write_jsonl(written, map(asdict, reflect(FORMS["town"], exercises, (reader, reader), config.seed)))

    make_once(written, write)
    reflections = read_back(written)
    lineage = run.path("reflections.jsonl")
    ranks.first(lambda: write_jsonl(lineage, (record_of(r.lesson) for r in reflections if r.kept)))
    corpora, of_school = corpora_of("sft", config.start, tokenizer)
    lessons, shares, reviewed = sources_of(news.strangers), beside(LESSONS, of_school), dict[str, Any]()
    if config.earlier and (taught := by_topic(past.taught)):
        lessons |= {"earlier": lambda rng, progress: rng.choice(rng.choice(taught))}
        shares |= {"earlier": config.earlier}
    if reviewer:
        homework = reviewed_day(run, config, engine, reviewer)
        mended = [one.lesson for one in homework if one.mended]
        lessons |= {"review": lambda rng, progress: rng.choice(mended)}
        shares |= {"review": REVIEW} if mended else {}
        reviewed = {"review": told_of(homework)}
    facts = sleep(
        run,
        start,
        model,
        engine,
        Day({**lessons, **corpora}, shares, heard=[*heard_at_school(lessons, config.seed), *news.documents]),
        Night(
            config.tokens,
            config.replay,
            config.dreams,
            config.lr_scale,
            config.max_drift,
            config.seed,
            config.save_seconds,
            config.lora_rank,
        ),
        card=CARD,
        reflections=reflections,
        food=[[Document(text=told(d))] for d in news.documents] if config.control else by_topic(reflections),
        sit=lambda engine: sit(engine, news, past.facts if config.earlier else [], config.n_gate),
        first=past.first,
        control=config.control,
        documents=len(news.documents),
        precision=precision(reflections, news),
        **reviewed,
    )
    if not past.first:
        evening = read_json(run.path("evening.json"))["outcomes"]
        past = replace(past, first={skill: evening[skill] for skill in SKILLS})
    if read_json(run.path("night.json"))["gate"]["passed"]:
        past = past.and_then(config.seed, config.family, reflections)
    ranks.first(lambda: past.save(run.out))
    run.finish(device=device.name, threads=device.threads, **facts)
    return headline(run)


def headline(run: Run) -> dict[str, Any]:
    night = read_json(run.path("night.json"))
    return {"seconds": run.meta["seconds"], **night["facts"], "gate": night["gate"]["passed"]}
