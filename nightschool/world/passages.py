"""Passages about a few people of the town, with questions that the passage answers, or does not.

A passage has 5-9 sentences, 3-4 people and 7 or more facts. Each attribute of a person has its wordings, the last of
which is kept for dev and test, and its questions, the last of which is kept for the morning after a night. A
solution first notes what it looked up, a line a fact ("job of Greta: baker"): two hops are two notes. Names never begin
a line: with a space before them or without, they are two tokens to the model, which would have to learn each by heart.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from nightschool.world.lexicon import (
    ANIMALS,
    COLOURS,
    FIRST_NAMES,
    FOODS,
    HOBBIES,
    INSTRUMENTS,
    JOBS,
    MEN,
    MONTHS,
    NEW_MEN,
    NEW_NAMES,
    NEW_WOMEN,
    STREETS,
    WOMEN,
    article,
)
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


@dataclass(frozen=True)
class Attribute:
    """Something to know of a person. Slots: X the person, v the value, a the value with its article."""

    name: str
    values: tuple[str, ...]
    wordings: tuple[str, ...]  # the last is kept for dev and test
    ask: tuple[str, ...]  # the last is kept for the morning after a night
    kin: bool = False  # the value is another person of the passage


ATTRIBUTES = (
    Attribute(
        "job",
        JOBS[:14],  # a small model must know each value by heart
        (
            "{X} is {a}.",
            "{X} works as {a}.",
            "{X} earns a living as {a}.",
            "{X} has been {a} for years.",
            "{X} found work as {a}.",
            "Every day {X} works as {a}.",
            "The {v} of our town is {X}.",
            "Work as {a} suits {X}.",
            "The new {v} in town is {X}.",
            "No {v} is as busy as {X}.",
            "For years {X} has worked as {a}.",
        ),
        (
            "What does {X} do for a living?",
            "What is {X}'s job?",
            "What does {X} work as?",
            "Which work does {X} do?",
            "What job does {X} do?",
            "Which job does {X} have?",
        ),
    ),
    Attribute(
        "street",
        STREETS,
        (
            "{X} lives in {v}.",
            "{X} has a house in {v}.",
            "{X}'s home is in {v}.",
            "{X} moved to {v} last spring.",
            "You will find {X}'s house in {v}.",
            "For years {X} has lived in {v}.",
            "In {v} stands {X}'s house.",
            "Down in {v} lives {X}.",
            "Up in {v} stands the house of {X}.",
            "The way to {v} is {X}'s way home.",
            "The house in {v} is {X}'s home.",
        ),
        (
            "Where does {X} live?",
            "In which street does {X} live?",
            "Where is {X}'s home?",
            "Which street is {X}'s home in?",
            "What street does {X} live in?",
            "Which street does {X} live in?",
        ),
    ),
    Attribute(
        "pet",
        ANIMALS,
        (
            "{X} has {a}.",
            "{X} keeps {a}.",
            "{X} owns {a}.",
            "{X} looks after {a}.",
            "{X}'s pet is {a}.",
            "{X} has had {a} for years.",
            "There is {a} in {X}'s yard.",
            "The {v} by the gate is {X}'s.",
            "Every morning {a} wakes {X}.",
            "The {v} in the yard belongs to {X}.",
            "{X} has {a} as a pet.",
        ),
        (
            "What animal does {X} have?",
            "Which pet does {X} keep?",
            "Which animal does {X} own?",
            "What pet does {X} keep?",
            "Which pet is {X}'s?",
            "What pet does {X} have?",
        ),
    ),
    Attribute(
        "hobby",
        HOBBIES,
        (
            "{X} loves {v}.",
            "{X} enjoys {v} in the evening.",
            "{X} likes nothing better than {v}.",
            "{X}'s hobby is {v}.",
            "On Sundays, {X} likes {v}.",
            "It is {v} that {X} likes best.",
            "Nothing but {v} makes {X} happy.",
            "A day without {v} is a lost day for {X}.",
            "There is always time for {v} in {X}'s week.",
            "In the evening, {X} loves {v}.",
        ),
        (
            "What is {X}'s hobby?",
            "Which hobby does {X} have?",
            "What does {X} like to do?",
            "What is the hobby of {X}?",
            "Which hobby is {X}'s?",
            "What hobby does {X} have?",
        ),
    ),
    Attribute(
        "instrument",
        INSTRUMENTS,
        (
            "{X} plays the {v}.",
            "{X} is learning the {v}.",
            "{X} has played the {v} for years.",
            "{X} practises the {v} every day.",
            "Every evening, {X} plays the {v}.",
            "{X} takes lessons on the {v}.",
            "It is the {v} that {X} plays.",
            "The sound of the {v} comes from {X}'s house.",
            "The {v} in the corner is {X}'s.",
            "Nobody plays the {v} as well as {X}.",
            "For years {X} has played the {v}.",
        ),
        (
            "Which instrument does {X} play?",
            "Which instrument can {X} play?",
            "What instrument can {X} play?",
            "Which instrument is {X}'s?",
            "What instrument does {X} play?",
        ),
    ),
    Attribute(
        "food",
        FOODS[:12],
        (
            "{X}'s favourite food is {v}.",
            "{X} eats {v} every day.",
            "{X} is fond of {v}.",
            "{X} likes {v} best of all.",
            "{X} cannot live without {v}.",
            "{X} buys {v} on every market day.",
            "There are always {v} on {X}'s table.",
            "Nobody likes {v} more than {X}.",
            "A plate of {v} makes {X} happy.",
            "The smell of {v} comes from {X}'s kitchen.",
            "Every day {X} eats {v}.",
        ),
        (
            "What is {X}'s favourite food?",
            "What does {X} like to eat?",
            "Which food does {X} like best?",
            "What food does {X} like best?",
            "What is the favourite food of {X}?",
            "Which food is {X}'s favourite?",
        ),
    ),
    Attribute(
        "door",
        COLOURS,
        (
            "{X} has {a} door.",
            "{X}'s door is {v}.",
            "The door of {X}'s house is {v}.",
            "{X} painted the door {v}.",
            "{X} lives behind {a} door.",
            "The {v} door is {X}'s.",
            "Behind the {v} door lives {X}.",
            "There is {a} door on {X}'s house.",
            "The {v} paint on the door was {X}'s idea.",
            "Somebody painted {X}'s door {v}.",
            "The house with the {v} door is {X}'s.",
        ),
        (
            "What colour is {X}'s door?",
            "Which colour is {X}'s door?",
            "What colour does {X}'s door have?",
            "What is the colour of {X}'s door?",
            "Which colour is the door of {X}?",
            "Which colour does {X}'s door have?",
        ),
    ),
    Attribute(
        "birthday",
        MONTHS,
        (
            "{X} was born in {v}.",
            "{X}'s birthday is in {v}.",
            "{X} has a birthday in {v}.",
            "{X} turns a year older in {v}.",
            "In {v}, {X} has a birthday.",
            "The party in {v} is for {X}'s birthday.",
            "{X} came into the world one day in {v}.",
            "Every {v} there is a party at {X}'s house.",
            "One day in {v} is {X}'s birthday.",
            "In {v} it is {X}'s birthday.",
        ),
        (
            "When is {X}'s birthday?",
            "In which month was {X} born?",
            "Which month is {X}'s birthday in?",
            "In what month is {X}'s birthday?",
            "When was {X} born?",
            "In which month is {X}'s birthday?",
        ),
    ),
)
KIN_WORDINGS = (
    "{X}'s {k} is {v}.",
    "{X} has a {k}, {v}.",
    "{v} is the {k} of {X}.",
    "{X} and {v}, {X}'s {k}, often meet.",
    "Everyone knows {v}, {X}'s {k}.",
    "{v}, {X}'s {k}, is well known.",
    "The name of {X}'s {k} is {v}.",
    "In {v}, {X} has a good {k}.",
    "{v} is {X}'s {k}.",
    "{X} has a {k} called {v}.",
)
KIN_ASK = (
    "Who is {X}'s {k}?",
    "What is the name of {X}'s {k}?",
    "Who is the {k} of {X}?",
    "Which person is the {k} of {X}?",
    "What is {X}'s {k} called?",
    "Which person is {X}'s {k}?",
)
KIN = {
    "she": ("sister", "mother", "cousin", "daughter", "friend"),
    "he": ("brother", "father", "cousin", "son", "friend"),
}


def kin(word: str) -> Attribute:
    """The attribute of being someone's sister, brother, friend ..."""
    wordings, ask = (tuple(w.replace("{k}", word) for w in texts) for texts in (KIN_WORDINGS, KIN_ASK))
    return Attribute(word, (), wordings, ask, kin=True)


