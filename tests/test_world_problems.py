"""The families with exact answers: their solutions can be read off their questions, and some wordings are kept."""

import re
from random import Random

import pytest

from nightschool.tasks.tools import calculate
from nightschool.tasks.world import PROBES, SKILLS
from nightschool.world import passages, school
from nightschool.world.arithmetic import arithmetic
from nightschool.world.attributes import ATTRIBUTES, KIN, KIN_WORDINGS
from nightschool.world.letters import spelling
from nightschool.world.problem import split_of
from nightschool.world.tools import calculator
from nightschool.world.typed import typed
from nightschool.world.word_problems import word_problem


def test_a_word_problem_is_solved_sentence_by_sentence():
    for seed in range(200):
        problem = word_problem(Random(seed), "train", (1, 4))
        told = school.sentences(problem.question)[:-1]
        assert [line.rpartition(": ")[0] for line in problem.steps] == [s.removesuffix(".") for s in told]
        total = None
        for line in problem.steps:
            *before, last = line.rpartition(": ")[2].split("; ")
            for calculation in (*before, last):
                left, _, right = calculation.rpartition("=")
                assert not left or calculate(left) == right
            if "=" in last:
                assert last.startswith(total)
            else:
                assert total in (None, last)  # the first sentence, or an aside that changes nothing
            total = last.rpartition("=")[2]
        assert total == problem.answer


def test_kept_wordings_are_not_told_in_train():
    slots = {"X": r"[A-Z]\w*", "v": r"[\w ]+", "a": r"an? \w+", "k": f"({'|'.join(KIN['she'] + KIN['he'])})"}
    kept = [a.wordings[-1] for a in ATTRIBUTES] + [KIN_WORDINGS[-1].replace("{v}", "{X}")]  # a relative is a person
    patterns = [re.compile(wording.format(**slots)) for wording in kept]
    texts = {
        split: " ".join(passages.passage(Random(i), split, ("one_hop",))[0].context for i in range(300))
        for split in ("train", "dev")
    }
    for pattern, wording in zip(patterns, kept, strict=True):
        in_train, in_dev = (
            [s for s in school.sentences(texts[split]) if pattern.fullmatch(s)] for split in ("train", "dev")
        )
        assert not in_train, wording
        assert in_dev, wording


def test_asking_quotes_a_sentence_that_tells_the_answer():
    for seed in range(200):
        problem = school.ask_about(Random(seed), "train")
        quoted = problem.question.split(": ", 1)[1]
        assert quoted in school.sentences(problem.context)
        assert any(note.split(": ")[1] in quoted for note in problem.steps[1:])


def test_spelling_by_hand():
    document = spelling(Random(0), 2)
    assert re.fullmatch(r"Words: (\w+), (\w+)\nSpell \1: [\w ]+\nSpell \2: [\w ]+", document.text)
    assert [learned for _, learned in document.pieces] == [False, False, True, False, True]


@pytest.mark.parametrize("skill", [s for s in SKILLS if s != "letter_count"])  # which asks how many a are there
def test_english(skill):
    for seed in range(100):
        problem = SKILLS[skill].sample(Random(seed), "test")
        assert split_of(problem.key) == "test"
        assert not re.search(r"  |[{}]| \.|,,|\.\.|''|\bNone\b", problem.prompt), problem.prompt
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [bcdfgjklmnpqrstvwxz]", problem.prompt), problem.prompt


def test_what_is_typed_asks_the_same():
    signs = {" plus ": "+", " minus ": "-", " times ": "*", " x ": "*", "x": "*", " divided by ": "/"}
    seen = set()
    for seed in range(300):
        rng = Random(seed)
        problem = rng.choice((arithmetic, calculator))(rng, "train")
        expression = problem.calls[0][0]["arguments"]["expression"] if problem.calls else problem.steps[0].split(":")[0]
        question = typed(problem.question, rng)
        seen.add(question.replace(expression, ""))
        for word, sign in signs.items():
            question = re.sub(rf"(?<=\d){re.escape(word)}(?=\d)", sign, question)
        assert expression in re.sub(r" ([-+*/]) ", r"\1", question)
    assert len(seen) > 60


def test_who_has_a_table_does_not_say_that_one_does_not_know():
    """With tools announced one looks up; without, the honest answer is that one does not know. Never both."""
    for name in school.STUDY:
        for seed in range(100):
            told = school.SOURCES[name](Random(seed), 1.0)
            assert not (told.tools and any(m.content == school.DONT_KNOW for m in told.messages)), told


def test_a_conversation_of_an_exam_is_of_its_split():
    for seed in range(100):
        problem = PROBES["conversation"].sample(Random(seed), "dev")
        assert split_of(problem.key) == "dev"
        assert [m.role for m in problem.before[:1]] in ([], ["user"])
        assert problem.tools
        assert all(m.role != "user" or m.content for m in problem.before)
