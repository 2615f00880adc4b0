"""`nightschool lab credit`: does it pay to say which step was wrong?

Hypothesis: where an answer takes twelve steps and seldom comes right, credit that stops at the first wrong step (told
by a program) needs fewer attempts than credit by the outcome, and does not reward wrong turns that end well.

A model of 140 thousand parameters learns running totals (world/totals.py) from a careless teacher, so that it knows how
and slips as he does. Each arm practises from that one start (a seed draws the problems), by
`nightschool rl` with the flags below: equal problems, attempts and optimizer, and a learning rate of its own, found by
`--sweep` on another seed. Dev problems are for the curves; the final exam is on test problems, the same for all arms
of a seed. Tiny models, and no more is claimed. But: on a CPU only.

    first_error          the arm in question
    again                first_error, and wrong attempts taken up at their last right line, as `nightschool rl` does;
                         each go at a rest counts as an attempt. Shown beside the bars, which are first_error's
    outcome, grpo, dapo  all or nothing: mean baseline (RLOO, Dr. GRPO), GRPO's std and mean by attempt, DAPO
    maxrl                outcome over the mean: for independent steps its expected gradient is that of step credit
    partial              the share of steps before the first error, as one number for the whole attempt
    placebo              first_error with the verdicts of a group dealt out at random among its attempts
    min_form             PURE (2504.15275): a step is worth the worst that follows
    lucky_*              the answer is the total's rest by 5, which many wrong totals leave too
    null_*               a start that is right four times in ten or more, where nothing is expected
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from statistics import fmean

from nightschool.config import UserError, at_least
from nightschool.device import set_up
from nightschool.lab import report
from nightschool.lab.arms import Holds, Interval, Json, verdict, walk
from nightschool.lab.statistics import first_crossing, iqm, paired
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.instinct import instinct
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.rl.credit import Assigner, first_error, reached
from nightschool.rl.measures import lucky, shares
from nightschool.runs import Run, publish, read_json, read_jsonl, write_json
from nightschool.stages import rl
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.named import task_named
from nightschool.tasks.world import draw
from nightschool.text import chat, tokenizer
from nightschool.text.document import Document
from nightschool.train.course import course
from nightschool.train.plan import QUICKSTART
from nightschool.world.totals import Slips, totals

CARD = "A tiny model of the Qwen3 architecture that a careless teacher taught to add."
MODEL = ModelConfig(
    vocab_size=272,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=256,
)


@dataclass(frozen=True)
class Lesson:
    slips: Slips  # the teacher's
    tokens: int
    after: str = ""  # the lesson that came before
    seed: int = 0


LESSONS = {
    "warm": Lesson(Slips(carry=0.36, count=0.18), 2_000_000),  # twelve steps come right 2 to 6 times in a hundred
    "careful": Lesson(Slips(carry=0.06, count=0.03), 500_000, after="warm"),  # more than 40 times in a hundred
}

# The bars, written down before the first run (issue 4)
START = 0.02, 0.06  # pass@1
UPWEIGHT = 0.10  # of wrong steps in rewarded attempts, made likelier
LUCKY = 0.5  # of outcome's lucky rate
LOSS = -0.03  # of final pass@1, the interval's lower end
GOAL = 0.8  # held-out pass@1, reached at two successive evaluations
FEWER = 2.0  # times fewer rollouts, and FLOPs, than the best of the three outcome arms
PLACEBO = 1.1
NULL = 0.4  # a start above it


def partial(group: Sequence[Attempt]) -> list[list[float]]:
    shares = [reached(a) / max(len(a.verdict.steps), len(a.problem.steps) + 1) for a in group]
    mean = fmean(shares)
    return [[share - mean] * (len(a.verdict.steps) + 1) for a, share in zip(group, shares, strict=True)]


def placebo(group: Sequence[Attempt]) -> list[list[float]]:
    verdicts = [a.verdict for a in group]
    random.Random(group[0].problem.key).shuffle(verdicts)
    credits = first_error([replace(a, verdict=verdict) for a, verdict in zip(group, verdicts, strict=True)])
    lengths = [len(a.verdict.steps) + 1 for a in group]  # each attempt's own: what is missing is as the stop's
    return [[*c, *[c[-1]] * n][:n] for c, n in zip(credits, lengths, strict=True)]


def min_form(group: Sequence[Attempt], temperature: float = 0.1) -> list[list[float]]:
    """What follows a line, a soft minimum of its steps' rewards (right 1, wrong 0), less the group's mean there."""
    returns = []
    for a in group:
        rewards = [float(ok) for ok in (*a.verdict.steps, a.verdict.first_error is None)]
        weights = [exp(-reward / temperature) for reward in rewards]
        terms = [w * r / sum(weights) for w, r in zip(weights, rewards, strict=True)]
        returns.append([sum(terms[i:]) for i in range(len(terms))])
    means = [fmean(r[i] for r in returns if i < len(r)) for i in range(max(map(len, returns)))]
    return [[value - mean for value, mean in zip(r, means, strict=False)] for r in returns]


@dataclass(frozen=True)
class Arm:
    flags: Json  # of rl.Config
    assign: Assigner | None = None
    start: str = "warm"
    rates_of: str = ""  # the arm whose learning rate it takes; "" = its own
    rollouts: int = 32  # an update, about; on the sweep's seed 128 were worse for first_error and outcome alike


WHOLE: Json = {"problems": 2, "group_size": 16, "again": 0}  # attempts from the start alone
LINES: Json = {"credit": "first_error"}
ARMS: dict[str, Arm] = {
    "first_error": Arm(LINES),
    "again": Arm(LINES | {"again": 4, "problems": 6, "group_size": 1}, rollouts=16),
    "outcome": Arm({"credit": "outcome", "average": "token"}),
    "grpo": Arm({"credit": "grpo", "average": "sequence"}),
    "dapo": Arm({"credit": "grpo", "average": "token", "clip": "dapo"}),
    "maxrl": Arm({"credit": "maxrl", "average": "token"}),
    "placebo": Arm({"credit": "placebo"}, placebo, rates_of="first_error"),
    "partial": Arm({"credit": "partial", "average": "token"}, partial, rates_of="outcome"),
    "lucky_first_error": Arm(LINES | {"task": "totals_lucky"}, rates_of="first_error"),
    "lucky_outcome": Arm({"credit": "outcome", "average": "token", "task": "totals_lucky"}, rates_of="outcome"),
    "null_first_error": Arm(LINES, start="careful", rates_of="first_error"),
    "null_grpo": Arm({"credit": "grpo", "average": "sequence"}, start="careful", rates_of="grpo"),
    "min_form": Arm({"credit": "min_form", "average": "token"}, min_form, rates_of="outcome"),
}
OUTCOME_ARMS = ("outcome", "grpo", "dapo")
SWEPT, SWEEP_SEED = "credit_sweep.json", 100
SHORT = ("lucky", "null")  # arms of these get half the budget
PRACTISED = ("wrong_step_upweight", "wrong_step_upweight_rewarded", "credit_auc", "frac_reward_zero_std")  # means of


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/lab-credit")  # run folders, one an arm and seed; a killed lab goes on from them
    results: Path = Path("results")  # credit.json, credit.html and, with sweep, credit_sweep.json go there
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = tuple(ARMS)
    sweep: bool = False  # look for each arm's learning rate instead, on seed 100
    rates: tuple[float, ...] = (0.03125, 0.0625, 0.125)  # what the sweep tries; 1 = a rate of 0.004
    rate: float = 0.0  # one for all arms; 0 = what the sweep found for each
    rollouts: int = 12_288  # of an arm
    sweep_rollouts: int = 4_096
    exam_n: int = 2048  # test problems at the end of an arm
    threads: int = 0  # 0 = one a core

    def __post_init__(self) -> None:
        at_least(self, 1, "rollouts", "sweep_rollouts", "exam_n")
        at_least(self, 0, "rate", "threads")
        if unknown := set(self.arms) - set(ARMS):
            raise UserError(f"no such arms: {', '.join(sorted(unknown))}; known: {', '.join(ARMS)}")
        if "first_error" not in self.arms:
            raise UserError("arms must hold first_error, which the others are held against")


def taught(lesson: Lesson, rng: random.Random) -> Document:
    """Totals of six to eighteen steps as the teacher works them, one in four with its rest."""
    problem = totals(rng, "train", (6, 18), lesson.slips, lucky=rng.random() < 0.25)
    return Document(messages=problem.messages)


def pupil(config: Config, name: str) -> Path:
    """The run folder of a model that a teacher taught, made once and kept: all arms and seeds begin there."""
    lesson = LESSONS[name]
    run = Run.open(config.out / name, "lesson", lesson)
    if not run.done:
        device = set_up(config.threads, "bfloat16")
        if lesson.after:
            model, words = exchange.load(pupil(config, lesson.after) / "checkpoint", device.dtype)
        else:
            pages = [text for i in range(300) for text in chat.texts(taught(lesson, random.Random(i)).messages)]
            words = tokenizer.train(pages, MODEL.vocab_size)
            model = Transformer(replace(MODEL, vocab_size=words.vocab_size), device.dtype)
            model.init_weights(lesson.seed)
            instinct(model, lesson.seed)
        course(
            run,
            model,
            words,
            replace(QUICKSTART, batch_tokens=2048),
            lambda done: {"taught": 1.0},
            sources={"taught": lambda rng, done: taught(lesson, rng)},
            tokens=lesson.tokens,
            seed=lesson.seed,
            row_length=256,
        )
        exchange.save(run.path("checkpoint"), model, words, CARD)
        run.finish(device=device.name, threads=device.threads)
    return run.out


def practise(config: Config, arm: str, seed: int, lr_scale: float, rollouts: int, out: Path) -> None:
    """`nightschool rl`, as anyone can call it, but for the credits that exist only here."""
    spec = ARMS[arm]
    rl.main(
        rl.Config(
            out=out,
            start=pupil(config, spec.start),
            optimizer="adamw",
            steps=rollouts // spec.rollouts,
            drop_even=True,  # they have no gradient: leaving them out saves every arm their cost
            replay_tokens=0,
            max_new_tokens=64,
            lr_scale=lr_scale,
            decay=0.0,
            eval_every=1024 // spec.rollouts,
            eval_n=512,
            eval_k=1,
            exam_n=0,
            seed=seed,
            threads=config.threads,
            dtype="bfloat16",
            **(WHOLE | spec.flags | {"task": task_of(arm)}),
        ),
        spec.assign,
    )


def task_of(arm: str) -> str:
    return ARMS[arm].flags.get("task", "totals")


def curve(out: Path) -> list[tuple[int, float]]:
    """(rollouts, dev pass@1) at each evaluation."""
    points, rollouts = list[tuple[int, float]](), 0
    for row in read_jsonl(out / "metrics.jsonl"):
        rollouts += row.get("rollouts", 0)
        if "dev" in row:
            points.append((rollouts, row["dev"]["pass@1"]))
    return points


def examine(config: Config, checkpoint: Path, task: str, seed: int) -> list[Attempt]:
    """Test problems, one attempt each, sampled as in practice."""
    device = set_up(config.threads, "bfloat16")
    model, words = exchange.load(checkpoint, device.dtype)
    problems = draw(task_named(task), "test", config.exam_n, seed)
    return attempt(Engine(model, words, slots=128), task_named(task), problems, Sampling(max_new_tokens=64, seed=seed))


def row_of(config: Config, arm: str, seed: int, out: Path) -> Json:
    """What an arm came to on a seed, and under "right" each test problem's outcome by exam; kept beside its run."""
    path = out / "row.json"
    if not path.exists():
        task = task_of(arm)
        exams = {"final": examine(config, out / "checkpoint", task, seed)}
        if task == "totals":
            exams["longer"] = examine(config, out / "checkpoint", "totals_18", seed)
        right = {name: [a.verdict.outcome for a in attempts] for name, attempts in exams.items()}
        updates = [row for row in read_jsonl(out / "metrics.jsonl") if "rollouts" in row]
        practised = {name: [row[name] for row in updates if name in row] for name in PRACTISED}
        meta = read_json(out / "meta.json")
        row = {
            "start": start_of(config, arm, seed),
            **{name: fmean(outcomes) for name, outcomes in right.items()},
            **shares(lucky_rate=lucky(exams["final"])),
            **{name: fmean(values) for name, values in practised.items() if values},
            "lr_scale": read_json(out / "config.json")["config"]["lr_scale"],
            **{name: meta[name] for name in ("rollouts", "sampled_tokens", "tokens", "flops", "seconds", "seconds_of")},
            "curve": curve(out),
            "right": right,
        }
        write_json(path, row)
    return {"seed": seed} | read_json(path)