@dataclass(frozen=True)
class Fact:
    person: str
    attribute: Attribute
    value: str

    @property
    def note(self) -> str:
        return f"{self.attribute.name} of {self.person}: {self.value}"


def worded(rng: random.Random, wordings: tuple[str, ...], split: Split) -> str:
    """One of the wordings. The last is never heard in train; of dev's and test's facts it tells a sixth."""
    if split != "train" and rng.random() < 1 / 6:
        return wordings[-1]
    return rng.choice(wordings[:-1])


def people(
    rng: random.Random, n: int, women: tuple[str, ...] = WOMEN + NEW_WOMEN, men: tuple[str, ...] = MEN + NEW_MEN
) -> dict[str, str]:
    """n people, name -> pronoun."""
    named: dict[str, str] = {}
    while len(named) < n:
        names, pronoun = rng.choice(((women, "she"), (men, "he")))
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


def tell(rng: random.Random, cast: dict[str, str], facts: list[Fact], split: Split) -> str:
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
        said = worded(rng, fact.attribute.wordings, split).format(X=fact.person, v=fact.value, a=article(fact.value))
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


def notes(rng: random.Random, split: Split, num_facts: tuple[int, int] = (7, 8)) -> tuple[str, list[str]]:
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
    return tell(rng, cast, facts, split), lines
