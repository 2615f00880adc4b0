"""`nightschool speedrun`: one life at real scale. The stages of quickstart on real text and real conversations.

All data are on disk before anything is computed. The town comes to school too, with a share of the lessons: practice
and the night take place there, as they do in quickstart. With --world-share 0 nothing is the town's: practice is at the
--task named, the night reads the --documents, and the exams are --exams and bits per byte. Practice that is not viable
and a night in which nothing was understood end in a line that says so, and the life goes on from the model before.

--until stops after a stage, so that what wants one process and what wants torchrun on many GPUs can be told apart
(runs/speedrun_8gpu.sh); the next command goes on. But: on a CPU tried at length (bench/real_day.py), on a GPU never.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool import ranks
from nightschool.config import BelowBar, UserError, at_least, closest
from nightschool.device import Dtype
from nightschool.model import exchange
from nightschool.runs import Costs
from nightschool.stages import corpus, evaluate, night, pretrain, quickstart, read, rl, sft, tokenizer
from nightschool.tasks import choice
from nightschool.tasks.named import PRACTICE, task_named
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
    task: str = PRACTICE  # to practise, as `nightschool rl` takes it
    rl_steps: int = rl.Config.steps  # updates of practice
    documents: tuple[str, ...] = ()  # to read at night: files, folders, globs; none = the town's news
    per_sentence: int = read.Config.per_sentence  # reflections on each of their sentences
    night_tokens: int = night.Config.tokens  # of the town's news: to train on
    per_document: int = night.Config.per_document  # of the town's news: questions the model asks itself about each
    exams: tuple[str, ...] = ()  # files of multiple choice, as `nightschool evaluate` takes them
    held_out: tuple[str, ...] = ()  # texts to measure bits per byte on, beside those put aside by hash
    n_dev: int = night.Config.n_gate  # dev problems per skill of the town at the end of a stage
    n: int = (
        evaluate.NUM_PROBLEMS
    )  # test problems per skill of the town, and of each exam, in the evening and the morning
    until: str = ""  # the last stage to do; "" = all, and the report
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "tokens", "sft_tokens", "rl_steps", "night_tokens", "per_document", "n_dev", "n")
        at_least(self, 1, "per_sentence")
        at_least(self, 0, "world_share", "threads", "save_seconds")
        if not self.world_share and not self.documents:
            raise UserError(
                "a life without the town (world_share 0) has no news to read; name --documents for its night"
            )
        plan(self.depth, self.tokens, self.vocab_size, self.context)  # refuses absurd ones
        if self.until and self.until not in stages(self):
            raise UserError(f"until must be one of {', '.join(stages(self))}{closest(self.until, list(stages(self)))}")


def stages(config: Config) -> dict[str, Callable[[], Any]]:
    """What is done, in order. Each goes on where it was, or does nothing where it is done."""
    life, in_town = config.out, config.world_share > 0
    n_dev = config.n_dev if in_town else 0
    reading = plan(config.depth, config.tokens, config.vocab_size, config.context).horizon_tokens
    common = quickstart.common_of(config)
    vocabulary = tokenizer.Config(life / "tokenizer", config.vocab_size, corpus=config.text, seed=config.seed)
    sifted: dict[str, Any] = {"tokenizer": life / "tokenizer", "exams": secret(config)}
    of_depth: dict[str, Any] = {"depth": config.depth, "context": config.context, "corpus": (str(life / "text"),)}
    of_school: dict[str, Any] = {"world_share": config.world_share, "corpus": (str(life / "conversations"),)}
    of_practice: dict[str, Any] = {"task": config.task, "steps": config.rl_steps, "exam_n": n_dev}
    news: dict[str, Any] = {"tokens": config.night_tokens, "per_document": config.per_document, "n_gate": n_dev}
    pages: dict[str, Any] = {"per_sentence": config.per_sentence}

    def fetch() -> None:
        sources.files_of((*config.text, *config.chat, *config.documents, *config.held_out))
        choice.exam_files(config.exams)
        task_named(config.task)

    def sleep() -> Any:
        if not config.documents:
            return night.main(night.Config(life / "night-001", life / "rl", **news, **common))
        try:
            return read.main(read.Config(config.documents, life / "night-001", life / "rl", **pages, **common))
        except BelowBar as result:
            quickstart.say(f"night: {result}")
            return result.headline

    return {
        "fetch": lambda: ranks.first(fetch),
        "tokenizer": lambda: ranks.first(lambda: tokenizer.main(vocabulary)),
        "text": lambda: ranks.first(lambda: corpus.main(corpus.Config(config.text, life / "text", **sifted))),
        "conversations": lambda: ranks.first(
            lambda: corpus.main(corpus.Config(config.chat, life / "conversations", **sifted))
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
        "rl": lambda: rl.main(rl.Config(life / "rl", life / "sft", **of_practice, **common)),
        "night": lambda: ranks.first(sleep) if config.documents else sleep(),
        "evening's exam": lambda: ranks.first(lambda: examine(config, life / "rl")),
        "morning's exam": lambda: ranks.first(lambda: examine(config, life / "night-001")),
    }


def secret(config: Config) -> tuple[str, ...]:
    """The files whose text must not be learned."""
    return (*config.exams, *([config.task] if sources.kind_of(Path(config.task)) == ".jsonl" else []))


def examine(config: Config, run: Path) -> Any:
    """A night that changed nothing has the evening's exam."""
    if run.name.startswith("night") and not exchange.is_checkpoint(run / "checkpoint"):
        return examine(config, config.out / "rl")
    n = config.n if config.world_share else 0
    texts = *(str(config.out / name) for name in ("text", "conversations")), *config.held_out, *config.documents
    asked: dict[str, Any] = {"exams": config.exams, "n_choices": config.n, "texts": texts}
    asked |= {"threads": config.threads, "dtype": config.dtype}
    return quickstart.examine(run, n=n, n_probes=n // 5, **asked)


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
