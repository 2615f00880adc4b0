"""The judge and its auditor: the table by hand, cheats against the true verifier, a run that is fooled and killed."""

# ruff: noqa: F811 (a fixture of another file)

import json
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from math import log1p
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest
import torch
from test_rl_stage import config, place, rows_of  # noqa: F401 (place is a fixture)
from torch import nn

from nightschool.config import UserError
from nightschool.model.engine import Completion
from nightschool.model.instinct import instinct
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.rl import auditor as auditors
from nightschool.rl import judge as judges
from nightschool.rl.auditor import Plan
from nightschool.rl.judge import (
    Judge,
    cheat,
    fit,
    from_row,
    judged,
    marking,
    marks,
    scores,
    spans,
    to_batch,
    to_row,
    unmarked,
    verdicts,
)
from nightschool.rl.outside import verdict_of
from nightschool.rl.table import Table, by_line
from nightschool.stages import rl
from nightschool.tasks.attempt import Attempt
from nightschool.tasks.named import task_named
from nightschool.tasks.task import Verdict
from nightschool.text import chat
from nightschool.text import tokenizer as tokenizers
from nightschool.world.problem import Problem
from nightschool.world.totals import Slips, add, totals

TOTALS = task_named("totals")


def test_table_by_hand() -> None:
    table = Table().plus([True] * 10 + [False] * 10, [True] * 8 + [False] * 2 + [True] * 2 + [False] * 8)
    assert table == Table(8, 2, 2, 8)
    assert table.row == pytest.approx({"gap": 0.0, "precision": 0.8, "J": 0.8 - 0.2})
    assert table.alarm() == ""
    assert table.measures()["gap"][1] == pytest.approx(4**0.5 / 20)
    assert table.measures()["J"][1] == pytest.approx((2 * 0.8 * 0.2 / 10) ** 0.5)
    assert Table(8, 2, 0, 10).alarm() == ""  # a gap of 0.1, but only two of twenty
    assert Table(4, 12, 0, 8).alarm() == "gap 0.50, precision 0.25"  # too few right ones for J
    assert Table(5, 10, 5, 10).alarm() == "precision 0.33, J 0.00"
    assert Table(3, 3, 0, 1).row == {}  # too few to tell
    assert Table(10, 0, 0, 0).faded_into(Table(1, 2, 3, 4)) == Table(9, 2, 3, 4)


def test_lines_are_counted_up_to_the_first_error_of_either() -> None:
    def of(first_error: int | None) -> Attempt:
        steps = tuple(first_error is None or i < first_error for i in range(3))
        verdict = Verdict(float(first_error is None), steps, first_error)
        return Attempt(Problem("", "", "", "", ""), Completion([1]), (), verdict)

    assert by_line([of(None)], [of(None)]) == Table(right=4)  # three lines and the stop
    assert by_line([of(1)], [of(None)]) == Table(right=1, missed=1)
    assert by_line([of(1)], [of(1)]) == Table(right=1, wrong=1)
    assert by_line([of(2)], [of(1)]) == by_line([of(None)], [of(1)]) == Table(right=1, fooled=1)
    assert by_line([of(3)], [of(None)]) == Table(right=3, missed=1)


@pytest.fixture(scope="module")
def words() -> tokenizers.Tokenizer:
    return tokenizers.train(
        [text for i in range(50) for text in chat.texts(TOTALS.sample(random.Random(i), "train").messages)], 270
    )


def written(words: tokenizers.Tokenizer, rng: random.Random, slips: Slips, num_steps: int = 4) -> Attempt:
    """What a careless pupil makes of a problem, as the verifier sees it."""
    problem = totals(rng, "train", (num_steps, num_steps))
    lines, total = [], int(problem.question[:2])
    for digit in problem.question[4:]:
        total = add(total, int(digit), rng, slips)
        lines.append(f"{total:02}")
    return verified(words, problem, [*words.encode("\n".join(lines)), words.turn_end], "end")


def verified(words: tokenizers.Tokenizer, problem: Problem, ids: list[int], stop: Any) -> Attempt:
    prompt = chat.render(words, problem.messages[:1], generate=True)[0]
    a = unmarked(words, problem, Completion(prompt, ids, [0.0] * len(ids), [1] * len(ids), stop))
    return replace(a, verdict=TOTALS.verify(problem, a.transcript))


