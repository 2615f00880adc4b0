"""`nightschool night`: what the day told becomes the model's own, and nothing else is lost; or the night is undone.

    evening exam -> read: write questions, check them -> train on what was kept, beside replay of school -> morning
    exam -> gate: pass, or keep the evening's model

With --control the same tokens go into re-reading the raw text instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nightschool import ranks
from nightschool.config import at_least
from nightschool.device import DTYPES, Dtype, set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.night.gate import decide
from nightschool.night.read import Reflection, reflect, told
from nightschool.runs import Costs, Run, make_once, read_json, read_jsonl, write_json, write_jsonl
from nightschool.tasks.exam import exam, interval
from nightschool.tasks.task import Task
from nightschool.tasks.world import SKILLS
from nightschool.text.document import Document
from nightschool.train.course import course
from nightschool.train.plan import QUICKSTART, QUICKSTART_ROW, flops_per_token
from nightschool.world import school
from nightschool.world.newcomers import News, newcomers, questions
from nightschool.world.problem import Problem

CARD = "A small model of the Qwen3 architecture, raised in a made-up town, the morning after a night of reading."


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/night-001")  # the run folder
    start: Path = Path("life/rl")  # the evening's run
    per_document: int = 128  # questions the model asks itself about each document
    tokens: int = 400_000  # to train on
    replay: float = 0.8  # share of these that is school again
    lr_scale: float = 0.2  # of pretraining's learning rates
    n_gate: int = 100  # dev problems per skill for the gate
    control: bool = False  # re-read the raw text for the same tokens instead
    seed: int = 0  # of the family that moves in, and of the training
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "per_document", "tokens", "n_gate")
        at_least(self, 0, "replay", "lr_scale", "threads", "save_seconds")


def fixed(problems: list[Problem]) -> Task:
    """A task over a closed list, drawn without end."""
    return Task(lambda rng, split: rng.choice(problems))


def tasks_of(news: News) -> dict[str, Task]:
    """The skills of the day, the news, and whether it still knows what it does not know."""
    unknown = Task(lambda rng, split: school.unknown(rng, split, news.strangers))
    return {**SKILLS, "unknown": unknown, "news": fixed(questions(news.facts))}


def sit(engine: Engine, news: News, n: int) -> dict[str, Any]:
    """Every dev question's outcome by skill, and the news' answers."""
    outcomes: dict[str, list[float]] = {}
    answers: list[dict[str, Any]] = []
    for skill, task in tasks_of(news).items():
        _, samples = exam(engine, {skill: task}, "dev", len(news.facts) if skill == "news" else n)
        outcomes[skill] = [s["outcome"] for s in samples]
        answers = samples
    return {"outcomes": outcomes, "news": answers}


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gave the first time: read from `path` on a resumed run."""
    make_once(path, lambda: write_json(path, make()))
    return read_json(path)


def precision(reflections: list[Reflection], news: News) -> float | None:
    """Share of the kept reflections whose notes are all true of the town: for the report, unknown to the model."""
    true = {fact.note for fact in news.facts}
    kept = [all(note in true for note in r.solution.split("\n")[:-1]) for r in reflections if r.kept]
    return sum(kept) / len(kept) if kept else None


