"""`nightschool rl`: practise. Problems with a verifier, by default harder ones than in school among the others.

Each update: draw problems, try each, have every line judged, take wrong attempts up again at their last right line,
turn verdicts into credit (rl/practice.py), and take one step. Some of what school was, the town's or the corpora of the
runs before, is replayed beside them, so that nothing else is forgotten. Every step logs what the attempts were like
(rl/measures.py); pass@k and the distance from the start are taken on dev at intervals. But: one update for each batch
of attempts; a start that never succeeds is sent back to school instead of being practised; of several ranks each tries
its share of the problems, and the first alone takes up what is wrong.

With --judge the verdicts that credit is made from are a learned judge's (rl/judge.py), or with --judge-endpoint another
model's (rl/outside.py), held against the verifier by an auditor (rl/auditor.py). Dev problems are verified as ever, to
measure and to find out whether practice is worth while.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from nightschool import ranks
from nightschool.config import UserError, at_least, closest
from nightschool.device import Dtype, set_up_for
from nightschool.model import exchange, lora
from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl.auditor import Auditor, Plan
from nightschool.rl.batch import Average, in_groups, num_forward, to_batch, to_items, to_observed, to_replay
from nightschool.rl.credit import ASSIGNERS, Assigner
from nightschool.rl.judge import learned
from nightschool.rl.measures import measures, on_dev, rows_of
from nightschool.rl.outside import outside
from nightschool.rl.practice import COSTLY, Creditor, credited, earned, first_look
from nightschool.rl.update import Clip, policy
from nightschool.runs import Costs, Run, read_jsonl, write_jsonl
from nightschool.serve import client
from nightschool.tasks.attempt import judge, sample
from nightschool.tasks.exam import graduate
from nightschool.tasks.named import PRACTICE, gold_verdict, task_named
from nightschool.tasks.task import Task
from nightschool.tasks.world import draw
from nightschool.text.corpus import Mixture, Sources
from nightschool.text.packing import Batch, trim
from nightschool.train.course import beside, corpora_of
from nightschool.train.loop import train
from nightschool.train.losses import log_probs
from nightschool.train.optim import Optimizer
from nightschool.train.plan import flops_per_token, going_on
from nightschool.train.schedule import warm_stay_decay
from nightschool.world import school

CARD = "A small model of the Qwen3 architecture, after practice with a verifier."
JUDGE = "judge"  # in the run folder, where one learned: a checkpoint
JUDGE_CARD = "The judge of a practice: a line is right where this model would have written it."


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/rl")  # the run folder
    start: Path = Path("life/sft")  # the run to go on from
    task: str = PRACTICE  # a name, a .jsonl file of GSM8K's form, or a .py file with `sample` and `verify`
    credit: str = "first_error"  # by line; outcome, grpo, maxrl: by the result; value, monte_carlo: by a potential
    reviewer: Path | None = None  # of credit review, by marks: a run of `nightschool review`
    lam: float = 1.0  # of value and monte_carlo: 1 = only a baseline, without bias; 0 = trust the potential
    continuations: int = 4  # of monte_carlo, from before each line
    judge: Literal["none", "audited", "static"] = "none"  # none = the verifier rewards; else a learned judge does
    judge_start: Path | None = None  # a run whose judge it begins with; None = from audit.first attempts
    judge_endpoint: str | None = None  # an OpenAI-compatible server whose model judges in its place
    judge_model: str | None = None  # its name there
    audit: Plan = field(default_factory=Plan)
    average: Average = "credited"  # tokens that credit moves; token = all sampled ones; sequence = each attempt alike
    drop_even: bool = False  # leave groups that credit does not move out of the batch
    clip: Clip = "cispo"  # of the ratio; dapo = PPO's with 0.2 below and 0.28 above
    optimizer: Literal["muon", "adamw"] = "adamw"  # for the matrices; the rest is AdamW's in any case
    steps: int = 60  # updates
    problems: int = 48  # different problems an update
    group_size: int = 1  # attempts at each, from the start
    again: int = 4  # goes at the rest of each wrong attempt, from its last right line; 0 = none
    replay_tokens: int | None = None  # of school, beside an update's attempts; None = 1024, 0 where none is known
    max_new_tokens: int = 144  # of an attempt
    lr_scale: float = 0.05  # of the learning rates by which the model goes on
    lora_rank: int = 0  # train factors of this rank beside the blocks' matrices; 0 = train all weights
    decay: float = 0.5  # share of the updates over which the learning rates fall; 0 = they stay
    eval_every: int = 30  # updates between dev evaluations; 0 = none
    eval_n: int = 32  # dev problems of each
    eval_k: int = 8  # attempts at each, for pass@1 and pass@k
    exam_n: int | None = None  # dev problems per skill of the town at the end; None = 64, none if it was brought
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "problems", "group_size", "continuations", "max_new_tokens", "eval_n", "eval_k")
        at_least(self, 0, "again", "lam", "exam_n", "replay_tokens", "lr_scale", "lora_rank", "decay")
        at_least(self, 0, "eval_every", "threads", "save_seconds")
        if self.lam > 1:
            raise UserError(f"lam must be at most 1; got {self.lam!r}")
        if self.group_size + self.again < 2:
            raise UserError("one attempt has none to be compared with; raise group_size or again")
        if self.judge != "none" and (self.again or self.credit == "monte_carlo"):
            raise UserError("a judge judges whole attempts; give --again 0, a group_size of some, and no monte_carlo")
        if self.judge != "none" and self.audit.learned + self.audit.measured > self.problems * self.group_size:
            raise UserError("audit.learned and audit.measured are more than an update's attempts; raise problems")
        if self.judge != "none" and not (self.judge_start or self.audit.first):
            raise UserError("a judge begins with marked attempts; raise audit.first, or name a judge_start")
        if self.credit == "review" and not self.reviewer:
            raise UserError("credit review needs a reviewer; name a run of `nightschool review`")
        if self.judge_endpoint and (self.judge == "none" or self.judge_start):
            raise UserError(
                "a judge_endpoint needs --judge audited or static, and no judge_start: it was taught elsewhere"
            )
        if self.judge_endpoint and not self.judge_endpoint.startswith(("http://", "https://")):
            raise UserError(f"judge_endpoint must start with http:// or https://; got {self.judge_endpoint!r}")
        if self.credit == "value" and self.problems < 2:
            raise UserError("credit value needs problems of at least 2: it judges each by the others; got 1")

    @property
    def audited(self) -> Plan:
        """What the auditor does: a static judge learns no more, one that is given was taught elsewhere."""
        plan = self.audit if self.judge == "audited" else replace(self.audit, learned=0)
        return replace(plan, first=0) if self.judge_start else plan


def batches(
    config: Config,
    task: Task,
    model: Transformer,
    engine: Engine,
    credit: Creditor,
    auditor: Auditor | None,
    cursor: dict[str, Any],
) -> Iterator[Batch]:
    """An update's batch at a time, sampled from the model as it is then: a function of (seed, cursor, weights)."""
    tokenizer = engine.tokenizer
    corpora, shares = corpora_of("sft", config.start, tokenizer)
    known, context = bool(corpora) or not tokenizer.brought, engine.context
    replay_tokens = 1024 * known if config.replay_tokens is None else config.replay_tokens
    sources: Sources = {**school.SOURCES, **corpora}
    mixed = beside(school.STUDY, shares)
    replay = Mixture(tokenizer, sources, lambda done: mixed, config.seed + 1, replay_tokens, row_length=context)
    leave_out = config.drop_even or config.average == "credited"  # there they count nothing in any case
    if auditor:
        auditor.begin(cursor)
    for step in range(cursor.get("step", 0), config.steps):
        start = time.perf_counter()
        sampling = Sampling(max_new_tokens=config.max_new_tokens, seed=1_000_000 * step)
        row = auditor.before(step, sampling) if auditor else {}
        audited = time.perf_counter()
        engine.load(model)
        problems = draw(task, "train", config.problems, seed=1_000_000 * config.seed + step)
        own = ranks.share(config.problems)  # tried by this rank, each attempt with the seed that it has on any
        at_own = replace(sampling, seed=sampling.seed + own.start * config.group_size)
        completions = sample(engine, task, problems[own], at_own, config.group_size)
        sampled = time.perf_counter()
        if auditor:
            attempts, judged = auditor.judged(step, problems, completions)
            row |= {name: value + row.get(name, 0) for name, value in judged.items()}
        else:
            attempts = ranks.gathered(judge(tokenizer, task, problems[own], completions))
        groups = in_groups(attempts, config.group_size)
        verified = time.perf_counter()
        reward, forward_tokens = fmean(a.verdict.outcome for a in attempts), num_forward(groups)
        more = replace(sampling, seed=sampling.seed + 500_000)
        groups, credits, more_tokens = ranks.first(partial(credited, engine, task, groups, more, config.again, credit))
        credited_at = time.perf_counter()
        items = to_items(tokenizer, groups, credits, config.average, leave_out)
        items += [to_observed(tokenizer, a) for group in groups for a in group if a.verdict.observation]
        pages = replay.chunk(step) if replay_tokens else []
        items += [to_replay(trim(page, context) if page.num_positions > context else page) for page in pages]
        row |= measures(groups, credits) | {
            "reward": reward,  # of attempts from the start
            "forward_tokens": forward_tokens + more_tokens + row.get("judge/positions", 0),
            "seconds/auditing": audited - start,
            "seconds/sampling": sampled - audited,
            "seconds/verifying": verified - sampled,
            "seconds/crediting": credited_at - verified,
        }
        state = {"auditor": auditor.state} if auditor else {}
        yield replace(to_batch(items, tokenizer, {"step": step + 1} | state), measures=row)


