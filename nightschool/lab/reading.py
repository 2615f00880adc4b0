"""`nightschool lab reading`: does one who thinks about what it reads know it afterwards, and one who re-reads it not?

Hypothesis: a folder of documents about unknown people, each fact told once, becomes knowledge by reflections that were
checked against the documents, nearly as well as if the world's own grammar had asked and answered; the raw text, read
over and over, leaves nothing that can be asked for.

A finished day's model (`quickstart`'s, or any run given with --start) meets a family of newcomers, another one for each
seed: 60 facts in 8 documents. Each arm is a night as `nightschool night` has it, four fifths of it school again, with
the strangers of `nightschool read`; they differ in the last fifth. All arms cost equal FLOPs, those of writing and
checking counted, so that whoever writes learns from fewer tokens. Asked are, closed-book, each fact in a wording that
no training ever used, and each fact about somebody's relative ("Amina's brother"), which takes two facts that hardly
any document tells together; and the day's skills on dev problems. But: a made-up town whose model was taught at school
to ask and to look up; nights of one length, on a CPU; nothing is tuned for an arm, the rates are the night's.

    read            the model's own reflections that pass every check (night/forms.py)
    links           read, and two-hop questions that join two of its reflections
    oracle          each fact asked and answered by the world, in every wording that is taught
    reread          the documents themselves, again and again
    wrong_document  reflections on another family: ours must stay unknown
    none            questions and answers about our names with no document before it and no check (info "none")
    unverified      all that has the form of a question with its answer, right or wrong
    peer            read, but a second reader, raised on other data (--peer), asks half; each answers the other's again
    during          read at the rates of school itself, as if the reflections had come before its end
    decay           reread with weight decay
    text_*          the same question about real text: lab/reading_text.py

The bars, of `read` unless said otherwise: vs_oracle, 80% of the oracle's accuracy; vs_reread, 40 points over `reread`;
two_hop, above it with the interval clear of zero; wrong_doc, that arm no better than a guess among each question's
values; precision, 98% of what was kept is true of the town; real_text, text_read above text_reread, the interval clear
of zero. Each family is another sample, so intervals of differences are over its questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from nightschool.config import UserError, at_least
from nightschool.device import set_up
from nightschool.lab import reading_text, report
from nightschool.lab.arms import Holds, Interval, Json, verdict, walk
from nightschool.lab.statistics import iqm, paired
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.night.forms import FORMS, linked, outvoted
from nightschool.night.gate import decide
from nightschool.night.memory import Passage, told
from nightschool.night.read import Exercise, Reader, Reflection, by_engine, by_topic, reflect
from nightschool.runs import Run, read_json, read_jsonl, write_json, write_jsonl
from nightschool.stages.night import fixed, precision, sit, sources_of
from nightschool.stages.read import LESSONS
from nightschool.tasks.exam import exam
from nightschool.text import chat
from nightschool.text.document import Document, Message, record_of
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.course import course
from nightschool.train.plan import flops_per_token, going_on
from nightschool.world import school
from nightschool.world.attributes import Fact
from nightschool.world.newcomers import News, newcomers, questions, relatives

CARD = "A small model of the Qwen3 architecture after a night of the reading lab."
ANSWER_TOKENS = 64
CHECKS = 8  # of the news during a night

# The bars, written down before the first run (issue 5)
OF_ORACLE = 0.8  # of the oracle's closed-book accuracy
OVER_REREAD = 0.4  # points
PRECISION = 0.98  # of what is kept, true of the town


@dataclass(frozen=True)
class Arm:
    food: Literal["read", "oracle", "reread", "none"] = "read"
    family: int = 0  # added to the seed of those who are read about
    checked: bool = True
    linked: bool = False
    peer: bool = False
    lr_scale: float = 0.2  # the night's own
    weight_decay: float = 0.0


ARMS = {
    "read": Arm(),
    "links": Arm(linked=True),
    "oracle": Arm("oracle"),
    "reread": Arm("reread"),
    "wrong_document": Arm(family=1000),
    "none": Arm("none"),
    "unverified": Arm(checked=False),
    "peer": Arm(peer=True),
    "during": Arm(lr_scale=1.0),
    "decay": Arm("reread", weight_decay=0.1),
}
COLUMNS = {
    "final": "news",
    "two_hop": "two hops",
    "precision": "precision",
    "covered": "facts covered",
    "skills": "skills, change",
    "worst": "worst skill, change",
    "gate": "gate passed",
    "tokens": "tokens learned",
    "forwarded": "tokens to write",
    "flops": "FLOPs",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/lab-reading")  # run folders, one an arm and seed; a killed lab goes on from them
    results: Path = Path("results")  # reading.json and reading.html go there
    start: Path = Path("life/rl")  # the evening's run
    peer: Path | None = None  # the second reader's run, for the arm of that name
    seeds: tuple[int, ...] = (0, 1, 2)  # each another family
    arms: tuple[str, ...] = tuple(name for name in ARMS if name != "peer")
    per_document: int = 128  # questions about each document
    tokens: int = 400_000  # that a night may cost, in tokens learned
    replay: float = 0.8  # share of them that is school again
    n_skill: int = 100  # dev problems a skill
    text: reading_text.Text = field(default_factory=reading_text.Text)  # for the arms text_*
    threads: int = 0  # 0 = one a core

    def __post_init__(self) -> None:
        at_least(self, 1, "per_document", "tokens", "n_skill")
        at_least(self, 0, "replay", "threads")
        known = (*ARMS, *reading_text.ARMS)
        if unknown := set(self.arms) - set(known):
            raise UserError(f"no such arms: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        if set(self.arms) & set(reading_text.ARMS) and not (self.text.start and self.text.school and self.text.read):
            raise UserError("arms text_* need a model raised on real text; give --text.start, .school and .read")
        if "peer" in self.arms and not self.peer:
            raise UserError("arm peer needs a second reader; give the run of another life with --peer")


class Food(NamedTuple):
    topics: list[list[Document]]
    reflections: list[Reflection] = []  # noqa: RUF012 (never written to)
    forwarded: int = 0  # tokens read and written to make it


def counted(reader: Reader, words: Tokenizer, spent: Counter[str]) -> Reader:
    """The same reader, whose tokens are counted, read and written."""

    def read(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        answers = reader(prompts, temperature, seed)
        asked = chat.render_many(words, [((Message("user", p),), ()) for p in prompts], generate=True)
        spent["tokens"] += sum(len(ids) for ids, _ in asked) + sum(map(len, words.encode_many(answers)))
        return answers

    return read


def food(config: Config, arm: Arm, news: News, seed: int, engine: Engine) -> Food:
    """What a night learns from, beside school; news: of the family that is read about."""
    if arm.food == "reread":
        return Food([[Document(text=told(d))] for d in news.documents])
    if arm.food == "oracle":
        return Food([asked_and_answered(fact) for fact in news.facts])
    spent, form = Counter[str](), FORMS["town"]
    first = second = counted(by_engine(engine, ANSWER_TOKENS), engine.tokenizer, spent)
    if arm.food == "none":
        made = alone(config, news, first, seed)
        topics = [[replace(d, info="none", parents=()) for d in topic] for topic in by_topic(made)]
        return Food(topics, made, spent["tokens"])
    if arm.peer and config.peer:
        other = Engine(*exchange.load(exchange.checkpoint_of(config.peer), engine.decoder.dtype), slots=engine.slots)
        second = counted(by_engine(other, ANSWER_TOKENS), other.tokenizer, spent)
    passages = [Passage(told(d), d.id) for d in news.documents]
    exercises = form.exercises(passages, [config.per_document] * len(passages))
    if arm.peer:
        halves = ((exercises[::2], (first, second)), (exercises[1::2], (second, first)))
        made = outvoted([r for some, readers in halves for r in reflect(form, some, readers, seed)])
    elif arm.checked:
        made = outvoted(reflect(form, exercises, (first, second), seed))
    else:
        written = first([f"{e.text}\n\n{e.asks[0]}" for e in exercises], form.temperature, seed)
        made = [unchecked(form.shaped(e, [text])) for e, text in zip(exercises, written, strict=True)]
    made += linked(made) if arm.linked else []
    return Food(by_topic(made), made, spent["tokens"])


def asked_and_answered(fact: Fact) -> list[Document]:
    """A fact as the world's own lesson, in each wording that is taught."""
    wordings = range(len(fact.attribute.ask) - 1)
    return [school.conversation(questions([fact], wording)) for wording in wordings]


