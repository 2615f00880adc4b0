"""Review: marks against the plain formula, measures by hand, homework, and a kill that changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nightschool.config import UserError
from nightschool.model import exchange
from nightschool.model.engine import Completion, Engine
from nightschool.model.instinct import instinct
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.night import homework
from nightschool.rl import review
from nightschool.rl.credit import first_wrong
from nightschool.stages import review as stage
from nightschool.tasks.attempt import Attempt, turns_of
from nightschool.tasks.task import Task, Verdict, lines_of
from nightschool.text import chat
from nightschool.text import tokenizer as tokenizers
from nightschool.text.document import Message
from nightschool.world.problem import Problem

PROBLEM = Problem("sum", "add", "k", "1+1+1", "3", steps=("1+1=2",), closing="3")


def either(problem: Problem, transcript: Sequence[Message]) -> Verdict:
    """A line is right if it holds a 1, and the first that does not ends it."""
    steps = tuple("1" in line for line in lines_of(transcript))
    error = next((i for i, ok in enumerate(steps) if not ok), None)
    return Verdict(float(error is None), tuple(error is None or i < error for i in range(len(steps))), error)


TASK = Task(lambda rng, split: replace(PROBLEM, key=f"{rng.random()}", question=f"{rng.randrange(1000)}+1"), either)


@pytest.fixture(scope="module")
def words() -> tokenizers.Tokenizer:
    return tokenizers.train(["1+1=2\n3 user assistant Solution: Say 1, 0123456789."] * 5, 320)


@pytest.fixture(scope="module")
def model(words: tokenizers.Tokenizer) -> Transformer:
    made = Transformer(ModelConfig(words.vocab_size, 32, 64, 2, 2, 2, 16, 256))
    made.init_weights(0)
    instinct(made, 0)
    return made


def written(words: tokenizers.Tokenizer, text: str, stop: str = "end") -> Attempt:
    prompt = chat.render(words, PROBLEM.messages[:1], generate=True)[0]
    ids = [*words.encode(text), *([words.turn_end] if stop == "end" else [])]
    made = Completion(prompt, ids, [-0.5] * len(ids), [1] * len(ids), stop)  # type: ignore[arg-type]
    transcript = turns_of(words, made)
    return Attempt(PROBLEM, made, transcript, TASK.verify(PROBLEM, transcript))


def test_a_line_is_as_likely_as_its_tokens_and_what_was_cut_off_cannot_end(words: tokenizers.Tokenizer) -> None:
    a = written(words, "1+1=2\n3")
    first, second = len(words.encode("1+1=2\n")), len(words.encode("3"))
    p = math.exp(-0.5)
    assert review.by_line(words, a, a.completion.log_probs) == pytest.approx([p**first, p**second, p])
    cut = review.by_line(words, written(words, "1+1=2\n3", "length"), [-0.5] * (first + second))
    assert cut == pytest.approx([p**first, p**second, 0])


@pytest.mark.parametrize("aware", [False, True])
def test_marks_are_those_of_each_attempt_alone(words: tokenizers.Tokenizer, model: Transformer, aware: bool) -> None:
    attempts = [written(words, "1+1=2\n3"), written(words, "3"), written(words, "1+1+1", "length")]
    found, _ = review.read(model, words, attempts, aware)
    for a, marks in zip(attempts, found, strict=True):
        asked = "1+1+1\n\nSolution:\n1+1=2\n3" if aware else "1+1+1"
        prompt, _ = chat.render(words, [Message("user", asked)], generate=True)
        log_q = model(torch.tensor([[*prompt, *a.completion.ids]]))[0].float().log_softmax(-1)
        said = [log_q[len(prompt) + i - 1, id].item() for i, id in enumerate(a.completion.ids)]
        assert marks == pytest.approx(review.by_line(words, a, said), rel=1e-3)


def test_what_the_context_does_not_hold_is_wrong(words: tokenizers.Tokenizer, model: Transformer) -> None:
    (marks,), _ = review.read(model, words, [written(words, "\n".join(["1+1=2"] * 60))])
    assert len(marks) == 61
    assert marks[0] > 0
    assert marks[-2:] == [0, 0]


def test_places_by_hand() -> None:
    assert first_wrong([0.5, 0.5]) == [0.5, 0.25, 0.25]
    assert review.guess([0.9, 0.2, 0.9]) == 1
    assert review.guess([0.9, 0.8]) == 2  # nothing wrong: 0.72
    verdicts = [Verdict(1.0, (True,) * 2), Verdict(0.0, (True,) * 2), Verdict(1.0, (True, False), 1), Verdict(0, (), 0)]
    attempts = [Attempt(PROBLEM, Completion([1]), (), verdict) for verdict in verdicts]
    assert [review.truth(a) for a in attempts] == [3, 2, 1, 0]


def test_measures_by_hand() -> None:
    verdicts = [Verdict(1.0, (True,)), Verdict(0.0, (True,)), Verdict(0.0, (False,), 0)]
    attempts = [Attempt(PROBLEM, Completion([1]), (), verdict) for verdict in verdicts]
    assert [review.is_right(a) for a in attempts] == [True, False, False]
    found = review.measured(attempts, [[0.9, 0.8], [0.9, 0.4], [0.9, 0.9]])
    assert (found["first_error"], found["right"], found["wrong"]) == pytest.approx((2 / 3, 1, 1 / 2))
    # marks that count: 0.9 three times, of which two came true, 0.8 that did and 0.4 that did not
    assert found["calibration"] == pytest.approx((3 * (0.9 - 2 / 3) + 0.2 + 0.4) / 5)
    assert found["calibration_whole"] == pytest.approx((1 - 0.72 + 0.36 + 0.81) / 3)
    assert review.calibration_error([(0.5, 1.0), (0.5, 0.0)] * 15) == pytest.approx(0)


def test_homework_is_mended_from_its_last_right_line(words: tokenizers.Tokenizer, model: Transformer) -> None:
    done = homework.review(Engine(model, words), model, TASK, 24, seed=0)
    assert len(done) == 24
    assert any(one.mended for one in done)
    for one in (one for one in done if one.mended):
        assert all("1" in line for line in one.mended.split("\n"))
        assert one.mended.split("\n")[: one.place] == list(one.lines[: one.place])
        assert [m.content for m in one.lesson.messages] == [one.prompt, one.mended]
        assert one.lesson.info == "verifier"


OWN = """
import random
from nightschool.tasks.task import Verdict, lines_of
from nightschool.world.problem import Problem

