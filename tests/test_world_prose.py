"""The world's prose, jokes, talk and programs: same seed same text, exact probabilities, splits, English."""

import re
from collections import Counter
from math import exp, fsum, log
from random import Random

import pytest

from nightschool.text.document import Document
from nightschool.world import lexicon
from nightschool.world.grammar import derivations, even, expand, load, zipf
from nightschool.world.jokes import house, joke, jokes, kind_of, kinds
from nightschool.world.problem import split_of
from nightschool.world.programs import rearrange, run, sort, trace
from nightschool.world.prose import KINDS, prose, third
from nightschool.world.talk import talk
from nightschool.world.town import Town, town

PROBLEMS = (joke, house, trace, sort, rearrange)
FAMILIES = (*PROBLEMS, prose, talk)


def text_of(made):
    if isinstance(made, Document):
        return made.text or "\n".join(message.content for message in made.messages)
    return f"{made.prompt}\n{made.solution}"


def draw(family, seed, n, split="train"):
    rng = Random(seed)
    return [family(rng, split) for _ in range(n)]


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_text(family):
    assert draw(family, 7, 20) == draw(family, 7, 20)
    assert draw(family, 7, 20) != draw(family, 8, 20)


@pytest.mark.parametrize("family", PROBLEMS)
def test_splits_share_no_key(family):
    keys = {split: {p.key for p in draw(family, 3, 100, split)} for split in ("train", "dev", "test")}
    for split, found in keys.items():
        assert found
        assert all(split_of(key) == split for key in found)


def test_splits_share_no_town_and_no_wording():
    rng = Random(0)
    seeds = {split: {town(rng, split).seed for _ in range(20)} for split in ("train", "dev", "test")}
    assert not seeds["train"] & seeds["test"]
    assert not seeds["dev"] & seeds["test"]
    intents = load("talk.toml")["intents"].values()
    held_out = {w for intent in intents for w in intent["user"] if split_of(w) == "test" and "{" not in w}
    said = {m.content for d in draw(talk, 1, 1000) for m in d.messages if m.role == "user"}
    assert held_out
    assert not held_out & said


@pytest.mark.parametrize("family", FAMILIES)
def test_english(family):
    for made in draw(family, 5, 400):
        text = text_of(made)
        assert text == text.strip()
        assert not re.search(r"  | \n|\n |[{}]| \.|,,|\.\.(?!\.)|''|\bNone\b", text), text
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [bcdfgjklmnpqrstvwxz]", text), text


def test_prose_opens_with_a_capital_and_ends_with_a_mark():
    for document in draw(prose, 11, 500):
        for paragraph in document.text.split("\n\n"):
            assert re.match(r'["A-Z0-9]', paragraph), document.text
    assert len({prose(Random(i), "train").text for i in range(500)}) > 490


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prose(kind):
    rng = Random(2)
    for _ in range(100):
        assert len(kind(rng, town(rng, "train"))) > 40


def test_market_sums_are_right():
    rng = Random(4)
    market = next(kind for kind in KINDS if kind.__name__ == "market")
    found = 0
    for _ in range(300):
        for n, p, t in re.findall(r"(\d+) times (\d+) (?:makes|is) (\d+)", market(rng, town(rng, "dev"))):
            assert int(n) * int(p) == int(t)
            found += 1
    assert found > 100


def test_kin_agree_with_each_other():
    for seed in range(50):
        here = Town(seed)
        for person in here.persons:
            if person.spouse:
                assert here.people[person.spouse].spouse == person.name
                assert here.people[person.spouse].address == person.address
            for parent in person.parents:
                assert person.name in here.people[parent].children
                assert here.people[parent].age >= person.age + 18
            for child in person.children:
                assert person.name in here.people[child].parents
            for word, other in here.kin(person):
                assert other.woman == (word in ("wife", "mother", "daughter", "sister", "grandmother"))
        assert len({p.name for p in here.persons}) == len(here.persons)


def test_a_new_family_can_move_in():
    family = Town(1, lexicon.NEW_WOMEN, lexicon.NEW_MEN, lexicon.NEW_SURNAMES, num_households=1)
    assert {p.name for p in family.persons} <= set(lexicon.NEW_NAMES)
    assert len({p.surname for p in family.persons}) == 1


