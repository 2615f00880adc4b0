"""The night's parts: what counts as a reflection, what the gate lets through, what the news is."""

import pytest

from nightschool.night.gate import decide
from nightschool.night.read import shaped, told
from nightschool.text.document import Document, Message
from nightschool.world.lexicon import FIRST_NAMES
from nightschool.world.newcomers import newcomers, questions

TEXT = Document(text="Amina is a baker. Amina's brother is Omar. Omar keeps a goat.")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Question: What is Amina's job?\njob of Amina: baker\nAnswer: baker", ""),
        ("Question: What pet has she?\nbrother of Amina: Omar\npet of Omar: goat\nAnswer: goat", ""),
        ("Question: What is Amina's job?\njob of Amina: miller\nAnswer: miller", "notes what the text does not say"),
        ("Question: What is Leila's job?\njob of Leila: baker\nAnswer: baker", "notes what the text does not say"),
        ("Question: What is Omar's job?\njob of Omar: baker\nAnswer: baker", "notes what the text does not say"),
        ("Question: Who is Omar?\nbrother of Omar: Omar\nAnswer: Omar", "notes what the text does not say"),
        ("Question: What is it?\njob of Amina: baker\nAnswer: goat", "does not answer with its last note"),
        ("job of Amina: baker\nAnswer: baker", "is not a question with notes and an answer"),
        ("Question: What?\nThe text does not say.", "is not a question with notes and an answer"),
        ("", "is not a question with notes and an answer"),
    ],
)
def test_shaped(text: str, why: str) -> None:
    assert shaped(TEXT, text).why == why


def test_a_lesson_names_its_source() -> None:
    lesson = shaped(TEXT, "Question: What is Amina's job?\njob of Amina: baker\nAnswer: baker").lesson
    assert (lesson.info, lesson.kind, lesson.parents, lesson.gen) == ("doc", "reflection", (TEXT.id,), 1)
    assert lesson.messages == (
        Message("user", "What is Amina's job?"),
        Message("assistant", "job of Amina: baker\nAnswer: baker"),
    )


def test_told_is_what_the_user_said() -> None:
    talk = Document(messages=(Message("user", "Omar is a smith."), Message("assistant", "Thank you.")))
    assert told(talk) == "Omar is a smith."


def test_gate() -> None:
    before = {"news": [0.0] * 50, "story": [1.0] * 100}
    assert decide(before, {"news": [1.0] * 50, "story": [1.0] * 99 + [0.0]}).passed
    assert not decide(before, {"news": [0.0] * 50, "story": [1.0] * 100}).passed
    lost = decide(before, {"news": [1.0] * 50, "story": [1.0] * 90 + [0.0] * 10})
    assert not lost.passed
    assert lost.reason == "story fell by 10 points"


def test_newcomers_are_new_and_each_fact_is_told_once() -> None:
    news = newcomers(3)
    assert len(news.facts) == 60
    assert len({fact.note for fact in news.facts}) == 60
    assert not {fact.person for fact in news.facts} & set(FIRST_NAMES)
    texts = [told(document) for document in news.documents]
    for fact in news.facts:
        assert sum(fact.person in text and fact.value in text for text in texts) >= 1
    assert newcomers(3) == news != newcomers(4)


def test_questions_use_the_kept_wording() -> None:
    news = newcomers(0)
    for fact, problem in zip(news.facts, questions(news.facts), strict=True):
        assert problem.question == fact.attribute.ask[-1].format(X=fact.person)
        assert problem.answer == fact.value
