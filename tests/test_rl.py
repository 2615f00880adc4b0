"""Credit against examples worked by hand, its way onto the tokens, and the update against the plain formula."""

import random

import pytest
import torch

from nightschool.model.engine import Completion
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.rl.credit import first_error, line_of_tokens, outcome, spread
from nightschool.rl.update import policy
from nightschool.tasks.attempt import Attempt, judge, turns_of
from nightschool.tasks.task import Task, Verdict
from nightschool.text import tokenizer as tokenizers
from nightschool.text.document import Message
from nightschool.text.packing import Item, collate
from nightschool.world.problem import Problem

PROBLEM = Problem("arithmetic", "add", "k", "1+1", "2", steps=("1+1=2",))


def attempt_of(outcome: float, steps: tuple[bool, ...], error: int | None) -> Attempt:
    return Attempt(PROBLEM, Completion([1]), (), Verdict(outcome, steps, error))


GROUP = [
    attempt_of(1.0, (True, True), None),
    attempt_of(0.0, (True, False), 1),
    attempt_of(0.0, (False, False), 0),
    attempt_of(1.0, (False, True), 0),  # lucky: a wrong turn, and yet the right answer
]


def test_outcome_rewards_wrong_turns_too() -> None:
    credits = outcome(GROUP)
    assert credits == [[0.5] * 3, [-0.5] * 3, [-0.5] * 3, [0.5] * 3]


def test_first_error_by_hand() -> None:
    credits = first_error(GROUP)
    assert credits[0] == pytest.approx([1 - 2 / 4, 1 - 1 / 2, 0])  # 2 of 4 right at line 0, 1 of 2 at line 1
    assert credits[1] == pytest.approx([1 - 2 / 4, 0 - 1 / 2, 0])
    assert credits[2] == pytest.approx([0 - 2 / 4, 0, 0])
    assert credits[3] == pytest.approx([0 - 2 / 4, 0, 0])  # luck earns nothing


def test_first_error_blames_the_stop() -> None:
    credits = first_error([attempt_of(0.0, (True,), 1), attempt_of(1.0, (True, True), None)])
    assert credits[0] == pytest.approx([0, -0.5])
    assert credits[1] == pytest.approx([0, 0.5, 0])


@pytest.fixture(scope="module")
def small() -> tokenizers.Tokenizer:
    return tokenizers.train(["1+1=2\nAnswer: 2 calculator expression name arguments"] * 5, 320)


def test_lines_of_tokens_and_spread(small: tokenizers.Tokenizer) -> None:
    first, second = small.encode("1+1=2\n"), small.encode("Answer: 2")
    ids = [*first, *second, small.turn_end]
    made = Completion([1], ids, [-0.1] * len(ids), [1] * len(ids), "end")
    attempt = Attempt(PROBLEM, made, turns_of(small, made), Verdict(1.0, (True, True)))
    assert attempt.transcript == (Message("assistant", "1+1=2\nAnswer: 2"),)
    assert line_of_tokens(small, attempt) == [0] * len(first) + [1] * len(second) + [2]
    assert spread(small, attempt, [1.0, 2.0, 3.0]) == [1.0] * len(first) + [2.0] * len(second) + [3.0]


def test_a_tool_call_is_a_line_and_its_answer_has_none(small: tokenizers.Tokenizer) -> None:
    call = [small.special["<tool_call>"], *small.encode('{"name": "calculator", "arguments": {"expression": "1+1"}}')]
    call += [small.special["</tool_call>"], small.turn_end]
    forced, answer = small.encode("\n2\n"), [*small.encode("Answer: 2"), small.turn_end]
    ids, mask = [*call, *forced, *answer], [1] * len(call) + [0] * len(forced) + [1] * len(answer)
    made = Completion([1], ids, [0.0] * len(ids), mask, "end")
    attempt = Attempt(PROBLEM, made, turns_of(small, made), Verdict(1.0, (True, True)))
    assert attempt.transcript[0].tool_calls[0]["name"] == "calculator"
    lines = line_of_tokens(small, attempt)
    assert lines == [0] * len(call) + [-1] * len(forced) + [1] * (len(answer) - 1) + [2]


def test_policy_is_the_plain_formula() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(50, 16, 32, 1, 2, 2, 8, 64))
    model.init_weights(0)
    rng = random.Random(0)
    ids = [[rng.randrange(50) for _ in range(9)] for _ in range(2)]
    streams = {
        "adv": [0.0] * 4 + [0.5, -1.0, 0.0, 2.0, 1.0],
        "old_logp": [0.0] * 4 + [-4.0, -3.5, -4.1, -3.9, -4.0],
        "share": [0.0] * 4 + [1.0, 1.0, 0.0, 1.0, 1.0],
        "ce_weight": [0.0] * 9,
    }
    replay = {"share": [0.0] * 9, "adv": [0.0] * 9, "old_logp": [0.0] * 9, "ce_weight": [0.0] * 5 + [1.0] * 4}
    rows = [[Item(ids[0], [0.0] * 4 + [1.0] * 5, streams)], [Item(ids[1], [0.0] * 5 + [1.0] * 4, replay)]]
    losses = policy(model, collate(rows, 8, 0, packed=False))
    logp = [model(torch.tensor([row]))[0].log_softmax(-1) for row in ids]
    expected = 0.0
    for t in range(4, 9):
        lp = logp[0][t - 1, ids[0][t]]
        ratio = (lp.detach() - streams["old_logp"][t]).exp().clamp(max=2.0)
        expected = expected - ratio * streams["adv"][t] * lp
    total, count = losses["policy"]
    assert isinstance(expected, torch.Tensor)
    assert total.item() == pytest.approx(expected.item(), abs=1e-4)
    assert count == 4  # one of the five has no credit
    plain = -torch.stack([logp[1][t - 1, ids[1][t]] for t in range(5, 9)]).sum()
    assert losses["replay"][0].item() == pytest.approx(plain.item(), abs=1e-4)
    assert losses["replay"][1] == 4


def test_task_starts_with_the_users_turn() -> None:
    messages, tools = Task(lambda rng, split: PROBLEM).start(PROBLEM)
    assert messages == (Message("user", "1+1"),)
    assert tools == ()


def test_a_rank_without_a_problem_judges_nothing(small: tokenizers.Tokenizer) -> None:
    assert judge(small, Task(lambda rng, split: PROBLEM), [], []) == []
