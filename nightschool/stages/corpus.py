"""`nightschool corpus SOURCE...`: your files, or data sets of the hub -> sifted, split and tokenized shards.

A document is dropped if an earlier one is the same or nearly so, or if it holds a run of 13 words of an exam, the
town's own or any given; some are held out, chosen by the hash of their text. A model's own words are never held out,
and a corpus with too many of them is refused. Each is counted, and what hit an exam is named in contaminated.jsonl. A
killed run goes on after its last whole shard. But: one part of a long text may be held out and the next not; nothing
judges quality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from nightschool import ranks
from nightschool.config import UserError, at_least
from nightschool.runs import Run, atomic, progress, read_json, write_jsonl
from nightschool.tasks.world import PROBES, SKILLS, draw
from nightschool.text import sources
from nightschool.text.corpus import encode
from nightschool.text.document import Document
from nightschool.text.packing import Item, prefetch
from nightschool.text.shards import Corpus, write_shard
from nightschool.text.sift import Exams, Seen, keys_of, words
from nightschool.text.tokenizer import Tokenizer
from nightschool.world.problem import Split

LOAD = 4_000_000  # characters that are sifted while as many are tokenized
NUM_EXAM = 500  # problems of each of the town's exams and splits, as many as `evaluate` asks
FILTER_BYTES = 1 << 20, 1 << 29  # of the memory of what was seen; between them, as many as the files have
SPLITS = ("dev", "train")
HEADLINE = (
    *(f"{split}_{name}" for split in SPLITS for name in ("documents", "tokens", "bytes")),
    *("model_bytes", "exact_duplicates", "near_duplicates", "contaminated"),
)


@dataclass(frozen=True)
class Config:
    sources: tyro.conf.Positional[tuple[str, ...]]  # files, folders, globs, hub:owner/name/pattern
    out: Path = Path("life/corpus")  # the run folder
    tokenizer: Path = Path("life/tokenizer")  # a run of `nightschool tokenizer`, or any with a checkpoint
    exams: tuple[str, ...] = ()  # files of any records whose text must not be learned, besides the town's exams
    dev_share: float | None = None  # of the documents, held out (the first always); None = half a MB, 0.5% to 5%
    model_share: float = 0.5  # of the words, at most so many a model's own, such as the night's reflections
    near: bool = True  # drop what is nearly the same too; False = exact copies only
    shard_mb: float = 64.0  # of text, a shard

    def __post_init__(self) -> None:
        at_least(self, 0, "dev_share", "model_share")
        at_least(self, 0.001, "shard_mb")
        if not self.sources:
            raise UserError("name at least one source: a file, a folder, a glob or hub:owner/name/pattern")
        if self.dev_share is not None and self.dev_share >= 1:
            raise UserError(f"dev_share must be below 1; got {self.dev_share}")


@dataclass
class Load:
    """Sifted documents, and all there is to say of those that came since the load before."""

    at: tuple[int, int]  # number of the file and of the document in it where the next load begins
    position: int = 0  # bytes of all files read by then
    size: int = 0  # characters that were read
    kept: dict[str, list[Document]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    keys: list[np.ndarray] = field(default_factory=lambda: [np.zeros(0, np.uint64)])
    counts: Counter[str] = field(default_factory=Counter)
    hits: list[dict[str, str]] = field(default_factory=list)


def loads(files: Sequence[Path], load: Load, seen: Seen, exams: Exams, config: Config) -> Iterator[Load]:
    """All documents from where `load` stands, sifted."""
    first, skip = load.at
    share = config.dev_share
    if share is None:
        share = min(max(5e5 / (1 + sum(file.stat().st_size for file in files)), 0.005), 0.05)
    for number, path in enumerate(files[first:], start=first):
        before = sum(file.stat().st_size for file in files[:number])
        for i, (document, row) in enumerate(sources.documents(path)):
            if number == first and i < skip:
                continue
            text = document.text or "\n".join(message.content for message in document.messages)
            hashes = words(text)
            keys = keys_of(document, hashes)
            known = seen.has(keys)
            split = "dev" if (number, i) == (0, 0) or held_out(document, share) else "train"
            if known[0]:
                load.counts["exact_duplicates"] += 1
            elif config.near and known[1:].any():
                load.counts["near_duplicates"] += 1
            elif hit := exams.hit(text, hashes):
                load.counts["contaminated"] += 1
                load.hits.append({"place": row.place, "exam": hit[0], "words": hit[1]})
            else:
                seen.add(keys)
                load.keys.append(keys)
                load.kept[split].append(document)
                load.counts[f"{split}_bytes"] += len(text.encode())
                load.counts["model_bytes"] += len(text.encode()) * (document.gen > 0)
            load.at, load.position, load.size = (number, i + 1), before + row.position, load.size + len(text)
            if load.size >= min(LOAD, 1e6 * config.shard_mb):
                yield load
                load = Load(load.at)
    yield load


def held_out(document: Document, share: float) -> bool:
    """The same for the same text, whatever the corpus."""
    return document.gen == 0 and int(document.id, 16) < share * 2**64


def exam_texts(config: Config) -> Iterator[tuple[str, str]]:
    """The questions of the town's exams, and every string in the records of the files given."""
    yield from town_exams(NUM_EXAM)
    for path in sources.files_of(config.exams):
        for row in sources.rows(path):
            yield from ((path.name, text) for text in strings(row.record))