def sample(rng, split):
    n = rng.randrange(10**6)
    return Problem("digit", "", f"digit {n}", f"Say 1, {n}.", "1", closing="1")

def verify(problem, transcript):
    steps = tuple("1" in line for line in lines_of(transcript))
    error = next((i for i, ok in enumerate(steps) if not ok), None if steps else 0)
    return Verdict(float(error is None), steps, error)
"""


@pytest.fixture(scope="module")
def place(words: tokenizers.Tokenizer, model: Transformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    exchange.save(folder / "start" / "checkpoint", model, words, "A model of no schooling.")
    (folder / "own.py").write_text(OWN)
    (folder / "blind.py").write_text(OWN.replace("steps, error)", "(), None)"))
    return folder


def config(place: Path, name: str, **more: object) -> stage.Config:
    base: dict[str, object] = {"task": str(place / "own.py"), "problems": 64, "eval_n": 8}
    base |= {"solution_tokens": 2000, "tokens": 20_000, "max_new_tokens": 6, "threads": 1, "dtype": "float32"}
    return stage.Config(out=place / name, start=place / "start", **(base | more))  # type: ignore[arg-type]


def test_a_kill_changes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = config(place, "whole"), config(place, "killed", save_seconds=0.0)
    headline = stage.main(whole)
    lessons = [json.loads(line) for line in (whole.out / "lessons.jsonl").read_text().splitlines()]
    assert headline["kept"] == len(lessons) / 64 > 0
    assert all("1" in line for row in lessons for line in row["messages"][1]["content"].split("\n"))
    assert all("Solution" not in row["messages"][0]["content"] for row in lessons)
    shown = [json.loads(line) for line in (whole.out / "rollouts.jsonl").read_text().splitlines()]
    assert all({"credit", "mark", "review"} <= step.keys() for row in shown for step in row["steps"])

    chunk, made = stage.Lessons.chunk, []

    def dies(self: stage.Lessons, i: int) -> object:
        made.append(i)
        if len(made) == 2:
            raise KeyboardInterrupt
        return chunk(self, i)

    monkeypatch.setattr(stage.Lessons, "chunk", dies)
    with pytest.raises(KeyboardInterrupt):
        stage.main(killed)
    assert not (killed.out / "meta.json").exists()
    stage.main(killed)
    weights = Path("checkpoint", "model.safetensors")
    assert (whole.out / weights).read_bytes() == (killed.out / weights).read_bytes()


def test_bad_input(place: Path) -> None:
    with pytest.raises(UserError, match="verifies none"):
        stage.main(config(place, "blind", task=str(place / "blind.py")))
