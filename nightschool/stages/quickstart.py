"""`nightschool quickstart`: one life on a CPU. A day (tokenizer, pretrain, sft, rl), a night, a morning, a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nightschool.config import at_least
from nightschool.device import Dtype, peak_gb, process_seconds
from nightschool.runs import Costs, read_json, typed, write_json
from nightschool.serve.speaker import newest_checkpoint
from nightschool.stages import evaluate, night, pretrain, report, rl, sft, tokenizer


@dataclass(frozen=True)
class Config:
    out: Path = Path("life")  # the folder of this life
    pretrain_tokens: int = pretrain.TOKENS  # to read
    sft_tokens: int = sft.TOKENS  # of school
    rl_steps: int = rl.Config.steps  # updates of practice
    night_tokens: int = night.Config.tokens  # to train on at night
    per_document: int = night.Config.per_document  # questions the model asks itself about each document at night
    n_dev: int = 100  # dev problems per skill at the end of a stage; the gate of the night asks three times as many
    n: int = evaluate.NUM_PROBLEMS  # test problems per skill, in the evening and in the morning
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 30.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "pretrain_tokens", "sft_tokens", "rl_steps", "night_tokens", "per_document", "n_dev", "n")
        at_least(self, 0, "threads", "save_seconds")


def stages(config: Config) -> dict[str, Callable[[], Any]]:
    """What is done, in order. Each goes on where it was, or does nothing where it is done."""
    life, common = config.out, common_of(config)
    asked: dict[str, Any] = {"per_document": config.per_document, "n_gate": 3 * config.n_dev}
    test: dict[str, Any] = {"n": config.n, "n_probes": config.n // 5, "threads": config.threads, "dtype": config.dtype}
    return {
        "tokenizer": lambda: tokenizer.main(tokenizer.Config(life / "tokenizer", seed=config.seed)),
        "pretrain": lambda: pretrain.main(
            pretrain.Config(life / "pretrain", life / "tokenizer", config.pretrain_tokens, **common)
        ),
        "sft": lambda: sft.main(
            sft.Config(life / "sft", life / "pretrain", config.sft_tokens, exam_n=config.n_dev, **common)
        ),
        "rl": lambda: rl.main(
            rl.Config(life / "rl", life / "sft", steps=config.rl_steps, exam_n=config.n_dev, **common)
        ),
        "night": lambda: night.main(
            night.Config(life / "night-001", life / "rl", tokens=config.night_tokens, **asked, **common)
        ),
        "evening's exam": lambda: examine(life / "rl", **test),
        "morning's exam": lambda: examine(life / "night-001", **test),
    }


def common_of(config: Any) -> dict[str, Any]:
    """What a life says to each of its stages."""
    return {name: getattr(config, name) for name in ("seed", "threads", "dtype", "save_seconds", "costs")}


def examine(run: Path, **asked: Any) -> Any:
    """The test, opened once a checkpoint; a second start finds the scores."""
    if (scores := run / "scores-test.json").exists():
        return read_json(scores)
    return evaluate.main(evaluate.Config(run, "test", **asked))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(config: Config) -> dict[str, Any]:
    return live(config.out, stages(config), config.costs)


def live(out: Path, stages: dict[str, Callable[[], Any]], costs: Costs) -> dict[str, Any]:
    """Go through a life's stages in order, write its report, give its headline."""
    whole = not (out / "tokenizer").exists()
    made: dict[str, Any] = {}
    for name, stage in stages.items():
        began = time.perf_counter()
        made[name] = stage()
        say(f"{name:16} done in {time.perf_counter() - began:5.0f} s")
    if whole:  # a life that was interrupted is told as the sum of its stages
        seconds = process_seconds()
        account = {"seconds": seconds, "command": typed()}
        write_json(out / "meta.json", account | {**costs.of(seconds), "assumptions": asdict(costs)})
    made["report"] = report.main(report.Config(out))
    say(f"report: {made['report']['report']}")
    say(f"talk to it: nightschool chat {out}   or, in a browser: nightschool serve {out}")
    evening, morning = made["evening's exam"], made["morning's exam"]
    return {
        "seconds": process_seconds(),
        "peak_rss_gb": peak_gb(),
        "report": made["report"]["report"],
        "checkpoint": str(newest_checkpoint(out)),
        "skills": morning["skills"],
        "skills_evening": evening["skills"],
        "probes": morning["probes"],
        "facts": {k: made["night"][k] for k in ("evening", "morning") if k in made["night"]},
        **{k: morning[k] for k in ("choices", "texts") if k in morning},
    }
