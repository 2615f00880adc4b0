"""Several ranks do what one does; another number of them goes on; one that dies ends the run, and nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_read import reflector, start  # noqa: F401
from test_rl_stage import OWN

from nightschool import ranks
from nightschool.__main__ import main
from nightschool.config import Stopped, UserError
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.runs import Run
from nightschool.stages import tokenizer
from nightschool.text.packing import Batch
from nightschool.train import checkpoint
from nightschool.train.loop import train
from nightschool.train.losses import next_token
from nightschool.train.optim import Optimizer, deal, pieces_of

V, B, T = 50, 3, 8  # three rows: of four ranks one has none
NUM_STEPS = 6
ODD = 3  # the step whose last row has no finite loss
PARTS = ("auditing", "sampling", "verifying", "crediting")  # of practice
FORK = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Config:
    seed: int = 0


def tiny() -> Transformer:
    model = Transformer(ModelConfig(V, 32, 48, 2, 2, 1, 16, 64))
    model.init_weights(0)
    return model


def batches(cursor: dict[str, Any]) -> Iterator[Batch]:
    for i in range(cursor.get("next", 0), NUM_STEPS):
        g = torch.Generator().manual_seed(i)
        ids = torch.randint(1, V, (B, T + 1), generator=g)
        ids[-1, 0] = 0 if i + 1 == ODD else 1
        weights = (torch.rand(B, T, generator=g) < torch.tensor([[0.9], [0.5], [0.1]])).float()
        yield Batch(ids[:, :-1], ids[:, 1:], weights, docs=None, cursor={"next": i + 1})


def one_count(model: Transformer, batch: Batch) -> dict[str, Any]:
    total, count = next_token(model, batch)["loss"]
    return {"loss": (total * (float("nan") if (batch.ids[:, 0] == 0).any() else 1), count)}


def two_counts(model: Transformer, batch: Batch) -> dict[str, Any]:
    few = replace(batch, weights=batch.weights * (batch.targets < 20))
    return {**one_count(model, batch), "few": next_token(model, few)["loss"]}


LOSSES = {"one": one_count, "two": two_counts}


def work(out: Path, counts: str, signal_at: int, signum: int) -> None:
    """Train; the last rank sends itself a signal in a step."""
    model, num_calls = tiny(), 0
    at = checkpoint.latest(out / "state")

    def loss_fn(model: Transformer, batch: Batch) -> dict[str, Any]:
        nonlocal num_calls
        num_calls += 1
        if signum and num_calls == signal_at - (at.info["step"] if at else 0) and ranks.rank() == ranks.size() - 1:
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)  # torchrun passes on what Slurm has sent to all: not a user who will not wait
        return LOSSES[counts](model, batch)

    optimizer = Optimizer(model, weight_decay=0.1, dtype=torch.float32)
    run = Run.open(out, "tiny", Config())
    schedule = {"schedule": lambda done: 1 - 0.9 * done, "num_steps": NUM_STEPS}
    train(run, model, optimizer, batches, loss_fn, **schedule, save_seconds=0 if signum else 60)


def become(rank: int, size: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)


def verb_main(rank: int, size: int, port: int, argv: list[str]) -> None:
    become(rank, size, port)
    sys.exit(main(argv))


def rank_main(rank: int, size: int, port: int, jobs: list[tuple[Any, ...]]) -> None:
    become(rank, size, port)
    with ranks.joined():
        assert ranks.size() == size
        assert ranks.first(lambda: (ranks.rank(), ranks.size(), ranks.first(lambda: 7))) == (0, 1, 7)
        for job in jobs:
            try:
                work(*job)
            except Stopped:
                print("stopped", flush=True)
            except UserError as error:
                (job[0] / f"rank-{rank}.txt").write_text(str(error))
                sys.exit(2)


def spawn(size: int, *jobs: Any, target: Any = rank_main) -> list[int | None]:
    """The exit codes of so many ranks."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    FORK.set_forkserver_preload(["torch", "nightschool.train.loop"])
    processes = [FORK.Process(target=target, args=(r, size, port, jobs)) for r in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def rows(out: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    timed = ("seconds", "tokens_per_second", *(f"seconds/{part}" for part in PARTS))
    read = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in timed} for row in read]