def test_lexicon():
    names = lexicon.FIRST_NAMES + lexicon.NEW_NAMES + lexicon.SURNAMES + lexicon.NEW_SURNAMES + lexicon.PET_NAMES
    assert len(set(names)) == len(names)
    assert not [(a, b) for a in names for b in names if a != b and b.startswith(a)]
    nouns = lexicon.OBJECTS + lexicon.GOODS + lexicon.ANIMALS + lexicon.PLACES + lexicon.JOBS + lexicon.CONTAINERS
    nouns += lexicon.INSTRUMENTS + lexicon.COLOURS + lexicon.ROOMS
    assert len(set(nouns)) == len(nouns)
    assert not {name.lower() for name in names} & (set(nouns) | set(lexicon.SPELL_WORDS))
    assert set(lexicon.WORKPLACE.values()) <= set(lexicon.PLACES)
    assert [lexicon.article(w) for w in ("egg", "uncle", "lamp", "unit")] == ["an egg", "an uncle", "a lamp", "a unit"]
    assert [lexicon.plural(w) for w in ("box", "cherry", "knife", "toy")] == ["boxes", "cherries", "knives", "toys"]
    assert [lexicon.singular(w) for w in ("cherries", "pies", "potatoes")] == ["cherry", "pie", "potato"]
    assert [third(v) for v in ("carry bags", "teach", "play")] == ["carries bags", "teaches", "plays"]


def test_grammar_by_hand():
    grammar = {"s": even("{A x} {ran|sat|saw {a x}}.", "no"), "x": zipf("owl", "cat"), "unused": even("z")}
    found = {text: nats for text, nats, _ in derivations(grammar, "s")}
    assert found["An owl saw a cat."] == pytest.approx(log(1 / 2 * 2 / 3 * 1 / 3 * 1 / 3))
    assert found["no"] == pytest.approx(log(1 / 2))
    assert fsum(map(exp, found.values())) == pytest.approx(1.0)
    for seed in range(50):
        text, nats = expand(grammar, "s", Random(seed))
        assert nats == pytest.approx(found[text])
    assert expand({"s": even("{N}!")}, "s", Random(0), n="ada") == ("Ada!", 0.0)
    with pytest.raises(KeyError, match="neither a symbol"):
        expand({"s": even("{nobody}")}, "s", Random(0))


def test_every_derivation_of_a_joke_has_one_kind():
    texts = [(text, nats) for text, nats, _ in derivations(jokes(), "joke")]
    assert len({text for text, _ in texts}) == len(texts)
    assert fsum(exp(nats) for _, nats in texts) == pytest.approx(1.0)
    assert len(kinds()) >= 256
    assert fsum(kinds().values()) == pytest.approx(1.0)
    assert {kind_of(text) for text, _ in texts} == set(kinds())
    assert kind_of("Why did the clock leave town?") is None


def test_jokes_follow_their_distribution():
    """Chi-square of 40,000 jokes against the exact probabilities of the kinds: 319 degrees of freedom."""
    rng, n = Random(6), 40_000
    counts = Counter(kind_of(expand(jokes(), "joke", rng)[0]) for _ in range(n))
    chi_square = sum((counts[kind] - n * p) ** 2 / (n * p) for kind, p in kinds().items())
    assert 220 < chi_square < 430
    told = draw(joke, 6, 300)
    assert all(p.kind == kind_of(p.solution) and p.log_prob < 0 for p in told)


def test_programs_by_hand():
    steps, values = run("a=7\nb=a*3\nif a>b: b=1\nrepeat 2: a=a+b")
    assert steps == ["a=7", "b=7*3=21", "7>21 is false", "a=7+21=28", "a=28+21=49"]
    assert values == {"a": 49, "b": 21}


def test_gold_answers():
    for problem in draw(trace, 9, 300):
        asked = problem.steps[-1].split("=")
        assert run(problem.context)[1][asked[0]] == int(problem.answer) >= 0
    for problem in draw(sort, 9, 300):
        items = problem.answer.split(", ")
        key = str if problem.kind == "words" else int
        assert items == sorted(items, key=key, reverse=problem.kind == "down")
        assert sorted(items) == problem.key.split()[1:]
    for problem in draw(rearrange, 9, 300):
        if problem.kind == "reverse":
            assert ", ".join(problem.answer.split(", ")[::-1]) in problem.question
        elif problem.kind == "repeat":
            _, word, times = problem.key.split()
            assert problem.answer.split() == [word] * int(times)
        else:
            assert problem.context.split(", ")[len(problem.steps) - 1] == problem.answer
    for problem in draw(joke, 9, 10):
        assert problem.messages[-1].content == problem.closing


def test_talk_takes_turns():
    for document in draw(talk, 10, 300):
        roles = [message.role for message in document.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert 2 <= len(roles) <= 6
