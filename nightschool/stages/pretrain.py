"""`nightschool pretrain`: read. A model from scratch learns from raw text: the town's prose, exercise books and drills,
or any corpus, or both. A corpus has a held-out part, whose bits per byte are measured on the way and at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nightschool import ranks
from nightschool.config import UserError, at_least
from nightschool.device import Dtype, place, set_up_for
from nightschool.model import exchange
from nightschool.model.instinct import instinct
from nightschool.model.transformer import Transformer
from nightschool.runs import Costs, Run, write_json
from nightschool.stages.corpus import check, splits
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.course import CORPUS, account, beside, bits_per_byte, course, held_out, in_batches
from nightschool.train.plan import QUICKSTART, QUICKSTART_ROW, Plan, plan
from nightschool.world import school

CARD = "A small model of the Qwen3 architecture that has read about a made-up town, and nothing else."
CARD_CORPUS = "A small model of the Qwen3 architecture, raised from raw text."
TOKENS = QUICKSTART.horizon_tokens * 2 // 5  # of the town


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/pretrain")  # the run folder
    tokenizer: Path = Path("life/tokenizer")  # a run of `nightschool tokenizer`
    tokens: int | None = None  # the horizon; None = two fifths of quickstart's, or what depth asks for
    depth: int = 0  # the one dial: layers, from which all else follows; 0 = quickstart's model
    context: int = 2048  # with depth: tokens that the model sees at once, and positions of a row
    corpus: tuple[str, ...] = ()  # a run of `nightschool corpus`, or sources as it takes them; none = the town
    world_share: float = 0.0  # with a corpus: of the tokens, the town's
    eval_every: int = 250  # with a corpus: steps between measurements of held-out bits per byte; 0 = the end alone
    eval_bytes: int = 500_000  # of held-out text
    minutes: float = 0.0  # if not 0: the horizon as time on this machine, turned into tokens once
    instinct: bool = True  # begin with heads that look back and find again; False = a blank slate
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe
    save_seconds: float = 600.0  # between saved states; 0 = after every step
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        at_least(self, 1, "tokens", "context", "eval_bytes")
        at_least(self, 0, "depth", "eval_every", "world_share", "minutes", "threads", "save_seconds")
        if self.world_share >= 1:
            raise UserError(f"world_share must be below 1; got {self.world_share}; without --corpus all is the town's")
        if self.corpus and not self.depth:
            raise UserError("a corpus needs a model of its size; choose one with --depth, such as --depth 4")


def plan_of(config: Config, vocab_size: int) -> tuple[Plan, int]:
    """The plan, its horizon the one asked for, and the positions of a row."""
    if config.depth:
        return plan(config.depth, config.tokens, vocab_size, config.context), config.context
    return replace(QUICKSTART, horizon_tokens=config.tokens or TOKENS), QUICKSTART_ROW


def main(config: Config) -> dict[str, Any]:
    check(config.corpus)
    tokenizer = Tokenizer.load(config.tokenizer / "checkpoint")
    plan, row_length = plan_of(config, tokenizer.vocab_size)
    run = Run.open(config.out, "pretrain", config)
    if not run.done:
        device = set_up_for(run, config.threads, config.dtype)
        corpus = splits(run, config.corpus, config.tokenizer, tokenizer) if config.corpus else None
        unseen = held_out(corpus["dev"], tokenizer, config.eval_bytes, row_length) if corpus else []
        dev = in_batches(unseen, tokenizer, row_length)
        model = Transformer(plan.model, device.dtype)
        model.init_weights(config.seed)
        if config.instinct:
            instinct(model, config.seed)
        model.to(place())
        end = course(
            run,
            model,
            tokenizer,
            plan,
            lambda done: beside(school.read(done), {CORPUS: 1 - config.world_share} if corpus else {}),
            sources={**school.SOURCES, CORPUS: corpus["train"]} if corpus else school.SOURCES,
            tokens=plan.horizon_tokens,
            minutes=config.minutes,
            seed=config.seed,
            row_length=row_length,
            decay=0.6 if corpus else 0.0,  # in the town school goes on from here at full rates
            save_seconds=config.save_seconds,
            evaluate=lambda: {"bits_per_byte": bits_per_byte(model, dev)},
            eval_every=config.eval_every if corpus else 0,
        )
        scores = {"bits_per_byte": bits_per_byte(model, dev)} if corpus else {}
        if scores:
            ranks.first(lambda: write_json(run.path("scores.json"), {"split": "dev", **scores}))
        card = CARD_CORPUS if corpus else CARD
        ranks.first(lambda: exchange.save(run.path("checkpoint"), model, tokenizer, card))
        run.finish(**account(end, model, row_length), **device.facts, **scores)
    return {name: run.meta[name] for name in ("seconds", "tokens", "loss", "bits_per_byte") if name in run.meta}
