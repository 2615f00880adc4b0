"""Review: what is shown and learned, marks against the plain formula, calibration by hand, homework, a kill."""

from __future__ import annotations

import json
import math
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
from nightschool.rl.review import END, Work
from nightschool.stages import review as stage
from nightschool.tasks.attempt import Attempt, turns_of
from nightschool.tasks.task import Task, Verdict, lines_of
from nightschool.text import chat
from nightschool.text import tokenizer as tokenizers
from nightschool.text.packing import collate
from nightschool.world.problem import Problem

PROBLEM = Problem("sum", "add", "k", "1+1+1", "3", steps=("1+1=2",), closing="3")
WORK = Work("1+1+1", ("1+1=2", "3"), (9, 4, 7))


def either(problem: Problem, transcript: tuple[chat.Message, ...]) -> Verdict:
    """A line is right if it holds a 1, and the first that does not ends it."""
    steps = tuple("1" in line for line in lines_of(transcript))
    error = next((i for i, ok in enumerate(steps) if not ok), None)
    return Verdict(float(error is None), tuple(error is None or i < error for i in range(len(steps))), error)


TASK = Task(lambda rng, split: replace(PROBLEM, key=f"{rng.random()}", question=f"{rng.randrange(1000)}+1"), either)


@pytest.fixture(scope="module")
def words() -> tokenizers.Tokenizer:
    return tokenizers.train(["1+1=2\n3 user assistant right wrong That is all. Review: Solution: (9)"] * 5, 320)


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


def test_sureness_by_hand() -> None:
    log_probs = [0.0, -1 / 64, -1 / 33, -1 / 32, -0.5, -1.0, -8.0, -9.0, -math.inf]
    assert [review.sureness(x) for x in log_probs] == [9, 9, 8, 8, 4, 3, 0, 0, 0]


def test_a_line_is_as_likely_as_its_tokens_and_what_was_cut_off_cannot_end(words: tokenizers.Tokenizer) -> None:
    a = written(words, "1+1=2\n3")
    first, second = len(words.encode("1+1=2\n")), len(words.encode("3"))
    assert review.by_line(words, a, a.completion.log_probs) == [-0.5 * first, -0.5 * second, -0.5]
    cut = review.by_line(words, written(words, "1+1=2\n3", "length"), [-0.5] * (first + second))
    assert cut == [-0.5 * first, -0.5 * second, -math.inf]


def test_what_is_shown_and_what_is_learned(words: tokenizers.Tokenizer) -> None:
    turns = review.conversation(WORK, [True, False])
    assert [m.content for m in turns] == ["1+1+1\n\nReview:\n1+1=2 (9)", "right", "3 (4)", "wrong"]
    assert review.conversation(WORK, [True] * 3)[-2].content == f"{END} (7)"
    (item,) = review.to_items(words, [WORK], [[0.75, 0.25]])
    places = [i for i, learned in enumerate(item.mask) if learned]
    assert [item.ids[i] for i in places] == [review.pair(words)[0]] * 2
    assert [item.streams["wrong"][i] for i in places] == [0.25, 0.75]


def test_what_is_learned_is_forward_kl(words: tokenizers.Tokenizer, model: Transformer) -> None:
    items = review.to_items(words, [WORK, WORK], [[0.9, 0.2], [1.0, 1.0, 0.5]])
    batch = collate([[item] for item in items], 128, words.end_of_text, packed=False)
    total, count = review.imitation(words)(model, batch)["loss"]
    yes, no = review.pair(words)
    expected = 0.0
    for row, p in zip(range(2), ([0.9, 0.2], [1.0, 1.0, 0.5]), strict=True):
        log_q = model(batch.ids[row : row + 1])[0][batch.weights[row] > 0].float().log_softmax(-1).tolist()
        expected -= sum(right * q[yes] + (1 - right) * q[no] for right, q in zip(p, log_q, strict=True))
    assert count.item() == 5
    assert total.item() == pytest.approx(expected, rel=1e-4)


def test_marks_are_those_of_each_beginning(words: tokenizers.Tokenizer, model: Transformer) -> None:
    """All marks come from one pass; here each from a prompt of its own, and the other attempt is of another length."""
    marks, _ = review.read(model, words, [WORK, replace(WORK, lines=("1",), sure=(9, 9))])
    assert [len(p) for p in marks] == [3, 2]
    for i, p in enumerate(marks[0]):
        asked = review.conversation(WORK, [True] * (i + 1))[:-1]
        ids, _ = chat.render(words, asked, generate=True)
        logits = model(torch.tensor([ids]))[0, -1].float()[review.pair(words)]
        assert p == pytest.approx(logits.softmax(-1)[0].item(), abs=1e-4)


