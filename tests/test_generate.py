"""Generation with entropy: each piece on an example worked by hand."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from nightschool.night.generate import SAMPLING, distinct, prompts, quota, weights


def test_prompts_are_filled_from_outside() -> None:
    made = prompts(("A joke about a {seed}:", "{seed} laughs:"), ("duck", "cow"), 200, random.Random(0))
    told = {("A joke about a duck:", "duck"), ("A joke about a cow:", "cow"), ("duck laughs:", "duck")}
    assert set(made) == told | {("cow laughs:", "cow")}
    assert prompts(("Quack.",), ("duck",), 1, random.Random(0)) == [("Quack.", "")]


def test_what_the_model_believes_is_sampled_whole() -> None:
    assert (SAMPLING.temperature, SAMPLING.top_p, SAMPLING.min_p) == (1.0, 1.0, 0.0)


def test_distinct_keeps_the_first_right_text_of_each_kind() -> None:
    texts = ["quack", "moo", "quack again", "gibberish", "moo"]
    assert distinct(texts, ["duck", "cow", "duck", None, "cow"]) == [("quack", "duck"), ("moo", "cow")]


def test_places_go_by_the_shares_of_real_texts() -> None:
    """Of 10 real texts 5 are of ducks, 3 of cows, 1 of an owl and 1 of an elk; 20 places: 10, 6, 2 and 2."""
    real = [*5 * ["duck"], *3 * ["cow"], "owl", "elk"]
    made = ["cow", "duck", "duck", "cow", "gnu", *90 * ["owl"]]
    used, lacking = quota(made, real, 20, 0.1, random.Random(0))
    assert Counter(made[i] for i in used) == {"duck": 10, "cow": 6, "owl": 2}
    assert Counter(used)[1] == Counter(used)[2] == 5  # in turn, and again where there are too few
    assert [real[i] for i in lacking] == ["elk", "elk"]
    used, lacking = quota(["duck"], real, 20, 0.1, random.Random(0))
    assert (len(used), len(lacking)) == (10, 2)  # no more than a tenth is real, whatever is lacking


def test_a_kind_rarer_than_a_place_gets_one_as_often_as_is_due() -> None:
    """Of 30 real texts 3 are of gnus: of 4 places they get 0.4 on average, and never 2."""
    real = [*27 * ["duck"], *3 * ["gnu"]]
    gnus = [4 - len(quota(["duck"], real, 4, 0.5, random.Random(seed))[0]) for seed in range(400)]
    assert set(gnus) == {0, 1}
    assert sum(gnus) / 400 == pytest.approx(0.4, abs=0.075)  # three standard errors


def test_quotas_hold_whatever_the_model_favours() -> None:
    """Ten rounds in which a copier draws again from what it was dealt: without a quota most kinds of a Zipf die out."""
    real = [str(k) for k in range(1, 101) for _ in range(1000 // k)]
    rng = random.Random(0)
    free = dealt = rng.choices(real, k=400)
    for _ in range(10):
        free = rng.choices(free, k=400)
        made = rng.choices(dealt, k=400)
        used, lacking = quota(made, real, 400, 0.1, rng)
        dealt = [*(made[i] for i in used), *(real[i] for i in lacking)]
    assert len(set(free)) < 45
    assert len(set(dealt)) > 75


def test_what_surprises_counts_more() -> None:
    assert weights([2.0, 4.0, 6.0]) == [0.5, 1.0, 1.5]
    # a mean of 4; 0.1 and 3 of it are bounded to 0.5 and 2, whose mean with 0.9 is 1.1333
    assert weights([0.4, 3.6, 8.0]) == pytest.approx([0.5 / 1.1333, 0.9 / 1.1333, 2 / 1.1333], rel=1e-4)
