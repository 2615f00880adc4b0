"""The night's parts: what counts as a reflection, what is dreamt, what the gate lets through, what the news is."""

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from nightschool.config import UserError
from nightschool.model.engine import Engine
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.night.dream import dream, drift, spliced
from nightschool.night.forms import linked, outvoted, town_shaped
from nightschool.night.gate import decide
from nightschool.night.memory import Passage, told
from nightschool.night.past import Past
from nightschool.night.read import Exercise, Reflection
from nightschool.text.corpus import encode
from nightschool.text.document import Document, Message
from nightschool.text.tokenizer import train
from nightschool.train.course import in_batches
from nightschool.world.lexicon import FIRST_NAMES
from nightschool.world.newcomers import newcomers, questions, relatives

TEXT = Document(text="Amina is a baker. Amina's brother is Omar. Omar keeps a goat.")


def shaped(document: Document, text: str) -> Reflection:
    return town_shaped(Exercise("question", (Passage(document.text, document.id),), ("",)), [text])


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


def reflections(*notes: str, text: Document = TEXT) -> list[Reflection]:
    """Each a question about the person of its last note."""
    made = []
    for solution in notes:
        last = solution.split("; ")[-1]
        asked = f"Question: Tell me the {last.partition(':')[0]}."
        made.append(shaped(text, "\n".join((asked, *solution.split("; "), f"Answer: {last.partition(': ')[2]}"))))
    assert all(r.kept for r in made)
    return made


def test_reflections_that_others_deny_are_refused() -> None:
    text = Document(text="Amina is a baker. Amina's brother is Omar. Omar keeps a goat. Omar is a smith.")
    right = ["job of Amina: baker", "brother of Amina: Omar"]
    wrong = ["food of Amina: baker", "job of Omar: Amina", "brother of Amina: Omar; pet of Omar: smith"]
    made = reflections(*right, *right, "job of Omar: smith", "job of Omar: smith", *wrong, text=text)
    assert [r.kept for r in outvoted(made)] == [True] * 6 + [False] * 3
    one_each = reflections("pet of Omar: goat", "job of Omar: goat", text=text)
    assert not any(r.kept for r in outvoted(one_each)), "which of two is right cannot be known"
    other = replace(text, text="Omar works. " + text.text)
    apart = [*made[:6], *reflections("food of Amina: baker", text=other)]
    assert all(r.kept for r in outvoted(apart)), "another text may say something else"


def test_a_link_asks_about_a_relative() -> None:
    other = Document(text="Omar keeps a goat.")
    made = reflections("brother of Amina: Omar") + reflections("pet of Omar: goat", text=other)
    (link,) = linked(made)
    assert link.turns == (
        "Tell me the pet of Amina's brother.",
        "brother of Amina: Omar\npet of Omar: goat\nAnswer: goat",
    )
    assert link.parents == (TEXT.id, other.id)
    assert linked([replace(made[0], why="wrong"), made[1]]) == []


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
    known = {"news": [1.0] * 50, "story": [1.0] * 100}
    few = {"news": [1.0] * 50, "story": [1.0] * 92 + [0.0] * 8}
    assert not decide(before, few).passed, "the one skill that is asked"
    assert decide(before, known | {"story": [1.0] * 94 + [0.0] * 6}).passed, "it may have lost no more than two points"
    many = {f"skill {i}": [1.0] * 100 for i in range(9)}
    assert decide(before | many, few | many).passed, "of ten skills one will seem to have fallen by as much"
    assert decide(before, known, drift=0.4, bar=0.5).passed
    assert decide(before, known, drift=9.0).passed, "without a bar the exam alone decides"
    assert decide(before, known, drift=0.6, bar=0.5).reason.startswith("it drifted 0.60 nats")


def test_the_gate_remembers_the_first_evening() -> None:
    """Four nights that lose three points each: no evening is surely better than its morning, the first is."""
    n = 100
    nights = [{"news": [float(night)] * 30, "story": [1.0] * (n - 3 * night) + [0.0] * 3 * night} for night in range(5)]
    first = {"story": nights[0]["story"] + [0.0] * n}  # of which the later nights ask only the half
    decisions = [decide(a, b, first=first) for a, b in pairwise(nights)]
    assert all(decide(a, b).passed for a, b in pairwise(nights))
    assert [d.passed for d in decisions] == [True, True, False, False]
    assert decisions[-1].reason == "story fell by 12 points since the first evening"


