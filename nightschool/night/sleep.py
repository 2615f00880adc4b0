"""Sleep: lessons from what was read, beside replay of what the model knew; then the gate, or everything as it was.

    evening exam -> train on the lessons, with replay -> morning exam -> gate: pass, or keep the evening's model

Replay is school again, or dreams, where nobody knows what school was. A drift alarm ends the night early where the
model goes too far from its evening self.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool import ranks
from nightschool.model import exchange, lora
from nightschool.model.engine import Engine
from nightschool.model.transformer import Transformer
from nightschool.night.dream import dream, drift
from nightschool.night.gate import Outcomes, decide
from nightschool.night.read import Reflection, counts
from nightschool.runs import Run, make_once, read_json, read_jsonl, write_json, write_jsonl
from nightschool.tasks.exam import interval
from nightschool.text.corpus import Sources, encode
from nightschool.text.document import Document, record_of
from nightschool.text.sources import document_of
from nightschool.train.course import course, in_batches
from nightschool.train.losses import distil, next_token
from nightschool.train.plan import flops_per_token, going_on

MOST_DREAMS, DREAM_TOKENS = 1024, 128  # as many dreams as fill their share of the night if each has so many tokens
NUM_GAUGE = 64  # dreams to measure the drift on
CHECKS = 10  # of the drift in a night


@dataclass(frozen=True)
class Day:
    """What the model lived through, to repeat and to dream of."""

    sources: Sources  # of school
    shares: Mapping[str, float]  # of them, in what is repeated
    heard: Sequence[Document]  # what people said


@dataclass(frozen=True)
class Night:
    tokens: int  # to train on
    replay: float  # share of these that is no food
    dreams: float  # share of the replay that is dreamt instead of repeated
    lr_scale: float  # of the learning rates by which the model goes on
    max_drift: float  # nats a token from the evening self at which the night ends; 0 = not measured
    seed: int
    save_seconds: float  # between saved states
    lora_rank: int  # of the factors that learn in the matrices' place; 0 = all weights learn


class Drifted(Exception):
    """The alarm: nothing after this step would be kept."""


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gave the first time: read from `path` on a resumed run."""
    make_once(path, lambda: write_json(path, make()))
    return ranks.first(lambda: read_json(path))


