"""Generation with entropy: each piece on an example worked by hand; the verb on a teller who collapses."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nightschool.__main__ import main
from nightschool.config import UserError
from nightschool.model import exchange
from nightschool.model.engine import Completion
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.night.generate import (
    SAMPLING,
    distinct,
    floor,
    lines,
    prompts,
    quota,
    surprising_first,
    weights,
    whole,
)
from nightschool.runs import read_json, read_jsonl, write_json, write_jsonl
from nightschool.stages import generate as stage
from nightschool.text.corpus import encode
from nightschool.text.document import Document
from nightschool.text.tokenizer import Tokenizer, train


def test_prompts_are_filled_from_outside() -> None:
    made = prompts(("A joke about a {seed}:", "{seed} laughs:"), ("duck", "cow"), 200, random.Random(0))
    told = {("A joke about a duck:", "duck"), ("A joke about a cow:", "cow"), ("duck laughs:", "duck")}
    assert set(made) == told | {("cow laughs:", "cow")}
    assert prompts(("Quack.",), ("duck",), 1, random.Random(0)) == [("Quack.", "")]


def test_what_the_model_believes_is_sampled_whole() -> None:
    assert (SAMPLING.temperature, SAMPLING.top_p, SAMPLING.min_p) == (1.0, 1.0, 0.0)


def test_distinct_keeps_the_first_right_text_of_each_kind() -> None:
    texts = ["quack", "moo", "quack again", "gibberish", "moo"]
    assert distinct(texts, ["duck", "cow", "duck", None, "cow"]) == [("quack", "duck"), ("moo", "cow")]


def test_places_go_by_the_shares_of_real_texts() -> None:
    """Of 10 real texts 5 are of ducks, 3 of cows, 1 of an owl and 1 of an elk; 20 places: 10, 6, 2 and 2."""
    real = [*5 * ["duck"], *3 * ["cow"], "owl", "elk"]
    made = ["cow", "duck", "duck", "cow", "gnu", *90 * ["owl"]]
    used, lacking = quota(made, real, 20, 0.1, random.Random(0))
    assert Counter(made[i] for i in used) == {"duck": 10, "cow": 6, "owl": 2}
    assert Counter(used)[1] == Counter(used)[2] == 5  # in turn, and again where there are too few
    assert [real[i] for i in lacking] == ["elk", "elk"]
    used, lacking = quota(["duck"], real, 20, 0.1, random.Random(0))
    assert (len(used), len(lacking)) == (10, 2)  # no more than a tenth is real, whatever is lacking


def test_a_kind_rarer_than_a_place_gets_one_as_often_as_is_due() -> None:
    """Of 30 real texts 3 are of gnus: of 4 places they get 0.4 on average, and never 2."""
    real = [*27 * ["duck"], *3 * ["gnu"]]
    gnus = [4 - len(quota(["duck"], real, 4, 0.5, random.Random(seed))[0]) for seed in range(400)]
    assert set(gnus) == {0, 1}
    assert sum(gnus) / 400 == pytest.approx(0.4, abs=0.075)  # three standard errors


def test_quotas_hold_whatever_the_model_favours() -> None:
    """Ten rounds in which a copier draws again from what it was dealt: without a quota most kinds of a Zipf die out."""
    real = [str(k) for k in range(1, 101) for _ in range(1000 // k)]
    rng = random.Random(0)
    free = dealt = rng.choices(real, k=400)
    for _ in range(10):
        free = rng.choices(free, k=400)
        made = rng.choices(dealt, k=400)
        used, lacking = quota(made, real, 400, 0.1, rng)
        dealt = [*(made[i] for i in used), *(real[i] for i in lacking)]
    assert len(set(free)) < 45
    assert len(set(dealt)) > 75


def test_what_surprises_counts_more() -> None:
    assert weights([2.0, 4.0, 6.0]) == [0.5, 1.0, 1.5]
    # a mean of 4; 0.1 and 3 of it are bounded to 0.5 and 2, whose mean with 0.9 is 1.1333
    assert weights([0.4, 3.6, 8.0]) == pytest.approx([0.5 / 1.1333, 0.9 / 1.1333, 2 / 1.1333], rel=1e-4)


def test_a_set_is_told_line_by_line() -> None:
    assert lines("1. quack\n\n2) moo \n- 3 owls\n\u2022 hoo") == ["quack", "moo", "3 owls", "hoo"]


def test_what_was_cut_short_is_nothing() -> None:
    words = train(["quack quack"] * 3, 300)
    ids = [*words.encode("quack"), words.end_of_text]
    assert whole(words, Completion([0], ids, stop="end")) == "quack"
    assert whole(words, Completion([0], ids[:-1], stop="length")) == ""


def test_a_new_kind_has_the_places_of_one_that_nobody_made() -> None:
    """12 places: 6 of ducks, 4 of cows, 2 of owls. Nobody made a duck or a cow; a and b, which come first, are."""
    real = [*3 * ["duck"], *2 * ["cow"], "owl"]
    made = ["owl", "a", "b", "a", "c", "d"]
    used, lacking = quota(made, real, 12, 1.0, random.Random(0), stand_ins=True)
    counts = Counter(made[row] for row in used)
    assert counts["owl"] == 2
    assert {counts["a"], counts["b"]} == {4, 6}
    assert (len(used), lacking) == (12, [])
    used, lacking = quota(made[:2], real, 12, 1.0, random.Random(0), stand_ins=True)
    assert Counter(real[row] for row in lacking).total() in (4, 6)


def test_the_floor_is_of_bytes() -> None:
    assert floor([10, 10, 10], [20, 20, 20], 0.5) == (3, 2)
    assert floor([10, 10, 10], [20], 0.5) == (2, 1)
    assert floor([10, 10, 10], [100, 100], 0.75) == (3, 1)


def test_what_weighs_twice_as_much_comes_first_twice_as_often() -> None:
    first = Counter(surprising_first([1.0, 2.0, 1.0], random.Random(seed))[0] for seed in range(2000))
    assert [first[row] / 2000 for row in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


# The verb

KINDS = 30
KIND_PY = "def kind(prompt, text):\n    return text.split()[1] if text.startswith('tale') else None\n"


def tale(kind: int, rng: random.Random) -> str:
    """One of many texts of a kind; no two kinds share their words."""
    words = random.Random(kind).sample(range(10_000, 100_000), 12)
    return f"tale {kind} {' '.join(map(str, words))} {rng.randrange(1000)}"


def collapsing(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
    """Four of five times the one tale that it tells best, now and then one of 20 others, or nonsense."""
    rng = random.Random(seed)
    return [
        "gibberish" if rng.random() < 0.1 else tale(0 if rng.random() < 0.8 else rng.randrange(20), rng)
        for _ in prompts
    ]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stage, "by_endpoint", lambda url, model: collapsing)
    rng = random.Random(0)
    write_jsonl(tmp_path / "real.jsonl", ({"text": tale(i % KINDS, rng)} for i in range(300)))
    (tmp_path / "seeds.txt").write_text("duck\ncow\n")
    (tmp_path / "kind.py").write_text(KIND_PY)
    return tmp_path


def run(files: Path, name: str, *argv: str) -> tuple[int, list[Document]]:
    asked = ("--endpoint", "http://here", "--seeds", str(files / "seeds.txt"), "--out", str(files / name))
    code = main(["generate", *asked, "--prompt", "A tale of a {seed}.", "--n", "60", "--made", "400", *argv])
    rows = read_jsonl(files / name / "samples.jsonl") if code == 0 else []
    return code, [document for row in rows for document in [stage.sources.document_of(row, name)]]


def headline(files: Path, name: str) -> dict[str, Any]:
    return read_json(files / name / "meta.json")["headline"]


def test_a_quota_undoes_a_collapse(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, kind = str(files / "real.jsonl"), str(files / "kind.py")
    code, samples = run(files, "out", "--real", real, "--verify", kind)
    assert code == 0
    told = [d.messages[1].content for d in samples]
    counts = Counter(text.split()[1] for text in told)
    assert counts["0"] == 2  # of 60 places 1 in 30; four fifths of what it said
    assert len(counts) > 17  # of the 20 that it knows
    assert max(counts.values()) == 2
    assert {(d.kind, d.gen, d.info) for d in samples} == {("sample", 1, "verifier")}
    assert {d.parents for d in samples} == {(Document(text=seed).id,) for seed in ("duck", "cow")}
    assert {d.messages[0].content for d in samples} == {"A tale of a duck.", "A tale of a cow."}
    found = json.loads(capsys.readouterr().out)
    assert found == headline(files, "out")
    assert found["right_effective_number"]["value"] < 2
    assert found["effective_number"]["value"] > 15
    assert found["asked"] == 400
    assert found["right"] < 380
    mixed = [stage.sources.document_of(row, "") for row in read_jsonl(files / "out" / "mixed.jsonl")]
    size = Counter[str]()
    for d in mixed:
        size[d.kind] += len(d.text or "".join(m.content for m in d.messages))
    assert 0.6 <= size["real"] / size.total() < 0.7
    first = [d.text.split()[1] for d in mixed if d.kind == "real"][:10]
    assert all(int(kind) >= 20 for kind in first)  # that it never told


def test_kinds_by_words_alone(files: Path) -> None:
    """No tale of its own is a real one; each takes another's place, and what comes again and again has one."""
    write_jsonl(files / "other.jsonl", ({"text": tale(i, random.Random(0))} for i in range(100, 200)))
    code, samples = run(files, "out", "--real", str(files / "other.jsonl"))
    assert code == 0
    counts = Counter(d.messages[1].content.split()[0:2][-1] for d in samples if "tale" in d.messages[1].content)
    assert len(counts) > 10
    assert max(counts.values()) == 1
    assert {d.info for d in samples} == {"seed"}


