"""`nightschool audit samples.jsonl --ref real.jsonl`: each sample looks fine; do all of them say three things?

A collapse audit of any texts, without a model: see night/collapse.py. A file is read three times as a stream (its
lengths; its kinds; the few texts looked at closely), so that millions of rows fit in 2 GB. `--endpoint URL --prompt
"..."` first samples any OpenAI-compatible server into DIR/samples.jsonl, where the same command goes on after a kill.
`--checkpoint RUN --before RUN` also tells where in the reference, from common texts to rare, the one's
model needs more bits than the other's. `--embed CHECKPOINT` adds kinds by meaning, as that model sees it. Writes
DIR/audit.json and DIR/report.html.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tyro

from nightschool.config import BelowBar, UserError, at_least
from nightschool.night.collapse import HEADLINE, Meaning, Texts, audit, chosen
from nightschool.night.diversity import Measured, ratio
from nightschool.runs import Run, progress, write_json, write_text
from nightschool.serve.client import answer
from nightschool.text.sources import document_from

Json = dict[str, Any]

NUM_WEIGHED = 2_000  # reference texts that two models are compared on
WIDTHS = (20, 17, 24, 24)  # of the account in a terminal


@dataclass(frozen=True)
class Config:
    samples: tyro.conf.Positional[Path | None] = None  # .jsonl of "text", "messages" or strings; .txt: one a line
    ref: Path | None = None  # real texts of the same form; None = none, and nothing is compared
    out: Path = Path("audit")  # the folder for audit.json and report.html
    fail_below: float | None = None  # exit code 1 if effective number / the reference's is less; None = never
    endpoint: str | None = None  # http(s) address of an OpenAI-compatible server to sample, in place of a file
    prompt: str | None = None  # what it is asked, each time anew at temperature 1
    n: int = 1000  # answers asked for
    model: str | None = None  # its name there; None = the server's own choice
    threads: int = 4  # requests at a time
    checkpoint: Path | None = None  # a run whose model may have forgotten rare texts of the reference
    before: Path | None = None  # the run whose model it came from, to compare it with
    embed: Path | None = None  # a run or checkpoint whose hidden states tell meanings apart; None = words alone
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        at_least(self, 2, "n")
        at_least(self, 1, "threads")
        at_least(self, 0, "fail_below", "seed")
        if (self.samples is None) == (self.endpoint is None):
            raise UserError("give either a file of samples or an --endpoint")
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise UserError(f"endpoint must start with http:// or https://; got {self.endpoint!r}")
        if self.endpoint and not self.prompt:
            raise UserError("an --endpoint needs a --prompt")
        if self.fail_below is not None and self.ref is None:
            raise UserError("--fail-below compares with a reference; give one with --ref")
        if self.embed and not self.ref:
            raise UserError("--embed learns from a reference what is usual; give one with --ref")
        given = [bool(path) for path in (self.checkpoint, self.before, self.checkpoint and self.ref)]
        if any(given) != all(given):
            raise UserError("--checkpoint, --before and --ref go together: two models on one reference")


# Reading


def texts_of(path: Path) -> Iterator[str]:
    """The samples of a file, one by one, with progress. UserError names the line."""
    refuse_unreadable(path)
    with path.open("rb") as file, progress(path.name, path.stat().st_size) as show:
        num_bytes = 0
        for number, line in enumerate(file, start=1):
            num_bytes += len(line)
            if number % 20_000 == 0:
                show(num_bytes, f"{number:,} lines")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{path} line {number} is not UTF-8; convert it, as with `iconv`") from None
            if text.strip():
                yield text.rstrip("\r\n") if path.suffix == ".txt" else said(text, f"{path} line {number}")


def refuse_unreadable(path: Path) -> None:
    if path.suffix not in (".jsonl", ".txt"):
        raise UserError(f"{path} must be a .jsonl or .txt file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def said(line: str, place: str) -> str:
    """A row of .jsonl -> its text; of a conversation, what the assistant said. UserError names the place."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None  # document_from says what is wrong
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        turns = document_from(line, place).messages
        text = "\n".join(turn.content for turn in turns if turn.role == "assistant")
    return text.encode("utf-8", "replace").decode()  # half an emoji, as a cut-off answer may end


def lengths_of(path: Path, least: int) -> np.ndarray:
    """Characters of each sample [N]. UserError if there are fewer than `least`."""
    lengths = np.fromiter((len(text) for text in texts_of(path)), np.int64)
    if len(lengths) < least:
        raise UserError(f"{path} must hold at least {least} samples; it holds {len(lengths)}")
    return lengths


