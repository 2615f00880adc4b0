"""`nightschool sft`: go to school. The model learns conversations, and only what it says in them: the town's with
worked answers, or any others, or both. What it read in a corpus before is repeated with a share of the tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightschool import ranks
from nightschool.config import UserError, at_least
from nightschool.device import Dtype, set_up_for
from nightschool.model import exchange, lora
from nightschool.runs import Costs, Run
from nightschool.stages.corpus import check, splits
from nightschool.tasks.exam import graduate
from nightschool.train.course import CORPUS, account, beside, bits_per_byte, corpora_of, course, held_out, in_batches
from nightschool.train.plan import QUICKSTART, going_on
from nightschool.world import school

CARD = "A small model of the Qwen3 architecture, raised in a made-up town: it answers questions with worked steps."
CARD_CORPUS = "A small model of the Qwen3 architecture, raised from raw text and taught by conversations."
TOKENS = QUICKSTART.horizon_tokens * 3 // 5  # of the town
EPOCHS = 2  # of a corpus


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/sft")  # the run folder
    start: Path = Path("life/pretrain")  # the run to go on from
    tokens: int | None = None  # the horizon, prompts counted; None = three fifths of quickstart's, or a corpus twice
    corpus: tuple[str, ...] = ()  # a run of `nightschool corpus`, or sources as it takes them; none = the town
    world_share: float = 0.0  # with a corpus: of the tokens, the town's
    replay: float = 0.1  # after a pretraining on a corpus: of the tokens, that corpus again
    eval_every: int = 250  # with a corpus: steps between measurements of held-out bits per byte; 0 = the end alone
    eval_bytes: int = 500_000  # of held-out conversations
    minutes: float = 0.0  # if not 0: the horizon as time on this machine, turned into tokens once
    lr_scale: float = 1.0  # of the learning rates by which the model goes on
    lora_rank: int = 0  # train factors of this rank beside the blocks' matrices; 0 = train all weights
    exam_n: int = 64  # dev problems per skill at the end; 0 = no exam
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "tokens", "eval_bytes")
        at_least(self, 0, "eval_every", "world_share", "replay", "exam_n", "minutes", "lr_scale", "lora_rank")
        at_least(self, 0, "threads", "save_seconds")
        if self.world_share + self.replay >= 1:
            raise UserError(f"world_share + replay must be below 1; got {self.world_share} + {self.replay}")


def main(config: Config) -> dict[str, Any]:
    start = exchange.checkpoint_of(config.start)
    check(config.corpus)
    run = Run.open(config.out, "sft", config)
    if not run.done:
        device = set_up_for(run, config.threads, config.dtype)
        model, tokenizer = exchange.load(start, device.dtype)
        corpus = splits(run, config.corpus, start, tokenizer) if config.corpus else None
        sources, _ = corpora_of("pretrain", config.start, tokenizer)  # what was read: one corpus, or none
        shares = dict.fromkeys(sources, config.replay)
        tokens = config.tokens or TOKENS
        if corpus:
            sources[CORPUS], shares[CORPUS] = corpus["train"], 1 - config.world_share - sum(shares.values())
            tokens = config.tokens or int(EPOCHS * corpus["train"].num_tokens / shares[CORPUS])
        plan, row_length = going_on(model.config, tokenizer.brought, tokens, lora=config.lora_rank > 0)
        unseen = held_out(corpus["dev"], tokenizer, config.eval_bytes, row_length) if corpus else []
        dev = in_batches(unseen, tokenizer, row_length)
        if config.lora_rank:
            lora.add(model, config.lora_rank, seed=config.seed)
        end = course(
            run,
            model,
            tokenizer,
            plan,
            lambda done: beside(school.STUDY, shares),
            sources={**school.SOURCES, **sources},
            tokens=tokens,
            minutes=config.minutes,
            seed=config.seed,
            row_length=row_length,
            lr_scale=config.lr_scale,
            save_seconds=config.save_seconds,
            evaluate=lambda: {"bits_per_byte": bits_per_byte(model, dev)},
            eval_every=config.eval_every if corpus else 0,
        )
        card = CARD_CORPUS if corpus else CARD
        ranks.first(lambda: exchange.save(run.path("checkpoint"), model, tokenizer, card))
        scores = {"bits_per_byte": bits_per_byte(model, dev)} if corpus else {}
        exam_n = 0 if corpus and not config.world_share else config.exam_n  # of a town that it has never heard of
        ranks.first(lambda: graduate(run, model, tokenizer, exam_n, **scores))
        run.finish(**account(end, model, row_length), **device.facts, **scores)
    return {name: run.meta[name] for name in ("seconds", "tokens", "loss", "bits_per_byte") if name in run.meta}
