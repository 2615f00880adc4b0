"""Sleep: lessons from what was read, beside replay of what the model knew; then the gate, or everything as it was.

    evening exam -> train on the lessons, with replay -> morning exam -> gate: pass, or keep the evening's model

Replay is school again, or dreams, where nobody knows what school was. A drift alarm ends the night early where the
model goes too far from its evening self. But: all weights learn; nothing here adds an adapter.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nightschool.model.engine import Engine
from nightschool.model.transformer import Transformer
from nightschool.night.dream import dream, drift
from nightschool.night.gate import Decision, decide
from nightschool.night.read import Reflection, counts
from nightschool.runs import Run, read_json, read_jsonl, write_json, write_jsonl
from nightschool.tasks.exam import interval
from nightschool.text.corpus import Source, encode
from nightschool.text.document import Document, record_of
from nightschool.text.sources import document_of
from nightschool.train.course import course, in_batches
from nightschool.train.losses import distil, next_token
from nightschool.train.plan import Plan

MOST_DREAMS, DREAM_TOKENS = 1024, 128  # as many dreams as fill their share of the night if each has so many tokens
NUM_GAUGE = 64  # dreams to measure the drift on
CHECKS = 10  # of the drift in a night


class Drifted(Exception):
    """The alarm: nothing after this step would be kept."""


class Slept(NamedTuple):
    model: Transformer  # the morning's, let through or not
    evening: Any  # what `sit` gave
    morning: Any
    decision: Decision
    drift: float | None  # nats a token; None = not measured
    dreams: list[Document]
    seconds: float
    tokens: int


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gave the first time: read from `path` on a resumed run."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


def sleep(
    run: Run,
    model: Transformer,
    engine: Engine,
    plan: Plan,
    row_length: int,
    *,
    food: Sequence[Sequence[Document]],
    sources: Mapping[str, Source],
    shares: Mapping[str, float],
    heard: Sequence[Document],
    sit: Callable[[Engine], Any],
    tokens: int,
    replay: float,
    dreams: float,
    max_drift: float,
    seed: int,
    lr_scale: float,
    save_seconds: float,
) -> Slept:
    """One night. The engine holds the model's weights.

    food: lessons by topic; sources, shares: of school, to repeat; heard: what the day's people said, to dream of; sit:
    the exam -> {"outcomes": skill -> outcomes, "news": its samples}; replay: share of the tokens that is no food;
    dreams: share of that which is dreamt; max_drift: nats a token, 0 = not measured.
    """
    tokenizer = engine.tokenizer
    evening = once(run.path("evening.json"), lambda: sit(engine))
    replay = replay if food else 1.0  # a model that could write nothing true only repeats; the gate keeps the evening's
    dreamt, gauge, self_ = list[Document](), [], model
    if dreams:
        path = run.path("dreams.jsonl")
        if not path.exists():
            num_dreams = min(MOST_DREAMS, 1 + int(tokens * replay * dreams / DREAM_TOKENS))
            write_jsonl(path, map(record_of, dream(engine, heard, num_dreams, seed)))
        dreamt = [document_of(row, str(path)) for row in read_jsonl(path)]
        print(f"dreaming of: {dreamt[0].messages[0].content!r}", file=sys.stderr)
    if max_drift:
        gauge = in_batches(encode(tokenizer, dream(engine, heard, NUM_GAUGE, seed + 1)), tokenizer, row_length)
    if dreams or max_drift:
        self_ = copy.deepcopy(model).requires_grad_(False)
    lessons = replay * (1 - dreams) / (sum(shares.values()) or 1.0)
    mixed = {"tonight": 1 - replay, "dream": replay * dreams} | {k: lessons * v for k, v in shares.items()}

    def alarm() -> dict[str, float]:
        if (apart := drift(model, self_, gauge)) > max_drift:
            raise Drifted
        return {"drift": apart}

    seconds, spent = 0.0, 0
    try:
        end = course(
            run,
            model,
            tokenizer,
            plan,
            lambda progress: mixed,
            sources={
                **sources,
                "tonight": lambda rng, progress: rng.choice(rng.choice(food)),
                "dream": lambda rng, progress: rng.choice(dreamt),
            },
            tokens=tokens,
            seed=seed,
            row_length=row_length,
            lr_scale=lr_scale,
            loss=distil(self_) if dreams else next_token,
            save_seconds=save_seconds,
            evaluate=alarm,
            eval_every=max(1, tokens // plan.batch_tokens // CHECKS) if max_drift else 0,
        )
        seconds, spent = end.seconds, end.tokens
    except Drifted:
        last = read_jsonl(run.path("metrics.jsonl"))[-1]
        seconds, spent = last["seconds"], last["tokens"]
    engine.load(model)
    morning = once(run.path("morning.json"), lambda: sit(engine))
    apart = drift(model, self_, gauge) if max_drift else 0.0
    decision = decide(evening["outcomes"], morning["outcomes"], drift=apart, bar=max_drift)
    return Slept(model, evening, morning, decision, apart if max_drift else None, dreamt, seconds, spent)


def account(reflections: Sequence[Reflection], slept: Slept, documents: int, **more: Any) -> dict[str, Any]:
    """night.json: what was read, what was written, what the gate said."""
    before, after = slept.evening, slept.morning

    def known(at: Any, skill: str = "news") -> dict[str, float]:
        return interval(sum(at["outcomes"][skill]), len(at["outcomes"][skill]))

    skills = [s for s in before["outcomes"] if s != "news"]
    return {
        "documents": documents,
        "written": len(reflections),
        "verified": sum(r.kept for r in reflections),
        **more,
        "facts": {"evening": known(before), "morning": known(after), "control": None},
        "gate": {
            **slept.decision._asdict(),
            "skills": {s: [known(before, s)["accuracy"], known(after, s)["accuracy"]] for s in skills},
        },
        "drift": slept.drift,
        "examples": [
            {
                "question": evening["prompt"],
                "evening": evening["answer"],
                "morning": morning["answer"],
                "gold": evening["gold"],
            }
            for evening, morning in zip(before["news"], after["news"], strict=True)
        ],
        "counts": counts(reflections),
        "reflections": [
            {"source": r.parents[0], "text": r.written, "verified": r.kept, "why": r.why} for r in reflections[:200]
        ],
        "dreams": [{"question": d.messages[0].content, "answer": d.messages[1].content} for d in slept.dreams[:8]],
        "seconds": slept.seconds,
    }