def sleep(
    run: Run,
    start: Path,
    model: Transformer,
    engine: Engine,
    day: Day,
    night: Night,
    *,
    card: str,
    reflections: Sequence[Reflection],
    food: Sequence[Sequence[Document]],
    sit: Callable[[Engine], Any],
    first: Outcomes | None = None,
    control: bool = False,
    **told: Any,
) -> dict[str, Any]:
    """One night: writes the morning's checkpoint, scores.json and night.json -> what run.finish is to say.

    start: the evening's checkpoint, whose weights model and engine hold. reflections, told: for night.json. food:
    lessons by topic. sit: the exam -> {"outcomes": skill -> outcomes, "news": its samples}. first: those of the first
    evening, where other nights came before. control: keep the morning's model in any case.
    """
    tokenizer = engine.tokenizer
    evening = once(run.path("evening.json"), lambda: sit(engine))
    plan, row_length = going_on(model.config, tokenizer.brought, lora=night.lora_rank > 0)
    seed, max_drift, dreams = night.seed, night.max_drift, night.dreams
    # a model that could write nothing true only repeats; the gate keeps the evening's
    replay = night.replay if food else 1.0
    dreamt, gauge, self_ = list[Document](), [], model
    if dreams:
        path = run.path("dreams.jsonl")
        num_dreams = min(MOST_DREAMS, 1 + int(night.tokens * replay * dreams / DREAM_TOKENS))
        lessons = [lesson for topic in food for lesson in topic]
        make_once(path, lambda: write_jsonl(path, map(record_of, dream(engine, day.heard, num_dreams, seed, lessons))))
        dreamt = [document_of(row, str(path)) for row in read_jsonl(path)]
        for each in dreamt[:3]:
            print(f"dreaming of: {each.messages[0].content!r}", file=sys.stderr)
    if max_drift:
        gauge = in_batches(encode(tokenizer, dream(engine, day.heard, NUM_GAUGE, seed + 1)), tokenizer, row_length)
    if dreams or max_drift:
        self_ = copy.deepcopy(model).requires_grad_(False)
    if night.lora_rank:
        lora.add(model, night.lora_rank, seed=seed)
    school = replay * (1 - dreams) / (sum(day.shares.values()) or 1.0)
    mixed = {"tonight": 1 - replay, "dream": replay * dreams} | {k: school * v for k, v in day.shares.items()}

    def alarm() -> dict[str, float]:
        if (apart := drift(model, self_, gauge)) > max_drift:
            raise Drifted
        return {"drift": apart}

    try:
        end = course(
            run,
            model,
            tokenizer,
            plan,
            lambda progress: mixed,
            sources={
                **day.sources,
                "tonight": lambda rng, progress: rng.choice(rng.choice(food)),
                "dream": lambda rng, progress: rng.choice(dreamt),
            },
            tokens=night.tokens,
            seed=seed,
            row_length=row_length,
            lr_scale=night.lr_scale,
            loss=distil(self_) if dreams else next_token,
            save_seconds=night.save_seconds,
            evaluate=alarm,
            eval_every=max(1, night.tokens // plan.batch_tokens // CHECKS) if max_drift else 0,
        )
        seconds, spent = end.seconds, end.tokens
    except Drifted:
        last = read_jsonl(run.path("metrics.jsonl"))[-1]
        seconds, spent = last["seconds"], last["tokens"]
    engine.load(model)
    morning = once(run.path("morning.json"), lambda: sit(engine))
    apart = drift(model, self_, gauge) if max_drift else None
    decision = decide(evening["outcomes"], morning["outcomes"], drift=apart or 0.0, bar=max_drift, first=first)
    kept = morning
    if not decision.passed and not control:
        print(f"the night is undone: {decision.reason}", file=sys.stderr)
        model, _ = exchange.load(start, model.dtype)
        kept = evening
    ranks.first(lambda: exchange.save(run.path("checkpoint"), model, tokenizer, card))
    skills = {
        skill: known(outcomes) for skill, outcomes in kept["outcomes"].items() if skill not in ("news", "unknown")
    }
    ranks.first(lambda: write_json(run.path("scores.json"), {"split": "dev", "skills": skills}))
    pairs = {skill: (evening["outcomes"][skill], morning["outcomes"][skill]) for skill in evening["outcomes"]}
    story = {
        "written": len(reflections),
        "verified": sum(r.kept for r in reflections),
        **told,
        "facts": {"evening": known(pairs["news"][0]), "morning": known(pairs["news"][1]), "control": None},
        "gate": {
            **decision._asdict(),
            "skills": {s: [sum(o) / len(o) for o in pair] for s, pair in pairs.items() if s != "news"},
        },
        "drift": apart,
        "examples": [
            {
                "question": before["prompt"],
                "evening": before["answer"],
                "morning": after["answer"],
                "gold": before["gold"],
            }
            for before, after in zip(evening["news"], morning["news"], strict=True)
        ],
        "counts": counts(reflections),
        "reflections": [
            {"source": r.parents[0], "text": r.written, "verified": r.kept, "why": r.why} for r in reflections[:200]
        ],
        "dreams": [{"question": d.messages[0].content, "answer": d.messages[1].content} for d in dreamt[:8]],
        "seconds": seconds,
    }
    ranks.first(lambda: write_json(run.path("night.json"), story))
    flops = spent * flops_per_token(model.config, row_length)
    return {"seconds": seconds, "tokens": spent, "flops": flops, "dtype": str(model.dtype).removeprefix("torch.")}


def known(outcomes: Sequence[float]) -> dict[str, float]:
    return interval(sum(outcomes), len(outcomes))
