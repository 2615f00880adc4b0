"""What `lab dream` does to a model: a short day at school, a night on the news, or few lessons many times over.

Each has a run folder. What the arms are for is told in dream.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from nightschool.config import UserError, at_least
from nightschool.device import set_up
from nightschool.lab.arms import Json
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.instinct import instinct
from nightschool.model.transformer import Transformer
from nightschool.night.dream import dream
from nightschool.night.sleep import DREAM_TOKENS, MOST_DREAMS, Day, Night, sleep
from nightschool.runs import Run, read_json, read_jsonl, write_json
from nightschool.stages.night import fixed, heard_at_school, sources_of
from nightschool.tasks.exam import exam
from nightschool.tasks.task import Task
from nightschool.tasks.world import SKILLS, draw
from nightschool.text import chat, tokenizer
from nightschool.text.corpus import Source, encode
from nightschool.text.document import Document
from nightschool.text.packing import Batch
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.course import bits_per_byte, course, in_batches
from nightschool.train.loop import LossFn
from nightschool.train.losses import distil, next_token
from nightschool.train.plan import QUICKSTART, QUICKSTART_ROW
from nightschool.world import school
from nightschool.world.newcomers import newcomers, questions
from nightschool.world.problem import Split
from nightschool.world.word_problems import word_problem

CARD = "A small model of the Qwen3 architecture after a short day at school in a made-up town."
DAY = {  # shares of the start's school
    "notes/passage": 0.2,
    "lesson/passage": 0.35,
    "lesson/arithmetic": 0.2,
    "lesson/tool": 0.12,
    "lesson/unknown": 0.05,
    "lesson/letters": 0.08,
}
HEARD = {name: share for name, share in DAY.items() if name.startswith("lesson/")}  # what was asked there
KNOWN = ("passage", "absent", "arithmetic", "letter_count", "tool")  # and to say so of strangers
EASY, HARD = (1, 2), (3, 3)  # steps of the few lessons, and of the harder problems


@dataclass(frozen=True)
class Arm:
    replay: float = 0.0  # of the night's tokens
    dreams: float = 0.0  # of the replay; of the few lessons' tokens


ARMS = {
    "plain": Arm(),
    "school": Arm(replay=0.85),
    "dreams": Arm(replay=0.85, dreams=1.0),
    "tuned": Arm(),
    "dreaming": Arm(dreams=0.5),
}
FEW = ("tuned", "dreaming")


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/lab-dream")  # run folders; a killed lab goes on
    results: Path = Path("results")  # dream.json, dream.html; with sweep dream_sweep.json
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = tuple(ARMS)
    sweep: bool = False  # look for `tuned`'s rate and weight decay instead, on seed 100
    rates: tuple[float, ...] = (1.0, 2.0)  # what the sweep tries; 1 = pretraining's
    decays: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0)  # weight decay per unit of learning rate
    day_tokens: int = 2_000_000  # of the start's school
    news_tokens: int = 40_000  # of the night's lessons
    num_lessons: int = 64  # the few; with 128 the bits of dev problems did not turn up again (seed 100)
    few_tokens: int = 100_000  # of learning them, again and again; at 200,000 `tuned` was worse (seed 100)
    exam_n: int = 200  # problems a skill; twice as many for bits per byte
    threads: int = 0  # 0 = one a core

    def __post_init__(self) -> None:
        at_least(self, 1, "day_tokens", "news_tokens", "num_lessons", "few_tokens", "exam_n")
        at_least(self, 0, "threads")
        if unknown := set(self.arms) - set(ARMS):
            raise UserError(f"no such arms: {', '.join(sorted(unknown))}; known: {', '.join(ARMS)}")
        if "dreaming" in self.arms and "tuned" not in self.arms:
            raise UserError("dreaming learns from tuned; add tuned to --arms")


@dataclass(frozen=True)
class Spent:
    """What identifies a run folder of this lab."""

    arm: str
    seed: int
    tokens: int
    lr_scale: float = 1.0
    decay: float = 0.0


def pupil(config: Config) -> Path:
    """The run folder of the model where all arms and seeds begin, made once and kept."""
    run = Run.open(config.out / "start", "lab dream", Spent("start", 0, config.day_tokens))
    if not run.done:
        device = set_up(config.threads, "bfloat16")
        pages = [school.SOURCES[name](random.Random(f"{i} {name}"), 1.0) for i in range(3000) for name in DAY]
        texts = [text for d in pages for text in (chat.texts(d.messages, d.tools) if d.messages else [d.text])]
        words = tokenizer.train(texts, QUICKSTART.model.vocab_size)
        model = Transformer(QUICKSTART.model, device.dtype)
        model.init_weights(0)
        instinct(model, 0)
        course(
            run,
            model,
            words,
            QUICKSTART,
            lambda progress: {"notes": 1.0} if progress < 0.05 else DAY,
            tokens=config.day_tokens,
            seed=0,
            row_length=QUICKSTART_ROW,
        )
        exchange.save(run.path("checkpoint"), model, words, CARD)
        run.finish(device=device.name, threads=device.threads)
    return run.out


# Replay


def slept(config: Config, arm: str, seed: int) -> Json:
    """A night on the news of a family -> the day's skills in the evening and in the morning."""
    spec, start = ARMS[arm], pupil(config)
    tokens = round(config.news_tokens / (1 - spec.replay))
    run = Run.open(config.out / f"seed-{seed}" / arm, "lab dream", Spent(arm, seed, tokens, 0.2))
    if not run.done:
        device = set_up(config.threads, "bfloat16")
        model, words = exchange.load(start / "checkpoint", device.dtype)
        news = newcomers(seed)
        wordings = [[questions([fact], w)[0] for w in range(len(fact.attribute.ask) - 1)] for fact in news.facts]
        sources = {name: source for name, source in sources_of(news.strangers).items() if name in DAY}
        tasks = {name: SKILLS[name] for name in KNOWN}
        tasks["unknown"] = Task(lambda rng, split: school.unknown(rng, split, news.strangers))

        def sit(engine: Engine) -> Json:
            found = {name: exam(engine, {name: task}, "test", config.exam_n, seed)[1] for name, task in tasks.items()}
            found["news"] = exam(engine, {"news": fixed(questions(news.facts))}, "test", len(news.facts))[1]
            return {"outcomes": {k: [s["outcome"] for s in rows] for k, rows in found.items()}, "news": found["news"]}

        facts = sleep(
            run,
            start / "checkpoint",
            model,
            Engine(model, words, slots=128),
            Day(sources, DAY, heard_at_school(sources, seed, HEARD)),
            Night(tokens, spec.replay, spec.dreams, 0.2, max_drift=0.0, seed=seed, save_seconds=1e9, lora_rank=0),
            card=CARD,
            reflections=[],
            food=[[Document(messages=problem.messages) for problem in asked] for asked in wordings],
            sit=sit,
            control=True,
        )
        run.finish(device=device.name, threads=device.threads, **facts)
    night = read_json(run.path("night.json"))
    skills = night["gate"]["skills"]
    evening, morning = (fmean(pair[i] for pair in skills.values()) for i in (0, 1))
    about = {"news": night["facts"]["morning"]["accuracy"], "forgotten": evening - morning, "skills": skills}
    return {"seed": seed, "start": evening, "final": morning, **about, "tokens": tokens, "seconds": run.meta["seconds"]}


