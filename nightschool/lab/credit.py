"""`nightschool lab credit`: does it pay to say which step was wrong?

Hypothesis: where an answer takes twelve steps and seldom comes right, credit that stops at the first wrong step (told
by a program) needs fewer attempts than credit by the outcome, and does not reward wrong turns that end well.

A model of 140 thousand parameters learns running totals (world/totals.py) from a careless teacher, so that it knows how
and slips as he does. Each arm practises from that one start (a seed draws the problems), by
`nightschool rl` with the flags below: equal problems, attempts and optimizer, and a learning rate of its own, found by
`--sweep` on another seed. Dev problems are for the curves; the final exam is on test problems, the same for all arms
of a seed. Tiny models, and no more is claimed. `--scale gpu` is the same lab with a model of twelve million parameters,
taught ten times as long, and five seeds. But: it has been built and tried small on a CPU, and never run on a GPU.

    first_error          the arm in question
    again                first_error, and wrong attempts taken up at their last right line, as `nightschool rl` does;
                         each go at a rest counts as an attempt. Shown beside the bars, which are first_error's
    outcome, grpo, dapo  all or nothing: mean baseline (RLOO, Dr. GRPO), GRPO's std and mean by attempt, DAPO
    maxrl                outcome over the mean: for independent steps its expected gradient is that of step credit
    partial, placebo, min_form, implicit
                         controls and others' credit by line: lab/assigners.py
    shown                outcome, and cross-entropy on what the world answers to a wrong attempt: the line that should
                         stand where its first error is. More than a verifier tells
    small_*              the same with 8 or 16 attempts an update, in the layout that the sweep finds for each
    lucky_*              the answer is the total's rest by 5, which many wrong totals leave too
    null_*               a start that is right four times in ten or more, where nothing is expected
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Literal

from nightschool.config import UserError, at_least
from nightschool.device import set_up
from nightschool.lab import report
from nightschool.lab.arms import Json, walk
from nightschool.lab.assigners import implicit, min_form, partial, placebo
from nightschool.lab.credit_bars import GOAL, bars
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.instinct import instinct
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.rl.credit import Assigner
from nightschool.rl.measures import lucky, shares
from nightschool.runs import Run, publish, read_json, read_jsonl, write_json
from nightschool.stages import rl
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.named import task_named
from nightschool.tasks.world import draw
from nightschool.text import chat, tokenizer
from nightschool.text.document import Document
from nightschool.train.course import course
from nightschool.train.plan import QUICKSTART, Plan, flops_per_token, plan
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
class Scale:
    plan: Plan  # the model, and the rates at which it is taught
    lessons: int  # times as many tokens of each
    seeds: tuple[int, ...]


SCALES = {
    "cpu": Scale(replace(QUICKSTART, model=MODEL, batch_tokens=2048), 1, (0, 1, 2)),
    "gpu": Scale(plan(6, 20_000_000, MODEL.vocab_size, MODEL.max_position_embeddings), 10, (0, 1, 2, 3, 4)),
}


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


@dataclass(frozen=True)
class Arm:
    flags: Json  # of rl.Config
    assign: Assigner | None = None
    learner: Callable[[Path, float], Assigner] | None = None  # (start, lr_scale) -> an assigner with a model of its own
    passes: float = 0.0  # of that model, as many as the policy's own forward and backward over a token
    start: str = "warm"
    rates_of: str = ""  # the arm whose layout and learning rate it takes; "" = its own
    layouts: tuple[str, ...] = ("2x16",)  # of an update: problems x attempts at each; with several the sweep decides
    rollouts: int = 0  # an update, about; 0 = as the layout says


SMALL = ("4x4", "2x4", "1x8")
LINES: Json = {"credit": "first_error"}
OUTCOME: Json = {"credit": "outcome", "average": "token"}
GRPO: Json = {"credit": "grpo", "average": "sequence"}
ARMS: dict[str, Arm] = {
    "first_error": Arm(LINES),
    "again": Arm(LINES | {"again": 4}, layouts=("6x1",), rollouts=16),
    "outcome": Arm(OUTCOME),
    "grpo": Arm(GRPO),
    "dapo": Arm({"credit": "grpo", "average": "token", "clip": "dapo"}),
    "maxrl": Arm({"credit": "maxrl", "average": "token"}),
    "placebo": Arm({"credit": "placebo"}, placebo, rates_of="first_error"),
    "partial": Arm({"credit": "partial", "average": "token"}, partial, rates_of="outcome"),
    "lucky_first_error": Arm(LINES | {"task": "totals_lucky"}, rates_of="first_error"),
    "lucky_outcome": Arm(OUTCOME | {"task": "totals_lucky"}, rates_of="outcome"),
    "null_first_error": Arm(LINES, start="careful", rates_of="first_error"),
    "null_grpo": Arm(GRPO, start="careful", rates_of="grpo"),
    "min_form": Arm({"credit": "min_form", "average": "token"}, min_form, rates_of="outcome"),
    "implicit": Arm({"credit": "implicit", "average": "token"}, learner=implicit, passes=1 + 2 / 3),
    "shown": Arm(OUTCOME | {"task": "totals_shown"}),
    "small_first_error": Arm(LINES, layouts=SMALL),
    "small_grpo": Arm(GRPO, layouts=SMALL),
}
SWEEP_SEED = 100
LONGEST = 64  # tokens of an attempt
SHORT = ("lucky", "null")  # arms of these get half the budget
PRACTISED = ("wrong_step_upweight", "wrong_step_upweight_rewarded", "credit_auc", "frac_reward_zero_std")  # means of


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/lab-credit")  # run folders, one an arm and seed; a killed lab goes on from them
    results: Path = Path("results")  # credit.json, credit.html and, with sweep, credit_sweep.json; credit_gpu.json, …
    scale: Literal["cpu", "gpu"] = "cpu"  # gpu = a larger model, taught for longer, and more seeds
    seeds: tuple[int, ...] = ()  # () = as many as the scale has
    arms: tuple[str, ...] = tuple(ARMS)
    sweep: bool = False  # look for each arm's layout and learning rate instead, on seed 100
    rates: tuple[float, ...] = (0.03125, 0.0625, 0.125)  # what the sweep tries, of the rates by which a model goes on
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

    @property
    def at(self) -> Scale:
        return SCALES[self.scale]

    def result(self, ending: str) -> Path:
        return self.results / f"credit{'' if self.scale == 'cpu' else f'_{self.scale}'}{ending}"


def taught(lesson: Lesson, rng: random.Random) -> Document:
    """Totals of six to eighteen steps as the teacher works them, one in four with its rest."""
    problem = totals(rng, "train", (6, 18), lesson.slips, lucky=rng.random() < 0.25)
    return Document(messages=problem.messages)


def pupil(config: Config, name: str) -> Path:
    """The run folder of a model that a teacher taught, made once and kept: all arms and seeds begin there."""
    lesson = replace(LESSONS[name], tokens=config.at.lessons * LESSONS[name].tokens)
    run = Run.open(config.out / name, "lesson", lesson)
    if not run.done:
        device = set_up(config.threads, "bfloat16")
        if lesson.after:
            model, words = exchange.load(pupil(config, lesson.after) / "checkpoint", device.dtype)
        else:
            pages = [text for i in range(300) for text in chat.texts(taught(lesson, random.Random(i)).messages)]
            words = tokenizer.train(pages, config.at.plan.model.vocab_size)
            model = Transformer(replace(config.at.plan.model, vocab_size=words.vocab_size), device.dtype)
            model.init_weights(lesson.seed)
            instinct(model, lesson.seed)
        course(
            run,
            model,
            words,
            config.at.plan,
            lambda done: {"taught": 1.0},
            sources={"taught": lambda rng, done: taught(lesson, rng)},
            tokens=lesson.tokens,
            seed=lesson.seed,
            row_length=256,
        )
        exchange.save(run.path("checkpoint"), model, words, CARD)
        run.finish(device=device.name, threads=device.threads)
    return run.out


def practise(config: Config, arm: str, seed: int, setting: str, rollouts: int, out: Path) -> None:
    """`nightschool rl`, as anyone can call it, but for the credits that exist only here. setting: "2x16 0.0625"."""
    spec = ARMS[arm]
    start, assign = pupil(config, spec.start), spec.assign
    layout, lr_scale = setting.split()[0], float(setting.split()[1])
    problems, group_size = map(int, layout.split("x"))
    flags: Json = {"again": 0} | spec.flags | {"task": task_of(arm)}
    an_update = spec.rollouts or problems * group_size
    if spec.learner:
        assign = spec.learner(start, lr_scale)
        if not (out / "meta.json").exists():
            shutil.rmtree(out, ignore_errors=True)  # begun and cut off: what its assigner had learned is lost
    rl.main(
        rl.Config(
            out=out,
            start=start,
            optimizer="adamw",
            steps=rollouts // an_update,
            problems=problems,
            group_size=group_size,
            drop_even=True,  # they have no gradient: leaving them out saves every arm their cost
            replay_tokens=0,
            max_new_tokens=LONGEST,
            lr_scale=lr_scale,
            decay=0.0,
            eval_every=min(1024, rollouts) // an_update,
            eval_n=512,
            eval_k=1,
            exam_n=0,
            seed=seed,
            threads=config.threads,
            dtype="bfloat16",
            **flags,
        ),
        assign,
    )


def task_of(arm: str) -> str:
    return ARMS[arm].flags.get("task", "totals")


def exam_of(arm: str) -> str:
    """The task of its exams."""
    return task_of(arm).removesuffix("_shown")


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
    sampling = Sampling(max_new_tokens=LONGEST, seed=seed)
    return attempt(Engine(model, words, slots=128), task_named(task), problems, sampling)


def row_of(config: Config, arm: str, seed: int, out: Path) -> Json:
    """What an arm came to on a seed, and under "right" each test problem's outcome by exam; kept beside its run."""
    path = out / "row.json"
    if not path.exists():
        task = exam_of(arm)
        exams = {"final": examine(config, out / "checkpoint", task, seed)}
        if task == "totals":
            exams["longer"] = examine(config, out / "checkpoint", "totals_18", seed)
        right = {name: [a.verdict.outcome for a in attempts] for name, attempts in exams.items()}
        updates = [row for row in read_jsonl(out / "metrics.jsonl") if "rollouts" in row]
        practised = {name: [row[name] for row in updates if name in row] for name in PRACTISED}
        meta, asked = read_json(out / "meta.json"), read_json(out / "config.json")["config"]
        meta["flops"] += int(ARMS[arm].passes * meta["tokens"] * flops_per_token(config.at.plan.model, LONGEST))
        row = {
            "start": start_of(config, arm, seed),
            **{name: fmean(outcomes) for name, outcomes in right.items()},
            **shares(lucky_rate=lucky(exams["final"])),
            **{name: fmean(values) for name, values in practised.items() if values},
            **{name: asked[name] for name in ("problems", "group_size", "lr_scale")},
            **{name: meta[name] for name in ("rollouts", "sampled_tokens", "tokens", "flops", "seconds", "seconds_of")},
            "curve": curve(out),
            "right": right,
        }
        write_json(path, row)
    return {"seed": seed} | read_json(path)


