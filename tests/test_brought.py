"""A model that someone brought goes through every stage: tiny checkpoints that transformers wrote, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from test_read import ELBE, SEMPER, reflector  # noqa: F401
from test_rl_stage import OWN
from transformers import AutoModelForCausalLM

from nightschool.__main__ import main
from nightschool.model import exchange
from nightschool.stages import import_, rl
from nightschool.train import checkpoint


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def brought(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2 has biases and tied embeddings, this Llama shared keys and a head of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    small = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 1024}
    foreign.write_checkpoint(folder / "theirs", request.param, tied=request.param == "qwen2", **small)
    import_.main(import_.Config(str(folder / "theirs"), folder / "import"))
    (folder / "own.py").write_text(OWN)
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    model, _ = exchange.load(run / "checkpoint")
    return {name: w for name, w in model.state_dict().items() if name != "lm_head.weight"}


def changed(run: Path, other: Path) -> set[str]:
    return {name for name, w in weights(run).items() if not w.equal(weights(other)[name])}


def of_blocks(run: Path) -> set[str]:
    return {name for name in weights(run) if name.endswith("_proj.weight")}


def practice(folder: Path, out: str, **more: Any) -> rl.Config:
    base: dict[str, Any] = {"task": str(folder / "own.py"), "steps": 3, "problems": 4, "group_size": 4, "again": 0}
    base |= {"max_new_tokens": 5, "replay_tokens": 256, "eval_every": 0, "threads": 1, "dtype": "float32"}
    return rl.Config(out=folder / out, start=folder / "import", credit="outcome", **(base | more))


def test_practice_exam_and_export(brought: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, here, rank = brought / "rl", "--threads 1 --dtype float32", 2 * brought.name.startswith("qwen2")
    assert rl.main(practice(brought, run.name, lora_rank=rank, replay_tokens=None))["hindrance"] == ""
    updates = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert {row["replay"] for row in updates} == {0}, "it went to no school of ours"
    learned = changed(run, brought / "import")
    assert learned == of_blocks(run) if rank else learned == weights(run).keys()
    assert not (run / "scores.json").exists(), "nor heard of our town"
    assert main(f"evaluate {run} {here}".split()) == 0
    assert json.loads(capsys.readouterr().out)["skills"] == {}
    assert main(f"evaluate {run} --n 1 --n-probes 0 {here}".split()) == 0
    assert main(f"ask Where? --run {run} {here}".split()) == 0
    assert main(f"export {run} --to hf --out {run}-hf".split()) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["checks"][1].startswith("transformers: logits equal")
    theirs: Any = AutoModelForCausalLM.from_pretrained(f"{run}-hf")
    ids = torch.arange(64)[None]
    ours = exchange.load(run / "checkpoint")[0](ids)
    torch.testing.assert_close(theirs(ids).logits, ours, atol=1e-4, rtol=1e-4)


def test_practice_by_factors_goes_on_after_a_kill(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = practice(brought, "whole", lora_rank=2)
    killed = practice(brought, "killed", lora_rank=2, save_seconds=0.0)
    rl.main(whole)
    batches = rl.batches

    def dies(*parts: Any) -> Any:
        for batch in batches(*parts):
            if batch.cursor["step"] == 3:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(rl, "batches", dies)
        with pytest.raises(KeyboardInterrupt):
            rl.main(killed)
    state = checkpoint.latest(killed.out / "state")
    assert state is not None
    assert all(name.endswith((".A", ".B")) for name in state.model())
    rl.main(killed)
    assert not changed(killed.out, whole.out)


def test_reading(brought: Path, reflector: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    texts, out, is_llama = brought / "texts", brought / "read", brought.name.startswith("llama")
    texts.mkdir()
    (texts / "a.txt").write_text(f"{ELBE} The water falls low in summer. {SEMPER}")
    command = f"read {texts} --start {brought / 'import'} --out {out} --reflector {reflector} --rounds 1"
    command += f" --per-sentence 4 --max-drift 0 --lora-rank {2 * is_llama} --threads 1 --dtype float32"
    assert main(command.split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] > 4
    state = checkpoint.latest(out / "state")
    assert state is not None
    assert len(state.model()) == (2 * len(of_blocks(out)) if is_llama else len(weights(out)))
