"""Every assigner on one group worked by hand, potentials, the lines of tokens, and the update's options."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nightschool.lab.assigners import implicit, implied, min_form, partial, placebo
from nightschool.model import exchange
from nightschool.model.engine import Completion, Engine
from nightschool.model.instinct import instinct
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.rl.batch import to_observed
from nightschool.rl.credit import first_error, grpo, line_of_tokens, maxrl, outcome, potential, reviewed
from nightschool.rl.measures import auc, measures, pass_at
from nightschool.rl.potential import monte_carlo, starts_of_lines, value
from nightschool.rl.update import HIGH, LOW, policy
from nightschool.tasks.attempt import Attempt, attempt, resume, turns_of
from nightschool.tasks.task import Task, Verdict, lines_of, verify_and_show
from nightschool.text import chat
from nightschool.text import tokenizer as tokenizers
from nightschool.text.packing import Item, collate
from nightschool.train.plan import going_on
from nightschool.world.problem import Problem

PROBLEM = Problem("arithmetic", "add", "k", "1+1", "2", steps=("1+1=2",))


def attempt_of(outcome: float, steps: tuple[bool, ...], error: int | None, stop: str = "end") -> Attempt:
    made = Completion([1], [5, 6], [-0.5, -1.5], [1, 1], stop)  # type: ignore[arg-type]
    return Attempt(PROBLEM, made, (), Verdict(outcome, steps, error))


GROUP = [
    attempt_of(1.0, (True, True), None),
    attempt_of(0.0, (True, False), 1),
    attempt_of(0.0, (False, False), 0),
    attempt_of(0.0, (False, True), 0),
]


def test_grpo_and_maxrl_by_hand() -> None:
    std = math.sqrt(3) / 4  # of 1, 0, 0, 0
    assert grpo(GROUP)[0] == pytest.approx([0.75 / std] * 3, rel=1e-4)
    assert grpo(GROUP)[3] == pytest.approx([-0.25 / std] * 3, rel=1e-4)
    assert maxrl(GROUP)[0] == pytest.approx([0.75 / 0.25] * 3)
    assert maxrl(GROUP)[1] == pytest.approx([-1.0] * 3)
    for assign in (grpo, maxrl):  # a group that fared alike teaches nothing
        assert assign(GROUP[1:]) == [[0.0] * 3] * 3


def test_potential_by_hand() -> None:
    phi = [[0.5, 0.8, 0.9], [0.5, 0.6, 0.1], [0.5, 0.0, 0.0], [0.5, 0.2, 0.0]]
    whole = potential(GROUP, phi)
    assert whole[0] == pytest.approx([0.5, 0.2, 0.1])  # lam = 1: the outcome less phi
    assert whole[1] == pytest.approx([-0.5, -0.6, -0.1])
    near = potential(GROUP, phi, lam=0.0)
    assert near[0] == pytest.approx([0.3, 0.1, 0.1])  # lam = 0: what phi rose by, and the outcome at the stop
    assert near[1] == pytest.approx([0.1, -0.5, -0.1])
    half = potential(GROUP, phi, lam=0.5)
    assert half[0] == pytest.approx([0.3 + 0.5 * (0.1 + 0.5 * 0.1), 0.1 + 0.5 * 0.1, 0.1])


def test_any_potential_sums_to_the_outcome_less_its_first_value() -> None:
    rng = random.Random(0)
    phi = [[rng.random() for _ in range(3)] for _ in GROUP]
    for a, values, line in zip(GROUP, phi, potential(GROUP, phi, lam=0.0), strict=True):
        assert sum(line) == pytest.approx(a.verdict.outcome - values[0])


def test_partial_by_hand() -> None:
    shares = [1.0, 0.5, 0.0, 0.0]  # of two lines, before the first error
    assert [c[0] for c in partial(GROUP)] == pytest.approx([s - 0.375 for s in shares])


def test_min_form_by_hand() -> None:
    credits = min_form([attempt_of(1.0, (True, True), None), attempt_of(0.0, (True, False), 1)])
    wrong = math.exp(0)  # a wrong line's weight; a right one's is exp(-10)
    right = math.exp(-10)
    first = right / (right + 2 * wrong)
    assert credits[0][0] == pytest.approx((1 - first) / 2)  # three right ones share one reward
    assert credits[1][0] == pytest.approx((first - 1) / 2)
    assert credits[0][2] == pytest.approx(1 / 6)


def test_placebo_deals_the_same_verdicts_to_others() -> None:
    assert sorted(placebo(GROUP)) == sorted(first_error(GROUP))
    assert placebo(GROUP) == placebo(GROUP)
    ragged = [*GROUP, attempt_of(0.0, (True,), 1), attempt_of(0.0, (True, True, True, False), 3)]
    assert [len(c) for c in placebo(ragged)] == [3, 3, 3, 3, 2, 5]  # one was as long as another's verdict, and crashed


def test_implied_by_hand() -> None:
    """What follows the lines comes to 2, 1, 0 and -1, 0, 0: the rewards are halved. The means by line are then 1/3 and
    -1/6, and each attempt is held against the other's."""
    pair = [GROUP[0], GROUP[1]]
    credits = implied(pair, [[1.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    assert credits[0] == pytest.approx([1 + 3 / 2, 1 + 5 / 6, 1 + 1 / 6])
    assert credits[1] == pytest.approx([-1 - 3 / 2, -1 - 2 / 3, -1 - 1 / 3])


def test_pass_at_by_hand() -> None:
    # 1 right of 4: one draw 1/4; two draws 1 - C(3,2)/C(4,2) = 1/2; four always hold it
    assert [pass_at(k, [GROUP]) for k in (1, 2, 4)] == pytest.approx([0.25, 0.5, 1.0])


def test_auc_by_hand() -> None:
    assert auc([3, 1], [2, 1]) == (1 + 1 + 0 + 0.5) / 4


def test_measures_by_hand() -> None:
    group = [*GROUP[:2], attempt_of(1.0, (False, True), 0), attempt_of(0.0, (True, True), 2, "length")]
    credits = [[1.0, 1.0, 1.0], [0.5, -1.0, 0.0], [0.25, 0.5, 0.0], [0.0, 0.0, 0.0]]
    row = measures([group], [credits])
    assert row["reward"] == 0.5
    assert row["reward_std"] == 0.5
    assert row["entropy"] == 1.0
    assert (row["stop/end"], row["stop/length"]) == (0.75, 0.25)
    assert row["lucky_rate"] == 0.5  # of two right answers one is over a wrong step
    assert row["wrong_step_upweight"] == 0.5  # -1.0 and 0.25
    assert row["wrong_step_upweight_rewarded"] == 1.0
    # first wrong lines earned -1 and 0.25; right ones before an end 1, 1, 0.5, 0, 0
    assert row["credit_auc"] == pytest.approx((5 + 3) / 10)


@pytest.fixture(scope="module")
def small() -> tokenizers.Tokenizer:
    return tokenizers.train(["1+1=2\nAnswer: 2 calculator expression name arguments"] * 5, 320)


def judged(tokenizer: tokenizers.Tokenizer, ids: list[int], mask: list[int]) -> Attempt:
    made = Completion([1], ids, [0.0] * len(ids), mask, "end")
    transcript = turns_of(tokenizer, made)
    return Attempt(PROBLEM, made, transcript, Verdict(1.0, (True,) * len(lines_of(transcript))))


def test_blank_lines_and_words_before_calls_keep_their_numbers(small: tokenizers.Tokenizer) -> None:
    """Two line ends in one token used to count as one, and a call after words as the same line as they."""
    call = [
        small.special["<tool_call>"],
        *small.encode('{"name": "a", "arguments": {}}'),
        small.special["</tool_call>"],
    ]
    words, forced, answer = small.encode("So.\n\nthen"), small.encode("\n2\n"), small.encode("2")
    ids = [*words, *call, *call, small.turn_end, *forced, *answer, small.turn_end]
    mask = [1] * (len(words) + 2 * len(call) + 1) + [0] * len(forced) + [1] * (len(answer) + 1)
    a = judged(small, ids, mask)
    assert lines_of(a.transcript) == ["So.", "", "then", "a()", "a()", "2"]
    lines = line_of_tokens(small, a)
    assert lines[len(words) - 1] == 2
    assert lines[len(words) :][: 2 * len(call) + 1] == [3] * len(call) + [4] * len(call) + [4]
    assert lines[-len(answer) - 1 :] == [5] * len(answer) + [6]


def test_every_line_of_random_text_is_its_tokens(small: tokenizers.Tokenizer) -> None:
    rng = random.Random(0)
    for _ in range(50):
        said = "\n".join("".join(rng.choices("12+= .", k=rng.randint(0, 6))) for _ in range(rng.randint(1, 5)))
        ids = [*small.encode(said), small.turn_end]
        a = judged(small, ids, [1] * len(ids))
        lines = line_of_tokens(small, a)
        for number, text in enumerate(lines_of(a.transcript)):
            own = small.decode(id for id, line in zip(ids, lines, strict=True) if line == number)
            assert text in own or own.rstrip("\n") == text
            if ".\n" not in said:  # a token may hold line ends of its own, and so all of a blank line
                assert own.rstrip("\n") == text


def test_starts_of_lines(small: tokenizers.Tokenizer) -> None:
    first, second = small.encode("1+1=2\n"), small.encode("Answer: 2")
    ids = [*first, *second, small.turn_end]
    assert starts_of_lines(small, judged(small, ids, [1] * len(ids))) == [0, len(first), len(first) + len(second)]


@pytest.fixture(scope="module")
def engine(small: tokenizers.Tokenizer) -> Engine:
    model = Transformer(ModelConfig(small.vocab_size, 32, 64, 2, 2, 2, 16, 96))
    model.init_weights(0)
    instinct(model, 0)
    return Engine(model, small)


COIN = Task(lambda rng, split: PROBLEM, lambda p, t: Verdict(float("1" in lines_of(t)[-1]), (True,) * len(lines_of(t))))


def test_monte_carlo_is_the_share_of_right_continuations(engine: Engine) -> None:
    """Values of a hand-made attempt against continuations sampled one by one from the same beginnings."""
    tokenizer = engine.tokenizer
    prompt = chat.render(tokenizer, PROBLEM.messages[:1], generate=True)[0]
    ids = [*tokenizer.encode("1+1=2\n1"), tokenizer.turn_end]
    made = Completion(prompt, ids, [0.0] * len(ids), [1] * len(ids), "end")
    a = Attempt(PROBLEM, made, turns_of(tokenizer, made), Verdict(1.0, (True, True)))
    values, num_tokens = monte_carlo(engine, COIN, [[a, a]], Sampling(max_new_tokens=6), copies=16)
    assert values[0][0] == values[0][1]
    assert len(values[0][0]) == 3
    assert 0 < num_tokens <= 3 * 16 * 6
    # "1" stands on the last line already: whatever follows on that line is right
    starts = starts_of_lines(tokenizer, a)
    begun = [*prompt, *ids[: starts[2]]]
    tails = engine.generate([begun] * 16, Sampling(max_new_tokens=6, seed=32))
    texts = [tokenizer.decode(ids[: starts[2]] + tail.ids) for tail in tails]
    share = sum("1" in text.removesuffix("<|im_end|>").split("\n")[-1] for text in texts) / 16
    assert values[0][0][2] == pytest.approx(share)


def test_resuming_keeps_what_was_right(engine: Engine) -> None:
    """Taken up again at its second line, an attempt differs from there on alone, and is judged whole."""
    first = attempt(engine, COIN, [PROBLEM], Sampling(max_new_tokens=6), 1)[0]
    start = 3
    more = resume(engine, COIN, [(first, start)], Sampling(max_new_tokens=6, seed=9), copies=5)
    assert len(more) == 5
    for a in more:
        made = a.completion
        assert made.prompt_ids == first.completion.prompt_ids
        assert made.ids[:start] == first.completion.ids[:start]
        assert made.log_probs[:start] == first.completion.log_probs[:start]
        assert len(made.ids) == len(made.log_probs) == len(made.mask) > start
        assert a.verdict == COIN.verify(PROBLEM, turns_of(engine.tokenizer, made))
    assert len({tuple(a.completion.ids) for a in more}) > 1


def test_value_is_ridge_regression_on_the_other_groups(engine: Engine) -> None:
    model = Transformer(engine.decoder.config)
    model.init_weights(1)
    problems = [PROBLEM] * 4
    attempts = attempt(engine, COIN, problems, Sampling(max_new_tokens=5), copies=4)
    groups = [attempts[i : i + 4] for i in range(0, 16, 4)]
    values = value(model, engine.tokenizer, groups)
    assert [[len(v) for v in group] for group in values] == [
        [len(a.verdict.steps) + 1 for a in group] for group in groups
    ]
    # by the plain formula, for the last group
    rows, outcomes = [], []
    for a in attempts:
        ids = torch.tensor([[*a.completion.prompt_ids, *a.completion.ids]])
        hidden = model.hidden(ids)[0].double()
        for start in starts_of_lines(engine.tokenizer, a):
            rows.append(hidden[len(a.completion.prompt_ids) + start - 1].detach())
            outcomes.append(a.verdict.outcome)
    x, y = torch.stack(rows), torch.tensor(outcomes, dtype=torch.float64)
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    own = sum(len(a.verdict.steps) + 1 for a in groups[-1])
    xs, ys = x[:-own], y[:-own]
    centre, mean = xs.mean(0), ys.mean()
    weights = torch.linalg.solve(
        (xs - centre).T @ (xs - centre) + torch.eye(x.shape[1]).double(), (xs - centre).T @ (ys - mean)
    )
    expected = ((x[-own:] - centre) @ weights + mean).clamp(0, 1)
    assert [v for line in values[-1] for v in line] == pytest.approx(expected.tolist(), abs=1e-4)


def test_implicit_is_a_step_of_logistic_regression_on_the_log_ratio(engine: Engine, tmp_path: Path) -> None:
    """Against the plain formula and torch's Adam: sigmoid(beta x how much likelier than the start)."""
    beta, rate = 0.05, 0.25
    model, tokenizer = Transformer(engine.decoder.config), engine.tokenizer
    model.init_weights(0)
    instinct(model, 0)
    exchange.save(tmp_path / "checkpoint", model, tokenizer, "card")
    group = []
    for said, right in (("1+1\n=2", 1.0), ("2", 0.0), ("Answer\n\n1", 0.0)):
        ids = [*tokenizer.encode(said), tokenizer.turn_end]
        made = Completion([1, 7], ids, [0.0] * len(ids), [1] * len(ids), "end")
        steps = (bool(right),) * (said.count("\n") + 1)
        group.append(Attempt(PROBLEM, made, turns_of(tokenizer, made), Verdict(right, steps)))
    credits = implicit(tmp_path, rate, beta)(group)

    def log_p(a: Attempt) -> torch.Tensor:
        ids, start = [*a.completion.prompt_ids, *a.completion.ids], len(a.completion.prompt_ids)
        every = model.to(torch.float32)(torch.tensor([ids]))[0].log_softmax(-1)
        return every[range(start - 1, len(ids) - 1), ids[start:]]

    with torch.no_grad():
        before = [log_p(a) for a in group]
    plan, _ = going_on(model.config, False, muon=False)
    adam = torch.optim.Adam(
        [{"params": [p], "lr": rate * (plan.norm_lr if p.ndim == 1 else plan.embed_lr)} for p in model.parameters()],
        betas=(0.9, 0.95),
    )
    logits = torch.stack([beta * (log_p(a) - b).sum() for a, b in zip(group, before, strict=True)])
    right = torch.tensor([a.verdict.outcome for a in group])
    (-(right * logits.sigmoid().log() + (1 - right) * (1 - logits.sigmoid()).log()).mean()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.step()
    rewards = []
    for a, b in zip(group, before, strict=True):
        likelier = (log_p(a) - b).tolist()
        lines = [0.0] * (len(a.verdict.steps) + 1)
        for line, nats in zip(line_of_tokens(tokenizer, a), likelier, strict=True):
            lines[line] += beta * nats
        rewards.append(lines)
    for ours, theirs in zip(credits, implied(group, rewards), strict=True):
        assert ours == pytest.approx(theirs, abs=0.005)  # the lab's models compute in bfloat16
    assert credits[0][0] != outcome(group)[0][0]
    alike = [replace(a, verdict=replace(a.verdict, outcome=1.0)) for a in group]
    assert not any(any(line) for line in implicit(tmp_path, rate, beta)(alike))


def test_what_the_world_shows_stands_in_place_of_the_first_wrong_line(small: tokenizers.Tokenizer) -> None:
    problem = Problem("sums", "add", "k", "1+1", "4", steps=("1", "2"), closing="4")
    for said, kept, shown in (
        ("1\n3\n4", "1\n", "2"),
        ("2\n3", "", "1"),
        ("1\n2", "1\n2", "\n4"),  # stopped too early
        ("1\n2\n4", "", ""),
        ("1\n2\n4\n5", "", ""),  # it should have stopped: no line to show
    ):
        ids = [*small.encode(said), small.turn_end]
        made = Completion([1, 7], ids, [0.0] * len(ids), [1] * len(ids), "end")
        transcript = turns_of(small, made)
        a = Attempt(problem, made, transcript, verify_and_show(problem, transcript))
        assert a.verdict.observation == shown.strip()
        if shown:
            item = to_observed(small, a)
            answer = small.encode(shown)
            assert item.ids == [1, 7, *small.encode(kept), *answer]
            expected = [0.0] * (len(item.ids) - len(answer)) + [1.0] * len(answer)
            assert item.mask == item.streams["ce_weight"] == expected
            assert not any(item.streams["share"])


def test_dapo_clip_is_the_plain_formula() -> None:
    model = Transformer(ModelConfig(50, 16, 32, 1, 2, 2, 8, 64))
    model.init_weights(0)
    ids = [3, 9, 4, 7, 1, 8]
    with torch.no_grad():
        logp = model(torch.tensor([ids]))[0].log_softmax(-1)
    now = [0.0] + [float(logp[t, ids[t + 1]]) for t in range(5)]
    shift, adv = [0.0, 0.0, 0.5, 0.5, -0.5, -0.5], [0.0, 1.0, 2.0, -2.0, 3.0, -3.0]
    streams = {
        "adv": adv,
        "old_logp": [n - s for n, s in zip(now, shift, strict=True)],
        "share": [0.5] * 6,
        "ce_weight": [0.0] * 6,
    }
    batch = collate([[Item(ids, [0.0] + [1.0] * 5, streams)]], 6, 0, packed=False)
    total, count = policy(model, batch, "dapo")["policy"]
    ratios = [math.exp(s) for s in shift]
    gains = [min(r * a, max(1 - LOW, min(r, 1 + HIGH)) * a) for r, a in zip(ratios, adv, strict=True)][1:]
    assert total.item() == pytest.approx(-0.5 * sum(gains), abs=1e-4)
    assert count.item() == 2.5
    assert gains[1] == pytest.approx(2 * (1 + HIGH))  # above, and good: cut off
    assert gains[2] == pytest.approx(-2 * math.exp(0.5))  # above, and bad: not


def test_review_by_hand() -> None:
    """The first attempt's outcome less the mean of 1/4 is 3/4, on three places: 9/4 in all; the others' -3/4 in all."""
    marks = [[1.0, 0.5, 0.5], [0.9, 0.1, 1.0], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]]
    credits = reviewed(GROUP, marks)
    # right up to the lines: 1, 1/2, 1/4 of 7/4
    assert credits[0] == pytest.approx([2.25 * share / 1.75 for share in (1.0, 0.5, 0.25)], rel=1e-4)
    # first wrong: 0.1, then 0.9 x 0.9, then 0.9 x 0.1 x 0
    assert credits[1] == pytest.approx([-0.75 * share / 0.91 for share in (0.1, 0.81, 0.0)], rel=1e-4, abs=1e-5)
    assert credits[2] == pytest.approx([-0.75 * share for share in (0.5, 0.25, 0.25)], rel=1e-4)
    assert credits[3] == pytest.approx([-0.25] * 3)  # it sees nothing to blame
    for ours, theirs in zip(credits, outcome(GROUP), strict=True):
        assert sum(ours) == pytest.approx(sum(theirs))