def same(out: Path, alone: Path) -> None:
    for ours, theirs in zip(rows(out), rows(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    mine, one = (checkpoint.latest(path / "state") for path in (out, alone))
    assert mine is not None
    assert one is not None
    for tensors in ("model", "optimizer"):
        a, b = getattr(mine, tensors)(), getattr(one, tensors)()
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for counts in LOSSES:
        work(folder / counts, counts, 0, 0)
        assert [row["step"] for row in rows(folder / counts) if row.get("refused")] == [ODD]
    return folder


@pytest.mark.parametrize(("size", "losses"), [(2, ["one", "two"]), (3, ["two"]), (4, ["one"])])
def test_several_ranks_do_what_one_does(size: int, losses: list[str], alone: Path, tmp_path: Path) -> None:
    """Losses, norms, the refused step, weights and optimizer state; with one count and with two."""
    assert spawn(size, *((tmp_path / counts, counts, 0, 0) for counts in losses)) == [0] * size
    for counts in losses:
        same(tmp_path / counts, alone / counts)


def test_another_number_of_ranks_goes_on(alone: Path, tmp_path: Path) -> None:
    """A signal to one rank stops all after the same step: 2 ranks -> 3 -> 1."""
    for size, stop in ((2, 2), (3, 4)):
        assert spawn(size, (tmp_path / "run", "one", stop, signal.SIGTERM)) == [0] * size
        state = checkpoint.latest(tmp_path / "run" / "state")
        assert state is not None
        assert state.info["step"] == stop
    work(tmp_path / "run", "one", 0, 0)
    same(tmp_path / "run", alone / "one")


def on_two(line: str) -> None:
    assert spawn(2, *line.split(), "--threads", "1", "--dtype", "float32", target=verb_main) == [0, 0]


def test_one_problem_among_two_ranks(start: Path, tmp_path: Path) -> None:  # noqa: F811
    """A rank without a problem tries nothing, and has nothing to learn where there are fewer rows than ranks; both used
    to end the run."""
    (tmp_path / "own.py").write_text(OWN)
    line = f"rl --start {start} --task {tmp_path / 'own.py'} --credit outcome --again 0 --group-size 4 --problems 1"
    line += " --steps 2 --replay-tokens 256 --max-new-tokens 5 --exam-n 0 --eval-every 0 --lora-rank 2 --save-seconds 0"
    on_two(f"{line} --out {tmp_path / 'two'}")
    assert main([*line.split(), "--out", str(tmp_path / "one"), "--threads", "1", "--dtype", "float32"]) == 0
    same(tmp_path / "two", tmp_path / "one")


def test_two_ranks_read_and_sleep(start: Path, reflector: str, tmp_path: Path) -> None:  # noqa: F811
    texts = start.parent / "texts"
    reading = f"--reflector {reflector} --rounds 1 --per-sentence 3 --max-drift 0 --lora-rank 2"
    on_two(f"read {texts} --start {start} --out {tmp_path / 'read'} {reading}")
    on_two(f"night --start {start} --out {tmp_path / 'night'} --per-document 1 --tokens 2000 --n-gate 1")
    for run in ("read", "night"):
        assert not json.loads((tmp_path / run / "night.json").read_text())["gate"]["passed"]
        assert (tmp_path / run / "checkpoint" / "model.safetensors").exists()


def test_a_dead_rank_ends_the_run_and_the_last_state_stands(alone: Path, tmp_path: Path) -> None:
    codes = spawn(3, (tmp_path / "run", "one", 5, signal.SIGKILL))
    assert codes == [2, 2, -signal.SIGKILL]
    for rank in range(2):
        assert "another rank is gone" in (tmp_path / "run" / f"rank-{rank}.txt").read_text()
    state = checkpoint.latest(tmp_path / "run" / "state")
    assert state is not None
    assert state.info["step"] == 4
    assert spawn(3, (tmp_path / "run", "one", 0, 0)) == [0] * 3
    same(tmp_path / "run", alone / "one")


def test_sums_begin_in_the_midst_of_the_last_backward_pass_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(ranks, "sum_to_owners", lambda tensors: summed.append(tensors[0].numel()) or (lambda: None))
    model = tiny()
    optimizer = Optimizer(model)
    batch = next(batches({}))
    one_count(model, batch)["loss"][0].backward()
    assert summed == []
    optimizer.expect()
    one_count(model, batch)["loss"][0].backward()
    begun = len(summed)
    optimizer.reduce()
    assert begun == len(summed) == len(optimizer.buckets) > 5


def test_a_verb_for_one_process_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["quickstart"]) == 2
    assert capsys.readouterr().err == "nightschool: quickstart works in one process; start it without torchrun\n"


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8, 64])
def test_every_number_is_dealt_once_and_shares_are_even(num_ranks: int) -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig(512, 128, 384, 12, 4, 4, 32, 64, tie_word_embeddings=False))
    buckets = deal(pieces_of(model, num_ranks), num_ranks)
    numels = [
        sum(piece.values.numel() for bucket in buckets if (piece := bucket[rank]) is not None)
        for rank in range(num_ranks)
    ]
    assert sum(numels) == sum(p.numel() for p in model.parameters())
    largest = max(p.numel() for p in model.parameters() if p.ndim == 2)
    assert max(numels) - min(numels) <= 3 * largest
    assert all(len({piece.values.numel() for piece in bucket if piece}) == 1 for bucket in buckets)
    first = next(piece for piece in buckets[0] if piece)
    assert first.name in ("lm_head.weight", "model.norm.weight")


def test_torchrun_ends_when_a_rank_dies(tmp_path: Path) -> None:
    """The verb itself, under torchrun: its exit code, a line that says what stands, and a state that is whole."""
    tokenizer.main(tokenizer.Config(tmp_path / "tokenizer", documents=100))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["nightschool", "pretrain", "--tokenizer", str(tmp_path / "tokenizer"), "--out", str(tmp_path / "run")]
    command += ["--tokens", "1000000", "--dtype", "float32", "--save-seconds", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "state" / "step-000002").exists() and process.poll() is None:
        time.sleep(0.01)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "nightschool: another rank is gone" in said
    state = checkpoint.latest(tmp_path / "run" / "state")
    assert state is not None
    assert state.info["step"] >= 2
