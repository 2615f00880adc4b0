"""Generation with entropy: each piece on an example worked by hand."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from nightschool.night.generate import SAMPLING, caps, distinct, mixed, prompts, weights, within
from nightschool.text.document import Document


def test_prompts_are_filled_from_outside() -> None:
    made = prompts(("A joke about a {seed}:", "{seed} laughs:"), ("duck", "cow"), 200, random.Random(0))
    assert set(made) == {"A joke about a duck:", "A joke about a cow:", "duck laughs:", "cow laughs:"}


def test_what_the_model_believes_is_sampled_whole() -> None:
    assert (SAMPLING.temperature, SAMPLING.top_p, SAMPLING.min_p) == (1.0, 1.0, 0.0)


def test_distinct_keeps_the_first_right_text_of_each_kind() -> None:
    texts = ["quack", "moo", "quack again", "gibberish", "moo"]
    assert distinct(texts, ["duck", "cow", "duck", None, "cow"]) == ["quack", "moo"]


def test_caps_are_the_upper_limits_of_shares() -> None:
    """Poisson's 97.5% limit is 3.69 for a count of 0 and 18.39 for 10 (tables); of 100 real texts, for 50 places."""
    found = caps(Counter(duck=10, cow=90), 50)
    assert found[None] == 2  # 3.69 of 100 is a share of 1.8 in 50
    assert found["duck"] == 10  # 18.39 of 100: 9.2
    assert found["cow"] == 56  # 110.6 of 100: no cap for what fills nearly all


def test_within_fills_no_kind_beyond_its_cap() -> None:
    kinds = ["duck", "cow", "duck", "owl", "duck", "owl", "cow"]
    assert within(kinds, {"duck": 2, "cow": 5, None: 1}) == [0, 1, 2, 3, 6]


def test_what_surprises_counts_more() -> None:
    assert weights([2.0, 4.0, 6.0]) == [0.5, 1.0, 1.5]
    # a mean of 4; 0.1 and 3 of it are bounded to 0.5 and 2, whose mean with 0.9 is 1.1333
    assert weights([0.4, 3.6, 8.0]) == pytest.approx([0.5 / 1.1333, 0.9 / 1.1333, 2 / 1.1333], rel=1e-4)


@pytest.mark.parametrize(("floor", "num_real"), [(0.0, 0), (0.1, 1), (0.25, 3), (0.5, 9), (0.8, 36)])
def test_mixed_has_its_floor(floor: float, num_real: int) -> None:
    made = [Document(text=f"made {i}", kind="sample", gen=1) for i in range(9)]
    real = [Document(text=f"real {i}") for i in range(12)]
    whole = mixed(real, made, floor, random.Random(0))
    assert Counter(d.text for d in whole if d.gen) == Counter(d.text for d in made)
    counts = Counter(d.text for d in whole if not d.gen)
    assert counts.total() == num_real
    assert not counts or max(counts.values()) == -(-num_real // 12)
