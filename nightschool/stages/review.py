"""`nightschool review`: the model re-reads what it wrote by day and learns to say which line went wrong.

    attempts at the day's problems, half of them right -> learn to compare with a solution at hand -> mark the attempts
    so -> learn to give the same marks with none (rl/review.py) -> measure on fresh attempts at other problems

The checkpoint is a reviewer: the same model, which from then on does nothing but review. Where the verifier contradicts
the marks that it gave with a solution, the attempt is left out. What became of each attempt is in reviewed.jsonl; the
attempts that practice kept for the report are marked too. But: one process; the task must verify lines.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from nightschool.config import UserError, at_least
from nightschool.device import DTYPES, Dtype, set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl import review
from nightschool.rl.credit import by_marks
from nightschool.rl.review import Marks, Work
from nightschool.runs import Costs, Run, make_once, read_json, read_jsonl, write_json, write_jsonl
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.exam import interval
from nightschool.tasks.named import PRACTICE, task_named
from nightschool.tasks.task import Task, lines_of
from nightschool.tasks.world import draw
from nightschool.text.packing import Batch, Item, batches
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.loop import train
from nightschool.train.optim import Optimizer
from nightschool.train.plan import flops_per_token, going_on
from nightschool.train.schedule import warm_stay_decay
from nightschool.world.problem import Split

CARD = "A small model of the Qwen3 architecture that reviews worked solutions, line by line."
CHUNK_TOKENS = 16_384  # that are packed together
ROUND, COPIES = 64, 4  # problems tried at a time, and attempts at each
MOST_ROUNDS = 400


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/review")  # the run folder
    start: Path = Path("life/rl")  # the run whose model reviews, and whose attempts it reviews
    task: str = PRACTICE  # a name, a .jsonl file of GSM8K's form, or a .py file with `sample` and `verify`
    attempts: int = 2048  # to review, half of them right
    compare_tokens: int = 500_000  # to learn to compare from
    tokens: int = 1_000_000  # to learn to do without from
    teacher: Literal["self", "verifier"] = "self"  # whose marks are learned; the verifier's are a control
    lr_scale: float = 0.5  # of the learning rates by which the model goes on
    max_new_tokens: int = 144  # of an attempt
    eval_n: int = 512  # fresh attempts at dev problems, half of them right
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 2, "attempts", "eval_n")
        at_least(self, 1, "compare_tokens", "tokens", "max_new_tokens")
        at_least(self, 0, "lr_scale", "threads", "save_seconds")


def half_right(engine: Engine, task: Task, split: Split, n: int, sampling: Sampling, seed: int) -> list[Attempt]:
    """n different attempts at problems of a split, half of them right and half wrong. UserError where one kind is too
    rare to be found."""
    kinds: dict[bool, dict[str, Attempt]] = {True: {}, False: {}}
    for i in range(MOST_ROUNDS):
        problems = draw(task, split, ROUND, seed=1_000 * seed + i)
        for a in attempt(engine, task, problems, replace(sampling, seed=1_000_000 * seed + 1000 * i), COPIES):
            right = a.verdict.first_error is None and a.verdict.outcome >= 1
            if len(kinds[right]) < n // 2:
                kinds[right].setdefault(f"{a.problem.prompt}\n{a.text}", a)
        if sum(map(len, kinds.values())) == n // 2 * 2:
            return [*kinds[True].values(), *kinds[False].values()]
    rare = "right" if len(kinds[True]) < n // 2 else "wrong"
    raise UserError(f"only {len(kinds[rare == 'right'])} of {n // 2} {rare} attempts came up; choose another --task")


def row_of(a: Attempt) -> dict[str, Any]:
    """An attempt as attempts.jsonl keeps it. truth: the place of the first wrong line by the verifier."""
    lines = lines_of(a.transcript)
    return {"prompt": a.problem.prompt, "solution": a.problem.solution, "lines": lines, "truth": review.truth(a)}


def work_in(row: dict[str, Any], aware: bool = False) -> Work:
    return Work(row["prompt"], tuple(row["lines"]), row["solution"] if aware else "")


@dataclass(frozen=True)
class Lessons:
    """What the model learns from: first to compare, then from its own marks."""

    run: Run
    config: Config
    task: Task
    model: Transformer
    engine: Engine

    def batches(self, cursor: dict[str, Any]) -> Iterator[Batch]:
        plan, row_length = going_on(self.model.config)[0], min(self.engine.context, 2048)
        return batches(
            self.chunk,
            tokens_per_batch=max(plan.batch_tokens, row_length),
            row_length=row_length,
            pad_id=self.engine.tokenizer.end_of_text,
            seed=self.config.seed,
            cursor=cursor or None,
        )

    def chunk(self, i: int) -> list[Item]:
        """A function of (seed, i) and, where the first that is not about comparing is made, of the weights."""
        rng = random.Random(f"review {self.config.seed} {i}")
        comparing = i * CHUNK_TOKENS < self.config.compare_tokens
        items, num_tokens = list[Item](), 0
        while num_tokens < CHUNK_TOKENS:
            pairs = self.planted(rng) if comparing else [self.marked(rng) for _ in range(16)]
            items += review.to_items(self.engine.tokenizer, *map(list, zip(*pairs, strict=True)))
            num_tokens = sum(item.num_positions for item in items)
        return items

    def planted(self, rng: random.Random) -> list[tuple[Work, Marks]]:
        problems = [self.task.sample(rng, "train") for _ in range(16)]
        return [review.planted(rng, problem, rng.choice(problems)) for problem in problems]

    def marked(self, rng: random.Random) -> tuple[Work, Marks]:
        row = rng.choice(self.kept[rng.random() < 0.5])
        return work_in(row), row["marks"]

    @cached_property
    def kept(self) -> dict[bool, list[dict[str, Any]]]:
        """The attempts with marks, by whether nothing is wrong with them; marked where that has not been done yet."""
        path = self.run.path("marked.jsonl")
        make_once(path, lambda: write_jsonl(path, self.mark()))
        rows = [row for row in read_jsonl(path) if row["kept"]]
        kinds = {good: [r for r in rows if (r["truth"] > len(r["lines"])) == good] for good in (True, False)}
        if not all(kinds.values()):
            raise UserError("beside a solution it cannot tell right from wrong yet; raise --compare-tokens")
        return kinds

    def mark(self) -> list[dict[str, Any]]:
        """Each attempt's marks up to the first wrong line, given beside its solution. kept: the verifier agrees."""
        rows = read_jsonl(self.run.path("attempts.jsonl"))
        if self.config.teacher == "verifier":
            found = [([1.0] * row["truth"] + [0.0])[: len(row["lines"]) + 1] for row in rows]
        else:
            found, _ = review.read(self.model, self.engine.tokenizer, [work_in(row, aware=True) for row in rows])
        places = [review.guess(p) for p in found]
        return [
            row | {"marks": p[: place + 1], "kept": place == row["truth"]}
            for row, p, place in zip(rows, found, places, strict=True)
        ]