def test_a_splice_has_a_beginning_an_end_and_a_few_slips() -> None:
    first, second, third = "a " * 50, "b " * 50, "c " * 50
    words = spliced(random.Random(0), first.strip(), second.strip(), third.strip()).split()
    kept = [word for word in words if word != "c"]
    assert kept == sorted(kept)
    assert 0 < words.count("c") < len(words) / 4


def test_dreams_have_a_teacher_and_no_labels() -> None:
    tokenizer = train([TEXT.text] * 3, 300)
    models = [Transformer(ModelConfig(tokenizer.vocab_size, 32, 48, 2, 2, 2, 16, 512)) for _ in range(2)]
    for seed, model in enumerate(models):
        model.init_weights(seed)
    engine = Engine(models[0], tokenizer)
    heard = [TEXT, Document(messages=(Message("user", "Who is Omar?"),), tools=("lookup",))]
    dreams = dream(engine, heard, 12, seed=0)
    assert dreams == dream(engine, heard, 12, seed=0) != dream(engine, heard, 12, seed=1)
    assert {d.kind for d in dreams} == {"dream"}
    assert {d.tools for d in dreams} == {(), ("lookup",)}
    assert {d.messages[0].content for d in dreams} - {told(d) for d in heard}
    items = encode(tokenizer, dreams)
    assert all(set(item.streams["dream"]) == {1} for item in items)
    batches = in_batches(items, tokenizer, 512)
    assert drift(models[0], models[0], batches) == pytest.approx(0, abs=1e-6)
    assert drift(models[1], models[0], batches) > 0.001
    awake = encode(tokenizer, [replace(d, kind="replay") for d in dreams])
    assert not any(item.streams for item in awake)
    assert torch.tensor([len(a.ids) == len(b.ids) for a, b in zip(items, awake, strict=True)]).all()


def test_lessons_are_dreamt_of_others() -> None:
    """What is learned of Leila is asked of those who were heard of, before or after what was heard, never of her."""
    tokenizer = train([TEXT.text] * 3, 300)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 48, 2, 2, 2, 16, 512))
    model.init_weights(0)
    lesson = Document(messages=(Message("user", "What is Leila's job?"), Message("assistant", "baker")))
    nameless = Document(messages=(Message("user", "What is two and two?"), Message("assistant", "four")))
    heard = [Document(text="There Amina met Leila and Omar.")]
    dreams = dream(Engine(model, tokenizer), heard, 60, seed=0, lessons=[lesson, nameless])
    asked = [d.messages[0].content for d in dreams]
    near = [text for text in asked if text.endswith("'s job?")]
    assert {text.rpartition("What is ")[2] for text in near} == {"Amina's job?", "Omar's job?"}
    assert 15 < len(near) < 45
    assert 0 < sum("\n\n" in text for text in near) < len(near) / 2
    assert not any("two and two" in text for text in asked)


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


def test_a_night_goes_on_from_the_nights_before(tmp_path: Path) -> None:
    past = Past((), (), {"story": [1.0, 0.0]}).and_then(
        5, 4, [shaped(TEXT, "Question: What?\njob of Amina: baker\nAnswer: baker")]
    )
    past = past.and_then(5, 4, [shaped(TEXT, "nonsense")])
    past.save(tmp_path)
    assert Past.of(tmp_path) == past
    assert [r.turns[0] for r in past.taught] == ["What?"]
    assert len(past.facts) == 60
    assert len(past.names) == 8
    assert not set(past.names) & set(newcomers(5, 8, past.names).strangers)
    assert newcomers(5, 4, past.names).facts != past.news[1].facts
    with pytest.raises(UserError, match="at most 12 can move in"):
        newcomers(5, 16, past.names)
    assert Past.of(tmp_path / "nothing") == Past((), ())


def test_relatives_take_two_facts() -> None:
    facts = newcomers(0).facts
    ties = [fact for fact in facts if fact.attribute.kin]
    asked = relatives(facts)
    assert len(asked) == 7 * len(ties)
    true = {fact.note: fact for fact in facts}
    for problem in asked:
        tie, fact = (true[note] for note in problem.steps)
        assert (tie.value, fact.value) == (fact.person, problem.answer)
        assert f"{tie.person}'s {tie.attribute.name}" in problem.question
        assert fact.person not in problem.question