# Few lessons


def problems(num_steps: tuple[int, int]) -> Task:
    return Task(lambda rng, split: word_problem(rng, split, num_steps))


def learned(config: Config, arm: str, seed: int, rate: float, decay: float, out: Path) -> Json:
    """Learn few lessons until dev problems say stop -> bits per byte of test solutions, shares of them right."""
    tokens, share = round(config.few_tokens / (1 - ARMS[arm].dreams)), ARMS[arm].dreams
    run = Run.open(out, "lab dream", Spent(arm, seed, tokens, rate, decay))
    if not run.done:
        device = set_up(config.threads, "bfloat16")
        model, words = exchange.load(pupil(config) / "checkpoint", device.dtype)
        rng = random.Random(f"few {seed}")
        few = [Document(messages=word_problem(rng, "train", EASY).messages) for _ in range(config.num_lessons)]
        sources: dict[str, Source] = {"few": lambda rng, progress: rng.choice(few)}
        shares = {"few": 1 - share}
        loss: LossFn = next_token
        if share:
            teacher, _ = exchange.load(out.with_name("tuned") / "checkpoint", device.dtype)
            heard = [replace(lesson, messages=lesson.messages[:1]) for lesson in few]
            num_dreams = min(MOST_DREAMS, 1 + int(tokens * share / DREAM_TOKENS))
            dreamt = dream(Engine(teacher, words, slots=128), heard, num_dreams, seed)
            sources["dream"] = lambda rng, progress: rng.choice(dreamt)
            shares["dream"] = share
            loss = distil(teacher.requires_grad_(False))
        dev = text(words, "dev", EASY, config.exam_n)

        def curve() -> list[float]:
            """Bits per byte so far, those before a kill too."""
            rows = read_jsonl(run.path("metrics.jsonl"))
            return [row["dev"]["bits_per_byte"] for row in rows if "dev" in row]

        def look() -> Json:
            """Keep the best so far."""
            bits = bits_per_byte(model, dev)
            if bits <= min(curve(), default=bits):
                exchange.save(run.path("checkpoint"), model, words, CARD)
            return {"bits_per_byte": bits}

        course(
            run,
            model,
            words,
            replace(QUICKSTART, weight_decay=decay),
            lambda progress: shares,
            sources=sources,
            tokens=tokens,
            seed=seed,
            row_length=QUICKSTART_ROW,
            lr_scale=rate,
            loss=loss,
            save_seconds=1e9,
            evaluate=look,
            eval_every=max(1, tokens // QUICKSTART.batch_tokens // 16),
        )
        seen = [*curve(), look()["bits_per_byte"]]
        model, _ = exchange.load(run.path("checkpoint"), device.dtype)
        engine = Engine(model, words, slots=128)
        row = {
            "bits_per_byte": bits_per_byte(model, text(words, "test", EASY, 2 * config.exam_n)),
            "harder_bits_per_byte": bits_per_byte(model, text(words, "test", HARD, 2 * config.exam_n)),
            "dev_bits_per_byte": min(seen),
            "final": right(engine, EASY, config),
            "harder": right(engine, HARD, config),
            "curve": seen,
        }
        write_json(run.path("row.json"), row)
        run.finish(device=device.name, threads=device.threads)
    return {"seed": seed, "start": untaught(config), **read_json(run.path("row.json")), "tokens": tokens}


def untaught(config: Config) -> float:
    """The share of such problems that the start gets right."""
    path = pupil(config) / "easy.json"
    if not path.exists():
        model, words = exchange.load(pupil(config) / "checkpoint", set_up(config.threads, "bfloat16").dtype)
        write_json(path, right(Engine(model, words, slots=128), EASY, config))
    return read_json(path)


def right(engine: Engine, num_steps: tuple[int, int], config: Config) -> float:
    return exam(engine, {"few": problems(num_steps)}, "test", config.exam_n)[0]["few"]["accuracy"]


def text(words: Tokenizer, split: Split, num_steps: tuple[int, int], n: int) -> list[Batch]:
    found = [Document(messages=problem.messages) for problem in draw(problems(num_steps), split, n, 0)]
    return in_batches(encode(words, found), words, QUICKSTART_ROW)
