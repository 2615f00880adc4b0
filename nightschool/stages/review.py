"""`nightschool review`: with the day's solutions at hand the model learns to see where its own work went wrong.

    learn to use a solution -> with it at hand, work the day's problems again; the verifier lets pass what is right ->
    learn to say the same with none -> measure on fresh attempts of the model as it was, at other problems

The checkpoint is a reviewer: it re-reads the attempts of its earlier self (rl/review.py), and is no more than that,
since nothing else of school is repeated. What it learned from is in lessons.jsonl, and in rollouts.jsonl for the report
what the methods of credit give for attempts at dev problems. But: one process; the task must verify lines, and its
problems have a solution.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from nightschool.config import UserError, at_least
from nightschool.device import Dtype, set_up_for
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl import review
from nightschool.rl.batch import Groups, in_groups
from nightschool.rl.credit import Marks, by_marks
from nightschool.rl.measures import rows_of
from nightschool.runs import Costs, Run, make_once, read_json, read_jsonl, write_json, write_jsonl
from nightschool.tasks.attempt import Attempt, attempt, judge
from nightschool.tasks.exam import interval
from nightschool.tasks.named import PRACTICE, task_named
from nightschool.tasks.task import Task
from nightschool.tasks.world import draw
from nightschool.text import chat
from nightschool.text.corpus import encode
from nightschool.text.document import Document, Message, record_of
from nightschool.text.packing import Batch, Item, batches
from nightschool.text.sources import document_of
from nightschool.train.loop import train
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer
from nightschool.train.plan import flops_per_token, going_on
from nightschool.train.schedule import warm_stay_decay
from nightschool.world.problem import Split

CARD = "A small model of the Qwen3 architecture that reviews worked solutions, line by line."
CHUNK_TOKENS = 16_384  # that are packed together
ROUND, COPIES = 64, 4  # problems tried at a time, and attempts at each
PROBLEMS, SHOWN = 64, 8  # of the report, and attempts at each: an answer that is right by luck is rare
MOST_ROUNDS = 400


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/review")  # the run folder
    start: Path = Path("life/rl")  # the run whose model reviews, and whose attempts it reviews
    task: str = PRACTICE  # a name, a .jsonl file of GSM8K's form, or a .py file with `sample` and `verify`
    problems: int = 3072  # of the day, to work again with their solutions
    solution_tokens: int = 300_000  # to learn from how a solution is used
    tokens: int = 400_000  # to learn to do without from
    teacher: Literal["self", "solution"] = "self"  # what is learned: its own words, or as a control the solutions
    lr_scale: float = 1.0  # of the learning rates by which the model goes on
    max_new_tokens: int = 144  # of an attempt
    eval_n: int = 256  # fresh attempts at dev problems, half of them right
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 2, "eval_n")
        at_least(self, 1, "problems", "tokens", "max_new_tokens")
        at_least(self, 0, "solution_tokens", "lr_scale", "threads", "save_seconds")


def half_right(engine: Engine, task: Task, split: Split, n: int, max_new_tokens: int, seed: int) -> list[Attempt]:
    """n different attempts at problems of a split, half of them right and half wrong. UserError where one kind is too
    rare to be found."""
    kinds: dict[bool, dict[str, Attempt]] = {True: {}, False: {}}
    for i in range(MOST_ROUNDS):
        problems = draw(task, split, ROUND, seed=1000 * seed + i)
        sampling = Sampling(max_new_tokens=max_new_tokens, seed=1_000_000 * seed + 1000 * i)
        for a in attempt(engine, task, problems, sampling, COPIES):
            kind = kinds[review.is_right(a)]
            if len(kind) < n // 2:
                kind.setdefault(f"{a.problem.prompt}\n{a.text}", a)
        if all(len(kind) == n // 2 for kind in kinds.values()):
            return [a for kind in kinds.values() for a in kind.values()]
    found = " and ".join(f"{len(kinds[good])} {word}" for good, word in ((True, "right"), (False, "wrong")))
    raise UserError(f"{n // 2} right and as many wrong attempts are asked for, and {found} were found; change --task")


@dataclass(frozen=True)
class Lessons:
    """What the model learns from: first to use a solution, then what it says itself with one, without."""

    run: Run
    config: Config
    task: Task
    model: Transformer
    engine: Engine

    def batches(self, cursor: dict[str, Any]) -> Iterator[Batch]:
        plan, row_length = going_on(self.model.config, self.engine.tokenizer.brought)[0], min(self.engine.context, 2048)
        return batches(
            self.chunk,
            tokens_per_batch=max(plan.batch_tokens, row_length),
            row_length=row_length,
            pad_id=self.engine.tokenizer.end_of_text,
            seed=self.config.seed,
            cursor=cursor or None,
        )

    def chunk(self, i: int) -> list[Item]:
        """A function of (seed, i) and, where the first that is said without a solution is made, of the weights."""
        rng = random.Random(f"review {self.config.seed} {i}")
        lesson = self.solved if i * CHUNK_TOKENS < self.config.solution_tokens else self.said
        items = list[Item]()
        while sum(item.num_positions for item in items) < CHUNK_TOKENS:
            items += encode(self.engine.tokenizer, [lesson(rng) for _ in range(16)])
        return items

    def solved(self, rng: random.Random) -> Document:
        problem = self.task.sample(rng, "train")
        return Document(messages=(review.with_solution(problem), Message("assistant", problem.solution)))

    def said(self, rng: random.Random) -> Document:
        return rng.choice(self.words)

    @cached_property
    def words(self) -> list[Document]:
        path = self.run.path("lessons.jsonl")
        make_once(path, lambda: write_jsonl(path, map(record_of, self.work_again())))
        return [document_of(row, str(path)) for row in read_jsonl(path)]

    def work_again(self) -> list[Document]:
        """What the model says to the day's problems with their solutions at hand, where the verifier lets it pass."""
        config, tokenizer = self.config, self.engine.tokenizer
        problems = draw(self.task, "train", config.problems, config.seed)
        if config.teacher == "solution":
            return [Document(messages=problem.messages) for problem in problems]
        self.engine.load(self.model)
        asked = [((review.with_solution(problem),), ()) for problem in problems]
        prompts = [ids for ids, _ in chat.render_many(tokenizer, asked, generate=True)]
        completions = self.engine.generate(prompts, Sampling(max_new_tokens=config.max_new_tokens, seed=config.seed))
        passed = [a for a in judge(tokenizer, self.task, problems, completions) if review.is_right(a)]
        if not passed:
            raise UserError("it can say nothing right with a solution at hand yet; raise --solution-tokens")
        return [
            Document(messages=(*a.problem.messages[:1], *a.transcript), kind="reflection", info="verifier", gen=1)
            for a in passed
        ]


