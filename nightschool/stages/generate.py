"""`nightschool generate RUN --prompt "A joke about a {seed}, please." --seeds words.txt`: samples that say many things.

    fill prompts from outside -> ask, as the model believes -> verify -> deal places out to kinds -> mix with real text

Writes DIR/samples.jsonl, what is kept of the model's words, each with its lineage; with --real DIR/mixed.jsonl, the
same and enough real text for `pretrain --corpus` and `sft --corpus`; then audits the samples (DIR/audit). Places are
dealt out as the kinds of the real texts have them (night/generate.py), without such evenly. A kind is what --verify
says or, by words alone, near-duplicates (night/kinds.py). `info` in the lineage is what stands behind a text: the
verifier, a seed, or none, and from the last no stage learns.
But: answers and real texts are held in memory; what was cut short is dropped; a kept text is kept once, so that where
the model knows too few kinds there are fewer than n.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from nightschool.config import UserError, at_least
from nightschool.device import Dtype, set_up
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.night import generate
from nightschool.night.bits import nats_of
from nightschool.night.collapse import HEADLINE
from nightschool.night.diversity import effective_number
from nightschool.night.kinds import Kinds, kinds, normalised, sketch
from nightschool.night.read import Reader
from nightschool.runs import Run, read_json, write_jsonl
from nightschool.stages import audit
from nightschool.stages.read import by_endpoint, remembered
from nightschool.tasks.named import module_of
from nightschool.text import chat, sources
from nightschool.text.document import Document, Info, Message, record_of

BLOCK = 64  # answers that are written down together: what a kill costs
LEAST_REAL = 4  # texts without which nothing can be compared


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Path | None] = None  # the run whose model is asked, ours or one that was imported
    out: Path = Path("life/generate")  # the run folder
    prompt: tuple[str, ...] = ()  # one or more; {seed} in one is filled from --seeds, each time anew
    seeds: Path | None = None  # words, names, personas, texts: .txt, one a line, or .jsonl
    form: Literal["chat", "text"] = "chat"  # ask in a user's turn; text = what is written begins with the prompt
    together: int = 1  # texts that a prompt asks for, a line each; of those of one context each kind is kept once
    n: int = 1000  # texts to keep
    made: int | None = None  # texts to ask for; None = twice as many
    real: Path | None = None  # .jsonl of real texts of the same sort: how often which kind is told
    real_share: float = 0.6  # of mixed.jsonl's bytes, at least; `nightschool corpus` wants half, and holds some out
    verify: Path | None = None  # .py with verify(prompt, text) -> bool, or kind(prompt, text) -> its name or None
    surprise: bool = False  # rather those that the model finds unlikely: of a kind that --verify names, else of all
    earlier: tuple[Path, ...] = ()  # samples.jsonl of earlier generations, to keep from too
    temperature: float = 1.0
    max_new_tokens: int = 128
    endpoint: str | None = None  # http(s) address of an OpenAI-compatible server to ask in place of a run
    model: str | None = None  # its name there; None = the server's own choice
    seed: int = 0
    threads: int = 0  # 0 = one a core
    dtype: Dtype = "auto"  # to compute in; auto = a second's probe

    def __post_init__(self) -> None:
        at_least(self, 1, "together", "made", "max_new_tokens")
        at_least(self, 2, "n")
        at_least(self, 0, "temperature", "threads")
        if (self.run is None) == (self.endpoint is None):
            raise UserError("give either a run or an --endpoint")
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise UserError(f"endpoint must start with http:// or https://; got {self.endpoint!r}")
        if not self.prompt or not all(self.prompt):
            raise UserError('give a --prompt, such as "Tell me a joke about a {seed}."')
        if any(generate.SEED in prompt for prompt in self.prompt) != bool(self.seeds):
            raise UserError("--seeds fill {seed} in a --prompt; give both or neither")
        if self.real and self.real.suffix != ".jsonl":
            raise UserError(f"real must be a .jsonl file; got {self.real}")
        if not 0 < self.real_share < 1:
            raise UserError(f"real_share must lie in (0, 1); got {self.real_share}")
        if self.surprise and not (self.verify and self.run):
            raise UserError("--surprise needs a run and --verify: unverified, what surprises is mostly wrong")


class Told(NamedTuple):
    document: Document
    text: str  # what is judged: all of it, or what the assistant says
    kind: str


Judge = Callable[[str, str], str | None]  # (prompt, "" for a text; what is said) -> its kind; None = wrong


def judge_of(path: Path | None) -> tuple[Judge, bool]:
    """What --verify says of a text, and whether it names kinds; if not, a right text's words stand for its kind."""
    module = module_of(path) if path else None
    if module and hasattr(module, "kind"):
        return module.kind, True
    if module and not hasattr(module, "verify"):
        raise UserError(f"{path} must define verify(prompt, text) or kind(prompt, text)")
    is_right = module.verify if module else lambda prompt, text: True
    return lambda prompt, text: normalised(text) if is_right(prompt, text) else None, False


