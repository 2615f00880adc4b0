"""The loop goes on bit for bit after any end, refuses what is not finite, divides each loss by its count."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nightschool.config import Stopped, UserError
from nightschool.runs import Run
from nightschool.text.packing import Batch
from nightschool.train import checkpoint
from nightschool.train.loop import Position, mean_gradients, split, train
from nightschool.train.optim import Optimizer

V, C, B, T = 11, 8, 6, 5


@dataclass(frozen=True)
class Config:
    seed: int = 0


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(V, C), nn.Linear(C, V)
        for i, p in enumerate(self.parameters()):
            p.data.normal_(generator=torch.Generator().manual_seed(i))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(ids)))


class Momentum:
    """The smallest optimizer with a state."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = dict(model.named_parameters())
        self.speed = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def expect(self) -> None:
        pass

    def reduce(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def step(self, lr_scale: float) -> None:
        for name, p in self.parameters.items():
            assert p.grad is not None
            self.speed[name].mul_(0.9).add_(p.grad)
            p.data.sub_(0.1 * lr_scale * self.speed[name])

    def zero_grad(self) -> None:
        for p in self.parameters.values():
            p.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.speed)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, speed in state.items():
            self.speed[name].copy_(speed)


def batch_number(i: int) -> Batch:
    g = torch.Generator().manual_seed(i)
    ids = torch.randint(V, (B, T + 1), generator=g)
    weights = (torch.rand(B, T, generator=g) < 0.7).float()
    return Batch(ids[:, :-1], ids[:, 1:], weights, docs=None, cursor={"next": i + 1})


def batches(cursor: dict[str, Any]) -> Iterator[Batch]:
    i = cursor.get("next", 0)
    while True:
        yield batch_number(i)
        i += 1


def loss_fn(model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    nats = nn.functional.cross_entropy(model(batch.ids).flatten(0, 1), batch.targets.flatten(), reduction="none")
    return {"loss": ((nats * batch.weights.flatten()).sum(), batch.weights.sum())}


def tiny_train(
    out: Path, loss: Callable[..., Any] = loss_fn, optimizer: Callable[..., Any] = Momentum, **options: Any
) -> tuple[Position, nn.Module]:
    model = Tiny()
    options = {"num_steps": 20, "schedule": lambda done: 1 - 0.9 * done, **options}
    run = Run.open(out, "tiny", Config())
    return train(run, model, optimizer(model), batches, loss, **options), model


def weights(model: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("seconds", "tokens_per_second")}


def test_learns_and_logs(tmp_path: Path) -> None:
    at, _ = tiny_train(tmp_path, num_steps=None, horizon_tokens=20 * B * T)
    assert (at.step, at.tokens, at.refused, at.cursor) == (20, 20 * B * T, 0, {"next": 20})
    log = rows(tmp_path)
    assert [row["step"] for row in log] == list(range(1, 21))
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[0].keys() == {"step", "tokens", "loss", "grad_norm", "lr", "tokens_per_second", "seconds"}
    assert log[0]["lr"] == pytest.approx(1 - 0.9 * 0.5 / 20)


def test_batches_may_end_before_the_horizon(tmp_path: Path) -> None:
    model = Tiny()
    run = Run.open(tmp_path, "tiny", Config())
    some = [batch_number(i) for i in range(3)]
    at = train(run, model, Momentum(model), lambda cursor: iter(some), loss_fn, schedule=lambda d: 1, num_steps=9)
    assert at.step == 3


def test_a_batch_is_not_read_before_its_step(tmp_path: Path) -> None:
    """Reinforcement samples batch i from the weights that step i - 1 left."""
    model, seen = Tiny(), []

    def live(cursor: dict[str, Any]) -> Iterator[Batch]:
        for batch in batches(cursor):
            seen.append(weights(model))
            yield batch

    run = Run.open(tmp_path, "tiny", Config())
    train(run, model, Momentum(model), live, loss_fn, schedule=lambda done: 1, num_steps=5)
    assert len(seen) == len(set(seen)) == 5
    assert seen[0] == weights(Tiny())


@pytest.mark.parametrize("two_counts", [False, True])
def test_micro_batches_equal_the_whole_batch(two_counts: bool) -> None:
    def losses(model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        squares = model(batch.ids).square().mean(dim=-1) * batch.ids.gt(6)
        count = batch.ids.gt(6).sum() if two_counts else batch.weights.sum()
        return {**loss_fn(model, batch), "squares": (squares.sum(), count)}

    batch = batch_number(0)
    found = []
    for micro_tokens in (10**6, 2 * T, 1):
        model = Tiny()
        means, gradients = mean_gradients(model, Momentum(model), losses, split(batch, micro_tokens))
        found.append((means, torch.cat([g.flatten() for g in gradients])))
    nats = nn.functional.cross_entropy(Tiny()(batch.ids).flatten(0, 1), batch.targets.flatten(), reduction="none")
    by_hand = (nats * batch.weights.flatten()).sum() / batch.weights.sum()
    for means, gradient in found:
        assert means["loss"] == pytest.approx(by_hand.item(), rel=1e-5)
        assert means == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-6)


def test_split_keeps_every_row_once() -> None:
    batch = replace(batch_number(0), docs=torch.arange(B)[:, None].expand(B, T), streams={"adv": torch.ones(B, T)})
    parts = split(batch, 4 * T)
    assert [len(part.ids) for part in parts] == [3, 3]
    assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)
    assert [part.docs[0, 0].item() for part in parts if part.docs is not None] == [0, 3]
    assert parts[1].streams["adv"].shape == (3, T)


