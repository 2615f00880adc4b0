"""Numbers in words, and charts, by hand."""

from nightschool.stages import figures


def test_words_for_numbers() -> None:
    assert [figures.short(x) for x in (12, 690_000, 2_930_000)] == [
        "12",
        "690\N{NBSP}thousand",
        "2.93\N{NBSP}million",
    ]
    assert [figures.money(x) for x in (0, 0.0032, 1.5)] == ["$0.00", "0.32\N{NBSP}cents", "$1.50"]
    assert [figures.pct(x) for x in (0, 0.9144, 1)] == ["0.0", "91.4", "100"]


def test_what_is_bad_is_shaded_by_hand() -> None:
    """A gap is bad above its bound, J below it: y grows downwards."""
    above = figures.shade([], 10, -0.5, 0.5, (0.05, 0.5))
    assert '<rect class="bad" width="100%" y="0.00%" height="45.00%"/>' in above
    assert 'y1="45.00%"' in above
    below = figures.shade([(2, 4)], 10, 0, 1, (0, 0.8))
    assert '<rect class="bad" width="100%" y="20.00%" height="80.00%"/>' in below
    assert 'y1="20.00%"' in below
    assert '<rect class="lost" x="20.00%" width="20.00%"' in below
