"""The collapse lab: its exact measures, its bars, and two generations of it."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightschool.__main__ import main
from nightschool.lab import collapse, generations
from nightschool.lab.collapse import bars
from nightschool.lab.exact import DRAWS, PLAIN, drift, kind_of, measures, real, spread, told, world
from nightschool.runs import read_json, read_jsonl, write_json, write_jsonl
from nightschool.text.document import Document

TRUTH = spread(world().p, DRAWS)


def test_the_world_is_known_exactly() -> None:
    w = world()
    assert (len(w.texts), len(w.p)) == (704, 320)
    assert np.exp(w.nats).sum() == pytest.approx(1)
    assert np.bincount(w.kind, np.exp(w.nats)) == pytest.approx(w.p)
    assert (np.diff(w.p) <= 0).all()


def test_spread_by_hand() -> None:
    assert spread(np.array([0.5, 0.5, 0.0]), 1) == pytest.approx({"kinds": 1, "exp_entropy": 2, "effective_number": 2})
    half_wrong = spread(np.array([0.25, 0.25]), 2)  # each kind is told in two draws with 1 - 0.75²
    assert half_wrong == pytest.approx({"kinds": 0.875, "exp_entropy": 2, "effective_number": 2})
    assert spread(np.array([0.8, 0.2]), 1)["effective_number"] == pytest.approx(1 / (0.64 + 0.04))


def test_a_model_that_tells_the_truth_and_one_that_lost_the_tail() -> None:
    w = world()
    lengths = np.full(len(w.texts), 25)
    asked = w.nats - np.log([sum(np.exp(w.nats[i]) for i in range(704) if w.topic[i] == t) for t in w.topic])
    found = measures(w.nats, asked, lengths)
    assert found["validity"] == pytest.approx(1)
    assert {key: found[key] for key in TRUTH} == pytest.approx(TRUTH)
    assert found["excess_bits_by_decile"] == pytest.approx([0] * 10)
    assert found["downstream"] == pytest.approx(1)  # of what is asked for it tells nothing else
    rarest = w.kind >= 288
    halved = measures(w.nats - np.log(2) * 25 * rarest, asked, lengths)  # a bit a token less for the rarest decile
    assert halved["excess_bits_by_decile"] == pytest.approx([0] * 9 + [1])
    assert halved["tail_bits"] == pytest.approx(1)
    assert halved["kinds"] < TRUTH["kinds"] - 20


def test_told_in_three_ways() -> None:
    jokes = [replace(d, gen=i % 2, weight=1 + i) for i, d in enumerate(real(0, 0, 12))]
    found = told(jokes, random.Random(0))
    assert [d.text for d in found[:6]] == [f"Joke:\n{d.text}" for d in jokes[::2]]
    assert [d.text.partition("\n")[2] for d in found[6:9]] == [d.text for d in jokes[1::4]]
    assert all(d.text.startswith("Joke about ") for d in found[6:9])
    (three,) = found[9:]
    assert three.text.startswith("Three jokes:\n")
    of_it = jokes[3::4]
    assert set(three.text.split("\n")[1:]) == {d.text for d in of_it}
    assert set(three.parents) == {d.id for d in of_it}
    assert three.gen == 1
    assert three.weight == pytest.approx(np.mean([d.weight for d in of_it]))


def test_drift_of_a_perfect_copier() -> None:
    ends = {name: drift(15_000, 100, 5, *how, times=20)[-1]["kinds"] for name, how in DRIFTS.items()}
    assert ends["replace"] < ends["floor"] < ends["accumulate"] < TRUTH["kinds"]
    alone = drift(15_000, 1, 1, 0.0, False, times=3)
    assert alone[0]["kinds"] > 250
    assert alone[1] == pytest.approx({"kinds": 1, "exp_entropy": 1, "effective_number": 1})


DRIFTS = {"replace": (0.0, False), "floor": (0.1, False), "accumulate": (0.0, True)}


def test_bars_tell_right_from_wrong() -> None:
    drifts = {"floor": [TRUTH]}

    def arm(**last: float) -> list[dict[str, Any]]:
        first = {**TRUTH, "validity": 0.97, "tail_bits": 0.0, "downstream": 0.9}
        return [{"seed": seed, "generations": [first, first | last]} for seed in range(3)]

    good = {"ours": arm(), "naive": arm(kinds=TRUTH["kinds"] / 6, validity=0.99), "real_only": arm()}
    assert all(bar["holds"] for bar in bars(good, drifts))
    bad = {
        "ours": arm(kinds=0.8 * TRUTH["kinds"], exp_entropy=0.8 * TRUTH["exp_entropy"], tail_bits=0.2, downstream=0.8),
        "naive": arm(kinds=TRUTH["kinds"] / 4, validity=0.9),
        "real_only": arm(),
    }
    assert not any(bar["holds"] for bar in bars(bad, drifts))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> generations.Config:
    folder = tmp_path_factory.mktemp("lab")
    config = generations.Config(
        out=folder / "runs",
        results=folder / "results",
        seeds=(0,),
        arms=("naive", "accumulate", "ours"),
        generations=2,
        start_jokes=3000,
        start_tokens=60_000,
        jokes=100,
        tokens=8_000,
        threads=1,
    )
    config.results.mkdir()
    write_json(config.results / "collapse_sweep.json", {"arms": {"1": 0.2, "3": 0.1}})
    collapse.main(config)
    return config


def test_two_generations(lab: generations.Config) -> None:
    result = read_json(lab.results / "collapse.json")
    assert result["arms"].keys() == {"naive", "accumulate", "ours"}
    lives = {name: arm["rows"][0]["generations"] for name, arm in result["arms"].items()}
    assert lives["naive"][2]["generations"] == {"2": 1.0}
    assert lives["accumulate"][2]["generations"].keys() == {"0", "1", "2"}
    assert 0.02 < lives["ours"][2]["real_share"] < 0.2  # a tenth at most, and what single jokes add or take away
    flops = [row["flops"] for life in lives.values() for row in life[1:]]
    assert max(flops) < 1.02 * min(flops)
    page = (lab.results / "collapse.html").read_text()
    assert "data:image/svg" in page
    assert "naive_fails" in page
    assert "nan" not in (lab.results / "collapse.svg").read_text()


def test_its_lineage(lab: generations.Config) -> None:
    folder = lab.out / "seed-0" / "ours"
    made = [Document(**row) for row in read_jsonl(folder / "gen-02" / "lineage.jsonl")]
    assert {(d.kind, d.gen, d.info) for d in made} == {("sample", 2, "seed")}
    assert all(d.text in world().texts for d in made)
    documents, again, _ = generations.food(lab, "ours", 0, 2, [folder / "gen-01"])
    assert [d.text for d in again] == [d.text for d in made]
    assert {d.gen for d in documents} == {0, 1, 2}  # what was made before is still there
    assert sum(d.gen == 0 for d in documents) <= 0.1 * lab.tokens / generations.JOKE_TOKENS
    shares = Counter(kind_of(d.text) for d in real(0, 0, lab.start_jokes))
    commonest, count = shares.most_common(1)[0]
    dealt = sum(kind_of(d.text) == commonest for d in documents)
    assert dealt == pytest.approx(lab.tokens / generations.JOKE_TOKENS * count / lab.start_jokes, abs=1.5)


def test_a_killed_lab_goes_on_and_comes_to_the_same(lab: generations.Config, tmp_path: Path) -> None:
    gone = lab.out / "seed-0" / "ours" / "gen-02"
    before, kept = read_json(gone / "row.json"), (lab.out / "seed-0" / "ours" / "gen-01" / "meta.json").stat().st_mtime
    gone.rename(tmp_path / "gone")
    collapse.main(lab)
    assert read_json(gone / "row.json") == before
    assert (lab.out / "seed-0" / "ours" / "gen-01" / "meta.json").stat().st_mtime == kept


def test_half_of_the_food_is_a_peers(lab: generations.Config) -> None:
    start = generations.folder_of(lab, "peers", 0, 0)
    documents, _, cost = generations.food(lab, "peers", 0, 1, [start, start])
    own, peers = ([d.text for d in documents if d.info == info] for info in ("verifier", "peer"))
    assert len(documents) == len(own) + len(peers)
    assert 0 < len(peers) <= 50
    assert 0 < len(own) <= 50
    assert own != peers  # the same model, but other draws
    assert cost > 20 * 2 * 62  # two teachers, a quarter more than is wanted of each


def test_an_audit_sees_what_the_naive_loop_forgot(
    lab: generations.Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "real.jsonl", ({"text": PLAIN + d.text} for d in real(9, 0, 400)))
    runs = ("--checkpoint", lab.out / "seed-0/naive/gen-02", "--before", lab.out / "seed-0/start/gen-00")
    files = (tmp_path / "real.jsonl", "--ref", tmp_path / "real.jsonl", "--out", tmp_path / "audit")
    assert main(["audit", *map(str, (*files, *runs))]) == 0
    said = capsys.readouterr()
    parts = json.loads(said.out)["excess_bits"]
    assert len(parts) == 10
    assert parts[-1]["low"] > parts[0]["high"]
    assert f"{parts[-1]['value']:+.3f}" in said.err
