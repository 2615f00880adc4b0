"""`nightschool speedrun`: one life at real scale. The stages of quickstart on real text and real conversations.

All data are on disk before anything is computed. The town comes to school too, with a share of the lessons: practice
and the night take place there, as they do in quickstart. --until stops after a stage, so that what wants one process
and what wants torchrun on many GPUs can be told apart (runs/speedrun_8gpu.sh); the next command goes on.

But: tried on a CPU with small files alone; the night reads the town's news, not yet a folder of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool.config import UserError, at_least, closest
from nightschool.device import Dtype
from nightschool.runs import Costs
from nightschool.stages import corpus, evaluate, night, pretrain, quickstart, rl, sft, tokenizer
from nightschool.text import sources
from nightschool.train.plan import plan


@dataclass(frozen=True)
class Config:
    out: Path = Path("life")  # the folder of this life
    depth: int = 12  # the one dial: layers, from which all else follows
    text: tuple[str, ...] = ("hub:climbmix",)  # to read: files, folders, globs, hub:owner/name/pattern
    chat: tuple[str, ...] = ("hub:smoltalk",)  # conversations of school, likewise
    tokens: int | None = None  # to read; None = what depth asks for
    sft_tokens: int | None = None  # of school; None = a tenth of what is read
    world_share: float = 0.1  # of school, the town's lessons
    vocab_size: int = 32_768
    context: int = 2048  # tokens that the model sees at once
    rl_steps: int = rl.Config.steps  # updates of practice
    night_tokens: int = night.Config.tokens  # to train on at night
    per_document: int = night.Config.per_document  # questions the model asks itself about each document at night
    n_dev: int = night.Config.n_gate  # dev problems per skill at the end of a stage
    n: int = evaluate.Config.n  # test problems per skill, in the evening and in the morning
    until: str = ""  # the last stage to do; "" = all, and the report
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "tokens", "sft_tokens", "rl_steps", "night_tokens", "per_document", "n_dev", "n")
        at_least(self, 0, "world_share", "threads", "save_seconds")
        plan(self.depth, self.tokens, self.vocab_size, self.context)  # refuses absurd ones
        if self.until and self.until not in stages(self):
            raise UserError(f"until must be one of {', '.join(stages(self))}{closest(self.until, list(stages(self)))}")


def stages(config: Config) -> dict[str, Callable[[], Any]]:
    """What is done, in order. Each goes on where it was, or does nothing where it is done."""
    life, n_dev = config.out, config.n_dev
    reading = plan(config.depth, config.tokens, config.vocab_size, config.context).horizon_tokens
    common: dict[str, Any] = {
        "seed": config.seed,
        "threads": config.threads,
        "dtype": config.dtype,
        "save_seconds": config.save_seconds,
        "costs": config.costs,
    }
    vocabulary = tokenizer.Config(life / "tokenizer", config.vocab_size, corpus=config.text, seed=config.seed)
    of_depth: dict[str, Any] = {"depth": config.depth, "context": config.context, "corpus": (str(life / "text"),)}
    of_school: dict[str, Any] = {"world_share": config.world_share, "corpus": (str(life / "conversations"),)}
    at_night: dict[str, Any] = {"per_document": config.per_document, "n_gate": n_dev}
    return {
        "fetch": lambda: sources.files_of((*config.text, *config.chat)),
        "tokenizer": lambda: tokenizer.main(vocabulary),
        "text": lambda: corpus.main(corpus.Config(config.text, life / "text", life / "tokenizer")),
        "conversations": lambda: corpus.main(
            corpus.Config(config.chat, life / "conversations", life / "tokenizer"),
        ),
        "pretrain": lambda: pretrain.main(
            pretrain.Config(life / "pretrain", life / "tokenizer", reading, **of_depth, **common)
        ),
        "sft": lambda: sft.main(
            sft.Config(
                life / "sft",
                life / "pretrain",
                config.sft_tokens or max(reading // 10, 1),
                exam_n=n_dev,
                **of_school,
                **common,
            )
        ),
        "rl": lambda: rl.main(rl.Config(life / "rl", life / "sft", steps=config.rl_steps, exam_n=n_dev, **common)),
        "night": lambda: night.main(
            night.Config(life / "night-001", life / "rl", tokens=config.night_tokens, **at_night, **common)
        ),
        "evening's exam": lambda: quickstart.examine(life / "rl", config.n, config.threads, config.dtype),
        "morning's exam": lambda: quickstart.examine(life / "night-001", config.n, config.threads, config.dtype),
    }


def main(config: Config) -> dict[str, Any] | None:
    todo = stages(config)
    if not config.until:
        return quickstart.live(config.out, todo, config.costs)
    for name, stage in todo.items():
        stage()
        quickstart.say(f"{name} is done")
        if name == config.until:
            break
    return None
