"""`nightschool lab collapse`: each sample looks fine, together they say three jokes. What keeps a loop of models alive?

Hypothesis: models that learn from the words of the one before lose what is rare while all they say stays right; words
made with chance from outside, capped by kind, weighted by surprise, on a floor of a tenth real text keep it.

The world is the jokes of world/jokes.py: 320 kinds (topic, mechanism, punchline) with Zipf weights, in 704 texts of
known probability. A model of 175 thousand parameters learns from real jokes; for ten generations it goes on from the
weights of the one before and learns from what that one told. Nothing is estimated from samples: each model's
probability of each of the 704 texts is computed, so validity, kinds, entropy and excess bits are exact (of the
canonical tokens; validity is thus a lower bound). All arms spend equal FLOPs a generation, those of sampling counted.
But: one small grammar, with an exact parser as verifier; tiny models, and no more is claimed; the counts and topics of
all real jokes seen so far are kept by `ours`, their texts are not.

    real_only     learns from all the real jokes that `ours` has been given by then, again and again
    naive         the common recipe: nucleus 0.9, keep what is right, train on it, again
    replace       the same at temperature 1 with nothing cut off
    accumulate    replace, but all that was made stays, and one generation's worth of real jokes with it
    peers         half of the food is a peer's words, who has another seed and other real jokes; else as replace
    ours          night/generate.py: seeds and sets, caps, surprise, a floor of a tenth fresh real jokes
    floor         replace with the floor alone
    no_seeds, no_caps, no_surprise      ours without that piece
    drift         no model at all: the same jokes drawn again from their own counts, by a perfect copier (neutral drift)
"""

from __future__ import annotations

import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nightschool.config import UserError, at_least
from nightschool.device import set_up
from nightschool.lab import collapse_page
from nightschool.lab.statistics import bootstrap, iqm
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.night import generate
from nightschool.night.bits import nats_of
from nightschool.runs import Run, read_json, read_jsonl, source, versions, write_json, write_jsonl
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
from nightschool.world.grammar import derivations, expand

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
PLAIN, ABOUT, SET, SET_SIZE = "Joke:\n", "Joke about {seed}:\n", "Three jokes:\n", 3
LATER = 0.25  # of generation 0's rates: a restart at the whole cost even real_only 4 points of validity (seed 100)
DRAWS = 4096  # "at equal draw": kinds expected in so many
RARE = 10  # deciles of the kinds by rarity

# The bars, written down before the first run (issue 5)
ALIVE = 0.9  # of the real kinds and exp-entropy, net of drift under the same floor
TAIL_BITS = 0.1  # a token in the rarest decile
FEWER, FLAT = 5.0, -0.02  # of naive: at least; validity falls by no more
DOWNSTREAM = -0.01  # ours less real_only, the interval's lower end


@dataclass(frozen=True)
class Arm:
    top_p: float = 1.0
    floor: float = 0.0  # share of fresh real jokes; 1 = nothing else
    all_kept: bool = False  # the corpus grows; else each generation's replaces the one before
    seeds: bool = False  # prompts with topics of real jokes, and for sets
    caps: bool = False
    surprise: bool = False
    peer: str = ""  # the arm whose model makes half of the food


FLOOR = 0.1
OURS = Arm(floor=FLOOR, seeds=True, caps=True, surprise=True)
ARMS = {
    "real_only": Arm(floor=1.0, all_kept=True),
    "naive": Arm(top_p=0.9),
    "replace": Arm(),
    "accumulate": Arm(all_kept=True),
    "peers": Arm(peer="peers_other"),
    "peers_other": Arm(peer="peers"),
    "ours": OURS,
    "floor": Arm(floor=FLOOR),
    "no_seeds": replace(OURS, seeds=False),
    "no_caps": replace(OURS, caps=False),
    "no_surprise": replace(OURS, surprise=False),
}
MAIN = ("real_only", "naive", "replace", "accumulate", "peers", "peers_other", "ours")