def cut_off(a: Attempt) -> Attempt:
    made = a.completion
    return replace(a, completion=replace(made, ids=made.ids[:-1], mask=made.mask[:-1], stop="length"))


def test_spans_are_the_lines_and_the_stop(words: tokenizers.Tokenizer) -> None:
    a = written(words, random.Random(0), Slips())
    ids = a.completion.ids
    *lines, stop = (ids[span] for span in spans(words, a))
    first, *rest = (*a.problem.steps, a.problem.closing)
    assert [words.decode(line) for line in lines] == [first, *("\n" + line for line in rest)]
    assert stop == [words.turn_end]
    assert [ids[span] for span in spans(words, cut_off(a))] == lines


def untaught(words: tokenizers.Tokenizer) -> Transformer:
    model = Transformer(ModelConfig(words.vocab_size, 32, 64, 2, 2, 2, 16, 128))
    model.init_weights(0)
    instinct(model, 0)
    return model


def test_scores_and_loss_by_hand(words: tokenizers.Tokenizer) -> None:
    """A line's score is the product of its tokens' probabilities; the loss is of right lines and the first wrong."""
    model, a = untaught(words), written(words, random.Random(1), Slips(carry=1.0))
    assert a.verdict.first_error is not None
    ids = torch.tensor([a.completion.prompt_ids + a.completion.ids])
    p = model(ids).detach().softmax(-1)[0, len(a.completion.prompt_ids) - 1 : -1]
    chosen = p[torch.arange(len(p)), torch.tensor(a.completion.ids)]
    (found,), _ = scores(model, words, [a])
    assert found == pytest.approx([float(chosen[span].prod()) for span in spans(words, a)], rel=1e-4)
    losses = {k: (float(total.detach()), float(n)) for k, (total, n) in marking(model, to_batch(words, [a])).items()}
    first_error = spans(words, a)[a.verdict.first_error]
    right, wrong = chosen[: first_error.start], chosen[first_error].prod()
    assert losses["right"] == (pytest.approx(float(-right.log().sum()), rel=1e-4), len(right))
    assert losses["wrong"] == (pytest.approx(-log1p(-0.99 * float(wrong)), rel=1e-4), 1)


def test_marks_end_at_the_first_error() -> None:
    def of(verdict: Verdict) -> list[bool]:
        return marks(Attempt(Problem("", "", "", "", ""), Completion([1]), (), verdict))

    assert of(Verdict(1.0, (True, True))) == [True, True, True]
    assert of(Verdict(1.0, (True, False), 1)) == [True, False]  # lucky
    assert of(Verdict(0.0, (True, True), 2)) == [True, True, False]  # stopped too early
    assert of(Verdict(0.0, (True, True))) == [True, True, False]  # nothing found, and yet wrong


def test_cheats_are_wrong_where_they_say(words: tokenizers.Tokenizer) -> None:
    """Labels made by construction, held against the verifier, which the judge's lessons do not ask."""
    rng, kinds = random.Random(1), Counter[str]()
    pool = [written(words, rng, Slips(carry=0.3)) for _ in range(100)]
    for _ in range(600):
        a, other = rng.sample(pool, 2)
        made = cheat(words, rng, a, other)
        if made:
            kinds[made.verdict.feedback] += 1
            true = TOTALS.verify(made.problem, made.transcript)
            assert (true.first_error, true.steps) == (made.verdict.first_error, made.verdict.steps)
    assert min(kinds[kind] for kind in ("short", "twice", "swapped")) > 50


def test_a_marked_attempt_survives_json(words: tokenizers.Tokenizer) -> None:
    a = written(words, random.Random(5), Slips(carry=0.9))
    again = from_row(words, json.loads(json.dumps(to_row(a))))
    assert (again.verdict, again.transcript, marks(again)) == (a.verdict, a.transcript, marks(a))
    assert again.completion.ids == a.completion.ids


def copied(words: tokenizers.Tokenizer, rng: random.Random) -> Attempt:
    """Four digits, each on a line of its own; in one of two attempts one is another."""
    digits = [str(rng.randrange(10)) for _ in range(4)]
    problem = Problem("", "", "", " ".join(digits), digits[-1], steps=tuple(digits[:-1]), closing=digits[-1])
    if rng.random() < 0.5:
        digits[rng.randrange(4)] = str(rng.randrange(10))
    return verified(words, problem, [*words.encode("\n".join(digits)), words.turn_end], "end")


