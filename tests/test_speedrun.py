"""The real-scale life on tiny files: up to its data by default, whole where minutes are given."""

import json
import random
from pathlib import Path

import pytest

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


def test_stages_in_order_and_one_that_is_not_there(tmp_path: Path) -> None:
    names = list(speedrun.stages(speedrun.Config(tmp_path)))
    assert names.index("conversations") < names.index("pretrain") < names.index("night")
    with pytest.raises(UserError, match="until must be one of fetch, tokenizer"):
        speedrun.Config(tmp_path, until="lunch")
