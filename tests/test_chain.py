"""One life, tiny: every stage runs, leaves what the next one needs, and a second start does nothing again."""

import json
from pathlib import Path

import pytest

from nightschool.stages import night, quickstart

TINY = {"pretrain_tokens": 8_000, "sft_tokens": 8_000, "rl_steps": 1, "night_tokens": 4_000, "n": 2}
TINY |= {"per_document": 2, "n_dev": 2, "threads": 1}
SKILLS = {"story", "passage", "absent", "arithmetic", "word_problem", "letter_count", "tool"}


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chain") / "life"
    quickstart.main(quickstart.Config(out, **TINY, dtype="float32"))
    return out


def test_headline_and_a_second_start(life: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in life.rglob("model.safetensors")}
    headline = quickstart.main(quickstart.Config(life, **TINY, dtype="float32"))
    assert set(headline["skills"]) == set(headline["skills_evening"]) == SKILLS
    assert all(set(score) == {"accuracy", "low", "high", "n"} for score in headline["skills"].values())
    assert Path(headline["report"]).is_file()
    assert before == {path: path.stat().st_mtime_ns for path in life.rglob("model.safetensors")}
    json.dumps(headline)


def test_each_run_says_what_it_did(life: Path) -> None:
    for name in ("tokenizer", "pretrain", "sft", "rl", "night-001"):
        meta = json.loads((life / name / "meta.json").read_text())
        assert meta["finished"]
        assert meta["seconds"] > 0


def test_the_same_seed_gives_the_same_weights(life: Path, tmp_path: Path) -> None:
    quickstart.main(quickstart.Config(tmp_path / "life", **TINY, dtype="float32"))
    for name in ("pretrain", "sft", "rl", "night-001"):
        path = Path(name, "checkpoint", "model.safetensors")
        assert (life / path).read_bytes() == (tmp_path / "life" / path).read_bytes(), name


def test_the_next_night_remembers_the_first_evening(life: Path, tmp_path: Path) -> None:
    asked = {"tokens": 2_000, "per_document": 1, "family": 4, "n_gate": 1, "threads": 1}
    night.main(night.Config(tmp_path, life / "night-001", **asked, dtype="float32", seed=1))
    first, kept = (json.loads((run / "first-evening.json").read_text()) for run in (life / "night-001", tmp_path))
    evening = json.loads((life / "night-001" / "evening.json").read_text())["outcomes"]
    assert kept == first == {skill: evening[skill] for skill in SKILLS}