@cache
def town_exams(n: int) -> list[tuple[str, str]]:
    splits: tuple[Split, ...] = ("dev", "test")
    drawn = ((name, task, split) for name, task in {**SKILLS, **PROBES}.items() for split in splits)
    return [(f"town/{name}", p.prompt) for name, task, split in drawn for p in draw(task, split, n, 0)]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def build(run: Run, tokenizer: Tokenizer, config: Config) -> None:
    files = sources.files_of(config.sources)
    sizes = {str(path): path.stat().st_size for path in files}
    if run.settle("files", lambda: sizes) != sizes:
        raise UserError(f"the sources have changed since {run.out} was begun; choose another --out")
    folder = run.path("shards")
    folder.mkdir(exist_ok=True)
    whole = [read_json(path) for path in sorted(folder.glob("train-*.json"))]
    least, most = FILTER_BYTES
    seen = Seen(min(max(1 << sum(sizes.values()).bit_length(), least), most))
    for number in range(len(whole)):
        seen.add(np.fromfile(folder / f"keys-{number:05d}", np.uint64))
    exams = Exams(exam_texts(config))
    start = Load(tuple(whole[-1]["next"]) if whole else (0, 0))
    shard, items = Load(start.at), {split: list[Item]() for split in SPLITS}

    def write(number: int) -> None:
        """The keys and the dev part first: a shard is there once the JSON of its train part is."""
        with atomic(folder / f"keys-{number:05d}") as path:
            np.concatenate(shard.keys).tofile(path)
        for split, facts in (("dev", {}), ("train", {"counts": shard.counts, "hits": shard.hits, "next": shard.at})):
            write_shard(
                folder, f"{split}-{number:05d}", tokenizer, items[split], sources=config.sources, split=split, **facts
            )

    with progress("corpus", 1 + sum(sizes.values())) as show:
        number = len(whole)
        for load in prefetch(loads(files, start, seen, exams, config), 2):
            for split, documents in load.kept.items():
                items[split] += [compact(item) for item in encode(tokenizer, documents)]
            shard.at, shard.size = load.at, shard.size + load.size
            shard.keys += load.keys
            shard.counts += load.counts
            shard.hits += load.hits
            if shard.size >= 1e6 * config.shard_mb:
                write(number)
                number += 1
                shard, items = Load(load.at), {split: [] for split in SPLITS}
            show(load.position, f"{number} shards")
        write(number)
    finish(run, config, exams, folder)


def compact(item: Item) -> Item:
    return Item(np.asarray(item.ids, np.uint32), np.asarray(item.mask, np.uint8), gen=item.gen)


def finish(run: Run, config: Config, exams: Exams, folder: Path) -> None:
    """Add up what the shards say, and refuse a corpus that leaves nothing to learn."""
    shards = {split: [read_json(path) for path in sorted(folder.glob(f"{split}-*.json"))] for split in SPLITS}
    counts = sum((Counter(shard["counts"]) for shard in shards["train"]), Counter[str]())
    for split, mine in shards.items():
        for name in ("documents", "tokens"):
            counts[f"{split}_{name}"] = sum(shard[name] for shard in mine)
    if not counts["train_documents"]:
        raise UserError(f"nothing is left to learn from in {' '.join(config.sources)}: {dict(counts)}")
    if counts["model_bytes"] > config.model_share * counts["train_bytes"]:
        share = counts["model_bytes"] / counts["train_bytes"]
        mend = "add real text, or raise --model-share"
        raise UserError(f"{share:.0%} of the corpus are a model's own words, over {config.model_share:.0%}; {mend}")
    hits = [hit for shard in shards["train"] for hit in shard["hits"]]
    write_jsonl(run.path("contaminated.jsonl"), hits)
    run.finish(
        **{name: counts[name] for name in HEADLINE},
        exams=Counter(hit["exam"] for hit in hits),
        exam_texts=exams.num_texts,
        exam_texts_too_short=exams.num_short,
    )
    for path in folder.glob("keys-*"):
        path.unlink()


def check(asked: tuple[str, ...]) -> None:
    """UserError if there is nothing where splits() would look."""
    if asked and not (Path(asked[0]) / "shards").is_dir():
        sources.check(asked)


def splits(run: Run, asked: tuple[str, ...], start: Path, tokenizer: Tokenizer) -> dict[str, Corpus]:
    """What a stage was asked to learn from: a run of `nightschool corpus`, or sources that are made into one, inside
    the stage's own run. start: a run with this tokenizer."""
    folder = Path(asked[0])
    if not (folder / "shards").is_dir():
        folder = run.path("corpus")
        ranks.first(lambda: main(Config(asked, folder, start)))
    if not (folder / "meta.json").exists():
        raise UserError(f"{folder} is not finished; the `nightschool corpus` that began it goes on")
    return {split: Corpus.open(folder / "shards", split, tokenizer) for split in SPLITS}


def main(config: Config) -> dict[str, Any]:
    checkpoint = config.tokenizer / "checkpoint"
    tokenizer = Tokenizer.load(checkpoint if checkpoint.is_dir() else config.tokenizer)
    sources.check((*config.sources, *config.exams))
    run = Run.open(config.out, "corpus", config)
    if not run.done:
        build(run, tokenizer, config)
    return {name: run.meta[name] for name in ("seconds", *HEADLINE)}
