import random
import subprocess
import sys

import numpy as np
import pytest

from nightschool.text.document import Document, Message
from nightschool.text.sift import BANDS, ROWS, RUN, Exams, Seen, keys_of, runs, signature, words

VOCABULARY = [f"w{n}" for n in range(5000)]


def text_of(rng: random.Random, n: int) -> list[str]:
    return [rng.choice(VOCABULARY) for _ in range(n)]


def changed(text: list[str], share: float, rng: random.Random) -> list[str]:
    """Every word is another with this probability."""
    return [rng.choice(VOCABULARY) if rng.random() < share else word for word in text]


def shared(a: str, b: str) -> float:
    """The exact share of runs in common (Jaccard), on the words themselves."""
    x, y = (set(zip(*(t.split()[i:] for i in range(RUN)), strict=False)) for t in (a, b))
    return len(x & y) / len(x | y)


def keys(text: str) -> np.ndarray:
    return keys_of(Document(text=text), words(text))


def test_words_and_runs() -> None:
    assert (words("It's  RAINING_now: 雪だ!") == words("it s raining now 雪 だ")).all()
    hashes = words("a b c d e f")
    assert len(runs(hashes, 5)) == 2
    assert runs(hashes, 5)[1] == runs(hashes[1:], 5)[0]
    assert len(runs(hashes[:3], 5)) == 1  # a short text is one run
    assert runs(words("a b"), 2) != runs(words("b a"), 2)
    assert len(runs(words(""), 5)) == 0


@pytest.mark.parametrize("share", [0.01, 0.05, 0.15])
def test_signature_estimates_what_is_shared(share: float) -> None:
    rng, errors = random.Random(0), []
    for _ in range(30):
        text = text_of(rng, 1500)  # longer than a block
        a, b = " ".join(text), " ".join(changed(text, share, rng))
        estimate = np.mean(signature(runs(words(a), RUN)) == signature(runs(words(b), RUN)))
        errors.append(estimate - shared(a, b))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 1.3 * np.sqrt(0.25 / (BANDS * ROWS))  # at most a coin's


def test_near_duplicates_are_found_and_others_are_not() -> None:
    rng, found = random.Random(0), {0.005: 0, 0.03: 0, 0.2: 0}  # share changed -> how many of 100 are taken for one
    for share in found:
        for _ in range(100):
            text = text_of(rng, 300)
            a, b = keys(" ".join(text)), keys(" ".join(changed(text, share, rng)))
            found[share] += bool((a[1:] == b[1:]).any())
    jaccard = (1 - 0.03) ** RUN / (2 - (1 - 0.03) ** RUN)
    assert found[0.005] >= 99
    assert found[0.03] / 100 == pytest.approx(1 - (1 - jaccard**ROWS) ** BANDS, abs=0.15)
    assert found[0.2] == 0


def test_conversations_are_known_by_exact_copies_alone() -> None:
    asked = "A long passage that many questions are about. " * 20
    talks = [Document(messages=(Message("user", asked), Message("assistant", answer))) for answer in ("Yes.", "No.")]
    yes, no = (keys_of(talk, words(asked)) for talk in talks)
    assert len(yes) == len(no) == 1
    assert yes != no


def test_keys_are_the_same_in_every_process() -> None:
    code = "from tests.test_sift import keys; print(*keys('It rained all day, and all night too.'))"
    other = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert list(map(int, other.stdout.split())) == keys("It rained all day, and all night too.").tolist()


def test_seen() -> None:
    rng = np.random.default_rng(0)
    known, others = rng.integers(2**64, size=(2, 20_000), dtype=np.uint64)
    seen = Seen(1 << 16)
    seen.add(known)
    assert seen.has(known).all()
    full = 1 - np.exp(-4 * 20_000 / (8 << 16))
    assert seen.has(others).mean() == pytest.approx(full**4, rel=0.4)


def test_exams() -> None:
    question = "Greta has twelve pears and gives five of them to Mara who eats two; how many pears are left?"
    exams = Exams([("pears", question), ("short", "How many?"), ("rain", question.replace("pears", "umbrellas"))])
    assert (exams.num_texts, exams.num_short) == (3, 1)
    assert exams.names == ["pears", "rain"]

    def hit(text: str) -> tuple[str, str] | None:
        return exams.hit(text, words(text))

    inside = f"A page of exercises.\n\n1. {question.upper()}\n2. What is 3 + 4?"
    assert hit(inside) == ("pears", "greta has twelve pears and gives five of them to mara who eats")
    assert hit(question[:60]) is None  # twelve words
    assert hit(question.replace("five", "six")) is None  # no thirteen in a row
    assert hit(question.replace("pears", "umbrellas"))[0] == "rain"  # type: ignore[index]
    assert Exams([]).hit(question, words(question)) is None
