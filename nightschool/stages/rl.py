"""`nightschool rl`: practise. Harder problems than any in school, judged by a verifier alone.

Each update: draw problems, try each several times, have every line judged, turn verdicts into credit, and take one
step. Some pages of school are replayed beside them, so that nothing else is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nightschool import ranks
from nightschool.config import UserError, at_least, closest
from nightschool.device import DTYPES, Dtype, set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.rl.credit import ASSIGNERS, spread
from nightschool.rl.update import policy
from nightschool.runs import Costs, Run, make_once, write_jsonl
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.exam import graduate
from nightschool.tasks.task import Task, lines_of
from nightschool.tasks.world import draw
from nightschool.text.corpus import Mixture
from nightschool.text.packing import Batch, Item, collate
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.loop import train
from nightschool.train.optim import Optimizer
from nightschool.train.plan import QUICKSTART, flops_per_token
from nightschool.train.schedule import warm_stay_decay
from nightschool.world import school
from nightschool.world.word_problems import LONGEST, word_problem

CARD = "A small model of the Qwen3 architecture, raised in a made-up town, after practice with a verifier."
PRACTICE = Task(lambda rng, split: word_problem(rng, split, (LONGEST + 1, LONGEST + 1)))


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/rl")  # the run folder
    start: Path = Path("life/sft")  # the run to go on from
    credit: str = "first_error"  # who is credited: first_error (line by line) or outcome (all or nothing)
    steps: int = 40  # updates
    problems: int = 8  # different problems an update
    group_size: int = 8  # attempts at each
    replay_tokens: int = 1024  # of school, beside the attempts of an update
    max_new_tokens: int = 144  # of an attempt
    lr_scale: float = 0.1  # of pretraining's learning rates
    exam_n: int = 64  # dev problems per skill at the end; 0 = no exam
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        if self.credit not in ASSIGNERS:
            raise UserError(f"credit must be one of {', '.join(ASSIGNERS)}{closest(self.credit, list(ASSIGNERS))}")
        at_least(self, 1, "steps", "problems", "max_new_tokens")
        at_least(self, 2, "group_size")
        at_least(self, 0, "exam_n", "replay_tokens", "lr_scale", "threads", "save_seconds")


def to_item(tokenizer: Tokenizer, attempt: Attempt, credit: list[float]) -> Item:
    """An attempt with its per-token streams. The prompt has weight 0."""
    made, prompt = attempt.completion, [0.0] * len(attempt.completion.prompt_ids)
    return Item(
        made.prompt_ids + made.ids,
        prompt + [float(m) for m in made.mask],
        {
            "adv": prompt + spread(tokenizer, attempt, credit),
            "old_logp": prompt + made.log_probs,
            "ce_weight": [0.0] * (len(prompt) + len(made.ids)),
        },
    )


def to_replay(item: Item) -> Item:
    zero = [0.0] * len(item.ids)
    return Item(item.ids, item.mask, {"adv": zero, "old_logp": zero, "ce_weight": item.mask})


def measures(groups: list[list[Attempt]]) -> dict[str, float]:
    """What a step's attempts were like."""
    attempts = [a for group in groups for a in group]
    sampled = [p for a in attempts for p, m in zip(a.completion.log_probs, a.completion.mask, strict=True) if m]
    even = sum(len({a.verdict.outcome for a in group}) == 1 for group in groups)
    return {
        "reward": sum(a.verdict.outcome for a in attempts) / len(attempts),
        "frac_reward_zero_std": even / len(groups),
        "entropy": -sum(sampled) / len(sampled),  # nats a token, estimated on the samples
        "completions/mean_length": len(sampled) / len(attempts),
        "stopped": sum(a.completion.stop == "end" for a in attempts) / len(attempts),
    }