def test_a_loss_without_tokens_counts_nothing() -> None:
    def losses(model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return {**loss_fn(model, batch), "none": (model(batch.ids).sum() * 0, torch.tensor(0.0))}

    model = Tiny()
    means, _ = mean_gradients(model, Momentum(model), losses, [batch_number(0)])
    assert means["none"] == 0
    assert means["loss"] > 0


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_refused_and_counted(tmp_path: Path, where: str) -> None:
    steps, before_after = [0], []

    def sometimes(model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        steps[0] += 1
        before_after.append(weights(model))
        total, count = loss_fn(model, batch)["loss"]
        if steps[0] == 4:
            x = next(model.parameters()).sum() * 0
            total = total * float("nan") if where == "loss" else total + torch.sqrt(x)  # d sqrt at 0 = inf, times 0
        return {"loss": (total, count)}

    at, _ = tiny_train(tmp_path, sometimes, num_steps=8)
    assert (at.step, at.refused) == (8, 1)
    assert before_after[3] == before_after[4] != before_after[5]
    assert [row["step"] for row in rows(tmp_path) if row.get("refused")] == [4]


def test_ten_refusals_in_a_row_stop_it(tmp_path: Path) -> None:
    def never(model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return {"loss": (loss_fn(model, batch)["loss"][0] * float("inf"), torch.tensor(1.0))}

    with pytest.raises(UserError, match="in 10 steps"):
        tiny_train(tmp_path, never)
    assert len(rows(tmp_path)) == 10


def test_clips_and_reports_the_norm_before(tmp_path: Path) -> None:
    _, free = tiny_train(tmp_path / "free", num_steps=1, clip_norm=0)
    _, tied = tiny_train(tmp_path / "tied", num_steps=1, clip_norm=0.01)
    norm = rows(tmp_path / "tied")[0]["grad_norm"]
    assert norm == rows(tmp_path / "free")[0]["grad_norm"] > 0.01
    moved = [
        [(p - q).flatten() for p, q in zip(m.parameters(), Tiny().parameters(), strict=True)] for m in (free, tied)
    ]
    torch.testing.assert_close(torch.cat(moved[1]), torch.cat(moved[0]) * 0.01 / norm, rtol=1e-3, atol=1e-7)


def test_saves_before_it_evaluates_and_evaluates_once(tmp_path: Path) -> None:
    """A kill during an evaluation loses neither the step nor the evaluation."""

    def die() -> dict[str, Any]:
        assert checkpoint.folders(tmp_path / "state")[-1].name == "step-000005"
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        tiny_train(tmp_path, evaluate=die, eval_every=5)
    counted = iter(range(100))
    tiny_train(tmp_path, evaluate=lambda: {"n": next(counted)}, eval_every=5)
    assert [(r["step"], r["dev"]["n"]) for r in rows(tmp_path) if "dev" in r] == [
        (5, 0),
        (10, 1),
        (15, 2),
        (20, 3),
    ]


def test_goes_on_from_an_earlier_state_if_the_newest_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, straight = tiny_train(tmp_path / "straight")
    torn = tmp_path / "torn"
    tiny_train(torn, num_steps=12, save_seconds=0)
    newest = checkpoint.folders(torn / "state")[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with (torn / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    _, resumed = tiny_train(torn)
    assert "step-000012 is damaged (model.safetensors" in capsys.readouterr().err
    # 12 steps of 12 and 20 of 20 have other schedules: equal weights are for the next test
    assert [row["step"] for row in rows(torn)] == list(range(1, 21))
    assert weights(resumed) != weights(straight)


def test_only_what_is_trained_is_saved_and_the_rest_is_left_as_it_is(tmp_path: Path) -> None:
    """As with LoRA: the base comes from where the run began, whatever it is."""

    def half(model: nn.Module) -> Optimizer:
        model.head.weight.requires_grad_(False)  # type: ignore[union-attr]
        return Optimizer(model, dtype=torch.float32)

    tiny_train(tmp_path, optimizer=half, num_steps=3)
    state = checkpoint.latest(tmp_path / "state")
    assert state is not None
    assert state.model().keys() == {"embed.weight", "head.bias"}
    assert state.optimizer().keys() == {f"{n}.{k}" for n in state.model() for k in ("mean", "square")} | {"num_steps"}
    at, model = tiny_train(tmp_path, optimizer=half, num_steps=5)
    assert at.step == 5
    assert torch.equal(model.head.weight, Tiny().head.weight)  # type: ignore[union-attr]


def child(out: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen([sys.executable, __file__, str(out)], env=env, stdout=subprocess.PIPE, text=True)


def steps_logged(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def wait_for_steps(process: subprocess.Popen[str], out: Path, num: int) -> None:
    before = steps_logged(out)
    while steps_logged(out) < before + num and process.poll() is None:
        time.sleep(0.002)


def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    child(tmp_path / "straight").communicate()
    chance = random.Random(4)
    for _ in range(3):
        process = child(tmp_path / "killed")
        wait_for_steps(process, tmp_path / "killed", chance.randint(1, 30))
        time.sleep(chance.random() * 0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    child(tmp_path / "killed").communicate()
    ends = [checkpoint.latest(tmp_path / name / "state") for name in ("straight", "killed")]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].info["step"] == ends[1].info["step"] == 200
    for kind in ("model.safetensors", "optim.safetensors"):
        assert (ends[0].folder / kind).read_bytes() == (ends[1].folder / kind).read_bytes()
    logs = [[without_times(row) for row in rows(tmp_path / name)] for name in ("straight", "killed")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path: Path, signum: int) -> None:
    process = child(tmp_path)
    wait_for_steps(process, tmp_path, 20)
    process.send_signal(signum)
    said, _ = process.communicate()
    assert process.returncode == 0
    state = checkpoint.latest(tmp_path / "state")
    assert state is not None
    assert said == f"stopped {int(signum)}\n"
    assert state.info["step"] == steps_logged(tmp_path) < 200


if __name__ == "__main__":
    try:
        tiny_train(Path(sys.argv[1]), optimizer=Optimizer, num_steps=200, save_seconds=0.03)
    except Stopped as stop:
        print("stopped", int(stop.signum))
