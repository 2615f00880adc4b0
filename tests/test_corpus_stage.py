"""A corpus from files to weights: sifted, split, resumed after a kill, learned from alone and beside the town."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightschool.config import UserError
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.rl.credit import outcome
from nightschool.rl.practice import earned
from nightschool.stages import corpus, pretrain, rl, sft, tokenizer
from nightschool.tasks.named import task_named
from nightschool.tasks.world import SKILLS, draw
from nightschool.text.packing import Batch, Item
from nightschool.text.shards import Corpus
from nightschool.text.tokenizer import Tokenizer
from nightschool.train import course

WORDS = ("rain", "Mara", "the", "owl", "a", "sang", "pears", "of", "and")
QUESTION = "Greta has twelve pears and gives five of them to Mara who eats two; how many pears are left?"


def story(n: int, length: int = 80) -> str:
    rng = random.Random(n)
    return " ".join(rng.choice(WORDS) for _ in range(length))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of stories and one of conversations, exams, and a tokenizer."""
    root = tmp_path_factory.mktemp("town")
    stories = [{"text": story(n)} for n in range(300)]
    of_exam = draw(SKILLS["word_problem"], "test", 500, 0)[7].prompt
    copies = [stories[5], {"text": stories[6]["text"] + " again"}]
    (root / "texts").mkdir()
    (root / "texts" / "a.jsonl").write_text("\n".join(map(json.dumps, stories[:200] + copies)))
    more = [*stories[200:], {"text": f"Exercise. {QUESTION}"}, {"text": f"Try this: {of_exam}"}, copies[0]]
    (root / "texts" / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, more)).encode()))
    pair = [{"role": "user", "content": "Is it raining?"}, {"role": "assistant", "content": ""}]
    talks = [{"messages": [pair[0], pair[1] | {"content": f"Yes, {n} drops."}]} for n in range(60)]
    (root / "talk.jsonl").write_text("\n".join(map(json.dumps, talks)))
    (root / "exam.jsonl").write_text(json.dumps({"rows": [{"question": QUESTION, "answer": "5"}]}))
    config = tokenizer.Config(root / "tok", 400, corpus=(str(root / "texts"), str(root / "talk.jsonl")), sample_mb=1)
    made = tokenizer.main(config)
    assert made["vocab_size"] <= 400
    return root


@pytest.fixture(autouse=True)
def few_exams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "NUM_EXAM", 20)


def build(town: Path, out: Path, *names: str, **how: Any) -> dict[str, Any]:
    asked = tuple(str(town / name) for name in names)
    return corpus.main(corpus.Config(asked, out, town / "tok", exams=(str(town / "exam.jsonl"),), **how))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def test_sifts_splits_and_counts(town: Path, tmp_path: Path) -> None:
    made = build(town, tmp_path / "c", "texts", dev_share=0.1)
    assert (made["exact_duplicates"], made["near_duplicates"], made["contaminated"]) == (2, 1, 2)
    assert made["train_documents"] + made["dev_documents"] == 300
    assert 10 < made["dev_documents"] < 60
    meta = json.loads((tmp_path / "c" / "meta.json").read_text())
    assert meta["exams"] == {"exam.jsonl": 1, "town/word_problem": 1}
    hits = [json.loads(line) for line in (tmp_path / "c" / "contaminated.jsonl").read_text().splitlines()]
    assert hits[0]["place"].endswith("b.jsonl.gz line 101")
    assert hits[0]["words"] == "greta has twelve pears and gives five of them to mara who eats"
    tok = Tokenizer.load(town / "tok" / "checkpoint")
    splits = {split: Corpus.open(tmp_path / "c" / "shards", split, tok) for split in ("train", "dev")}
    texts = {s: {tok.decode(map(int, c.item(i).ids[:-1])) for i in range(c.num_documents)} for s, c in splits.items()}
    assert texts["train"] | texts["dev"] == {story(n) for n in range(300)}
    assert not texts["train"] & texts["dev"]
    # The hash decides, so another corpus of the same documents holds out the same, its first document aside.
    build(town, tmp_path / "d", "texts/b.jsonl.gz", dev_share=0.1)
    again = Corpus.open(tmp_path / "d" / "shards", "dev", tok)
    others = {tok.decode(map(int, again.item(i).ids[:-1])) for i in range(1, again.num_documents)}
    assert others <= texts["dev"]