def read(path: Path, judge: Judge) -> list[Told]:
    """The right texts of a file, each once."""
    found = dict[str, Told]()
    for document, _ in sources.documents(path):
        turns = {role: [m.content for m in document.messages if m.role == role] for role in ("user", "assistant")}
        asked, said = map("\n".join, turns.values())
        if (kind := judge(asked, document.text or said)) is not None:
            found[document.id] = Told(document, document.text or said, kind)
    return list(found.values())


def by_model(engine: Engine, form: str, max_new_tokens: int) -> Reader:
    """What the model says to each prompt, or how it goes on; "" where it was cut short."""

    def tell(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        tokenizer = engine.tokenizer
        ids = [[*tokenizer.begin_of_text, *ids] for ids in tokenizer.encode_many(list(prompts))]
        if form == "chat":
            asked = [((Message("user", prompt),), ()) for prompt in prompts]
            ids = [ids for ids, _ in chat.render_many(tokenizer, asked, generate=True)]
        sampling = replace(generate.SAMPLING, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        return [generate.whole(tokenizer, completion) for completion in engine.generate(ids, sampling)]

    return tell


def right_ones(config: Config, prompt: str, seed: str, answer: str, judge: Judge, gen: int) -> list[Told]:
    """The right texts of one answer, with their lineage."""
    is_chat = config.form == "chat" and config.together == 1
    texts = generate.lines(answer) if config.together > 1 else [answer.strip() if is_chat else prompt + answer]
    texts, asked = (texts if answer.strip() else []), (prompt if is_chat else "")
    info: Info = "verifier" if config.verify else "seed" if seed else "none"
    found = []
    for text, kind in generate.distinct(texts, [judge(asked, text) for text in texts]):
        body: dict[str, Any] = {"text": text}
        if is_chat:
            body = {"messages": (Message("user", prompt), Message("assistant", text))}
        parents = (Document(text=seed).id,) if seed else ()
        found.append(Told(Document(**body, kind="sample", info=info, gen=gen, parents=parents), text, kind))
    return found


def dealt(config: Config, made: list[Told], real: list[Told], named: bool) -> tuple[list[Told], list[Told]]:
    """What is kept of what was made, rather what stands in front; the real texts, of kinds that nobody made first."""
    rng = random.Random(f"{config.seed} dealt")
    names, real_names = ([told.kind for told in some] for some in (made, real))
    if not named:
        found = [str(kind) for kind in near(*made, *real)]
        names, real_names = found[: len(made)], found[len(made) :]
    even = list(dict.fromkeys(names))[: config.n]
    used, lacking = generate.quota(names, real_names or even, config.n, 1.0, rng, stand_ins=not named)
    kept = list(dict.fromkeys(used))
    first = dict.fromkeys([*lacking, *rng.sample(range(len(real)), len(real))] if real else ())
    return [made[row] for row in rng.sample(kept, len(kept))], [real[row] for row in first]


def near(*told: Told) -> Kinds:
    return kinds(sketch(t.text for t in told))[HEADLINE]


def mixed(samples: Sequence[Told], real: Sequence[Told], share: float) -> list[Document]:
    """Samples and real texts, from the front of each."""

    def size(told: Told) -> int:
        document = told.document
        return len((document.text or "\n".join(m.content for m in document.messages)).encode())

    num_samples, num_real = generate.floor([*map(size, samples)], [*map(size, real)], share)
    return [told.document for told in (*samples[:num_samples], *real[:num_real])]


def main(config: Config) -> dict[str, Any]:
    checkpoint = exchange.checkpoint_of(config.run) if config.run else None
    judge, named = judge_of(config.verify)
    seeds = list(audit.texts_of(config.seeds)) if config.seeds else [""]
    real = read(config.real, judge) if config.real else []
    if config.real and len(real) < LEAST_REAL:
        raise UserError(f"{config.real} must hold at least {LEAST_REAL} different texts that are right")
    earlier = [told for path in config.earlier for told in read(path, judge)]
    run = Run.open(config.out, "generate", config)
    if run.done:
        return run.meta["headline"]
    rng = random.Random(config.seed)
    asked = generate.prompts(config.prompt, seeds, ceil((config.made or 2 * config.n) / config.together), rng)
    gen = 1
    if config.run and checkpoint:
        dtype = run.settle("dtype", lambda: str(set_up(config.threads, config.dtype).dtype).removeprefix("torch."))
        model, tokenizer = exchange.load(checkpoint, set_up(config.threads, dtype).dtype)
        reader = by_model(Engine(model, tokenizer), config.form, config.max_new_tokens)
        meta = config.run / "meta.json"
        gen += max(map(int, (read_json(meta) if meta.exists() else {}).get("generations", {"0": 1.0})))
    else:
        reader = by_endpoint(config.endpoint or "", config.model)
    reader = remembered(reader, run.path("told.jsonl"), BLOCK, "asking")
    answers = reader([prompt for prompt, _ in asked], config.temperature, config.seed)
    made = [
        told
        for (prompt, seed), answer in zip(asked, answers, strict=True)
        for told in right_ones(config, prompt, seed, answer, judge, gen)
    ]
    facts = {"asked": len(answers), "whole": sum(map(bool, answers)), "right": len(made)}
    if len({told.text for told in made}) < 2:
        raise UserError(f"too little to keep ({facts}); see {run.path('told.jsonl')} and --max-new-tokens")
    pool, weights = [*made, *earlier], [1.0] * (len(made) + len(earlier))
    if config.surprise:
        texts = [told.text for told in pool]
        nats = -nats_of(model, tokenizer, texts, [""] * len(texts))
        weights = generate.weights([n / len(text.encode()) for n, text in zip(nats, texts, strict=True)])
    pool = list({pool[row].text: pool[row] for row in generate.surprising_first(weights, rng)}.values())
    samples, others = dealt(config, pool, real, named)
    write_jsonl(run.path("samples.jsonl"), (record_of(told.document) for told in samples))
    if real:
        write_jsonl(run.path("mixed.jsonl"), map(record_of, mixed(samples, others, config.real_share)))
    if len(samples) < config.n:
        few = f"{len(samples)} of {config.n} places are filled from {len(made)} right texts"
        print(f"{few}: the others say the same again; raise --made, or give more various --seeds", file=sys.stderr)
    if any(told.document.info == "none" for told in samples):
        print("no stage will learn from what has nothing behind it; give --seeds or --verify", file=sys.stderr)
    found = audit.main(audit.Config(run.path("samples.jsonl"), config.real, run.path("audit"), seed=config.seed))
    before = effective_number(near(*made))
    run.finish(headline={**facts, "kept": len(samples), "right_effective_number": before, **found})
    return run.meta["headline"]
