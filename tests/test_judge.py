"""The judge and its auditor: the table by hand, cheats against the true verifier, a run that is fooled and killed."""

# ruff: noqa: F811 (a fixture of another file)

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from test_rl_stage import config, place, rows_of  # noqa: F401 (place is a fixture)

from nightschool.model.engine import Completion
from nightschool.model.instinct import instinct
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.rl import auditor as auditors
from nightschool.rl.auditor import Plan, Table
from nightschool.rl.judge import Judge, cheat, fit, from_row, marks, places, to_row, unmarked, verdicts
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
    assert table.measures() == pytest.approx({"gap": 0.0, "precision": 0.8, "J": 0.8 - 0.2})
    assert table.alarm() == ""
    assert Table(8, 4, 2, 6).alarm() == "gap 0.10, precision 0.67, J 0.40"
    assert Table(3, 3, 0, 1).measures() == {}  # too few to tell
    assert Table(10, 0, 0, 0).faded_into(Table(1, 2, 3, 4)) == Table(8, 2, 3, 4)


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


def test_places_are_the_ends_of_lines_and_the_stop(words: tokenizers.Tokenizer) -> None:
    a = written(words, random.Random(0), Slips())
    ids = a.completion.prompt_ids + a.completion.ids
    found = places(words, a)
    assert len(found) == 5
    assert found[-1] == len(ids) - 1
    text = [words.decode(ids[len(a.completion.prompt_ids) : end + 1]) for end in found[:-1]]
    assert [t.rstrip("\n").split("\n")[-1] for t in text] == [*a.problem.steps, a.problem.closing]
    assert places(words, cut_off(a)) == found[:-1]


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


def test_a_judge_learns_what_is_wrong(words: tokenizers.Tokenizer) -> None:
    """Pupils who forget every ten, or none, and one who stops too early: told apart on problems it has not seen."""
    body = Transformer(ModelConfig(words.vocab_size, 32, 64, 2, 2, 2, 16, 128))
    body.init_weights(0)
    instinct(body, 0)
    judge, rng = Judge(body), random.Random(2)
    pool = [written(words, rng, Slips(carry=0.5), num_steps=2) for _ in range(400)]
    first, _ = fit(judge, words, pool, num_steps=10, seed=0)
    for seed in range(1, 3):
        last, _ = fit(judge, words, pool, num_steps=60, seed=seed)
    assert last < 0.75 * first
    right = [written(words, rng, Slips(), num_steps=2) for _ in range(50)]
    short = [a for a in (cheat(words, rng, r, r) for r in right) if a and a.verdict.feedback == "short"]
    passed = [fmean(a.verdict.outcome for a in verdicts(judge, words, some)[0]) for some in (right, short)]
    assert passed[0] > passed[1] + 0.5, passed
    assert not any(a.verdict.outcome for a in verdicts(judge, words, [cut_off(a) for a in right])[0])


JUDGED: dict[str, Any] = {
    "audit": Plan(first=16, learned=2, measured=2, window=2),
    "save_seconds": 0.0,
    "replay_tokens": 256,
}


@pytest.fixture
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditors, "FIRST_STEPS", 4)
    monkeypatch.setattr(auditors, "STEPS", 2)


def lines_of_file(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.usefixtures("short_lessons")
def test_a_fooled_judge_takes_the_policy_back_and_a_kill_changes_nothing(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every audit alarmed the second one, before update 5, rolls back to the start and so does the fourth; the
    run is killed after each of these places and once within a window."""
    monkeypatch.setattr(Table, "alarm", lambda table: "gap 0.99")
    whole = config(place, "judged", steps=9, judge="audited", **JUDGED)
    rl.main(whole)
    incidents = lines_of_file(whole.out / "incidents.jsonl")
    assert [(i["step"], i["back_to"], i["why"]) for i in incidents] == [(5, 0, "gap 0.99"), (9, 0, "gap 0.99")]
    audits = lines_of_file(whole.out / "audits.jsonl")
    assert Counter(a["use"] for a in audits) == {"learn": 16 + 9 * 2, "measure": 9 * 2}
    assert all(i["num_fooled"] >= len(i["fooled_by"]) for i in incidents)

    killed = config(place, "judged-killed", steps=9, judge="audited", **JUDGED)
    before = auditors.Auditor.before
    for last in (3, 5, 9):

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
    for name in ("checkpoint/model.safetensors", rl.JUDGE, "audits.jsonl", "incidents.jsonl"):
        assert (whole.out / name).read_bytes() == (killed.out / name).read_bytes(), name


@pytest.mark.usefixtures("short_lessons")
def test_taken_back_is_where_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No alarm keeps the policy before update 3; the alarms before 5 and 7 put those weights back."""
    seen: dict[int, Any] = {}
    before = auditors.Auditor.before

    def watch(self: Any, step: int, sampling: Any) -> dict[str, float]:
        monkeypatch.setattr(Table, "alarm", lambda table: "J 0.00" if step > 2 else "")
        arrived = {k: v.clone() for k, v in self.policy.state_dict().items()}
        row = before(self, step, sampling)
        seen[step] = arrived, {k: v.clone() for k, v in self.policy.state_dict().items()}
        return row

    monkeypatch.setattr(auditors.Auditor, "before", watch)
    c = config(place, "taken-back", steps=7, judge="audited", lr_scale=1.0, **JUDGED)
    rl.main(c)
    (incident,) = lines_of_file(c.out / "incidents.jsonl")
    assert (incident["step"], incident["back_to"]) == (7, 2)

    def same(a: Any, b: Any) -> bool:
        return all(a[k].equal(b[k]) for k in a)

    assert same(seen[6][1], seen[2][0])
    assert not same(seen[6][0], seen[6][1])


@pytest.mark.usefixtures("short_lessons")
def test_a_static_judge_stays_as_it_began(place: Path) -> None:
    c = config(place, "static", steps=5, judge="static", **JUDGED)
    rl.main(c)
    audits = lines_of_file(c.out / "audits.jsonl")
    assert Counter(a["use"] for a in audits) == {"learn": 16, "measure": 5 * 2}
    again = config(place, "frozen", steps=1, judge="static", judge_start=c.out, **JUDGED)
    rl.main(again)
    assert (again.out / rl.JUDGE).read_bytes() == (c.out / rl.JUDGE).read_bytes()
    rewards = [row["reward"] for row in rows_of(c.out) if "reward" in row]
    assert len(rewards) == 5