def for_report(groups: Groups, found: Sequence[Marks]) -> list[dict[str, Any]]:
    """rollouts.jsonl: attempts with what each method of credit would give their lines."""
    rows = rows_of(groups)
    for row, marks in zip(rows, found, strict=True):
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
    device = set_up_for(run, config.threads, config.dtype)
    model, tokenizer = exchange.load(start, device.dtype)
    engine = Engine(model, tokenizer, slots=128)
    fresh = half_right(engine, task, "dev", config.eval_n, config.max_new_tokens, config.seed)
    before = review.measured(fresh, review.read(model, tokenizer, fresh)[0])
    problems, sampling = draw(task, "dev", PROBLEMS, config.seed), Sampling(max_new_tokens=config.max_new_tokens)
    shown = attempt(engine, task, problems, sampling, SHOWN)
    plan, _ = going_on(model.config, tokenizer.brought)
    end = train(
        run,
        model,
        Optimizer(model, plan.matrix_lr, plan.embed_lr, plan.norm_lr, dtype=model.dtype, muon=plan.muon),
        Lessons(run, config, task, model, engine).batches,
        next_token,
        schedule=lambda done: config.lr_scale * warm_stay_decay(done, warmup=0.02, decay=0.6),
        horizon_tokens=config.solution_tokens + config.tokens,
        save_seconds=config.save_seconds,
        label="review",
    )
    exchange.save(run.path("checkpoint"), model, tokenizer, CARD)
    after = review.measured(fresh, review.read(model, tokenizer, fresh)[0])
    write_jsonl(
        run.path("rollouts.jsonl"), for_report(in_groups(shown, SHOWN), review.read(model, tokenizer, shown)[0])
    )
    engine.load(model)
    scores = {
        "kept": len(read_jsonl(run.path("lessons.jsonl"))) / config.problems,  # of its words, by the verifier
        "before": before,
        "after": after,
        "first_error": interval(after["first_error"] * len(fresh), len(fresh)),
        "solves_before": fmean(map(review.is_right, shown)),  # what it writes itself, at the problems shown
        "solves_after": fmean(map(review.is_right, attempt(engine, task, problems, sampling, SHOWN))),
    }
    write_json(run.path("review.json"), scores)
    run.finish(
        seconds=end.seconds,
        tokens=end.tokens,
        flops=end.tokens * flops_per_token(model.config, engine.context),
        **device.facts,
    )
