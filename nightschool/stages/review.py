"""`nightschool review`: the model re-reads what it wrote by day and learns to say which line went wrong.

    learn to use a solution -> attempts at the day's problems, half of them right -> mark each with its solution at hand
    -> learn to give the same marks without (rl/review.py) -> measure on fresh attempts at other problems

The checkpoint is a reviewer: the same model, which from then on does nothing but review. Where the verifier contradicts
the marks that were given with a solution, the attempt is left out. What was said of each attempt is in marked.jsonl,
and in rollouts.jsonl for the report what the methods of credit give for attempts at dev problems. But: one process; the
task must verify lines.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
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
from nightschool.rl.batch import Groups, in_groups
from nightschool.rl.credit import by_marks
from nightschool.rl.review import Work
from nightschool.runs import Costs, Run, make_once, read_json, read_jsonl, write_json, write_jsonl
from nightschool.stages.rl import NUM_SHOWN, rows_of
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.exam import interval
from nightschool.tasks.named import PRACTICE, task_named
from nightschool.tasks.task import Task
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
    solution_tokens: int = 400_000  # to learn from how a solution is used
    tokens: int = 800_000  # to learn to do without from
    teacher: Literal["self", "verifier"] = "self"  # whose marks are learned; the verifier's are a control
    lr_scale: float = 0.6  # of the learning rates by which the model goes on
    max_new_tokens: int = 144  # of an attempt
    eval_n: int = 512  # fresh attempts at dev problems, half of them right
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 2, "attempts", "eval_n")
        at_least(self, 1, "tokens", "max_new_tokens")
        at_least(self, 0, "solution_tokens", "lr_scale", "threads", "save_seconds")


def half_right(engine: Engine, task: Task, split: Split, n: int, max_new_tokens: int, seed: int) -> list[Attempt]:
    """n different attempts at problems of a split, half of them right and half wrong. UserError where one kind is too
    rare to be found."""
    kinds: dict[bool, dict[str, Attempt]] = {True: {}, False: {}}
    for i in range(MOST_ROUNDS):
        problems = draw(task, split, ROUND, seed=1000 * seed + i)
        sampling = Sampling(max_new_tokens=max_new_tokens, seed=1_000_000 * seed + 1000 * i)
        for a in attempt(engine, task, problems, sampling, COPIES):
            kind = kinds[review.truth(a) > len(a.verdict.steps)]
            if len(kind) < n // 2:
                kind.setdefault(f"{a.problem.prompt}\n{a.text}", a)
        if all(len(kind) == n // 2 for kind in kinds.values()):
            return [a for kind in kinds.values() for a in kind.values()]
    found = " and ".join(f"{len(kinds[good])} {word}" for good, word in ((True, "right"), (False, "wrong")))
    raise UserError(f"{n // 2} right and as many wrong attempts are asked for, and {found} were found; change --task")


@dataclass(frozen=True)
class Lessons:
    """What the model learns from: first to use a solution, then its own marks with one."""

    run: Run
    config: Config
    task: Task
    model: Transformer
    engine: Engine  # samples from the model as it was at the start

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
        """A function of (seed, i) and, where the first marks are asked for, of the weights."""
        rng = random.Random(f"review {self.config.seed} {i}")
        lessons = self.solved if i * CHUNK_TOKENS < self.config.solution_tokens else self.reviewed
        items = list[Item]()
        while sum(item.num_positions for item in items) < CHUNK_TOKENS:
            items += lessons(rng, 16)
        return items

    def solved(self, rng: random.Random, n: int) -> list[Item]:
        tokenizer, problems = self.engine.tokenizer, [self.task.sample(rng, "train") for _ in range(n)]
        said = [[*tokenizer.encode(problem.solution), tokenizer.turn_end] for problem in problems]
        return [review.with_solution(tokenizer, *pair) for pair in zip(problems, said, strict=True)]

    def reviewed(self, rng: random.Random, n: int) -> list[Item]:
        rows = [rng.choice(self.marked[rng.random() < 0.5]) for _ in range(n)]
        return review.to_items(self.engine.tokenizer, [work_in(row) for row in rows], [row["marks"] for row in rows])

    @cached_property
    def marked(self) -> dict[bool, list[dict[str, Any]]]:
        """The attempts to learn from, by whether all is right; tried and marked where that has not been done yet."""
        path = self.run.path("marked.jsonl")
        make_once(path, lambda: write_jsonl(path, self.mark()))
        rows = [row for row in read_jsonl(path) if row["kept"]]
        kinds = {good: [row for row in rows if (row["truth"] == len(row["sure"])) == good] for good in (True, False)}
        if not all(kinds.values()):
            raise UserError("with a solution at hand it cannot tell right from wrong yet; raise --solution-tokens")
        return kinds

    def mark(self) -> list[dict[str, Any]]:
        """Attempts and their marks, up to the first wrong line. kept: the verifier agrees about that one."""
        config, tokenizer = self.config, self.engine.tokenizer
        attempts = half_right(self.engine, self.task, "train", config.attempts, config.max_new_tokens, config.seed)
        if config.teacher == "self":
            found = review.aware(self.model, tokenizer, attempts)
        else:
            found = [[float(i < review.truth(a)) for i in range(len(a.verdict.steps) + 1)] for a in attempts]
        rows = []
        for a, marks in zip(attempts, found, strict=True):
            told, true = review.guess(marks), review.truth(a)
            more = {"marks": marks[: told + 1], "truth": true, "kept": told == true}
            rows.append(asdict(review.work_of(tokenizer, a)) | more)
        return rows


def work_in(row: dict[str, Any]) -> Work:
    return Work(row["prompt"], tuple(row["lines"]), tuple(row["sure"]))


def for_report(groups: Groups, model: Transformer, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """rollouts.jsonl: attempts with what each method of credit would give their lines."""
    rows = rows_of(groups)
    works = [review.work_of(tokenizer, a) for group in groups for a in group]
    for row, marks in zip(rows, review.read(model, tokenizer, works)[0], strict=True):
        credit = by_marks(row["outcome_credit"], marks)
        for step, mark, earned in zip(row["steps"], marks, credit, strict=False):
            step |= {"mark": mark, "review": earned}
    return rows


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
    fresh = half_right(engine, task, "dev", config.eval_n, config.max_new_tokens, config.seed)
    works, true = [review.work_of(tokenizer, a) for a in fresh], [review.truth(a) for a in fresh]
    before = review.measured(true, review.read(model, tokenizer, works)[0])
    plan, _ = going_on(model.config)
    end = train(
        run,
        model,
        Optimizer(model, plan.matrix_lr, plan.embed_lr, plan.norm_lr, dtype=model.dtype),
        Lessons(run, config, task, model, engine).batches,
        review.imitation(tokenizer),
        schedule=lambda done: config.lr_scale * warm_stay_decay(done, warmup=0.02, decay=0.6),
        horizon_tokens=config.solution_tokens + config.tokens,
        save_seconds=config.save_seconds,
        label="review",
    )
    exchange.save(run.path("checkpoint"), model, tokenizer, CARD)
    after = review.measured(true, review.read(model, tokenizer, works)[0])
    problems, sampling = draw(task, "dev", NUM_SHOWN, config.seed), Sampling(max_new_tokens=config.max_new_tokens)
    shown = in_groups(attempt(engine, task, problems, sampling, 2 * COPIES), 2 * COPIES)
    write_jsonl(run.path("rollouts.jsonl"), for_report(shown, model, tokenizer))
    marked = read_jsonl(run.path("marked.jsonl"))
    scores = {
        "attempts": len(marked),
        "kept": fmean(row["kept"] for row in marked),  # by the verifier, of the marks given with a solution
        "before": before,
        "after": after,
        "first_error": interval(after["first_error"] * len(fresh), len(fresh)),
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