def test_what_the_context_does_not_hold_is_wrong(words: tokenizers.Tokenizer, model: Transformer) -> None:
    (marks,), _ = review.read(model, words, [Work("1", ("1+1=2",) * 40, (9,) * 41)])
    assert len(marks) == 41
    assert marks[0] > 0
    assert marks[-1] == 0


def test_who_has_the_solution_marks_by_what_he_would_say(words: tokenizers.Tokenizer, model: Transformer) -> None:
    attempts = [written(words, "1+1=2\n3"), written(words, "3")]
    for a, marks in zip(attempts, review.aware(model, words, attempts), strict=True):
        asked = [chat.Message("user", "1+1+1\n\nSolution:\n1+1=2\n3")]
        prompt, _ = chat.render(words, asked, generate=True)
        ids = torch.tensor([[*prompt, *a.completion.ids]])
        log_q = model(ids)[0].float().log_softmax(-1)
        said = [log_q[len(prompt) + i - 1, id].item() for i, id in enumerate(a.completion.ids)]
        assert marks == pytest.approx([math.exp(x) for x in review.by_line(words, a, said)], rel=1e-3)


def test_places_by_hand() -> None:
    assert first_wrong([0.5, 0.5]) == [0.5, 0.25, 0.25]
    assert review.guess([0.9, 0.2, 0.9]) == 1
    assert review.guess([0.9, 0.8]) == 2  # nothing wrong: 0.72
    verdicts = [Verdict(1.0, (True,) * 2), Verdict(0.0, (True,) * 2), Verdict(1.0, (True, False), 1), Verdict(0, (), 0)]
    attempts = [Attempt(PROBLEM, Completion([1]), (), verdict) for verdict in verdicts]
    assert [review.truth(a) for a in attempts] == [3, 2, 1, 0]


def test_measures_by_hand() -> None:
    found = review.measured([2, 1, 0], [[0.9, 0.8], [0.9, 0.4], [0.9, 0.9]])
    assert (found["first_error"], found["right"], found["wrong"]) == pytest.approx((2 / 3, 1, 1 / 2))
    # marks that count: 0.9 three times, of which two came true, 0.8 that did and 0.4 that did not
    assert found["calibration"] == pytest.approx((3 * (0.9 - 2 / 3) + 0.2 + 0.4) / 5)
    assert found["calibration_whole"] == pytest.approx((1 - 0.72 + 0.36 + 0.81) / 3)
    assert review.calibration_error([(0.5, 1.0), (0.5, 0.0)] * 15) == pytest.approx(0)


def test_homework_teaches_what_is_verified(words: tokenizers.Tokenizer, model: Transformer) -> None:
    done = homework.review(Engine(model, words), model, TASK, 24, seed=0)
    assert len(done) == 24
    for one in done:
        assert not one.mended or all("1" in line for line in one.mended.split("\n"))
        assert not one.mended or one.mended.split("\n")[: one.place] == list(one.lines[: one.place])
    right = homework.Homework("1+1", ("1+1=2",), (9, 9), place=2, truth=2)
    mended = homework.Homework("1+1", ("1+1=2", "7"), (9, 9, 9), place=1, truth=1, mended="1+1=2\n1")
    missed = homework.Homework("1+1", ("7",), (9, 9), place=2, truth=0)
    told = [[[m.content for m in lesson.messages] for lesson in one.lessons] for one in (right, mended, missed)]
    assert told[0] == [["1+1\n\nReview:\n1+1=2 (9)", "right", f"{END} (9)", "right"]]
    assert told[1] == [["1+1", "1+1=2\n1"], ["1+1\n\nReview:\n1+1=2 (9)", "right", "7 (9)", "wrong"]]
    assert told[2] == []
    assert {lesson.info for lesson in mended.lessons} == {"verifier"}


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
    base: dict[str, object] = {"task": str(place / "own.py"), "attempts": 16, "eval_n": 8, "teacher": "verifier"}
    base |= {"solution_tokens": 2000, "tokens": 20_000, "max_new_tokens": 6, "threads": 1, "dtype": "float32"}
    return stage.Config(out=place / name, start=place / "start", **(base | more))  # type: ignore[arg-type]


def test_a_kill_changes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = config(place, "whole"), config(place, "killed", save_seconds=0.0)
    headline = stage.main(whole)
    assert headline["attempts"] == 16
    assert headline["kept"] == 1
    rows = [json.loads(line) for line in (whole.out / "marked.jsonl").read_text().splitlines()]
    assert sum(row["truth"] == len(row["sure"]) for row in rows) == 8
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