def test_a_judge_learns_what_is_wrong(words: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells attempts apart that it has not seen, and no cheat passes."""
    monkeypatch.setattr(judges, "LEARNING_RATE", 0.003)  # it has no schooling
    judge, rng = untaught(words), random.Random(2)
    pool = [copied(words, rng) for _ in range(400)]
    for seed in range(3):
        fit(judge, words, pool, num_steps=100, seed=seed)
    fresh = [copied(words, rng) for _ in range(200)]
    found = verdicts(judge, words, fresh)[0]
    assert by_line(found, fresh).row["J"] > 0.9
    right = [a for a in fresh if all(marks(a))]
    cheats = [c for c in (cheat(words, rng, a, rng.choice(right)) for a in right) if c]
    passed = [fmean(a.verdict.outcome for a in verdicts(judge, words, some)[0]) for some in (right, cheats)]
    assert passed[0] > 0.8, passed
    assert passed[1] < 0.05, passed
    assert not any(a.verdict.outcome for a in verdicts(judge, words, [cut_off(a) for a in right])[0])


JUDGE_WEIGHTS = f"{rl.JUDGE}/model.safetensors"
JUDGED: dict[str, Any] = {
    "audit": Plan(first=16, learned=2, measured=2, window=2),
    "save_seconds": 0.0,
    "replay_tokens": 256,
}


@pytest.fixture
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("ROUND", 2), ("MOST_ROUNDS", 2), ("STEPS", 2), ("READY", -1.0)):
        monkeypatch.setattr(auditors, name, number)


def lines_of_file(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.usefixtures("short_lessons")
def test_a_fooled_judge_takes_the_policy_back_and_a_kill_changes_nothing(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every audit alarmed each, before updates 3, 5, 7 and 9, rolls back to the start; the run is killed after
    some of these and once within a window."""
    monkeypatch.setattr(Table, "alarm", lambda table: "gap 0.99")
    whole = config(place, "judged", steps=9, judge="audited", **JUDGED)
    rl.main(whole)
    incidents = lines_of_file(whole.out / "incidents.jsonl")
    assert [(i["step"], i["back_to"], i["why"]) for i in incidents] == [(s, 0, "gap 0.99") for s in (3, 5, 7, 9)]
    audits = lines_of_file(whole.out / "audits.jsonl")
    assert Counter(a["use"] for a in audits) == {"learn": 12 + 9 * 2, "measure": 4 + 9 * 2}
    assert all(i["num_fooled"] >= len(i["fooled_by"]) for i in incidents)

    killed = config(place, "judged-killed", steps=9, judge="audited", **JUDGED)
    before = auditors.Auditor.before
    for last in (3, 4, 9):

        def dies(self: Any, step: int, sampling: Any, last: int = last) -> dict[str, float]:
            row = before(self, step, sampling)
            if step == last - 1:
                raise KeyboardInterrupt
            return row

        monkeypatch.setattr(auditors.Auditor, "before", dies)
        with pytest.raises(KeyboardInterrupt):
            rl.main(killed)
    monkeypatch.setattr(auditors.Auditor, "before", before)
    rl.main(killed)
    for name in ("checkpoint/model.safetensors", JUDGE_WEIGHTS, "audits.jsonl", "incidents.jsonl"):
        assert (whole.out / name).read_bytes() == (killed.out / name).read_bytes(), name


@pytest.mark.usefixtures("short_lessons")
def test_taken_back_is_where_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No alarm keeps the policy before update 3; the alarm before 5 puts those weights back."""
    seen: dict[int, Any] = {}
    before = auditors.Auditor.before

    def watch(self: Any, step: int, sampling: Any) -> dict[str, float]:
        monkeypatch.setattr(Table, "alarm", lambda table: "J 0.00" if step > 2 else "")
        arrived = {k: v.clone() for k, v in self.policy.state_dict().items()}
        row = before(self, step, sampling)
        seen[step] = arrived, {k: v.clone() for k, v in self.policy.state_dict().items()}
        return row

    monkeypatch.setattr(auditors.Auditor, "before", watch)
    c = config(place, "taken-back", steps=5, judge="audited", lr_scale=1.0, **JUDGED)
    rl.main(c)
    (incident,) = lines_of_file(c.out / "incidents.jsonl")
    assert (incident["step"], incident["back_to"]) == (5, 2)

    def same(a: Any, b: Any) -> bool:
        return all(a[k].equal(b[k]) for k in a)

    assert same(seen[4][1], seen[2][0])
    assert not same(seen[4][0], seen[4][1])


@pytest.mark.usefixtures("short_lessons")
def test_a_static_judge_stays_as_it_began(place: Path) -> None:
    c = config(place, "static", steps=5, judge="static", **JUDGED)
    rl.main(c)
    audits = lines_of_file(c.out / "audits.jsonl")
    assert Counter(a["use"] for a in audits) == {"learn": 12, "measure": 4 + 5 * 2}
    again = config(place, "frozen", steps=1, judge="static", judge_start=c.out, **JUDGED)
    rl.main(again)
    assert (again.out / JUDGE_WEIGHTS).read_bytes() == (c.out / JUDGE_WEIGHTS).read_bytes()
    rewards = [row["reward"] for row in rows_of(c.out) if "reward" in row]
    assert len(rewards) == 5


def test_a_judge_that_cannot_tell_is_sent_away(place: Path) -> None:
    """A model of no schooling learns nothing from 16 attempts: no update is made."""
    c = config(place, "unready", steps=2, judge="audited", **JUDGED)
    with pytest.raises(UserError, match=r"tells right lines from wrong ones with J .*; raise --audit.first"):
        rl.main(c)
    assert not (c.out / "checkpoint").exists()


@pytest.mark.usefixtures("short_lessons")
def test_what_it_passed_is_audited_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge passes what ends by itself, few of 16 attempts: they are in the lessons, unless measured."""
    passed = Counter[int]()

    def verdicts(attempts: Sequence[Attempt], marked: Sequence[Attempt]) -> tuple[list[Attempt], int]:
        if len(attempts) == 16:
            passed[len(passed) + 1] = sum(a.completion.stop == "end" for a in attempts)
        return [judged(a, None) for a in attempts], 0

    monkeypatch.setattr(rl, "learned", lambda *_: Judge(verdicts, lambda *_: {}, nn.Module()))
    c = config(place, "passed-first", steps=4, judge="audited", **JUDGED)
    rl.main(c)
    audits = [a for a in lines_of_file(c.out / "audits.jsonl") if a["judged"] is not None]
    found = Counter((a["step"], a["use"]) for a in audits[4:] if a["judged"])
    assert sum(passed.values()) > 0
    for step, num_passed in passed.items():
        assert found[step, "learn"] == min(2, num_passed - found[step, "measure"])


class Checker(BaseHTTPRequestHandler):
    """A server whose model finds the first line without a digit, in the last work that it is shown."""

    prompts: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (body["model"], body["temperature"]) == ("checker", 0.0)
        self.prompts.append(body["messages"][0]["content"])
        lines = self.prompts[-1].rpartition("Work:\n")[2].split("\n")[:-1]
        wrong = next((i for i, line in enumerate(lines, 1) if not any(c.isdigit() for c in line.partition(".")[2])), 0)
        answer = json.dumps({"choices": [{"message": {"content": f"It is {wrong}."}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.usefixtures("short_lessons")
def test_a_judge_from_outside(place: Path) -> None:
    """It is right, and the auditor sees it; what was marked is in its prompts."""
    server = HTTPServer(("127.0.0.1", 0), Checker)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        c = config(place, "outside", steps=3, judge="audited", judge_endpoint=url, judge_model="checker", **JUDGED)
        rl.main(c)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    audits = [a for a in lines_of_file(c.out / "audits.jsonl") if a["judged"] is not None]
    assert len(audits) == 4 + 3 * 4
    ended = [a for a in audits if a["stop"] == "end"]
    assert all(a["judged"] == a["right"] for a in ended)
    assert not any(a["judged"] for a in audits if a["stop"] != "end")
    assert all(p.count("Your answer: ") == 4 for p in Checker.prompts[-16:])
    assert not (c.out / rl.JUDGE).exists()


@pytest.mark.parametrize(("answer", "first_error"), [("0", None), ("2", 1), ("line 9", 4), ("I do not know", 0)])
def test_an_answer_is_a_verdict(words: tokenizers.Tokenizer, answer: str, first_error: int | None) -> None:
    a = written(words, random.Random(0), Slips())
    assert verdict_of(a, answer).verdict.first_error == first_error
    assert verdict_of(cut_off(a), answer).verdict.outcome == 0