def practice(config: Config, engine: Engine, reload: Callable[[], None], first: int) -> Iterator[Batch]:
    """An update's batch at a time, sampled from the model as it is then; each a function of (seed, step, weights)."""
    tokenizer, assign = engine.tokenizer, ASSIGNERS[config.credit]
    replay = Mixture(tokenizer, school.SOURCES, school.study, config.seed + 1, chunk_tokens=config.replay_tokens)
    for step in range(first, config.steps):
        reload()
        problems = draw(PRACTICE, "train", config.problems, seed=1_000_000 * config.seed + step)
        own = ranks.share(config.problems)  # tried by this rank, each attempt with the seed that it has on any
        sampling = Sampling(max_new_tokens=config.max_new_tokens, seed=1_000_000 * step + own.start * config.group_size)
        attempts = ranks.gathered(attempt(engine, PRACTICE, problems[own], sampling, copies=config.group_size))
        groups = [attempts[i : i + config.group_size] for i in range(0, len(attempts), config.group_size)]
        items = [
            to_item(tokenizer, a, credit) for group in groups for a, credit in zip(group, assign(group), strict=True)
        ]
        items += [to_replay(item) for item in replay.chunk(step)] if config.replay_tokens else []
        longest = -(-max(item.num_positions for item in items) // 32) * 32  # few shapes: see losses.learned
        batch = collate([[i] for i in items], longest, tokenizer.end_of_text, packed=False, cursor={"step": step + 1})
        yield replace(batch, measures=measures(groups))


def show(run: Run, config: Config, engine: Engine) -> None:
    """Keep some groups of attempts at dev problems for the report: what each line earned, under both assigners."""
    problems = draw(PRACTICE, "dev", 32, config.seed)
    attempts = attempt(engine, PRACTICE, problems, Sampling(max_new_tokens=config.max_new_tokens), config.group_size)
    rows = []
    for i in range(0, len(attempts), config.group_size):
        group = attempts[i : i + config.group_size]
        credits = {name: assign(group) for name, assign in ASSIGNERS.items()}
        for j, a in enumerate(group):
            lines = zip(lines_of(a.transcript), a.verdict.steps, credits["first_error"][j], strict=False)
            rows.append(
                {
                    "prompt": a.problem.prompt,
                    "answer": a.problem.answer,
                    "outcome": a.verdict.outcome,
                    "outcome_credit": credits["outcome"][j][0],
                    "steps": [{"text": text, "ok": ok, "credit": credit} for text, ok, credit in lines],
                }
            )
    write_jsonl(run.path("rollouts.jsonl"), rows)


def main(config: Config) -> dict[str, Any]:
    start = exchange.checkpoint_of(config.start)
    run = Run.open(config.out, "rl", config)
    if not run.done:
        dtype = run.settle("dtype", lambda: str(set_up(config.threads, config.dtype).dtype).removeprefix("torch."))
        device = set_up(config.threads, dtype)
        model, tokenizer = exchange.load(start, DTYPES[dtype])
        engine = Engine(model, tokenizer, slots=128)
        plan = QUICKSTART
        optimizer = Optimizer(
            model, plan.matrix_lr * config.lr_scale, plan.embed_lr * config.lr_scale, plan.norm_lr * config.lr_scale
        )

        def batches(cursor: dict[str, Any]) -> Iterator[Batch]:
            return practice(config, engine, lambda: engine.load(model), cursor.get("step", 0))

        # Before practice, where there is most to correct.
        make_once(run.path("rollouts.jsonl"), lambda: show(run, config, engine))
        end = train(
            run,
            model,
            optimizer,
            batches,
            policy,
            schedule=lambda done: warm_stay_decay(done, warmup=0.05, decay=0.5),
            num_steps=config.steps,
            save_seconds=config.save_seconds,
            label="rl",
        )
        ranks.first(lambda: exchange.save(run.path("checkpoint"), model, tokenizer, CARD))
        ranks.first(lambda: graduate(run, model, tokenizer, config.exam_n))
        run.finish(
            seconds=end.seconds,
            tokens=end.tokens,
            flops=end.tokens
            * flops_per_token(model.config, config.max_new_tokens)
            * 4
            // 3,  # sampled, then trained on
            device=device.name,
            threads=device.threads,
            dtype=dtype,
            credit=config.credit,
            rollouts=config.steps * config.problems * config.group_size,
        )
    return {name: run.meta[name] for name in ("seconds", "tokens", "rollouts")}