def start_of(config: Config, arm: str, seed: int) -> float:
    """pass@1 on test before practice."""
    folder = pupil(config, ARMS[arm].start)
    path = folder / f"start-{task_of(arm)}-{seed}.json"
    if not path.exists():
        write_json(path, fmean(a.verdict.outcome for a in examine(config, folder / "checkpoint", task_of(arm), seed)))
    return read_json(path)


def sweep(config: Config) -> Json:
    """Each arm that has a rate of its own, at each rate; the best dev pass@1 over the last two evaluations wins."""
    tried: dict[str, dict[str, float]] = {}
    for arm in (name for name in config.arms if not ARMS[name].rates_of):
        tried[arm] = {}
        for rate in config.rates:
            out = config.out / "sweep" / f"{arm}-{rate:g}"
            practise(config, arm, SWEEP_SEED, rate, config.sweep_rollouts, out)
            tried[arm][f"{rate:g}"] = fmean(share for _, share in curve(out)[-2:])
            print(f"sweep {arm:12} {rate:g}: {tried[arm][f'{rate:g}']:.3f}", file=sys.stderr, flush=True)
    publish(config.results / SWEPT, tried, [], [SWEEP_SEED], model=asdict(MODEL))
    return best_of(tried)


def best_of(tried: dict[str, dict[str, float]]) -> dict[str, float]:
    return {arm: float(max(rates, key=lambda rate: rates[rate])) for arm, rates in tried.items()}


