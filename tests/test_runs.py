"""A run folder goes on only with the run it holds, and its files are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nightschool.config import UserError
from nightschool.runs import (
    Costs,
    Run,
    atomic,
    progress,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)


@dataclass(frozen=True)
class Config:
    out: Path = Path("out")
    corpus: Path = Path("town")
    depth: int = 4
    seed: int = 3
    costs: Costs = Costs(watts=1000, dollars_per_kwh=0.5, dollars_per_hour=2)


def test_opens_anew_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "life" / "sft"
    run = Run.open(out, "sft", Config(out, out.parent / "town"))
    assert read_json(out / "config.json")["config"]["corpus"] == "../town"
    run.log(step=1, loss=2.5)
    out.parent.rename(tmp_path / "moved")  # a life that was moved whole goes on
    run = Run.open(tmp_path / "moved" / "sft", "sft", Config(tmp_path / "moved" / "sft", tmp_path / "moved" / "town"))
    run.log(step=2, loss=2.0)
    assert [row["loss"] for row in read_jsonl(run.path("metrics.jsonl"))] == [2.5, 2.0]
    assert not run.done


@pytest.mark.parametrize(
    ("verb", "config", "line"),
    [
        ("rl", Config(), "holds a run of 'sft', not 'rl'; choose another --out"),
        ("sft", Config(depth=6), "holds a run with depth 4, not 6; choose another --out"),
        ("sft", Config(costs=Costs(watts=3)), "holds a run with costs"),
    ],
)
def test_refuses_another_run(tmp_path: Path, verb: str, config: Config, line: str) -> None:
    Run.open(tmp_path, "sft", Config())
    before = read_json(tmp_path / "config.json")
    with pytest.raises(UserError, match=line):
        Run.open(tmp_path, verb, config)
    assert read_json(tmp_path / "config.json") == before


def test_refuses_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"seconds": 1.0}')  # a life's
    with pytest.raises(UserError, match=r"holds files that are no run's"):
        Run.open(tmp_path, "sft", Config())
    (tmp_path / "meta.json").unlink()
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(UserError, match=r"holds files that are no run's; choose another --out"):
        Run.open(tmp_path, "sft", Config())
    with pytest.raises(UserError, match=r"letters.txt is a file"):
        Run.open(tmp_path / "letters.txt", "sft", Config())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*config.json as JSON"):
        Run.open(tmp_path, "sft", Config())
    (tmp_path / "life" / "sft").mkdir(parents=True)
    Run.open(tmp_path / "life", "quickstart", Config())  # folders inside are the life's other runs


@pytest.mark.parametrize("done", [False, True])
def test_two_processes_share_only_what_is_done(tmp_path: Path, done: bool) -> None:
    """Labs side by side begin with one run, and whoever made it still lives."""
    run = Run.open(tmp_path, "sft", Config())
    if done:
        run.finish()
    code = f"""
from pathlib import Path
from nightschool.config import UserError
from nightschool.runs import Run
from tests.test_runs import Config
try:
    print(Run.open(Path({str(tmp_path)!r}), "sft", Config()).done)
except UserError as error:
    print(error)
"""
    root = Path(__file__).parents[1]
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert said.stdout.startswith("True" if done else "another process is at work in"), said.stderr


def test_settles_a_value_once(tmp_path: Path) -> None:
    assert Run.open(tmp_path, "sft", Config()).settle("dtype", lambda: "bfloat16") == "bfloat16"
    assert Run.open(tmp_path, "sft", Config()).settle("dtype", lambda: "float32") == "bfloat16"


def test_rewinds_past_a_torn_line(tmp_path: Path) -> None:
    run = Run.open(tmp_path, "sft", Config())
    assert run.rewind(0) == []
    for step in range(1, 6):
        run.log(step=step)
    with run.path("metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert run.rewind(3) == [{"step": 1}, {"step": 2}, {"step": 3}]
    run.log(step=4)
    assert [row["step"] for row in read_jsonl(run.path("metrics.jsonl"))] == [1, 2, 3, 4]


def test_finish_says_what_was_run_and_what_it_cost(tmp_path: Path) -> None:
    run = Run.open(tmp_path, "sft", Config())
    run.finish(seconds=1800.0, tokens=10, flops=20, threads=2, dtype="float32", device="toaster", note="hi")
    meta = run.meta
    assert run.done
    assert (meta["kwh"], meta["dollars"]) == (0.5, 0.5 * 0.5 + 0.5 * 2)
    assert meta["assumptions"] == {"watts": 1000, "dollars_per_kwh": 0.5, "dollars_per_hour": 2}
    expected = "verb commit diff versions device threads dtype seed command seconds tokens flops finished note"
    assert meta.keys() >= set(expected.split())
    assert (meta["seed"], meta["device"], meta["note"], meta["finished"]) == (3, "toaster", "hi", True)
    assert meta["versions"].keys() >= {"python", "torch", "nightschool"}


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text('{"new"')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_texts_come_back(tmp_path: Path) -> None:
    rows = [{"word": "Zoë"}, {"word": "\u2028"}]
    write_jsonl(tmp_path / "rows.jsonl", iter(rows))
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    write_text(tmp_path / "t", "Zoë\n")
    assert (tmp_path / "t").read_text(encoding="utf-8") == "Zoë\n"


def test_metrics_are_json(tmp_path: Path) -> None:
    run = Run.open(tmp_path, "sft", Config())
    with pytest.raises(ValueError, match="Out of range float"):
        run.log(step=1, loss=float("nan"))
    assert json.loads("[]") == run.rewind(9)


def test_progress_prints_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sleep", 4) as show:
        for i in range(4):
            show(i + 1, f"loss {i}")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["sleep       25%  loss 0", "sleep      100%  loss 3  0:00 left"]


def test_meta_tells_the_real_share_of_what_was_learned(tmp_path: Path) -> None:
    run = Run.open(tmp_path, "night", Config())
    assert "real_share" not in run.finish()  # nothing was counted
    run.log(step=1, learned_gen_0=30, learned_gen_1=10)
    run.log(step=2, learned_gen_0=45, learned_gen_2=15)
    meta = run.finish()
    assert (meta["real_share"], meta["generations"]) == (0.75, {"0": 0.75, "1": 0.1, "2": 0.15})