def start_of(config: Config, arm: str, seed: int) -> float:
    """pass@1 on test before practice."""
    folder = pupil(config, ARMS[arm].start)
    path = folder / f"start-{exam_of(arm)}-{seed}.json"
    if not path.exists():
        write_json(path, fmean(a.verdict.outcome for a in examine(config, folder / "checkpoint", exam_of(arm), seed)))
    return read_json(path)


def sweep(config: Config) -> Json:
    """Each arm that has a setting of its own: the best rate or, of an arm with several layouts, the best of them at the
    middle rate; by dev pass@1 over the last two evaluations."""
    tried: dict[str, dict[str, float]] = {}

    middle = sorted(config.rates)[len(config.rates) // 2]
    for arm in (name for name in config.arms if not ARMS[name].rates_of):
        layouts = ARMS[arm].layouts
        for layout, rate in product(layouts, [middle] if len(layouts) > 1 else config.rates):
            setting, out = f"{layout} {rate:g}", config.out / "sweep" / f"{arm}-{layout}-{rate:g}"
            practise(config, arm, SWEEP_SEED, setting, config.sweep_rollouts, out)
            found = tried.setdefault(arm, {})[setting] = fmean(share for _, share in curve(out)[-2:])
            print(f"sweep {arm:12} {setting}: {found:.3f}", file=sys.stderr, flush=True)
    publish(config.result("_sweep.json"), tried, [], [SWEEP_SEED], model=asdict(config.at.plan.model))
    return best_of(tried)


def best_of(tried: dict[str, dict[str, float]]) -> dict[str, str]:
    """But: a sweep of before there were layouts says nothing: its rates were shares of others than today's."""
    best = {arm: max(found, key=lambda setting: found[setting]) for arm, found in tried.items()}
    return {arm: setting for arm, setting in best.items() if "x" in setting}


def main(config: Config) -> Json:
    if config.sweep:
        return sweep(config)
    path = config.result("_sweep.json")
    at_once = {name: f"{arm.layouts[0]} {config.rate:g}" for name, arm in ARMS.items()}
    best = at_once if config.rate else best_of(read_json(path)["arms"]) if path.exists() else {}
    if missing := {ARMS[arm].rates_of or arm for arm in config.arms} - best.keys():
        command = f"nightschool lab credit{'' if config.scale == 'cpu' else f' --scale {config.scale}'} --sweep"
        raise UserError(
            f"no setting of {', '.join(sorted(missing))} in {path}; run `{command}` first: all arms are tuned alike"
        )

    def row(arm: str, seed: int) -> Json:
        out = config.out / f"seed-{seed}" / arm
        rollouts = config.rollouts // (2 if arm.startswith(SHORT) else 1)
        practise(config, arm, seed, best[ARMS[arm].rates_of or arm], rollouts, out)
        return row_of(config, arm, seed, out)

    def page(result: Json) -> None:
        report.write(config.result(".html"), "credit", __doc__ or "", result, GOAL)

    seeds, model = config.seeds or config.at.seeds, asdict(config.at.plan.model)
    return walk(config.arms, seeds, row, bars, config.result(".json"), page, model=model)
