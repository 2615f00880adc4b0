"""The stage on a model of no schooling and a user's own task: it learns, goes on after a kill, knows when not to."""

import json
from pathlib import Path
from typing import Any

import pytest

from nightschool.model import exchange
from nightschool.model.engine import Completion
from nightschool.model.instinct import instinct
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.rl.credit import outcome
from nightschool.stages import rl
from nightschool.tasks.attempt import sample
from nightschool.tasks.task import Task
from nightschool.text import tokenizer as tokenizers
from nightschool.world.problem import Problem

OWN = """
from nightschool.tasks.task import Verdict, lines_of
from nightschool.world.problem import Problem

def sample(rng, split):
    n = rng.randrange(10**6)
    return Problem("digit", "", f"digit {n}", f"Say a digit, {n}.", "7", closing="7")

def verify(problem, transcript):
    said = lines_of(transcript)
    steps = tuple(any(c.isdigit() for c in line) for line in said)
    error = next((i for i, ok in enumerate(steps) if not ok), None if said else 0)
    return Verdict(float(bool(said) and error is None), steps, error)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rl")
    words = tokenizers.train(["Say a digit, 0123456789. user assistant"] * 3, 270)
    model = Transformer(ModelConfig(words.vocab_size, 32, 64, 2, 2, 2, 16, 128))
    model.init_weights(0)
    instinct(model, 0)
    exchange.save(folder / "start" / "checkpoint", model, words, "A model of no schooling.")
    (folder / "own.py").write_text(OWN)
    hard = OWN.replace('closing="7"', 'closing="7777777"').replace(
        "bool(said) and error is None", "said == ['7777777']"
    )
    (folder / "hard.py").write_text(hard)
    return folder


def config(place: Path, name: str, **more: Any) -> rl.Config:
    base: dict[str, Any] = {"task": str(place / "own.py"), "steps": 3, "problems": 4, "group_size": 4, "again": 0}
    base |= {"exam_n": 0, "max_new_tokens": 5, "replay_tokens": 0, "eval_every": 0, "threads": 1, "dtype": "float32"}
    return rl.Config(out=place / name, start=place / "start", **(base | more))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("optimizer", "size", "again"), [("muon", 8, 0), ("adamw", 8, 0), ("adamw", 1, 7)])
def test_it_learns(place: Path, optimizer: str, size: int, again: int) -> None:
    name = f"learns-{optimizer}-{again}"
    c = config(place, name, steps=24, problems=8, group_size=size, again=again, optimizer=optimizer, lr_scale=1.0)
    rl.main(c)
    rewards = [row["reward"] for row in rows_of(c.out)]
    assert sum(rewards[:5]) / 5 < 0.3
    assert sum(rewards[-5:]) / 5 > 0.5


@pytest.mark.parametrize("credit", ["outcome", "grpo", "maxrl", "first_error", "value", "monte_carlo"])
def test_every_credit_runs_and_is_measured(place: Path, credit: str) -> None:
    c = config(
        place, credit, credit=credit, average="token", clip="dapo", drop_even=True, eval_every=2, eval_n=4, eval_k=4
    )
    headline = rl.main(c)
    assert headline["rollouts"] == 48
    assert headline["hindrance"] == ""
    rows = rows_of(c.out)
    (dev,) = (row["dev"] for row in rows if "dev" in row)
    assert dev["pass@1"] <= dev["pass@4"]
    assert dev["kl"] > -0.01
    updates = [row for row in rows if "reward" in row]
    names = {"reward_std", "frac_reward_zero_std", "entropy", "stop/end", "seconds/verifying", "rollouts"}
    assert all(names <= row.keys() for row in updates)
    own = sum(row["sampled_tokens"] for row in updates)
    forward = sum(row["forward_tokens"] for row in updates)
    prompts = 12 * 20  # at least
    assert forward > own + prompts + (0 if credit != "monte_carlo" else own)
    meta = json.loads((c.out / "meta.json").read_text())
    assert meta["flops"] > 0
    assert set(meta["seconds_of"]) == {"auditing", "sampling", "verifying", "crediting", "evaluating", "training"}


def test_a_kill_changes_nothing(place: Path) -> None:
    whole, killed = config(place, "whole", steps=4), config(place, "killed", steps=4, save_seconds=0.0)
    rl.main(whole, outcome)
    calls = 0

    def dies(group: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4 + 8 + 3:  # after the look at the start; in the third update
            raise KeyboardInterrupt
        return outcome(group)

    with pytest.raises(KeyboardInterrupt):
        rl.main(killed, dies)
    assert not (killed.out / "meta.json").exists()
    rl.main(killed, outcome)
    weights = Path("checkpoint", "model.safetensors")
    assert (whole.out / weights).read_bytes() == (killed.out / weights).read_bytes()
    assert [r["reward"] for r in rows_of(whole.out)] == [r["reward"] for r in rows_of(killed.out)]


def test_what_never_succeeds_is_not_practised(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    c = config(place, "hard", task=str(place / "hard.py"), credit="outcome", max_new_tokens=1)
    assert rl.main(c)["rollouts"] == 0
    assert "not viable yet: pass@64 is 0" in capsys.readouterr().err
    weights = Path("checkpoint", "model.safetensors")
    assert (c.out / weights).read_bytes() == (c.start / weights).read_bytes()


def test_a_tool_hears_what_was_said_before() -> None:
    """Several turns: the task's step gets the calls so far, with what they gave."""

    class Caller:
        tokenizer = tokenizers.train(["a"], 270)

        def generate(self, prompts: Any, sampling: Sampling, tool: Any) -> list[Completion]:
            for row in range(len(prompts)):
                heard.append([tool(row, {"name": name, "arguments": {}}) for name in ("one", "two")])
            return []

    heard: list[list[str]] = []
    task = Task(
        lambda rng, split: Problem("", "", "k", "q", "a"),
        step=lambda problem, transcript, call: (
            f"{call['name']} after {[m.content for m in transcript if m.role == 'tool']}"
        ),
    )
    sample(Caller(), task, [Problem("", "", "k", "q", "a")] * 2, Sampling(), copies=1)  # type: ignore[arg-type]
    assert heard == [["one after []", "two after ['one after []']"]] * 2