def unchecked(reflection: Reflection) -> Reflection:
    """Kept whatever it says, if it says something in the form of a lesson."""
    return replace(reflection, why="" if all(reflection.turns) else reflection.why)


def alone(config: Config, news: News, reader: Reader, seed: int) -> list[Reflection]:
    """What it writes when all it is given is a name."""
    names = sorted({fact.person for fact in news.facts})
    num = config.per_document * len(news.documents)
    asks = [school.ASK_ABOUT[i % len(school.ASK_ABOUT)].format(f"{names[i % len(names)]}.") for i in range(num)]
    written = reader(asks, FORMS["town"].temperature, seed)
    empty = Passage("", "")
    shaped = (FORMS["town"].shaped(Exercise("question", (empty,), ("",)), [text]) for text in written)
    return [unchecked(r) for r in shaped]


def evening(config: Config, seed: int, engine: Engine) -> Json:
    """The exam before the night: the same for all arms of a seed."""
    path = config.out / f"seed-{seed}" / "evening.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, examined(config, seed, engine))
    return read_json(path)


def examined(config: Config, seed: int, engine: Engine) -> Json:
    """Outcomes by skill, of the news and of the questions about relatives."""
    news = newcomers(seed)
    hops = relatives(news.facts)
    two_hop = exam(engine, {"two_hop": fixed(hops)}, "dev", len(hops))[1]
    return sit(engine, news, [], config.n_skill)["outcomes"] | {"two_hop": [s["outcome"] for s in two_hop]}


