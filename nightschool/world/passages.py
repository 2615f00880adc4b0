"""Passages about a few people of the town, with questions that the passage answers, or does not.

A passage has 5-9 sentences, 3-4 people and 7 or more facts. Each attribute of a person has its wordings, the last of
which is kept for dev and test, and its questions, the last of which is kept for the morning after a night. A
solution first notes what it looked up, a line a fact ("job of Greta: baker"): two hops are two notes. Names never begin
a line: with a space before them or without, they are two tokens to the model, which would have to learn each by heart.
"""

from __future__ import annotations

import math
import random

from nightschool.world.attributes import ATTRIBUTES, KIN, Fact, kin
from nightschool.world.lexicon import FIRST_NAMES, MEN, NEW_MEN, NEW_NAMES, NEW_WOMEN, WOMEN, article
from nightschool.world.problem import Problem, Split, split_of

UNKNOWN = "The text does not say."
NOT_SAID = "not said"
OPENINGS = (
    "Here is what people say.",
    "This is about some people in town.",
    "Meet the neighbours.",
    "There is much to tell.",
    "So the town paper wrote.",
    "Let us talk about people.",
)


def worded(rng: random.Random, wordings: tuple[str, ...], split: Split, value_first: float = 0.0) -> str:
    """One of the wordings. The last is never heard in train; of dev's and test's facts it tells a sixth. value_first:
    the share of facts that are told with the value before the person in any case."""
    if split != "train" and rng.random() < 1 / 6:
        return wordings[-1]
    if value_first and rng.random() < value_first:
        return rng.choice([w for w in wordings[:-1] if w.index("{X}") > max(w.find("{v}"), w.find("{a}"))])
    return rng.choice(wordings[:-1])


def people(
    rng: random.Random, n: int, women: tuple[str, ...] = WOMEN + NEW_WOMEN, men: tuple[str, ...] = MEN + NEW_MEN
) -> dict[str, str]:
    """n people, name -> pronoun."""
    named: dict[str, str] = {}
    while len(named) < n:
        names, pronoun = rng.choice([side for side in ((women, "she"), (men, "he")) if side[0]])
        named[rng.choice(names)] = pronoun
    return named


def facts_of(rng: random.Random, cast: dict[str, str], num_facts: int) -> list[Fact]:
    """A relation and facts about everyone, `num_facts` in all; no value stands for two people.

    They come from a few attributes, so that most are told of several people and a question is answered by nobody who
    only looks for the kind of word it wants.
    """
    names = list(cast)
    relative, person = rng.sample(names, 2)
    facts = [Fact(person, kin(rng.choice(KIN[cast[relative]])), relative)]
    attributes = rng.sample(ATTRIBUTES, math.ceil((num_facts - 1) / len(names)) + rng.randint(0, 1))
    values = {a.name: iter(rng.sample(a.values, len(names))) for a in attributes}
    pairs = [(name, attribute) for name in names for attribute in attributes]
    for name, attribute in rng.sample(pairs, min(num_facts - 1, len(pairs))):
        facts.append(Fact(name, attribute, next(values[attribute.name])))
    return facts


def tell(rng: random.Random, cast: dict[str, str], facts: list[Fact], split: Split, value_first: float = 0.0) -> str:
    """The facts in sentences, grouped by person or mixed. Here and there two facts are joined in one sentence, or a
    pronoun stands where the sentence before had the same subject."""
    facts = facts[:]
    rng.shuffle(facts)
    if rng.random() < 0.6:
        names = list(cast)
        rng.shuffle(names)
        facts.sort(key=lambda f: names.index(f.person))
    sentences = [rng.choice(OPENINGS)]
    subject, joinable, room_to_join = "", False, len(facts) - 4  # of the sentence before
    for fact in facts:
        said = worded(rng, fact.attribute.wordings, split, value_first).format(
            X=fact.person, v=fact.value, a=article(fact.value)
        )
        predicate = said.removeprefix(fact.person + " ")
        alone = " and " not in said
        same = predicate != said and alone and subject == fact.person
        if same and joinable and room_to_join > 0:
            sentences[-1] = f"{sentences[-1][:-1]} and {predicate}"
            joinable, room_to_join = False, room_to_join - 1
            continue
        if same and rng.random() < 0.4:
            sentences.append(f"{cast[fact.person].title()} {predicate}")
        else:
            sentences.append(said)
        subject = fact.person if alone and said.startswith((fact.person + " ", fact.person + "'s")) else ""
        joinable = bool(subject) and predicate != said
    return " ".join(sentences)