def main(config: Config) -> dict[str, Any]:
    start = exchange.checkpoint_of(config.start)
    run = Run.open(config.out, "night", config)
    if run.done:
        return headline(run)
    dtype = run.settle("dtype", lambda: str(set_up(config.threads, config.dtype).dtype).removeprefix("torch."))
    device = set_up(config.threads, dtype)
    model, tokenizer = exchange.load(start, DTYPES[dtype])
    engine = Engine(model, tokenizer, slots=128)
    news = newcomers(config.seed)
    evening = once(run.path("evening.json"), lambda: sit(engine, news, config.n_gate))
    written = run.path("reflections.jsonl")

    def write() -> None:
        write_jsonl(written, map(asdict, reflect(engine, news.documents, config.per_document, config.seed)))

    make_once(written, write)
    reflections = [Reflection(**row) for row in read_jsonl(written)]
    topics: dict[str, list[Document]] = {}  # one answer's questions: each is rehearsed as often as any other
    for r in reflections:
        if r.kept:
            topics.setdefault(r.solution, []).append(r.lesson)
    food = [[Document(text=told(d))] for d in news.documents] if config.control else list(topics.values())
    # A model that could write nothing true only repeats school; the gate then keeps the evening's.
    replay = config.replay if food else 1.0

    def shares(progress: float) -> dict[str, float]:
        school_shares = {**school.study(1.0), "lesson/unknown": 0.1}
        whole = sum(school_shares.values())
        return {"tonight": 1 - replay} | {k: replay * v / whole for k, v in school_shares.items()}

    def tonight(rng: random.Random, progress: float) -> Document:
        return rng.choice(rng.choice(food))

    unknown = school.spoken(school.several(lambda rng, split: school.unknown(rng, split, news.strangers), 2))
    end = course(
        run,
        model,
        tokenizer,
        QUICKSTART,
        shares,
        sources={**school.SOURCES, "lesson/unknown": unknown, "tonight": tonight},
        tokens=config.tokens,
        seed=config.seed,
        row_length=QUICKSTART_ROW,
        lr_scale=config.lr_scale,
        save_seconds=config.save_seconds,
    )
    engine.load(model)
    morning = once(run.path("morning.json"), lambda: sit(engine, news, config.n_gate))
    decision = decide(evening["outcomes"], morning["outcomes"])
    if not decision.passed and not config.control:
        model, tokenizer = exchange.load(start, DTYPES[dtype])
    skills = {s: interval(sum(o), len(o)) for s, o in morning["outcomes"].items() if s in SKILLS}
    told_of = told_night(news, reflections, evening, morning, decision, end.seconds)
    ranks.first(lambda: exchange.save(run.path("checkpoint"), model, tokenizer, CARD))
    ranks.first(lambda: write_json(run.path("scores.json"), {"split": "dev", "skills": skills}))
    ranks.first(lambda: write_json(run.path("night.json"), told_of))
    run.finish(
        seconds=end.seconds,
        tokens=end.tokens,
        flops=end.tokens * flops_per_token(model.config, QUICKSTART_ROW),
        device=device.name,
        threads=device.threads,
        dtype=dtype,
    )
    return headline(run)


def told_night(
    news: News, reflections: list[Reflection], evening: Any, morning: Any, decision: Any, seconds: float
) -> dict[str, Any]:
    """night.json: what was read, what was written, what the gate said."""

    def known(at: Any) -> dict[str, float]:
        return interval(sum(at["outcomes"]["news"]), len(at["outcomes"]["news"]))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    skills = [s for s in evening["outcomes"] if s != "news"]
    pairs = zip(evening["news"], morning["news"], strict=True)
    return {
        "documents": len(news.documents),
        "written": len(reflections),
        "verified": sum(r.kept for r in reflections),
        "precision": precision(reflections, news),
        "facts": {"evening": known(evening), "morning": known(morning), "control": None},
        "gate": {
            **decision._asdict(),
            "skills": {s: [mean(evening["outcomes"][s]), mean(morning["outcomes"][s])] for s in skills},
        },
        "examples": [
            {
                "question": before["prompt"],
                "evening": before["answer"],
                "morning": after["answer"],
                "gold": before["gold"],
            }
            for before, after in pairs
        ],
        "reflections": [
            {"source": r.source, "text": r.text, "verified": r.kept, "why": r.why} for r in reflections[:200]
        ],
        "seconds": seconds,
    }


def headline(run: Run) -> dict[str, Any]:
    night = read_json(run.path("night.json"))
    return {"seconds": run.meta["seconds"], **night["facts"], "gate": night["gate"]["passed"]}