def bars(arms: dict[str, list[Json]]) -> list[Json]:
    """Every bar whose arms are there; an arm's rows are one a seed, the same seeds for all."""
    found: list[Json] = []

    def bar(name: str, values: Sequence[float], asked: str, holds: Holds, between: Interval | None = None) -> None:
        found.append(verdict(name, values, asked, holds, between))

    def column(arm: str, key: str) -> list[float]:
        return [row.get(key, 0.0) for row in arms[arm]]

    def cost(arm: str, key: str) -> list[float]:
        """Rollouts, or FLOPs, until the goal; the whole budget where it was never reached: a lower bound."""
        return [row[key] / row["rollouts"] * first_crossing(row["curve"], GOAL, row["rollouts"]) for row in arms[arm]]

    def ratio(arm: str, key: str, against: str = "first_error") -> list[float]:
        return [a / b for a, b in zip(cost(arm, key), cost(against, key), strict=True)]

    def gain(exam: str, over: str) -> tuple[list[float], Interval]:
        """Differences of an exam on the same problems, and the 95% interval of their mean."""
        rows = zip(arms["first_error"], arms[over], strict=True)
        pairs = [paired(ours["right"][exam], theirs["right"][exam]) for ours, theirs in rows]
        means = [mean for mean, _ in pairs]
        half = 1.96 * sum(error**2 for _, error in pairs) ** 0.5 / len(pairs)
        return means, (fmean(means) - half, fmean(means) + half)

    least, most = START
    bar("start", column("first_error", "start"), f"{least} to {most}", lambda v, low, high: least <= v <= most)
    if there := [arm for arm in OUTCOME_ARMS if arm in arms]:
        best = min(there, key=lambda arm: iqm(cost(arm, "rollouts")))
        cheapest = min(there, key=lambda arm: iqm(cost(arm, "flops")))
        highest = max(there, key=lambda arm: fmean(column(arm, "final")))
        bar(f"rollouts_vs_grpo ({best})", ratio(best, "rollouts"), f">= {FEWER}", lambda v, low, high: v >= FEWER)
        bar(f"flops ({cheapest})", ratio(cheapest, "flops"), f">= {FEWER}", lambda v, low, high: v >= FEWER)
        for exam in ("final", "longer"):
            means, between = gain(exam, highest)
            bar(f"{exam} (less {highest})", means, f"low >= {LOSS}", lambda v, low, high: low >= LOSS, between)
        if "again" in arms:
            speed_up = ratio(best, "rollouts", "again")
            bar("rollouts of again", speed_up, "beside it", lambda v, low, high: None)
            bar("flops of again", ratio(cheapest, "flops", "again"), "beside it", lambda v, low, high: None)
        if "placebo" in arms:
            speed_up = ratio(best, "rollouts", "placebo")
            bar("placebo", speed_up, f"<= {PLACEBO}", lambda v, low, high: v <= PLACEBO)
    if "maxrl" in arms:
        bar("rollouts_vs_maxrl", ratio("maxrl", "rollouts"), "low > 1", lambda v, low, high: low > 1)
    if {"lucky_first_error", "lucky_outcome"} <= arms.keys():
        upweight, rate = "wrong_step_upweight_rewarded", "lucky_rate"
        bar("upweight", column("lucky_first_error", upweight), f"<= {UPWEIGHT}", lambda v, low, high: v <= UPWEIGHT)
        bar("upweight of outcome", column("lucky_outcome", upweight), "beside it", lambda v, low, high: None)
        pairs = zip(column("lucky_first_error", rate), column("lucky_outcome", rate), strict=True)
        of_outcome = [ours / max(theirs, 1e-9) for ours, theirs in pairs]
        bar("lucky", of_outcome, f"<= {LUCKY} of outcome's", lambda v, low, high: v <= LUCKY)
    if {"null_first_error", "null_grpo"} <= arms.keys():
        bar("null start", column("null_grpo", "start"), f"> {NULL}", lambda v, low, high: v > NULL)
        bar("null speed-up", ratio("null_grpo", "rollouts", "null_first_error"), "shown", lambda v, low, high: None)
    return found


def main(config: Config) -> Json:
    if config.sweep:
        return sweep(config)
    path = config.results / SWEPT
    if not (config.rate or path.exists()):
        raise UserError(f"no {path}; run `nightschool lab credit --sweep` first, so that all arms are tuned alike")
    best = dict.fromkeys(ARMS, config.rate) if config.rate else best_of(read_json(path)["arms"])

    def row(arm: str, seed: int) -> Json:
        out = config.out / f"seed-{seed}" / arm
        rollouts = config.rollouts // (2 if arm.startswith(SHORT) else 1)
        practise(config, arm, seed, best[ARMS[arm].rates_of or arm], rollouts, out)
        return row_of(config, arm, seed, out)

    def page(result: Json) -> None:
        report.write(config.results / "credit.html", "credit", __doc__ or "", result, GOAL)

    return walk(config.arms, config.seeds, row, bars, config.results / "credit.json", page, model=asdict(MODEL))