def key_of(facts: list[Fact]) -> str:
    """What a passage says, whatever its wording."""
    return "passage " + "; ".join(sorted(f.note for f in facts))


def present(rng: random.Random, facts: list[Fact]) -> tuple[str, str, tuple[str, ...], str]:
    """(kind, question, notes, answer) of a fact that is there."""
    fact = rng.choice(facts)
    return "one_hop", rng.choice(fact.attribute.ask[:-1]).format(X=fact.person), (fact.note,), fact.value


def two_hops(rng: random.Random, facts: list[Fact]) -> tuple[str, str, tuple[str, ...], str] | None:
    """A fact about somebody's relative; None if the passage has no such pair."""
    pairs = [
        (link, fact)
        for link in facts
        for fact in facts
        if link.attribute.kin and fact.person == link.value and not fact.attribute.kin
    ]
    if not pairs:
        return None
    link, fact = rng.choice(pairs)
    question = rng.choice(fact.attribute.ask[:-1]).format(X=f"{link.person}'s {link.attribute.name}")
    return "two_hop", question, (link.note, fact.note), fact.value


def missing(rng: random.Random, cast: dict[str, str], facts: list[Fact]) -> tuple[str, str, tuple[str, ...], str]:
    """A question left open: mostly about the passage's own people, and attributes it gives of others."""
    known = {(f.person, f.attribute.name) for f in facts}
    told = [f.attribute for f in facts if not f.attribute.kin]
    while True:
        name = rng.choice(list(cast)) if rng.random() < 0.75 else rng.choice(FIRST_NAMES + NEW_NAMES)
        attribute = rng.choice(told) if rng.random() < 0.6 else rng.choice(ATTRIBUTES)
        if (name, attribute.name) not in known:
            note = f"{attribute.name} of {name}: {NOT_SAID}"
            return "absent", rng.choice(attribute.ask[:-1]).format(X=name), (note,), ""


def passage(
    rng: random.Random,
    split: Split,
    kinds: tuple[str, ...] = ("one_hop", "two_hop", "absent"),
    num_facts: tuple[int, int] = (7, 8),
) -> list[Problem]:
    """One passage and a question of each of `kinds`, in order (one_hop where it links nothing for a two_hop).

    The key is the passage's facts, so that all its questions fall into the same set.
    """
    while True:
        n = rng.randint(*num_facts)
        cast = people(rng, rng.choice((3, 4)) if n > 4 else 2)
        facts = facts_of(rng, cast, n)
        key = key_of(facts)
        if split_of(key) == split:
            break
    text = tell(rng, cast, facts, split)
    problems = []
    for kind in kinds:
        if kind == "absent":
            asked = missing(rng, cast, facts)
        elif kind == "two_hop" and (pair := two_hops(rng, facts)):
            asked = pair
        else:
            asked = present(rng, facts)
        name, question, notes, answer = asked
        problems.append(
            Problem(
                skill="absent" if name == "absent" else "passage",
                kind=name,
                key=key,
                context=text,
                question=question,
                steps=notes,
                answer=answer,
                closing="" if answer else UNKNOWN,
            )
        )
    return problems


def notes(
    rng: random.Random, split: Split, num_facts: tuple[int, int] = (7, 8), value_first: float = 0.0
) -> tuple[str, list[str]]:
    """A passage and notes on it in no order: each fact twice, and some that it leaves open.

    Dense practice in looking things up: a note is a question and its answer in half a dozen tokens.
    """
    while True:
        n = rng.randint(*num_facts)
        cast = people(rng, rng.choice((3, 4)) if n > 4 else 2)
        facts = facts_of(rng, cast, n)
        if split_of(key_of(facts)) == split:
            break
    lines = 2 * [f.note for f in facts]
    lines += [missing(rng, cast, facts)[2][0] for _ in range(n // 2)]
    rng.shuffle(lines)
    return tell(rng, cast, facts, split, value_first), lines