def collect(config: Config, path: Path) -> Path:
    """Ask until `path` holds n answers; written in the order of asking, so that a kill favours no short ones."""

    def ask(_: int) -> str:
        return answer(config.endpoint or "", config.prompt or "", config.model)

    with path.open("a+b") as file:
        file.seek(0)
        whole = [line for line in file if line.endswith(b"\n")]  # a kill may have torn the last
        file.truncate(sum(map(len, whole)))
        pool = ThreadPoolExecutor(config.threads)
        try:
            with progress("asking", config.n) as show:
                for num, text in enumerate(pool.map(ask, range(len(whole), config.n)), start=len(whole) + 1):
                    file.write(json.dumps({"text": text}).encode() + b"\n")
                    file.flush()
                    show(num, f"{num:,} answers")
        finally:
            pool.shutdown(cancel_futures=True)
    return path


def models_of(config: Config) -> list[Path]:
    """The two checkpoints to compare, or none. torch starts slowly, so it is imported where they are asked for."""
    if not config.checkpoint:
        return []
    from nightschool.model.exchange import checkpoint_of

    return [checkpoint_of(run) for run in (config.checkpoint, config.before) if run]


def meaning_of(run: Path, num: int) -> Meaning:
    """Kinds by a checkpoint's hidden states. UserError where `num` texts are too many to compare each with each."""
    import torch

    from nightschool.model import exchange
    from nightschool.night.meaning import MOST, same_meaning, vectors

    if num > MOST:
        raise UserError(f"--embed compares all pairs, of {MOST:,} texts at most; here are {num:,}, so give it a sample")
    model, tokenizer = exchange.load(exchange.checkpoint_of(run), torch.float32)
    return lambda texts, near, reference: same_meaning(vectors(model, tokenizer, texts), near, reference)


def lost(models: list[Path], reference: Texts, num: int, seed: int) -> list[Measured]:
    """Bits a byte that the first model needs more than the second, in ten parts of some reference texts, the rarest
    last."""
    import torch

    from nightschool.model import exchange
    from nightschool.night.bits import excess_bits, nats_of

    rows = np.random.default_rng(seed).permutation(num)[:NUM_WEIGHED]
    texts = [text for _, text in chosen(reference, rows)]
    after, before = (nats_of(*exchange.load(folder, torch.float32), texts, [""] * len(texts)) for folder in models)
    return excess_bits(after, before, np.array([len(text.encode()) for text in texts]))


# Words and pictures


def number(x: float | None) -> str:
    """1234.5 -> '1,234', 12.345 -> '12.3', None -> 'any'"""
    if x is None:
        return "any"
    return f"{x:,.0f}" if x >= 100 or x == round(x) else f"{x:.3g}"


def pct(share: float) -> str:
    return f"{100 * share:.1f}%"


def told(measure: Measured | None, form: Callable[[Any], str] = number) -> str:
    """A measure with its interval: '25.3 (24.1-26.6)'."""
    if measure is None:
        return "none so long"
    value, low, high = (form(measure[key]) for key in ("value", "low", "high"))
    return f"{value} ({low.rstrip('%')}-{high.rstrip('%')})"


def sentence_of(found: Json) -> str:
    """The audit in one sentence: pairs of near-duplicates, and kinds in equal draws."""

    def once(effective: Measured) -> str:
        often = f"once in {number(effective['value'])} pairs" if effective["value"] > 1 else "in every pair"
        return often if effective["high"] else "in no pair"

    mine = found["all_samples"][HEADLINE]
    said = f"Two of your {found['num_samples']:,} samples say the same thing {once(mine['effective_number'])}"
    if "reference" not in found:
        return f"{said}; the next one would say something new with probability {pct(mine['unseen_share']['value'])}."
    drawn, real = (found[name]["kinds"][HEADLINE] for name in ("samples", "reference"))
    missing = [pct(1 - kinds["kinds_found"]["value"]) for kinds in (drawn, real)]
    return (
        f"{said}, in the reference {once(real['effective_number']).removesuffix(' pairs')}; of the kinds in "
        f"{found['num_compared']:,} reference texts, {missing[0]} are missing from as many samples and {missing[1]} "
        "from as many other reference texts."
    )