def with_credit(rows: Sequence[dict[str, Any]], model: Transformer, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The attempts that practice kept for the report, and what credit by review would give their lines."""
    works = [Work(row["prompt"], tuple(step["text"] for step in row["steps"])) for row in rows]
    for row, marks in zip(rows, review.read(model, tokenizer, works)[0], strict=True):
        credit = by_marks(row["outcome_credit"], marks)
        for step, p, earned in zip(row["steps"], marks, credit, strict=False):
            step |= {"mark": p, "review": earned}
    return list(rows)


def main(config: Config) -> dict[str, Any]:
    task = task_named(config.task)
    problem = draw(task, "train", 1, seed=0)[0]
    if not task.verify(problem, problem.messages[1:]).steps:
        raise UserError(f"review is about lines, and task {config.task} verifies none; give one that does")
    start = exchange.checkpoint_of(config.start)
    run = Run.open(config.out, "review", config)
    if not run.done:
        learn(run, config, start, task)
    return {"seconds": run.meta["seconds"], **read_json(run.path("review.json"))}


def learn(run: Run, config: Config, start: Path, task: Task) -> None:
    dtype = run.settle("dtype", lambda: str(set_up(config.threads, config.dtype).dtype).removeprefix("torch."))
    device = set_up(config.threads, dtype)
    model, tokenizer = exchange.load(start, DTYPES[dtype])
    engine = Engine(model, tokenizer, slots=128)
    sampling = Sampling(max_new_tokens=config.max_new_tokens)

    def write_attempts() -> None:
        made = half_right(engine, task, "train", config.attempts, sampling, config.seed)
        write_jsonl(run.path("attempts.jsonl"), map(row_of, made))

    make_once(run.path("attempts.jsonl"), write_attempts)
    fresh = half_right(engine, task, "dev", config.eval_n, sampling, config.seed)
    works = [review.work_of(a) for a in fresh]
    before = review.measured(fresh, review.read(model, tokenizer, works)[0])
    plan, _ = going_on(model.config)
    end = train(
        run,
        model,
        Optimizer(model, plan.matrix_lr, plan.embed_lr, plan.norm_lr, dtype=model.dtype),
        Lessons(run, config, task, model, engine).batches,
        review.imitation(tokenizer),
        schedule=lambda done: config.lr_scale * warm_stay_decay(done, warmup=0.05, decay=0.6),
        horizon_tokens=config.compare_tokens + config.tokens,
        save_seconds=config.save_seconds,
        label="review",
    )
    exchange.save(run.path("checkpoint"), model, tokenizer, CARD)
    after = review.measured(fresh, review.read(model, tokenizer, works)[0])
    if (shown := config.start / "rollouts.jsonl").exists():
        write_jsonl(run.path("rollouts.jsonl"), with_credit(read_jsonl(shown), model, tokenizer))
    marked = read_jsonl(run.path("marked.jsonl"))
    hits = round(after["first_error"] * len(fresh))
    scores = {
        "attempts": len(marked),
        "kept": fmean(row["kept"] for row in marked),  # by the verifier, of the marks given beside a solution
        "before": before,
        "after": after,
        "first_error": interval(hits, len(fresh)),
    }
    write_json(run.path("review.json"), scores)
    run.finish(
        seconds=end.seconds,
        tokens=end.tokens,
        flops=end.tokens * flops_per_token(model.config, engine.context),
        device=device.name,
        threads=device.threads,
        dtype=dtype,
    )