def test_goes_on_after_kill_9(town: Path, tmp_path: Path) -> None:
    whole = build(town, tmp_path / "whole", "texts", "talk.jsonl", shard_mb=0.02)
    shards = len(list((tmp_path / "whole" / "shards").glob("train-*.json")))
    assert shards >= 5
    script = """
import sys, time
from nightschool.__main__ import main
from nightschool.stages import corpus
write = corpus.write_shard
def slowly(*args, **facts):
    time.sleep(0.1)
    write(*args, **facts)
corpus.write_shard, corpus.NUM_EXAM = slowly, 20
main(sys.argv[1:])
"""
    argv = f"corpus {town}/texts {town}/talk.jsonl --out {tmp_path}/c --tokenizer {town}/tok --exams {town}/exam.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *argv.split(), "--shard-mb", "0.02"], stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "c" / "shards" / "train-00001.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "c" / "meta.json").exists()
    with pytest.raises(UserError, match="not finished"):
        pretrain.main(pretrain.Config(tmp_path / "p", town / "tok", depth=1, context=64, corpus=(str(tmp_path / "c"),)))
    before = (tmp_path / "c" / "shards" / "train-00000.bin").stat().st_mtime_ns
    again = build(town, tmp_path / "c", "texts", "talk.jsonl", shard_mb=0.02)
    assert (tmp_path / "c" / "shards" / "train-00000.bin").stat().st_mtime_ns == before  # not made again
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}
    tok = Tokenizer.load(town / "tok" / "checkpoint")
    for split in ("train", "dev"):
        one, other = (Corpus.open(tmp_path / name / "shards", split, tok) for name in ("whole", "c"))
        for i in range(one.num_documents):
            assert np.array_equal(one.item(i).ids, other.item(i).ids)


def test_never_learns_from_nothing(town: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"nothing is left to learn from in .*empty.txt"):
        corpus.main(corpus.Config((str(tmp_path / "empty.txt"),), tmp_path / "c", town / "tok"))


def test_little_text_has_a_larger_part_held_out(town: Path, tmp_path: Path) -> None:
    made = build(town, tmp_path / "c", "texts")
    assert 5 < made["dev_documents"] < 30  # of 300, one in twenty