def test_it_goes_on_after_a_kill(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def dying(prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
        asked.append(len(prompts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return collapsing(prompts, temperature, seed)

    verify = ("--verify", str(files / "kind.py"))
    _, told = run(files, "whole", *verify)
    monkeypatch.setattr(stage, "by_endpoint", lambda url, model: dying)
    assert run(files, "killed", *verify)[0] == 130
    with (files / "killed" / "told.jsonl").open("a") as torn:
        torn.write('"tale 3')
    assert run(files, "killed", *verify) == (0, told)
    assert sum(asked) == 400 + stage.BLOCK  # one block was asked for twice


def test_nothing_right_is_told_in_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "no.py").write_text("def verify(prompt, text):\n    return False\n")
    assert run(files, "out", "--verify", str(files / "no.py"))[0] == 2
    assert "too little to keep ({'asked': 400, 'whole': 400, 'right': 0})" in capsys.readouterr().err


def test_sets_and_earlier_generations(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "1. tale a one\n2. tale b two\n3. tale a again\n4. no"
    monkeypatch.setattr(stage, "by_endpoint", lambda url, model: lambda prompts, *_: [answer for _ in prompts])
    write_jsonl(files / "old.jsonl", [{"text": "tale c", "kind": "sample", "info": "seed", "gen": 3}])
    _, samples = run(
        files, "out", "--together", "3", "--verify", str(files / "kind.py"), "--earlier", str(files / "old.jsonl")
    )
    assert {(d.text, d.info, d.gen) for d in samples} == {
        ("tale a one", "verifier", 1),
        ("tale b two", "verifier", 1),
        ("tale c", "seed", 3),
    }
    assert headline(files, "out")["right"] == 2 * 134  # 400 texts, asked for three at a time


@pytest.fixture
def pupil(tmp_path: Path) -> tuple[Path, Tokenizer]:
    """A run whose model knows nothing: a token in a hundred or so ends what it says."""
    words = train(["quack moo hoo"] * 3, 270)
    model = Transformer(ModelConfig(270, 16, 32, 1, 2, 1, 8, 64), torch.float32)
    model.init_weights(0)
    exchange.save(tmp_path / "pupil" / "checkpoint", model, words, "")
    write_json(tmp_path / "pupil" / "meta.json", {"generations": {"0": 0.5, "1": 0.5}})
    return tmp_path / "pupil", words


def test_a_model_of_ours(pupil: tuple[Path, Tokenizer], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = pupil
    argv = ["generate", str(folder), "--prompt", "quack", "--form", "text", "--n", "8", "--made", "100"]
    argv += ["--out", str(folder / "out"), "--dtype", "float32", "--threads", "1", "--max-new-tokens", "20"]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "no stage will learn from what has nothing behind it" in said.err
    found = json.loads(said.out)
    assert found["asked"] == 100
    assert 8 <= found["whole"] < 50  # most are cut short
    rows = read_jsonl(folder / "out" / "samples.jsonl")
    assert all(row["text"].startswith("quack") for row in rows)
    assert {(row["kind"], row["gen"], row["info"]) for row in rows} == {("sample", 2, "none")}
    with pytest.raises(UserError, match="words with nothing behind them"):
        encode(words, [stage.sources.document_of(row, "") for row in rows])


def test_what_surprises_is_rather_kept(
    pupil: tuple[Path, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untaught model finds all alike; here what is long surprises it far more, whatever its bytes."""
    (tmp_path / "any.py").write_text("def verify(prompt, text):\n    return True\n")
    nats = lambda model, words, texts, prompts: np.array([-(float(len(text)) ** 3) for text in texts])  # noqa: E731
    monkeypatch.setattr(stage, "nats_of", nats)
    argv = ["generate", str(pupil[0]), "--prompt", "quack", "--form", "text", "--n", "20", "--made", "300", "--dtype"]
    argv += ["float32", "--threads", "1", "--max-new-tokens", "20", "--verify", str(tmp_path / "any.py")]
    assert main([*argv, "--out", str(tmp_path / "plain")]) == 0
    assert main([*argv, "--out", str(tmp_path / "surprise"), "--surprise"]) == 0
    lengths = [
        sum(len(row["text"]) for row in read_jsonl(tmp_path / name / "samples.jsonl")) for name in ("plain", "surprise")
    ]
    assert lengths[1] > 1.1 * lengths[0]