MEASURES = {
    "effective_number": number,
    "kinds_seen": number,
    "unseen_share": pct,
    "coverage": pct,
    "kinds_found": pct,
    "precision": pct,
}


def table(found: Json) -> list[list[str]]:
    """Rows of the account: measure, resolution, and a cell for each draw."""
    draws = [found[name] for name in ("samples", "reference") if name in found]
    rows = [
        [name.replace("_", " "), resolution.replace("_", "-")]
        + [told(draw["kinds"][resolution][name], form) for draw in draws]
        for name, form in MEASURES.items()
        for resolution in draws[0]["kinds"]
        if name in draws[0]["kinds"][resolution]
    ]
    rows.append(["self-repetition", "8-grams", *(told(draw["self_repetition"], pct) for draw in draws)])
    rows.append(["compression", "zlib", *(told(draw["compression"]) for draw in draws)])
    rows.append(["length", "characters", *(f"{draw['median_characters']:,.0f} (median)" for draw in draws)])
    return rows


EXCESS = "bits a byte that the model needs more than before, tenth by tenth of the reference, the rarest last:"


def in_terminal(found: Json) -> str:
    sizes = [f"{found['num_compared']:,} {name}" for name in ("samples", "reference") if name in found]
    lines, above = ["", found["sentence"], ""], ""
    for name, *cells in (["", "", *sizes], *table(found)):
        row = [name if name != above else "", *cells]
        lines.append("".join(f"{cell:{width}}" for cell, width in zip(row, WIDTHS, strict=False)).rstrip())
        above = name
    if found["excess_bits"]:
        lines += ["", EXCESS, " ".join(f"{part['value']:+.3f}" for part in found["excess_bits"])]
        lines[-1] += f", the last {told(found['excess_bits'][-1])}"
    return "\n".join((*lines, ""))


def curve(points: list[list[int]], most: int) -> str:
    """[texts drawn, kinds seen] -> points of a polyline in per cent, both axes logarithmic from 1 to `most`."""
    scale = 100 / math.log(most)
    return " ".join(f"{scale * math.log(x):.2f},{100 - scale * math.log(y):.2f}" for x, y in points)


def page(found: Json) -> str:
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters |= {"curve": curve, "number": number, "pct": pct, "told": told}
    powers = [10**k for k in range(1 + int(math.log10(found["num_compared"])))]
    return pages.get_template("audit.html").render(
        found, rows=table(found), powers=powers, headline=HEADLINE, EXCESS=EXCESS
    )


def main(config: Config) -> Json:
    """Audit, write, and tell. BelowBar if the ratio of effective numbers is under --fail-below."""
    models = models_of(config)
    pool = lengths_of(config.ref, 4) if config.ref else np.empty(0, np.int64)
    lengths = lengths_of(config.samples, 2) if config.samples else None
    num = config.n if lengths is None else len(lengths)
    meaning = meaning_of(config.embed, num + min(2 * num, len(pool))) if config.embed else None  # and two draws
    run = Run.open(config.out, "audit", replace(config, fail_below=None))
    samples = config.samples or collect(config, run.path("samples.jsonl"))
    lengths = lengths_of(samples, 2) if lengths is None else lengths
    reference = partial(texts_of, config.ref) if config.ref else list
    found = audit(partial(texts_of, samples), lengths, reference, pool, config.seed, meaning)
    mine = found["all_samples"][HEADLINE]
    real = found["reference"]["kinds"][HEADLINE] if config.ref else {}
    compared = ratio(mine["effective_number"], real["effective_number"]) if real else None
    excess = lost(models, reference, len(pool), config.seed) if models else []
    found = {"sentence": sentence_of(found), "effective_ratio": compared, "excess_bits": excess, **found}
    write_json(run.path("audit.json"), found)
    write_text(run.path("report.html"), page(found))
    run.finish()
    print(in_terminal(found), file=sys.stderr)
    headline = {
        "num_samples": len(lengths),
        **mine,
        "reference_effective_number": real.get("effective_number"),
        "effective_ratio": compared,
        "coverage": found["samples"]["kinds"][HEADLINE].get("coverage"),
        **({"excess_bits": excess} if excess else {}),
        "report": str(run.path("report.html")),
        "sentence": found["sentence"],
    }
    if config.fail_below is not None and compared and compared["value"] < config.fail_below:
        line = f"the effective number is {told(compared)} of the reference's, below {config.fail_below:g}"
        raise BelowBar(line, headline)
    return headline