def main(config: Config, assign: Assigner | None = None) -> dict[str, Any]:
    """`assign` is for labs: credit by a function that has no name here."""
    known = [*ASSIGNERS, *COSTLY]
    if not assign and config.credit not in known:
        raise UserError(
            f"credit must be one of {', '.join(known)}{closest(config.credit, known)}; got {config.credit!r}"
        )
    if config.again and not assign and config.credit != "first_error":
        raise UserError(f"credit {config.credit} compares whole attempts; add --again 0 --group-size 8 --problems 8")
    task = task_named(config.task)
    start = exchange.checkpoint_of(config.start)
    if config.reviewer:
        exchange.checkpoint_of(config.reviewer)
    if config.judge != "none":
        check_judged(config, task)
    run = Run.open(config.out, "rl", config)
    if not run.done:
        practise(run, config, start, task, assign or ASSIGNERS.get(config.credit))
    return {name: run.meta[name] for name in ("seconds", "tokens", "rollouts", "hindrance")}


def check_judged(config: Config, task: Task) -> None:
    if not gold_verdict(task)[0].steps:
        raise UserError(f"a judge learns from marked steps, and task {config.task} marks none; give one that does")
    if ranks.size() > 1:
        raise UserError("an auditor works in one process; start it without torchrun")
    if config.judge_start and not (config.judge_start / JUDGE).exists():
        raise UserError(f"no {JUDGE} in {config.judge_start}; name a run of `rl --judge audited` that has finished")


