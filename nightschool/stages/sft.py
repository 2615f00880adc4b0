"""`nightschool sft`: go to school. The model learns conversations with worked answers, and only what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool import ranks
from nightschool.config import at_least
from nightschool.device import DTYPES, Dtype, set_up
from nightschool.model import exchange
from nightschool.runs import Costs, Run
from nightschool.tasks.exam import graduate
from nightschool.train.course import course
from nightschool.train.plan import QUICKSTART, QUICKSTART_ROW, flops_per_token
from nightschool.world import school

CARD = "A small model of the Qwen3 architecture, raised in a made-up town: it answers questions with worked steps."


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/sft")  # the run folder
    start: Path = Path("life/pretrain")  # the run to go on from
    tokens: int = QUICKSTART.horizon_tokens * 3 // 5  # the horizon, prompts counted
    minutes: float = 0.0  # if not 0: the horizon as time on this machine, turned into tokens once
    lr_scale: float = 1.0  # of pretraining's learning rates
    exam_n: int = 64  # dev problems per skill at the end; 0 = no exam
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "tokens")
        at_least(self, 0, "exam_n", "minutes", "lr_scale", "threads", "save_seconds")


def main(config: Config) -> dict[str, Any]:
    start = exchange.checkpoint_of(config.start)
    run = Run.open(config.out, "sft", config)
    if not run.done:
        dtype = run.settle("dtype", lambda: str(set_up(config.threads, config.dtype).dtype).removeprefix("torch."))
        device = set_up(config.threads, dtype)
        model, tokenizer = exchange.load(start, DTYPES[dtype])
        end = course(
            run,
            model,
            tokenizer,
            QUICKSTART,
            school.study,
            tokens=config.tokens,
            minutes=config.minutes,
            seed=config.seed,
            row_length=QUICKSTART_ROW,
            lr_scale=config.lr_scale,
            save_seconds=config.save_seconds,
        )
        ranks.first(lambda: exchange.save(run.path("checkpoint"), model, tokenizer, CARD))
        ranks.first(lambda: graduate(run, model, tokenizer, config.exam_n))
        run.finish(
            seconds=end.seconds,
            tokens=end.tokens,
            flops=end.tokens * flops_per_token(model.config, QUICKSTART_ROW),
            device=device.name,
            threads=device.threads,
            dtype=dtype,
            loss=end.loss,
            refused=end.refused,
        )
    return {name: run.meta[name] for name in ("seconds", "tokens", "loss")}
