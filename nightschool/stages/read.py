"""`nightschool read FOLDER`: a model reads your documents by thinking about them, and knows them afterwards.

    write reflections -> check each against its document -> hold some questions out -> sleep on the rest -> gate

A second reader may talk with the first (--peer), or any OpenAI-compatible model write in its place (--reflector), named
as such in reflections.jsonl. Who cannot write at all is asked by a program (--form gaps): it leaves out names and
numbers. Where almost nothing passes its check the stage ends before a weight is changed. What was
held out is asked closed-book, and with the passages that the index finds. But: a model raised in the town can read text
like the town's alone; one that was raised elsewhere dreams for replay, unless its runs or --school tell what it learned
from.
"""

from __future__ import annotations

import json
import operator
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import tyro

from nightschool import ranks
from nightschool.config import BelowBar, UserError, at_least
from nightschool.device import Dtype, set_up_for
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.night.forms import FORMS
from nightschool.night.memory import Index, Passage, look_up, passage_tokens, passages, sentences, words
from nightschool.night.read import Form, Reader, Reflection, by_engine, by_topic, counts, hold_out, read_back, reflect
from nightschool.night.sleep import Day, Night, sleep
from nightschool.runs import Costs, Run, make_once, progress, read_json, read_jsonl, write_jsonl
from nightschool.serve import client
from nightschool.stages import night
from nightschool.stages.night import heard_at_school, skills_of, sources_of
from nightschool.tasks.exam import exam
from nightschool.text import sources
from nightschool.text.corpus import encode
from nightschool.text.document import Document, record_of
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.course import corpora_of
from nightschool.train.plan import QUICKSTART, going_on
from nightschool.world.lexicon import FIRST_NAMES, NEW_NAMES

CARD = "A small model of the Qwen3 architecture, raised by nightschool, after it has read some documents."
TRIAL = 32  # reflections by which the form is chosen
# A read's school has twice the night's share of strangers, each asked about alone: a second is answered by the first
LESSONS = night.LESSONS | {"lesson/unknown": 0.2}
MIN_ASKED = 4  # held-out questions without which nothing could be said of the morning


@dataclass(frozen=True)
class Config:
    documents: tyro.conf.Positional[tuple[str, ...]]  # files, folders, globs: .txt .md .html .jsonl .parquet
    out: Path = Path("life/read")  # the run folder
    start: Path = Path("life/rl")  # the run to go on from, ours or one that `nightschool import` made
    form: Literal["auto", "town", "any", "gaps"] = "auto"  # what it can write; auto = town or any, as a trial shows
    per_sentence: int = 8  # reflections on each sentence
    peer: Path | None = None  # a run of another model, the second reader; none = one model in two roles
    reflector: str | None = None  # an OpenAI-compatible server whose model writes instead
    reflector_model: str | None = None  # its name there
    least: float = 0.02  # share of the reflections that must pass their check
    rounds: int = 16  # times that what was kept is rehearsed; with few a night ends before what it upset is mended
    replay: float = 0.8  # share of the tokens that is no reflection
    school: tuple[str, ...] = ()  # what to repeat; none = what its start chain learned from, the town's, or dreams
    dreams: float | None = None  # share of the replay that is dreamt; None = 0 where a school can be repeated, else 1
    lr_scale: float = 0.2  # of the learning rates by which the model goes on
    lora_rank: int = 0  # train factors of this rank beside the blocks' matrices; 0 = train all weights
    max_drift: float = 0.5  # nats a token from the evening self at which the night ends; 0 = not measured
    n_asked: int = 100  # held-out questions at most
    n_gate: int = 100  # with the town's form: dev problems per skill for the gate
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 30.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "per_sentence", "rounds", "n_gate")
        at_least(self, MIN_ASKED, "n_asked")
        at_least(self, 0, "least", "replay", "dreams", "lr_scale", "lora_rank", "max_drift", "threads")
        at_least(self, 0, "save_seconds")
        if not self.documents:
            raise UserError("name at least one file or folder to read")
        if self.replay >= 1 or (self.dreams or 0) > 1:
            raise UserError(f"replay must be below 1 and dreams at most 1; got {self.replay} and {self.dreams}")
        if self.reflector and not self.reflector.startswith(("http://", "https://")):
            raise UserError(f"reflector must start with http:// or https://; got {self.reflector}")


def by_endpoint(url: str, model: str | None) -> Reader:
    """The answers of another model."""

    return lambda prompts, temperature, seed: client.answers(url, prompts, model, temperature)


