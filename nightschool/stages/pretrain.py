"""`nightschool pretrain`: read. A model from scratch learns from raw text: prose, exercise books, drills."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool.config import at_least
from nightschool.device import DTYPES, Dtype, place, set_up
from nightschool.model import exchange
from nightschool.model.instinct import instinct
from nightschool.model.transformer import Transformer
from nightschool.runs import Costs, Run
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.course import course
from nightschool.train.plan import QUICKSTART, QUICKSTART_ROW, flops_per_token
from nightschool.world import school

CARD = "A small model of the Qwen3 architecture that has read about a made-up town, and nothing else."


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/pretrain")  # the run folder
    tokenizer: Path = Path("life/tokenizer")  # a run of `nightschool tokenizer`
    tokens: int = QUICKSTART.horizon_tokens * 2 // 5  # the horizon
    minutes: float = 0.0  # if not 0: the horizon as time on this machine, turned into tokens once
    instinct: bool = True  # begin with heads that look back and find again; False = a blank slate
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 30.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "tokens")
        at_least(self, 0, "minutes", "threads", "save_seconds")


def main(config: Config) -> dict[str, Any]:
    tokenizer = Tokenizer.load(config.tokenizer / "checkpoint")
    run = Run.open(config.out, "pretrain", config)
    if not run.done:
        dtype = run.settle("dtype", lambda: str(set_up(config.threads, config.dtype).dtype).removeprefix("torch."))
        device = set_up(config.threads, dtype)
        model = Transformer(QUICKSTART.model, DTYPES[dtype])
        model.init_weights(config.seed)
        if config.instinct:
            instinct(model, config.seed)
        model.to(place())
        end = course(
            run,
            model,
            tokenizer,
            QUICKSTART,
            school.read,
            tokens=config.tokens,
            minutes=config.minutes,
            seed=config.seed,
            row_length=QUICKSTART_ROW,
            decay=0.0,  # school goes on from here at full rates
            save_seconds=config.save_seconds,
        )
        exchange.save(run.path("checkpoint"), model, tokenizer, CARD)
        run.finish(
            seconds=end.seconds,
            tokens=end.tokens,
            flops=end.tokens * flops_per_token(QUICKSTART.model, QUICKSTART_ROW),
            device=device.name,
            threads=device.threads,
            dtype=dtype,
            loss=end.loss,
            refused=end.refused,
        )
    return {name: run.meta[name] for name in ("seconds", "tokens", "loss")}
