"""The real-scale life on tiny files: up to its data by default, whole where minutes are given."""

import json
import random
import re
from pathlib import Path

import pytest

from nightschool.__main__ import SHARED
from nightschool.config import UserError
from nightschool.stages import corpus, speedrun

WORDS = ["quiet", "cat", "sat", "upon", "warm", "green", "stone", "while", "rain", "fell", "over", "old", "mill"]


def sources(folder: Path) -> dict[str, tuple[str, ...]]:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=80)) + "." for _ in range(40)]
    folder.mkdir()
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    talks = [[{"role": "user", "content": text[:40]}, {"role": "assistant", "content": text[40:90]}] for text in texts]
    (folder / "chat.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    return {"text": (str(folder / "text.jsonl"),), "chat": (str(folder / "chat.jsonl"),)}


TINY = {"depth": 1, "context": 512, "vocab_size": 300, "tokens": 512_000, "sft_tokens": 4_000, "rl_steps": 1}
TINY |= {"night_tokens": 4_000, "per_document": 2, "n_dev": 2, "n": 2, "threads": 1, "dtype": "float32"}


def test_all_data_are_there_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "NUM_EXAM", 2)
    life = tmp_path / "life"
    config = speedrun.Config(life, **sources(tmp_path / "sources"), until="conversations", **TINY)  # type: ignore[arg-type]
    assert speedrun.main(config) is None
    metas = {name: json.loads((life / name / "meta.json").read_text()) for name in ("text", "conversations")}
    assert all(meta["train_tokens"] > 0 for meta in metas.values())
    assert not (life / "pretrain").exists()


@pytest.mark.slow
def test_a_whole_life(tmp_path: Path) -> None:
    config = speedrun.Config(tmp_path / "life", **sources(tmp_path / "sources"), **TINY)  # type: ignore[arg-type]
    headline = speedrun.main(config)
    assert headline is not None
    assert Path(headline["report"]).is_file()
    assert headline["skills"].keys() == headline["skills_evening"].keys()


def test_a_life_without_the_town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Practice on a file, a night over a folder, published exams; the night ends in its line, the life does not."""
    monkeypatch.setattr(corpus, "NUM_EXAM", 2)
    found = sources(tmp_path / "sources")
    (tmp_path / "page.txt").write_text("The cat sat upon the warm stone. It rained over the old mill. The rain fell.")
    sums = [{"question": f"What is {n} and {n}?", "answer": f"{n}+{n}={2 * n}\n#### {2 * n}"} for n in range(600)]
    choices = [{"query": "The quiet", "choices": ["cat sat", "sat the the"], "gold": 0}] * 3
    for name, rows in (("sums", sums), ("choices", choices)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {
        "documents": (str(tmp_path / "page.txt"),),
        "exams": (str(tmp_path / "choices.jsonl"),),
        "world_share": 0.0,
    }
    more = {"task": str(tmp_path / "sums.jsonl"), "per_sentence": 4, "context": 128, "tokens": 128_000}
    headline = speedrun.main(speedrun.Config(tmp_path / "life", **found, **TINY | asked | more))  # type: ignore[arg-type]
    assert headline is not None
    assert headline["skills"] == {}
    assert headline["choices"]["choices"]["n"] == 2
    assert {Path(name).name for name in headline["texts"]} == {"text", "conversations", "page.txt"}
    assert headline["checkpoint"].endswith("rl/checkpoint")
    rows = [json.loads(line) for line in (tmp_path / "life" / "rl" / "answers.jsonl").read_text().splitlines()]
    talks = [json.loads(line)["messages"] for line in Path(found["chat"][0]).read_text().splitlines()]
    assert {(row["prompt"], row["reference"]) for row in rows} <= {(a["content"], b["content"]) for a, b in talks}
    assert rows


def test_what_the_scripts_start_on_many_gpus_may_be_shared() -> None:
    scripts = "".join(path.read_text() for path in (Path(__file__).parents[1] / "runs").glob("*.sh"))
    started = re.findall(r"torchrun .* nightschool (\w+)", scripts)
    assert started
    assert set(started) <= set(SHARED)


def test_stages_in_order_and_one_that_is_not_there(tmp_path: Path) -> None:
    names = list(speedrun.stages(speedrun.Config(tmp_path)))
    assert names.index("conversations") < names.index("pretrain") < names.index("night")
    with pytest.raises(UserError, match="until must be one of fetch, tokenizer"):
        speedrun.Config(tmp_path, until="lunch")