@dataclass(frozen=True)
class Config:
    out: Path = Path("life/lab-collapse")  # run folders, one an arm, seed and generation; a killed lab goes on
    results: Path = Path("results")  # collapse.json, .html and .svg; with sweep collapse_sweep.json
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = MAIN
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


# The world, known exactly


class World(NamedTuple):
    """The N texts of K kinds. Kinds by falling probability."""

    texts: list[str]
    nats: np.ndarray  # [N] log-probability of each text
    kind: np.ndarray  # [N] its kind's number
    topic: list[str]  # [N] "a duck"
    p: np.ndarray  # [K]


@cache
def world() -> World:
    found = [(text, nats) for text, nats, _ in derivations(jokes.jokes(), "joke")]
    p = jokes.kinds()
    names = sorted(p, key=lambda kind: -p[kind])
    number = {name: i for i, name in enumerate(names)}
    kinds = [jokes.kind_of(text) or "" for text, _ in found]
    return World(
        [text for text, _ in found],
        np.array([nats for _, nats in found]),
        np.array([number[kind] for kind in kinds]),
        [kind.partition("/")[0] for kind in kinds],
        np.array([p[name] for name in names]),
    )


@cache
def real(seed: int, generation: int, num: int) -> list[Document]:
    """Fresh jokes of the world."""
    rng = random.Random(f"{seed} {generation}")
    return [Document(text=expand(jokes.jokes(), "joke", rng)[0]) for _ in range(num)]


def told(documents: Sequence[Document], rng: random.Random) -> list[Document]:
    """Jokes -> what a model reads: half of them plain, a quarter under their topic, a quarter three different ones
    together."""
    documents = rng.sample(documents, len(documents))
    half, most = len(documents) // 2, 3 * len(documents) // 4
    found = [replace(d, text=PLAIN + d.text) for d in documents[:half]]
    found += [replace(d, text=ABOUT.format(seed=topic_of(d.text)) + d.text) for d in documents[half:most]]
    left = documents[most:]
    for i in range(0, len(left) - SET_SIZE + 1, SET_SIZE):
        group = {d.text: d for d in left[i : i + SET_SIZE]}.values()
        text = SET + "\n".join(d.text for d in group)
        weight = sum(d.weight for d in group) / len(group)
        oldest = max(group, key=lambda d: d.gen)
        found.append(replace(oldest, text=text, weight=weight, parents=tuple(d.id for d in group)))
    return found


def topic_of(text: str) -> str:
    return (jokes.kind_of(text) or "").partition("/")[0]


def pupil(texts: Sequence[Document], seed: int, dtype: torch.dtype) -> tuple[Transformer, Tokenizer]:
    """An untaught model and a vocabulary from the first real jokes."""
    words = vocabulary.train([d.text for d in told(texts, random.Random(seed))], MODEL.vocab_size)
    model = Transformer(replace(MODEL, vocab_size=words.vocab_size), dtype)
    model.init_weights(seed)
    return model, words


# Exact measures


def spread(q: np.ndarray, draws: int) -> dict[str, float]:
    """Of the probabilities of kinds, which need not add up to 1: kinds expected in so many draws, exp-entropy, and
    1 / P(two of them are alike), both among themselves."""
    p = q / q.sum()
    return {
        "kinds": float((1 - (1 - np.minimum(q, 1.0)) ** draws).sum()),
        "exp_entropy": float(np.exp(-(p * np.log(np.maximum(p, 1e-300))).sum())),
        "effective_number": float(1 / (p**2).sum()),
    }