def test_sources_that_changed_are_refused(town: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(story(0))
    asked = corpus.Config((str(tmp_path / "a.txt"),), tmp_path / "c", town / "tok")
    with pytest.raises(UserError, match="nothing is left to learn from"):  # the only document is held out
        corpus.main(asked)
    (tmp_path / "a.txt").write_text(story(1, 300))
    with pytest.raises(UserError, match="sources have changed"):
        corpus.main(asked)


SMALL: dict[str, Any] = {"threads": 1, "dtype": "float32", "save_seconds": 1000.0}


def test_a_model_learns_a_corpus_and_then_its_conversations(town: Path, tmp_path: Path, capsys: Any) -> None:
    build(town, tmp_path / "c", "texts", dev_share=0.1)
    asked = pretrain.Config(
        tmp_path / "p",
        town / "tok",
        128_000,
        depth=1,
        context=32,
        corpus=(str(tmp_path / "c"),),
        eval_every=100,
        eval_bytes=4_000,
        **SMALL,
    )
    made = pretrain.main(asked)
    rows = [json.loads(line) for line in (tmp_path / "p" / "metrics.jsonl").read_text().splitlines()]
    curve = [row["dev"]["bits_per_byte"] for row in rows if "dev" in row]
    assert len(curve) == 2
    assert abs(curve[-1] - made["bits_per_byte"]) < 0.1
    # Nine words in random order: log2(9) bits for a word and a space of 4.4 bytes, 0.72. Much less would be a leak.
    assert 0.65 < made["bits_per_byte"] < 0.9
    said = capsys.readouterr().err
    assert said.count("parameters for") == 1
    talk = (str(town / "talk.jsonl"),)
    talked = sft.main(sft.Config(tmp_path / "s", tmp_path / "p", 12_000, corpus=talk, eval_every=2, **SMALL))
    rows = [json.loads(line) for line in (tmp_path / "s" / "metrics.jsonl").read_text().splitlines()]
    curve = [row["dev"]["bits_per_byte"] for row in rows if "dev" in row]
    assert talked["bits_per_byte"] < curve[0] - 0.3
    scores = json.loads((tmp_path / "s" / "scores.json").read_text())
    assert scores == {"split": "dev", "skills": {}, "bits_per_byte": talked["bits_per_byte"]}
    assert pretrain.main(asked) == made


def test_what_was_learned_is_repeated(town: Path, tmp_path: Path) -> None:
    """School repeats the books, practice what school was, wherever the life lies by then."""
    life = tmp_path / "life"
    build(town, life / "c", "texts")
    whole = {"depth": 1, "context": 64, "eval_every": 0, "eval_bytes": 1000, "corpus": (str(life / "c"),)}
    pretrain.main(pretrain.Config(life / "p", town / "tok", 64_000, **whole, **SMALL))
    talk = (str(town / "talk.jsonl"),)
    sft.main(sft.Config(life / "s", life / "p", 2000, talk, replay=0.25, eval_every=0, eval_bytes=1000, **SMALL))
    life = life.rename(tmp_path / "moved")
    model, tok = exchange.load(life / "s" / "checkpoint")
    for start in (life / "s", life / "p"):
        books, shares = course.corpora_of("pretrain", start, tok)
        assert (shares, books["pretrain/corpus"].folder.resolve()) == ({"pretrain/corpus": 1.0}, life / "c" / "shards")
    assert course.corpora_of("sft", life / "s", tok)[1] == {"sft/pretrain/corpus": 0.25, "sft/corpus": 0.75}
    assert course.corpora_of("sft", life / "p", tok) == ({}, {})
    asked = {"credit": "outcome", "problems": 1, "group_size": 2, "again": 0, "max_new_tokens": 1, "steps": 4}
    practice = rl.Config(life / "r", life / "s", task="totals", replay_tokens=600, **asked)  # type: ignore[arg-type]
    engine, task, texts = Engine(model, tok), task_named("totals"), list[str]()
    credit = partial(earned, outcome, engine, task, model)
    for batch in rl.batches(practice, task, model, engine, credit, None, {}):
        replayed = batch.streams["ce_weight"].any(1)
        texts += [tok.decode(ids) for ids in batch.ids[replayed].tolist()]
        assert batch.ids.shape[1] <= engine.context
    num_books = sum("drops" not in text for text in texts)
    assert 0 < num_books < len(texts) / 2


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_town_has_its_share(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    items = list[Item]()

    def look(chunk: Callable[[int], list[Item]], **_: Any) -> Iterator[Batch]:
        items.extend(item for i in range(4) for item in chunk(i))
        return iter(())

    monkeypatch.setattr(course, "batches", look)
    build(town, tmp_path / "c", "texts")
    asked = {"tokens": 128_000, "depth": 1, "context": 128, "corpus": (str(tmp_path / "c"),), "world_share": share}
    pretrain.main(pretrain.Config(tmp_path / "p", town / "tok", **asked, **SMALL))
    tok = Tokenizer.load(town / "tok" / "checkpoint")
    num_tokens = Counter[bool]()
    for item in items:
        of_story = set(tok.decode(map(int, item.ids)).split()[1:-1]) <= set(WORDS)
        num_tokens[of_story] += len(item.ids)
    assert num_tokens[False] / num_tokens.total() == pytest.approx(share, abs=0.02)


def test_cautions() -> None:
    assert course.cautions(parameters=10, corpus_tokens=100, tokens=400) == []
    epochs, parameters = course.cautions(parameters=101, corpus_tokens=100, tokens=410)
    assert epochs.startswith("the corpus will be read 4.1 times")
    assert parameters.startswith("101 parameters for 100 tokens")
