"""A made-up town, a pure function of its seed: people and their kin, homes, work, belongings, prices, events.

A household is a couple with up to three children; some have the husband's or the wife's parents in a house of
their own. Everyone's first name is unique in town. But: nobody is divorced, widowed or an orphan, and nothing
changes: what happens to people is told by stories.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from nightschool.world import lexicon
from nightschool.world.problem import Split, split_of

EVENTS = {  # what happens each week -> where it happens
    "concert": "theatre",
    "choir": "church",
    "dance": "inn",
    "flower market": "square",
    "chess evening": "library",
    "reading hour": "library",
    "puppet show": "theatre",
    "boat race": "harbour",
    "bake sale": "bakery",
    "cooking class": "school",
    "drawing class": "studio",
    "town meeting": "court",
    "garden walk": "park",
    "pet show": "farm",
}


@dataclass(frozen=True, slots=True)
class Person:
    """One inhabitant; relatives are given by first name, "" or () where there are none in town."""

    name: str
    surname: str
    woman: bool
    age: int  # years
    job: str  # "" for a child, who goes to school
    street: str
    number: int
    spouse: str = ""
    parents: tuple[str, ...] = ()  # father, mother
    children: tuple[str, ...] = ()
    hobby: str = ""
    instrument: str = ""  # "" = plays none
    food: str = ""  # favourite, in the plural
    colour: str = ""  # of the belonging
    belonging: str = ""
    pet: str = ""  # kind of animal, "" = none
    pet_name: str = ""

    @property
    def place(self) -> str:
        """Where the day is spent."""
        return lexicon.WORKPLACE[self.job] if self.job else "school"

    @property
    def address(self) -> str:
        return f"{self.number} {self.street}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens every week."""

    name: str
    weekday: str
    hour: int  # 1-12 in the afternoon or evening
    place: str
    host: str


@dataclass(frozen=True)
class Town:
    """Town(7).people["Ada"].spouse; the same seed is the same town."""

    seed: int
    women: tuple[str, ...] = lexicon.WOMEN
    men: tuple[str, ...] = lexicon.MEN
    surnames: tuple[str, ...] = lexicon.SURNAMES
    num_households: int = 3  # at most 7
    name: str = field(init=False)
    people: dict[str, Person] = field(init=False)
    prices: dict[str, int] = field(init=False)  # good, in the plural -> coins for one
    events: tuple[Event, ...] = field(init=False)

    def __post_init__(self) -> None:
        rng = Random(self.seed)
        people = {p.name: p for p in _people(rng, self)}
        adults = [p.name for p in people.values() if p.job]
        events = tuple(
            Event(name, rng.choice(lexicon.WEEKDAYS), rng.randint(2, 8), EVENTS[name], rng.choice(adults))
            for name in rng.sample(tuple(EVENTS), 4)
        )
        for key, value in (
            ("name", rng.choice(lexicon.TOWNS)),
            ("people", people),
            ("prices", {good: rng.randint(1, 9) for good in rng.sample(lexicon.GOODS, 12)}),
            ("events", events),
        ):
            object.__setattr__(self, key, value)

    @cached_property
    def persons(self) -> tuple[Person, ...]:
        return tuple(self.people.values())

    @cached_property
    def adults(self) -> tuple[Person, ...]:
        return tuple(p for p in self.persons if p.job)

    def siblings(self, person: Person) -> tuple[Person, ...]:
        if not person.parents:
            return ()
        return tuple(self.people[c] for c in self.people[person.parents[0]].children if c != person.name)

    def kin(self, person: Person) -> list[tuple[str, Person]]:
        """Every relative in town after the word for them: [("wife", ...), ("daughter", ...)]."""
        found = [("wife" if self.people[person.spouse].woman else "husband", person.spouse)] if person.spouse else []
        found += [("mother" if self.people[p].woman else "father", p) for p in person.parents]
        found += [("daughter" if self.people[c].woman else "son", c) for c in person.children]
        found += [("sister" if s.woman else "brother", s.name) for s in self.siblings(person)]
        for parent in person.parents:
            found += [
                ("grandmother" if self.people[g].woman else "grandfather", g) for g in self.people[parent].parents
            ]
        return [(word, self.people[name]) for word, name in found]


def town(rng: Random, split: Split) -> Town:
    """A town of one split's own seeds."""
    while split_of(f"town {(seed := rng.getrandbits(32))}") != split:
        pass
    return Town(seed)


def _people(rng: Random, town: Town) -> list[Person]:
    """Household by household: (grandparents,) parents, children."""
    n = town.num_households
    women, men = (rng.sample(names, min(5 * n, len(names))) for names in (town.women, town.men))
    surnames, jobs = rng.sample(town.surnames, 2 * n), rng.sample(lexicon.JOBS, 4 * n)
    streets, pets = rng.sample(lexicon.STREETS, 2 * n), rng.sample(lexicon.PET_NAMES, 6)
    people: list[Person] = []

    def add(name: str, woman: bool, surname: str, home: tuple[str, int], age: int, **kin: Any) -> None:
        pet = bool(pets) and rng.random() < 0.25
        person = Person(
            name=name,
            surname=surname,
            woman=woman,
            age=age,
            job=jobs.pop() if age >= 18 else "",
            street=home[0],
            number=home[1],
            hobby=rng.choice(lexicon.HOBBIES),
            instrument=rng.choice(lexicon.INSTRUMENTS) if rng.random() < 0.4 else "",
            food=rng.choice(lexicon.FOODS),
            colour=rng.choice(lexicon.COLOURS),
            belonging=rng.choice(lexicon.OBJECTS),
            pet=rng.choice(lexicon.ANIMALS) if pet else "",
            pet_name=pets.pop() if pet else "",
            **kin,
        )
        people.append(person)

    def house() -> tuple[str, int]:
        return streets.pop(), rng.randint(1, 30)

    for _ in range(n):
        surname, home, age = surnames.pop(), house(), rng.randint(34, 46)
        husband, wife = men.pop(), women.pop()
        girls = [rng.random() < 0.5 for _ in range(rng.choice((0, 1, 2, 2, 3)))]
        children = tuple((women if girl else men).pop() for girl in girls)
        parents: dict[str, tuple[str, ...]] = {husband: (), wife: ()}
        if n > 1 and rng.random() < 0.5:
            grown = rng.choice((husband, wife))
            parents[grown] = grandfather, grandmother = men.pop(), women.pop()
            old = (surname if grown == husband else surnames.pop(), house(), age + rng.randint(23, 28))
            add(grandfather, False, *old, spouse=grandmother, children=(grown,))
            add(grandmother, True, *old, spouse=grandfather, children=(grown,))
        add(husband, False, surname, home, age, spouse=wife, parents=parents[husband], children=children)
        add(
            wife, True, surname, home, age - rng.randint(0, 2), spouse=husband, parents=parents[wife], children=children
        )
        child_age = rng.randint(5, 8)
        for name, girl in zip(children, girls, strict=True):
            add(name, girl, surname, home, child_age, parents=(husband, wife))
            child_age += rng.randint(1, 3)
    return people