def practise(run: Run, config: Config, start: Path, task: Task, assign: Assigner | None) -> None:
    device = set_up_for(run, config.threads, config.dtype)

    def loaded(folder: Path) -> Transformer:
        return exchange.load(folder, device.dtype)[0]

    model, tokenizer = exchange.load(start, device.dtype)
    engine = Engine(model, tokenizer, slots=128)
    by_muon = config.optimizer == "muon"
    plan, _ = going_on(model.config, tokenizer.brought, lora=config.lora_rank > 0, muon=by_muon)
    if config.lora_rank:
        lora.add(model, config.lora_rank, seed=config.seed)
    origin = model if config.lora_rank else loaded(start)
    matrix_lr, embed_lr, norm_lr = (config.lr_scale * lr for lr in (plan.matrix_lr, plan.embed_lr, plan.norm_lr))
    optimizer = Optimizer(model, matrix_lr, embed_lr, norm_lr, muon=by_muon)
    auditor = None
    if config.judge != "none":
        learner = loaded(config.judge_start / JUDGE if config.judge_start else start)
        judging = learned(learner, tokenizer)
        if url := config.judge_endpoint:
            judging = outside(lambda prompts: client.answers(url, prompts, config.judge_model, temperature=0.0))
        auditor = Auditor(run, task, engine, model, judging, optimizer, config.audited, config.seed)
    reviewer = config.reviewer if config.credit == "review" else None
    asked = loaded(exchange.checkpoint_of(reviewer)) if reviewer else model
    how = partial(earned, assign or config.credit, engine, task, asked)
    credit = partial(how, lam=config.lam, continuations=config.continuations)
    sampling = Sampling(max_new_tokens=config.max_new_tokens)

    def look() -> tuple[str, float]:
        """Before practice, where there is most to correct; the attempts are kept for the report."""
        began = time.perf_counter()
        by = assign or ASSIGNERS["outcome"]
        groups, why = first_look(engine, task, by, sampling, config.eval_k, config.seed)
        write_jsonl(run.path("rollouts.jsonl"), rows_of(groups))
        return why, time.perf_counter() - began

    def from_origin(batch: Batch) -> torch.Tensor:
        with lora.without(origin):
            return log_probs(origin, batch)

    def evaluate() -> dict[str, float]:
        engine.load(model)
        return on_dev(engine, task, from_origin, sampling, config.eval_n, config.eval_k, config.seed)

    why_not, look_seconds = run.settle("look", look)
    if why_not:
        print(f"rl: {why_not}", file=sys.stderr)
    update = partial(policy, clip=config.clip)
    end = train(
        run,
        auditor.module if auditor else model,
        optimizer,
        lambda cursor: batches(
            config, task, model, engine, credit, auditor, {"step": config.steps} if why_not else cursor
        ),
        (lambda module, batch: update(module["policy"], batch)) if auditor else update,
        schedule=lambda done: warm_stay_decay(done, warmup=0.05, decay=config.decay),
        num_steps=config.steps,
        save_seconds=config.save_seconds,
        evaluate=evaluate,
        eval_every=config.eval_every,
        label="rl",
    )
    ranks.first(lambda: exchange.save(run.path("checkpoint"), model, tokenizer, CARD))
    if auditor and not config.judge_endpoint:
        exchange.save(run.path(JUDGE), learner, tokenizer, JUDGE_CARD)
    exam_n = 64 * (not tokenizer.brought) if config.exam_n is None else config.exam_n
    ranks.first(lambda: graduate(run, model, tokenizer, exam_n))
    rows = ranks.first(lambda: [] if why_not else read_jsonl(run.path("metrics.jsonl")))
    updates = [row for row in rows if "rollouts" in row]
    total = {k: sum(row[k] for row in updates) for k in ("rollouts", "sampled_tokens", "forward_tokens")}
    parts = {k: sum(row[f"seconds/{k}"] for row in updates) for k in ("auditing", "sampling", "verifying", "crediting")}
    parts["evaluating"] = sum(row["dev"]["seconds"] for row in rows if "dev" in row)
    per_token = flops_per_token(model.config, config.max_new_tokens)
    run.finish(
        seconds=end.seconds + look_seconds,
        seconds_of=parts | {"training": end.seconds - sum(parts.values())},
        tokens=end.tokens,
        flops=end.tokens * per_token + total["forward_tokens"] * per_token // 3,
        **device.facts,
        credit=config.credit,
        hindrance=why_not,
        verified=sum(row.get("judge/verified", 0) for row in updates) if auditor else total["rollouts"],
        **total,
    )