def remembered(reader: Reader, path: Path, block: int, label: str = "reading") -> Reader:
    """The same reader, who writes down each block of answers: a run that goes on asks for none of them again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_jsonl(path, (json.loads(line) for line in lines if line.endswith("\n")))  # a kill may have torn the last
    told = iter(read_jsonl(path) if path.exists() else [])

    def read(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        found = list(islice(told, len(prompts)))
        with path.open("a", encoding="utf-8") as file, progress(label, max(1, len(prompts))) as show:
            while left := prompts[len(found) : len(found) + block]:
                texts = reader(left, temperature, seed + len(found))
                file.writelines(json.dumps(text) + "\n" for text in texts)
                file.flush()
                found += texts
                show(len(found), f"{len(found):,} answers")
        return found

    return read


def readers_of(config: Config, run: Run, engine: Engine) -> tuple[tuple[Reader, Reader], list[str]]:
    """Who writes and who replies, and what they are called in the lineage."""
    size, name = passage_tokens(engine.context), f"model {config.start}"
    if config.reflector:
        name = f"{config.reflector} {config.reflector_model or ''}".strip()
        first = remembered(by_endpoint(config.reflector, config.reflector_model), run.path("told.jsonl"), 32)
    else:
        first = remembered(by_engine(engine, size), run.path("told.jsonl"), 256)
    if not config.peer:
        return (first, first), [name, f"{name}, in another role"]
    peer = Engine(*exchange.load(exchange.checkpoint_of(config.peer), engine.decoder.dtype), slots=engine.slots)
    second = remembered(by_engine(peer, passage_tokens(peer.context)), run.path("told-peer.jsonl"), 256)
    return (first, second), [name, f"peer {config.peer}"]


def trial(read: Sequence[Passage], engine: Engine, config: Config) -> str:
    """The form of whose reflections more pass; any text's where none do, and of a reflector."""
    if config.reflector:
        return "any"
    first, reader = read[:TRIAL], by_engine(engine, passage_tokens(engine.context))

    def passed(form: Form) -> int:
        exercises = form.exercises(first, [TRIAL // len(first)] * len(first))
        return sum(r.kept for r in reflect(form, exercises, (reader, reader), config.seed))

    return max(("any", "town"), key=lambda name: passed(FORMS[name]))


def sit(
    engine: Engine,
    form: Form,
    asked: Sequence[Reflection],
    read: Sequence[Passage],
    strangers: Sequence[str],
    n_gate: int,
) -> dict[str, Any]:
    """The held-out questions, closed-book ("news") and with the passages that the index finds; the town's exam where
    there are strangers to ask about."""
    index, size = Index([passage.text for passage in read]), passage_tokens(engine.context)
    reader = by_engine(engine, size)
    questions = [r.turns[0] for r in asked]
    found = [look_up(index, read, question, engine.tokenizer, engine.context - 2 * size) for question in questions]
    opened = [
        "\n\n".join((*(passage.text for passage in near), form.again.format(question)))
        for near, question in zip(found, questions, strict=True)
    ]
    closed, open_ = reader(questions, 0, 0), reader(opened, 0, 0)
    outcomes = {
        name: [float(form.agrees(said, r.turns[1])) for said, r in zip(answers, asked, strict=True)]
        for name, answers in (("news", closed), ("open_book", open_))
    }
    for skill, task in skills_of(strangers).items() if strangers else ():
        outcomes[skill] = [s["outcome"] for s in exam(engine, {skill: task}, "dev", n_gate)[1]]
    samples = [
        {"skill": "news", "prompt": q, "gold": r.turns[1], "answer": said, "open_book": looked_up, "outcome": right}
        for q, r, said, looked_up, right in zip(questions, asked, closed, open_, outcomes["news"], strict=True)
    ]
    return {"outcomes": outcomes, "news": samples}


def strangers_to(read: Sequence[Passage]) -> list[str]:
    """Names of the town that these texts do not mention."""
    met = {word for passage in read for word in words(passage.text)}
    return [name for name in FIRST_NAMES + NEW_NAMES if name.lower() not in met]


def main(config: Config) -> dict[str, Any]:
    start = exchange.checkpoint_of(config.start)
    if config.peer:
        exchange.checkpoint_of(config.peer)
    sources.check((*config.documents, *config.school))
    size = passage_tokens(exchange.model_config(start).max_position_embeddings)
    read = passages(config.documents, Tokenizer.load(start), size)
    if not read:
        raise UserError(f"there is no text in {' '.join(config.documents)}; name documents to read")
    run = Run.open(config.out, "read", config)
    if run.done:
        return headline(run)
    device = set_up_for(run, config.threads, config.dtype)
    model, tokenizer = exchange.load(start, device.dtype)
    engine = Engine(model, tokenizer, slots=128)
    form = FORMS[run.settle("form", lambda: config.form if config.form != "auto" else trial(read, engine, config))]
    written = run.path("written.jsonl")

    def write() -> None:
        how_many = [config.per_sentence * len(sentences(passage.text)) for passage in read]
        readers, names = readers_of(config, run, engine)
        exercises = form.exercises(read, how_many)
        made = form.together(reflect(form, exercises, readers, config.seed))
        names = names if any(e.asks for e in exercises) else ["a program"]
        lineage = ({"form": r.kind, "readers": names} for r in made if r.kept)
        lessons = (record_of(r.lesson) for r in made if r.kept)
        write_jsonl(run.path("reflections.jsonl"), map(operator.or_, lessons, lineage))
        write_jsonl(written, map(asdict, made))

    make_once(written, write)
    reflections = read_back(written)
    kept = [r for r in reflections if r.kept]
    asked = hold_out(reflections, config.n_asked)
    refuse_to_learn(reflections, asked, config.least)
    secret = {r.turns[0] for r in asked}
    food = by_topic([r for r in kept if r.turns[0] not in secret])
    corpora, of_school = ({}, {}) if config.school else corpora_of("sft", config.start, tokenizer)
    in_town = model.config == QUICKSTART.model and not (config.school or corpora)
    strangers = strangers_to(read)
    lessons = sources_of(strangers, together=1)
    school = [document for path in sources.files_of(config.school) for document, _ in sources.documents(path)]
    shares = LESSONS if in_town else {"school": 1.0} if school else of_school
    food_tokens = sum(len(item.ids) for topic in food for item in encode(tokenizer, topic))
    plan, _ = going_on(model.config, tokenizer.brought)
    facts = sleep(
        run,
        start,
        model,
        engine,
        Day(
            sources={**lessons, **corpora, "school": lambda rng, progress: rng.choice(school)},
            shares=shares,
            heard=[*(heard_at_school(lessons, config.seed) if in_town else []), *(Document(text=p.text) for p in read)],
        ),
        Night(
            tokens=max(plan.batch_tokens, round(config.rounds * food_tokens / (1 - config.replay))),
            replay=config.replay,
            dreams=float(not shares) if config.dreams is None else config.dreams,
            lr_scale=config.lr_scale,
            max_drift=config.max_drift,
            seed=config.seed,
            save_seconds=config.save_seconds,
            lora_rank=config.lora_rank,
        ),
        card=CARD,
        reflections=reflections,
        food=food,
        sit=lambda engine: sit(engine, form, asked, read, strangers if in_town else [], config.n_gate),
        documents=len({passage.source for passage in read}),
    )
    ranks.first(lambda: write_jsonl(run.path("samples.jsonl"), read_json(run.path("morning.json"))["news"]))
    run.finish(device=device.name, threads=device.threads, **facts)
    return headline(run)


def refuse_to_learn(reflections: Sequence[Reflection], asked: Sequence[Reflection], least: float) -> None:
    """BelowBar where the model could not read: nothing has been changed yet."""
    num_kept = sum(r.kept for r in reflections)
    faults = Counter(r.why for r in reflections if r.why).most_common(1)
    found_in = counts(reflections)
    for kind, found in found_in.items():
        print(f"{kind}: {', '.join(f'{n} {why}' for why, n in found.items())}", file=sys.stderr)
    if num_kept < least * len(reflections) or len(asked) < MIN_ASKED:
        why = f"; most often what it writes {faults[0][0]}" if faults else ""
        mend = "no weight was changed; let a model that can write do so with --reflector, or a program with --form gaps"
        line = f"{num_kept} of {len(reflections)} reflections pass their check{why}; {mend}"
        raise BelowBar(line, {"written": len(reflections), "verified": num_kept, "counts": found_in})


def headline(run: Run) -> dict[str, Any]:
    night = read_json(run.path("night.json"))
    known = read_json(run.path("scores.json"))["skills"]
    return {
        "seconds": run.meta["seconds"],
        **{name: night[name] for name in ("documents", "written", "verified", "drift")},
        **{name: night["facts"][name] for name in ("evening", "morning")},
        "open_book": known["open_book"],
        "gate": night["gate"]["passed"],
        "reason": night["gate"]["reason"],
    }