@dataclass(frozen=True)
class Night:
    """What identifies a run folder of this lab."""

    arm: Arm
    seed: int
    start: Path
    peer: Path | None
    per_document: int
    tokens: int
    replay: float


def row_of(config: Config, name: str, seed: int) -> Json:
    """A night of one arm and what it came to; under "right" each question's outcome. What is there is kept."""
    if name in reading_text.ARMS:
        return reading_text.row_of(config.text, config.out, config.threads, name, seed)
    arm = ARMS[name]
    of_peer = config.peer if arm.peer else None
    night = Night(arm, seed, config.start, of_peer, config.per_document, config.tokens, config.replay)
    run = Run.open(config.out / f"seed-{seed}" / name, "lab reading", night)
    if not run.done:
        device = set_up(config.threads, "bfloat16")
        model, words = exchange.load(exchange.checkpoint_of(config.start), device.dtype)
        engine = Engine(model, words, slots=128)
        before = evening(config, seed, engine)
        ours, theirs = newcomers(seed), newcomers(seed + arm.family)
        made = food(config, arm, theirs, seed, engine)
        write_jsonl(run.path("lineage.jsonl"), (record_of(d) for topic in made.topics for d in topic))
        lessons = sources_of([name for name in ours.strangers if name in theirs.strangers], together=1)
        plan, row_length = going_on(model.config, words.brought)
        tokens = config.tokens - made.forwarded // 3
        shares = {k: config.replay * v / sum(LESSONS.values()) for k, v in LESSONS.items()}

        def asked() -> Json:
            engine.load(model)
            return exam(engine, {"news": fixed(questions(ours.facts))}, "dev", len(ours.facts))[0]["news"]

        end = course(
            run,
            model,
            words,
            replace(plan, weight_decay=arm.weight_decay),
            lambda progress: {**shares, "tonight": (1 - config.replay) * bool(made.topics)},
            sources={**lessons, "tonight": lambda rng, progress: rng.choice(rng.choice(made.topics))},
            tokens=tokens,
            seed=seed,
            row_length=row_length,
            lr_scale=arm.lr_scale,
            evaluate=asked,
            eval_every=max(1, tokens // plan.batch_tokens // CHECKS),
            control=arm.food == "none",
        )
        engine.load(model)
        flops = flops_per_token(model.config, row_length)
        spent = {"tokens": end.tokens, "forwarded": made.forwarded, "flops": flops * (end.tokens + made.forwarded / 3)}
        curve = [
            (row["tokens"], row["dev"]["accuracy"]) for row in read_jsonl(run.path("metrics.jsonl")) if "dev" in row
        ]
        row = told_of(before, examined(config, seed, engine), ours) | of_reflections(made, theirs) | spent
        write_json(run.path("row.json"), row | {"curve": [(0, row["start"]), *curve, (end.tokens, row["final"])]})
        exchange.save(run.path("checkpoint"), model, words, CARD)
        run.finish(device=device.name, threads=device.threads, dtype="bfloat16", **spent)
    return {"seed": seed, "seconds": run.meta["seconds"]} | read_json(run.path("row.json"))


def told_of(before: Json, after: Json, news: News) -> Json:
    asked = ("news", "two_hop")
    skills = {s: fmean(after[s]) - fmean(before[s]) for s in before if s not in asked}
    gate = decide({s: o for s, o in before.items() if s != "two_hop"}, after)
    return {
        "start": fmean(before["news"]),
        "final": fmean(after["news"]),
        "two_hop_start": fmean(before["two_hop"]),
        "two_hop": fmean(after["two_hop"]),
        "chance": fmean(1 / (len(fact.attribute.values) or len({f.person for f in news.facts})) for fact in news.facts),
        "skills": fmean(skills.values()),
        "worst": min(skills.values()),
        "gate": int(gate.passed),
        "reason": gate.reason,
        "right": {name: after[name] for name in asked},
    }


def of_reflections(made: Food, news: News) -> Json:
    """How much of what was kept is true, and how many of the facts it holds."""
    true = {fact.note for fact in news.facts}
    notes = {note for r in made.reflections if r.kept for note in r.turns[1].split("\n")[:-1]}
    if not made.reflections:
        return {}
    return {
        "written": len(made.reflections),
        "kept": sum(r.kept for r in made.reflections),
        "precision": precision(made.reflections, news) or 0.0,
        "covered": len(notes & true) / len(true),
    }


def bars(arms: dict[str, list[Json]]) -> list[Json]:
    """Every bar whose arms are there; an arm's rows are one a seed, the same seeds for all."""
    found: list[Json] = []

    def bar(name: str, values: Sequence[float], asked: str, holds: Holds, between: Interval | None = None) -> None:
        found.append(verdict(name, values, asked, holds, between))

    def column(arm: str, key: str) -> list[float]:
        return [row[key] for row in arms[arm]]

    def gain(arm: str, over: str, exam: str) -> tuple[list[float], Interval]:
        """Differences on the same questions, and the 95% interval of their mean."""
        pairs = [
            paired(ours["right"][exam], theirs["right"][exam])
            for ours, theirs in zip(arms[arm], arms[over], strict=True)
        ]
        means = [mean for mean, _ in pairs]
        half = 1.96 * sum(error**2 for _, error in pairs) ** 0.5 / len(pairs)
        return means, (fmean(means) - half, fmean(means) + half)

    if {"read", "oracle"} <= arms.keys():
        shares = [a / max(b, 1e-9) for a, b in zip(column("read", "final"), column("oracle", "final"), strict=True)]
        bar("vs_oracle", shares, f">= {OF_ORACLE} of oracle's", lambda v, low, high: v >= OF_ORACLE)
    if {"read", "reread"} <= arms.keys():
        means, between = gain("read", "reread", "news")
        bar("vs_reread", means, f">= {OVER_REREAD}", lambda v, low, high: v >= OVER_REREAD, between)
        means, between = gain("read", "reread", "two_hop")
        bar("two_hop", means, "low > 0", lambda v, low, high: low > 0, between)
    if "wrong_document" in arms:
        chance = iqm(column("wrong_document", "chance"))
        bar("wrong_doc", column("wrong_document", "final"), f"<= {chance:.3f}", lambda v, low, high: v <= chance)
    if "read" in arms:
        bar("precision", column("read", "precision"), f">= {PRECISION}", lambda v, low, high: v >= PRECISION)
        bar("gate", column("read", "gate"), "shown", lambda v, low, high: None)
    for arm in ("text_reread", "text_wrong"):
        if {"text_read", arm} <= arms.keys():
            means, between = gain("text_read", arm, "text")
            name = "real_text" if arm == "text_reread" else "real_text less text_wrong"
            bar(name, means, "low > 0", lambda v, low, high: low > 0, between)
    for arm in [name for name in ARMS if name in arms]:
        if arm not in ("read", "oracle", "reread", "wrong_document") and "read" in arms:
            means, between = gain("read", arm, "news")
            bar(f"read less {arm}", means, "shown", lambda v, low, high: None, between)
    return found


def main(config: Config) -> Json:
    start = exchange.checkpoint_of(config.start)
    if config.peer:
        exchange.checkpoint_of(config.peer)

    def page(result: Json) -> None:
        path = config.results / "reading.html"
        report.write(path, "reading", __doc__ or "", result, OVER_REREAD, "tokens", COLUMNS)

    return walk(
        config.arms,
        config.seeds,
        lambda arm, seed: row_of(config, arm, seed),
        bars,
        config.results / "reading.json",
        page,
        model=asdict(exchange.model_config(start)),
    )
