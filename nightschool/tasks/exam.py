"""Exams: accuracy per skill with 95% intervals, greedy, on freshly drawn held-out problems; bits per byte of text."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.runs import Run, write_json
from nightschool.tasks.attempt import attempt, complete
from nightschool.tasks.task import Task, lines_of
from nightschool.tasks.world import SKILLS, draw
from nightschool.text.corpus import encode
from nightschool.text.tokenizer import Tokenizer
from nightschool.train import course
from nightschool.world.problem import Split
from nightschool.world.prose import prose

EXAM = Sampling(temperature=0, max_new_tokens=200)
Score = dict[str, float]  # accuracy, low, high, n


def interval(right: float, n: int) -> Score:
    """Wilson's 95% interval of a share."""
    z, p = 1.96, right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"accuracy": p, "low": max(0.0, middle - half), "high": min(1.0, middle + half), "n": n}


def exam(
    engine: Engine, tasks: Mapping[str, Task], split: Split, n: int, seed: int = 0
) -> tuple[dict[str, Score], list[dict[str, Any]]]:
    """n problems of each task, once each -> scores by name, and every attempt as a row of samples.jsonl."""
    scores, samples = {}, []
    for skill, task in tasks.items():
        attempts = attempt(engine, task, draw(task, split, n, seed), EXAM)
        scores[skill] = interval(sum(a.verdict.outcome for a in attempts), n)
        for a in attempts:
            steps = zip(lines_of(a.transcript), a.verdict.steps, strict=False)
            samples.append(
                {
                    "skill": skill,
                    "kind": a.problem.kind,
                    "prompt": a.problem.prompt,
                    "gold": a.problem.solution,
                    "answer": "\n".join(lines_of(a.transcript)),
                    "outcome": a.verdict.outcome,
                    "steps": [[text, ok] for text, ok in steps],
                    "feedback": a.verdict.feedback,
                }
            )
    return scores, samples


def graduate(run: Run, model: Transformer, tokenizer: Tokenizer, n: int, **scores: float) -> None:
    """The dev exam that ends a stage, n problems a skill, and other scores of it: its scores.json. n = 0: no exam."""
    skills = exam(Engine(model, tokenizer, slots=128), SKILLS, "dev", n)[0] if n else {}
    if skills or scores:
        write_json(run.path("scores.json"), {"split": "dev", "skills": skills, **scores})


def off_template(engine: Engine) -> list[dict[str, str]]:
    """Fifty user turns that follow no template of the world, written once and frozen, each with its greedy answer."""
    turns = Path(__file__).with_name("off_template.txt").read_text().splitlines()
    answers = complete(engine, turns, Sampling(temperature=0, max_new_tokens=64))
    return [{"prompt": turn, "answer": answer} for turn, answer in zip(turns, answers, strict=True)]


def bits_per_byte(model: Transformer, tokenizer: Tokenizer, split: Split, documents: int = 200) -> float:
    """Bits the model needs per byte of raw prose of a split's own towns; comparable across tokenizers."""
    rng = random.Random(f"prose {split}")
    T = min(model.config.max_position_embeddings, 512)
    items = encode(tokenizer, [prose(rng, split) for _ in range(documents)], row_length=T)
    return course.bits_per_byte(model, course.in_batches(items, tokenizer, T))