def exact(nats: np.ndarray, asked: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """Everything about a model, from its log-probability of each of the world's texts, [N]: told unprompted, and told
    when asked about the text's topic. lengths: tokens of each."""
    w = world()
    p, q = np.exp(w.nats), np.bincount(w.kind, np.exp(nats))
    bits, decile = p * (w.nats - nats) / log(2), w.kind * RARE // len(w.p)  # 0: the commonest
    excess = np.bincount(decile, bits) / np.bincount(decile, p * lengths)
    return {
        "validity": float(q.sum()),
        **spread(q, DRAWS),
        "excess_bits": float(bits.sum() / (p * lengths).sum()),  # a token
        "excess_bits_by_decile": excess.tolist(),
        "tail_bits": float(excess[-1]),
        "downstream": float(np.exp(asked).sum() / len(set(w.topic))),  # asked about each topic: one of its jokes
    }


def measure(model: Transformer, words: Tokenizer) -> dict[str, Any]:
    w = world()
    plain = nats_of(model, words, w.texts, [PLAIN] * len(w.texts))
    asked = nats_of(model, words, w.texts, [ABOUT.format(seed=topic) for topic in w.topic])
    return exact(plain, asked, np.array([len(ids) + 1 for ids in words.encode_many(w.texts)]))


# A generation


class Told(NamedTuple):
    """A joke that is right."""

    text: str
    kind: str
    info: Info  # where its chance came from


def tell(
    arm: Arm, model: Transformer, words: Tokenizer, num: int, seeds: Sequence[str], seed: int, rng: random.Random
) -> tuple[list[Told], int]:
    """What is right of about num jokes, in random order; tokens sampled."""
    asked: list[str] = [PLAIN] * num
    if arm.seeds:
        asked = [*generate.prompts([ABOUT], seeds, num // 2, rng), *[SET] * (num // 2 // SET_SIZE)]
    sampling = replace(generate.SAMPLING, top_p=arm.top_p, max_new_tokens=ROW - 16, seed=seed << 24)
    completions = Engine(model, words, slots=256).generate(words.encode_many(asked), sampling)
    found = []
    for prompt, completion in zip(asked, completions, strict=True):
        texts = words.decode(completion.ids[:-1]).split("\n") if completion.stop == "end" else []
        for text in generate.distinct(texts, [jokes.kind_of(text) for text in texts]):
            found.append(Told(text, jokes.kind_of(text) or "", "verifier" if prompt == PLAIN else "seed"))
    return rng.sample(found, len(found)), sum(len(c.ids) for c in completions)


def food(config: Config, arm: str, seed: int, g: int, before: list[Path]) -> tuple[list[Document], int]:
    """What generation g of an arm learns from, and tokens that making it cost, sampled or scored.

    before: the run folder of its predecessor, and of the peer's.
    """
    spec, rng = ARMS[arm], random.Random(f"{seed} {arm} {g} food")
    firm = real(seed + 1000 * (arm == "peers_other"), 0, config.start_jokes)
    fresh = [real(seed, i, round(FLOOR * config.jokes)) for i in range(1, g + 1)]
    seen = [*firm, *chain.from_iterable(fresh)]
    if spec.floor == 1:
        return seen, 0
    wanted = round((1 - spec.floor) * config.jokes) // len(before)  # of each teacher
    topics, counts = [topic_of(d.text) for d in seen], Counter(jokes.kind_of(d.text) or "" for d in seen)
    made, cost = list[Document](), 0
    for place, folder in enumerate(before):
        model, words = exchange.load(folder / "checkpoint", torch.float32)
        right, sampled = tell(spec, model, words, wanted * 5 // 4, topics, 200 * seed + 2 * g + place, rng)
        if spec.caps:
            kept = generate.within([joke.kind for joke in right], generate.caps(counts, wanted))
            right = [right[i] for i in kept]
        right, weights = right[:wanted], [1.0] * wanted
        if spec.surprise:
            texts = [joke.text for joke in right]
            weights = generate.weights((-nats_of(model, words, texts, [PLAIN] * len(texts))).tolist())
            cost += sum(map(len, words.encode_many(texts)))
        cost += sampled
        for joke, weight in zip(right, weights, strict=False):
            info: Info = "peer" if place else joke.info
            made.append(Document(text=joke.text, kind="sample", info=info, gen=g, weight=weight))
    if spec.all_kept:
        earlier = [folder_of(config, arm, seed, i) / "lineage.jsonl" for i in range(1, g)]
        return [*firm[: config.jokes], *(Document(**row) for path in earlier for row in read_jsonl(path)), *made], cost
    return generate.mixed(fresh[-1], made, spec.floor, rng), cost


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


def generation(config: Config, arm: str, seed: int, g: int, lr_scale: float) -> dict[str, Any]:
    """Make the food, learn, measure; what is there already is kept."""
    out = folder_of(config, arm, seed, g)
    num, tokens, scale = config.start_jokes, config.start_tokens, lr_scale
    if g:
        num, tokens, scale = config.jokes, config.tokens, LATER * lr_scale
    run = Run.open(out, "lab collapse", Generation(out.parent.name, seed, g, num, tokens, scale))
    if not run.done:
        began = time.perf_counter()
        device = set_up(config.threads, "float32")
        cost = 0
        if g == 0:
            own = seed + 1000 * (arm == "peers_other")
            documents = real(own, 0, config.start_jokes)
            model, words = pupil(real(seed, 0, config.start_jokes)[:2000], own, device.dtype)
        else:
            before = [folder_of(config, name, seed, g - 1) for name in (arm, ARMS[arm].peer) if name]
            documents, cost = food(config, arm, seed, g, before)
            model, words = exchange.load(before[0] / "checkpoint", device.dtype)
        write_jsonl(run.path("lineage.jsonl"), (asdict(d) for d in documents if 0 < d.gen == g))
        read = told(documents, random.Random(f"{seed} {arm} {g}"))
        learn(run, model, words, read, tokens - cost // 3, seed, scale)
        exchange.save(run.path("checkpoint"), model, words, CARD)
        flops = (tokens - cost // 3 + cost / 3) * flops_per_token(model.config, ROW)
        write_json(run.path("row.json"), measure(model, words) | {"sampled": cost, "flops": flops})
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


# No model at all


def drift(config: Config, floor: float, all_kept: bool, times: int = 200) -> list[dict[str, float]]:
    """Means over `times` lives of a perfect copier, who tells what it read as often as it read it."""
    rng, p = np.random.default_rng(0), world().p
    num_real = round(floor * config.jokes)
    lives = []
    for _ in range(times):
        copied = rng.multinomial(config.start_jokes, p) / config.start_jokes
        read, life = rng.multinomial(config.jokes, p), [spread(copied, DRAWS)]
        for _ in range(config.generations):
            new = rng.multinomial(config.jokes - num_real, copied) + rng.multinomial(num_real, p)
            read = read + new if all_kept else new
            copied = read / read.sum()
            life.append(spread(copied, DRAWS))
        lives.append(life)
    return [{key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for rows in zip(*lives, strict=True)]


# Results


def bars(arms: dict[str, list[dict[str, Any]]], drifts: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Every bar whose arms are there. arms[name] = a row a seed with its `generations`."""
    found: list[dict[str, Any]] = []
    truth, copier = spread(world().p, DRAWS), drifts["floor"][-1]

    def bar(name: str, values: np.ndarray, asked: str, holds: Callable[[float], bool], of: str = "value") -> None:
        low, high = bootstrap(values.tolist())
        row: dict[str, Any] = {
            "name": name,
            "value": iqm(values.tolist()),
            "low": low,
            "high": high,
            "bar": f"{of} {asked}",
        }
        found.append(row | {"holds": holds(row[of])})

    def end(arm: str, key: str, g: int = -1) -> np.ndarray:
        return np.array([row["generations"][g][key] for row in arms[arm]])

    if "ours" in arms:
        for name, key in (("kinds", "kinds"), ("entropy", "exp_entropy")):
            bar(f"{name}, net of drift", end("ours", key) / copier[key], f">= {ALIVE}", lambda x: x >= ALIVE)
            bar(f"{name}, not net", end("ours", key) / truth[key], f">= {ALIVE}", lambda x: x >= ALIVE)
        bar("tail_bits", end("ours", "tail_bits"), f"<= {TAIL_BITS}", lambda x: x <= TAIL_BITS)
    if "naive" in arms:
        lost = truth["kinds"] / end("naive", "kinds")
        change = end("naive", "validity") - end("naive", "validity", 0)
        bar("naive_fails: kinds, times fewer", lost, f">= {FEWER:g}", lambda x: x >= FEWER)
        bar("naive_fails: validity, change", change, f">= {FLAT}", lambda x: x >= FLAT)
    if {"ours", "real_only"} <= arms.keys():
        more = end("ours", "downstream") - end("real_only", "downstream")
        bar("downstream, less real_only's", more, f">= {DOWNSTREAM}", lambda x: x >= DOWNSTREAM, of="low")
    return found


def sweep(config: Config) -> dict[str, Any]:
    """Generation 0 at each rate on seed 100; the fewest excess bits win. All arms learn at one rate."""
    tried = {}
    for rate in config.rates:
        row = generation(replace(config, out=config.out / "sweep" / f"{rate:g}"), "replace", 100, 0, rate)
        tried[f"{rate:g}"] = row["excess_bits"]
        print(f"sweep {rate:g}: {row['excess_bits']:.4f} excess bits a token", file=sys.stderr, flush=True)
    best = float(min(tried, key=lambda rate: tried[rate]))
    result = {"command": command(), "meta": meta_of((100,)), "arms": tried, "best": best}
    write_json(config.results / "collapse_sweep.json", result)
    return {"best": best}


def command() -> str:
    return shlex.join(["nightschool", *sys.argv[1:]])


def meta_of(seeds: Sequence[int]) -> dict[str, Any]:
    return {**source(), "versions": versions(), "seeds": list(seeds), "model": asdict(MODEL)}


def main(config: Config) -> dict[str, Any]:
    path = config.results / "collapse_sweep.json"
    if config.sweep:
        config.results.mkdir(parents=True, exist_ok=True)
        return sweep(config)
    if not path.exists():
        raise UserError(f"no {path}; run `nightschool lab collapse --sweep` first")
    best = read_json(path)["best"]
    drifts = {
        "replace": drift(config, 0.0, False),
        "floor": drift(config, FLOOR, False),
        "accumulate": drift(config, 0.0, True),
    }
    arms: dict[str, list[dict[str, Any]]] = {arm: [] for arm in config.arms}
    result: dict[str, Any] = {}
    for place, seed in enumerate(config.seeds):
        life: dict[str, list[dict[str, Any]]] = {arm: [] for arm in config.arms}
        for g in range(config.generations + 1):
            for arm in config.arms:
                life[arm].append(row := generation(config, arm, seed, g, best))
                note = f"valid {row['validity']:.3f}  kinds {row['kinds']:5.1f}  exp-entropy {row['exp_entropy']:5.1f}"
                print(f"seed {seed} gen {g:2} {arm:12} {note}", file=sys.stderr, flush=True)
        for arm in config.arms:
            arms[arm].append({"seed": seed, "generations": life[arm]})
        result = {
            "command": command(),
            "meta": meta_of(config.seeds[: place + 1]),
            "truth": {**spread(world().p, DRAWS), "draws": DRAWS},
            "arms": {arm: {"rows": rows} for arm, rows in arms.items()},
            "drift": drifts,
            "bars": bars(arms, drifts),
        }
        write_json(config.results / "collapse.json", result)
        collapse_page.write(config.results, __doc__ or "", result)
    return {bar["name"]: bar["value"] for bar in result["bars"]}
