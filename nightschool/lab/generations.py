"""A generation of `lab collapse`: what an arm makes of its predecessor's words, and how the next model learns from it.

Each has a run folder, whose lineage.jsonl holds what was made for it. What the arms are for is told in collapse.py.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from nightschool.config import UserError, at_least
from nightschool.device import set_up
from nightschool.lab import exact
from nightschool.lab.arms import Json
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.night import generate
from nightschool.night.bits import nats_of
from nightschool.runs import Run, read_json, read_jsonl, write_json, write_jsonl
from nightschool.text import tokenizer as vocabulary
from nightschool.text.corpus import encode, epochs
from nightschool.text.document import Document, Info
from nightschool.text.packing import Batch, batches
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.loop import train
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer
from nightschool.train.plan import flops_per_token
from nightschool.train.schedule import warm_stay_decay
from nightschool.world import jokes

CARD = "A tiny model of the Qwen3 architecture that knows jokes and nothing else."
MODEL = ModelConfig(
    vocab_size=1024,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=128,
)
ROW = 128  # positions of a packed row; three jokes in one context fit
LATER = 0.125  # of generation 0's rates: at a quarter even real_only's entropy swung by 15% (seeds 100 and 101)
JOKE_TOKENS = 32  # that a joke takes, its prompt and padding with it


@dataclass(frozen=True)
class Arm:
    top_p: float = 1.0
    real: float = 0.0  # most real jokes, as a share; 1 = nothing else
    keep: bool = False  # the corpus grows; else each generation's replaces the one before
    seeds: bool = False  # prompts with topics of real jokes, and for sets
    quota: bool = False
    surprise: bool = False
    peer: str = ""  # the arm whose model makes half of the food


TENTH = 0.1
OURS = Arm(real=TENTH, keep=True, seeds=True, quota=True)
ARMS = {
    "real_only": Arm(real=1.0),
    "naive": Arm(top_p=0.9),
    "replace": Arm(),
    "accumulate": Arm(keep=True),
    "peers": Arm(peer="peers_other"),
    "peers_other": Arm(peer="peers"),
    "ours": OURS,
    "no_seeds": replace(OURS, seeds=False),
    "no_keep": replace(OURS, keep=False),
    "no_quota": replace(OURS, quota=False),
    "surprise": replace(OURS, quota=False, surprise=True),
}


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/lab-collapse")  # run folders, one an arm, seed and generation; a killed lab goes on
    results: Path = Path("results")  # collapse.json, .html and .svg; with sweep collapse_sweep.json
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = tuple(ARMS)
    sweep: bool = False  # look for the learning rates instead, on seed 100
    rates: tuple[float, ...] = (1.0, 2.0, 4.0)  # what the sweep tries; 1 = a rate of 0.01
    generations: int = 10
    start_jokes: int = 15_000  # real ones that generation 0 learns from
    start_tokens: int = 400_000  # that it learns: each joke about once
    jokes: int = 600  # that a later generation learns from
    tokens: int = 50_000  # that each later generation may cost, in tokens learned
    threads: int = 0  # 0 = one a core

    def __post_init__(self) -> None:
        at_least(self, 1, "generations", "start_jokes", "start_tokens", "jokes", "tokens")
        at_least(self, 0, "threads")
        if unknown := set(self.arms) - set(ARMS):
            raise UserError(f"no such arms: {', '.join(sorted(unknown))}; known: {', '.join(ARMS)}")
        for arm in self.arms:
            if (peer := ARMS[arm].peer) and peer not in self.arms:
                raise UserError(f"{arm} needs its peer; add {peer} to --arms")


def pupil(texts: Sequence[Document], seed: int, dtype: torch.dtype) -> tuple[Transformer, Tokenizer]:
    """An untaught model and a vocabulary from the first real jokes."""
    words = vocabulary.train([d.text for d in exact.told(texts, random.Random(seed))], MODEL.vocab_size)
    model = Transformer(replace(MODEL, vocab_size=words.vocab_size), dtype)
    model.init_weights(seed)
    return model, words


# A generation


def tell(
    arm: Arm, model: Transformer, words: Tokenizer, num: int, seeds: Sequence[str], seed: int, rng: random.Random
) -> tuple[list[Document], int]:
    """What is right of about num jokes, in random order, and where its chance came from; tokens sampled."""
    asked: list[str] = [exact.PLAIN] * num
    if arm.seeds:
        asked = [prompt for prompt, _ in generate.prompts([exact.ABOUT], seeds, num // 2, rng)]
        asked += [exact.SET] * (num // 2 // exact.SET_SIZE)
    sampling = replace(generate.SAMPLING, top_p=arm.top_p, max_new_tokens=ROW - 16, seed=seed << 24)
    completions = Engine(model, words, slots=256).generate(words.encode_many(asked), sampling)
    found = []
    for prompt, completion in zip(asked, completions, strict=True):
        texts = generate.lines(generate.whole(words, completion))
        info: Info = "verifier" if prompt == exact.PLAIN else "seed"
        for text, _ in generate.distinct(texts, [jokes.kind_of(text) for text in texts]):
            found.append(Document(text=text, kind="sample", info=info))
    return rng.sample(found, len(found)), sum(len(c.ids) for c in completions)


def food(config: Config, arm: str, seed: int, g: int, before: list[Path]) -> tuple[list[Document], list[Document], int]:
    """What generation g of an arm learns from; what was made for it; tokens that this cost, sampled or scored.

    before: the run folder of its predecessor, and of the peer's.
    """
    spec, rng = ARMS[arm], random.Random(f"{seed} {arm} {g} food")
    firm = exact.real(seed + 1000 * (arm == "peers_other"), 0, config.start_jokes)
    fresh = [exact.real(seed, i, round(TENTH * config.jokes)) for i in range(1, g + 1)]
    seen = [*firm, *chain.from_iterable(fresh)]
    if spec.real == 1:
        return seen, [], 0
    wanted = round((1 - spec.real) * config.jokes) // len(before)  # of each teacher
    topics = [exact.topic_of(d.text) for d in seen]
    made, cost = list[Document](), 0
    for place, folder in enumerate(before):
        model, words = exchange.load(folder / "checkpoint", torch.float32)
        right, sampled = tell(spec, model, words, wanted * 5 // 4, topics, 200 * seed + 2 * g + place, rng)
        right = right[:wanted]
        weights, cost = [1.0] * len(right), cost + sampled
        if spec.surprise:
            texts = [joke.text for joke in right]
            weights = generate.weights((-nats_of(model, words, texts, [exact.PLAIN] * len(texts))).tolist())
            cost += sum(map(len, words.encode_many(texts)))
        for joke, weight in zip(right, weights, strict=True):
            made.append(replace(joke, info="peer" if place else joke.info, gen=g, weight=weight))
    kept = list(made)
    for i in range(g - 1, 0, -1) if spec.keep else ():
        kept += [Document(**row) for row in read_jsonl(folder_of(config, arm, seed, i) / "lineage.jsonl")]
    if spec.quota:
        kinds, real_kinds = ([exact.kind_of(d.text) for d in documents] for documents in (kept, seen))
        used, lacking = generate.quota(kinds, real_kinds, config.tokens // JOKE_TOKENS, spec.real, rng)
        return [*(kept[i] for i in used), *(seen[i] for i in lacking)], made, cost
    beside = seen[config.start_jokes :] if spec.real else firm[: config.jokes * spec.keep]
    return [*beside, *kept], made, cost


def folder_of(config: Config, arm: str, seed: int, g: int) -> Path:
    """Arms of one seed share generation 0; the peer has its own."""
    name = arm if g or arm == "peers_other" else "start"
    return config.out / f"seed-{seed}" / name / f"gen-{g:02}"


@dataclass(frozen=True)
class Generation:
    """What identifies a run folder of this lab."""

    arm: str
    seed: int
    generation: int
    num_jokes: int
    tokens: int
    lr_scale: float


def generation(config: Config, arm: str, seed: int, g: int, lr_scale: float) -> Json:
    """Make the food, learn, measure; what is there already is kept."""
    out = folder_of(config, arm, seed, g)
    num, tokens, scale = config.start_jokes, config.start_tokens, lr_scale
    if g:
        num, tokens, scale = config.jokes, config.tokens, LATER * lr_scale
    run = Run.open(out, "lab collapse", Generation(out.parent.name, seed, g, num, tokens, scale))
    if not run.done:
        began = time.perf_counter()
        device = set_up(config.threads, "float32")
        made, cost = list[Document](), 0
        if g == 0:
            own = seed + 1000 * (arm == "peers_other")
            documents = exact.real(own, 0, config.start_jokes)
            model, words = pupil(exact.real(seed, 0, config.start_jokes)[:2000], own, device.dtype)
        else:
            before = [folder_of(config, name, seed, g - 1) for name in (arm, ARMS[arm].peer) if name]
            documents, made, cost = food(config, arm, seed, g, before)
            model, words = exchange.load(before[0] / "checkpoint", device.dtype)
        write_jsonl(run.path("lineage.jsonl"), map(asdict, made))
        read = exact.told(documents, random.Random(f"{seed} {arm} {g}"))
        learn(run, model, words, read, tokens - cost // 3, seed, scale)
        exchange.save(run.path("checkpoint"), model, words, CARD)
        flops = (tokens - cost // 3 + cost / 3) * flops_per_token(model.config, ROW)
        write_json(run.path("row.json"), exact.measure(model, words) | {"sampled": cost, "flops": flops})
        run.finish(
            seconds=time.perf_counter() - began,
            device=device.name,
            threads=device.threads,
            dtype="float32",
            flops=flops,
        )
    meta = run.meta
    about = {name: meta[name] for name in ("seconds", "real_share", "generations")}
    return read_json(run.path("row.json")) | about


def learn(
    run: Run, model: Transformer, words: Tokenizer, documents: Sequence[Document], tokens: int, seed: int, scale: float
) -> None:
    items = encode(words, documents)

    def stream(cursor: dict[str, Any]) -> Iterator[Batch]:
        return batches(
            epochs(items, sys.maxsize, seed),
            tokens_per_batch=8 * ROW,
            row_length=ROW,
            pad_id=words.end_of_text,
            seed=seed,
            cursor=cursor or None,
        )

    rate = 0.01 * scale
    train(
        run,
        model,
        Optimizer(model, rate, 0.4 * rate, 0.4 * rate, dtype=model.dtype),
        stream,
        next_token,
        schedule=warm_stay_decay,
        horizon_tokens=tokens,
        save_seconds=1e9,  # a generation is made again sooner than it is saved
        keep=1,
        label=f"gen {run.config.generation}",
    )
