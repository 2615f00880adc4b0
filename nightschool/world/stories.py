"""Stories with state: who is where, who has what, since when.

Six to nine events on two or three days move people between places and things between hands; every event is possible
where it happens (a thing is given only to somebody present). The solution notes the state asked for, a line a hop:
"The lamp: Ada", "Place of Ada: bakery".
"""

from __future__ import annotations

import random

from nightschool.world.lexicon import MEN, OBJECTS, PLACES, WEEKDAYS, WOMEN, article
from nightschool.world.passages import people
from nightschool.world.problem import Problem, Split, split_of

MOVE = (
    "{X} went to the {p}.",
    "{X} walked to the {p}.",
    "{X} left for the {p}.",
    "{X} set off for the {p}.",
    "{X} hurried to the {p}.",
)
TAKE = (
    "{X} took the {o}.",
    "{X} picked up the {o}.",
    "{X} found the {o} there and took it.",
    "{X} fetched the {o}.",
)
GIVE = (
    "{X} gave the {o} to {Y}.",
    "{X} handed {Y} the {o}.",
    "{X} gave {Y} the {o}.",
    "{X} passed the {o} to {Y}.",
)
DROP = ("{X} left the {o} at the {p}.", "{X} put the {o} down at the {p}.", "{X} forgot the {o} at the {p}.")
START = ("{X} was at the {p}.", "{X} was busy at the {p}.", "{X} waited at the {p}.")
START_WITH = (
    "{X} was at the {p} with {a}.",
    "{X} was at the {p} and had {a}.",
    "{X} waited at the {p} with {a}.",
)
OPENINGS = ("It was a long week.", "This is how it went.", "Listen to this.", "Nobody planned it.", "It began quietly.")
DAY = ("On {d}, ", "Then, on {d}, ", "It was {d} when ")
LINKS = ("", "", "", "Then ", "Later, ", "After that, ", "Soon ", "In the afternoon, ")

ASK = {
    "holder": ("Who has the {o} now?", "Who has the {o}?", "In whose hands is the {o} now?"),
    "person": ("Where is {X} now?", "Where is {X}?", "At which place is {X} now?"),
    "thing": ("Where is the {o} now?", "Where is the {o}?", "At which place is the {o} now?"),
    "since": ("Since when has {X} had the {o}?", "On which day did {X} get the {o}?"),
}


NUM_PLACES = 14  # of the town's places serve in stories: a small model must know each by heart


class State:
    """Where everyone is, and where every thing is: a person's name or a place."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.names = list(people(rng, 3, WOMEN, MEN))
        self.places = rng.sample(PLACES[:NUM_PLACES], 3)
        self.things = rng.sample(OBJECTS, 2)
        self.day = rng.randrange(7)
        self.at = {name: rng.choice(self.places) for name in self.names}
        self.held = {thing: rng.choice(self.names) for thing in self.things}
        self.since = dict.fromkeys(self.things, "")
        self.last = ""  # the thing of the last event: nothing changes hands twice in a row
        self.sentences: list[str] = []
        self.key: list[str] = []

    def say(self, wordings: tuple[str, ...], opener: str, **slots: str) -> None:
        self.sentences.append(opener + self.rng.choice(wordings).format(**slots))

    def open(self) -> None:
        self.sentences.append(self.rng.choice(OPENINGS))
        for name in self.names:
            with_it = [t for t in self.things if self.held[t] == name]
            self.say(
                START_WITH if with_it else START,
                "",
                X=name,
                p=self.at[name],
                a=" and ".join(map(article, with_it)),
            )
            self.key.append(f"{name} {self.at[name]} {' '.join(with_it)}")

    def event(self, opener: str) -> None:
        """One thing that can happen now. Moves are half of all events, so that things keep changing hands."""
        rng = self.rng
        held = [(t, x) for t, x in self.held.items() if t != self.last]
        gives = [(t, x, y) for t, x in held for y in self.names if y != x and x in self.at and self.at[x] == self.at[y]]
        takes = [(t, x) for t, p in held for x in self.names if self.at[x] == p]
        drops = [(t, x) for t, x in held if x in self.at]
        self.last = ""
        choice = rng.random()
        today = WEEKDAYS[self.day % 7]
        if takes and choice < 0.4:
            thing, x = rng.choice(takes)
            self.held[thing], self.since[thing], self.last = x, today, thing
            self.say(TAKE, opener, X=x, o=thing)
            self.key.append(f"{x} takes {thing}")
        elif gives and choice < 0.6:
            thing, x, y = rng.choice(gives)
            self.held[thing], self.since[thing], self.last = y, today, thing
            self.say(GIVE, opener, X=x, Y=y, o=thing)
            self.key.append(f"{x} gives {y} {thing}")
        elif drops and choice < 0.7:
            thing, x = rng.choice(drops)
            self.held[thing], self.since[thing], self.last = self.at[x], "", thing
            self.say(DROP, opener, X=x, o=thing, p=self.at[x])
            self.key.append(f"{x} drops {thing}")
        else:
            x = rng.choice(self.names)
            place = rng.choice([p for p in self.places if p != self.at[x]])
            self.at[x] = place
            self.say(MOVE, opener, X=x, p=place)
            self.key.append(f"{x} moves {place}")

    def run(self, num_events: int) -> None:
        self.open()
        turns = sorted(self.rng.sample(range(1, num_events), 1)) if num_events > 2 else []
        for i in range(num_events):
            if i == 0 or i in turns:
                self.day += i > 0
                opener = self.rng.choice(DAY if i else DAY[:1]).format(d=WEEKDAYS[self.day % 7])
            else:
                opener = self.rng.choice(LINKS)
            self.event(opener)


def ask(state: State, kind: str) -> tuple[str, tuple[str, ...], str] | None:
    """(question, notes, answer) of this kind; None where the story does not allow it."""
    rng = state.rng
    thing, name = rng.choice(state.things), rng.choice(state.names)
    holder = state.held[thing]
    question = rng.choice(ASK[kind])
    if kind == "person":
        return question.format(X=name), (f"Place of {name}: {state.at[name]}",), state.at[name]
    if kind == "thing" and holder in state.at:
        return (
            question.format(o=thing),
            (f"The {thing}: {holder}", f"Place of {holder}: {state.at[holder]}"),
            state.at[holder],
        )
    if kind == "thing":
        return question.format(o=thing), (f"The {thing}: {holder}",), holder
    if holder not in state.at:
        return None
    if kind == "holder":
        return question.format(o=thing), (f"The {thing}: {holder}",), holder
    if state.since[thing]:
        return (
            question.format(X=holder, o=thing),
            (f"Day of the {thing}: {state.since[thing]}",),
            state.since[thing],
        )
    return None


def story(
    rng: random.Random,
    split: Split,
    kinds: tuple[str, ...] = ("holder", "person", "thing", "since"),
    num_events: tuple[int, int] = (6, 9),
) -> list[Problem]:
    """One story and a question of each of `kinds` that it allows, at least one. The key is its events."""
    while True:
        state = State(rng)
        state.run(rng.randint(*num_events))
        key = "story " + "; ".join(state.key)
        asked = [(kind, found) for kind in kinds if (found := ask(state, kind))]
        if asked and split_of(key) == split:
            break
    text = " ".join(state.sentences)
    return [
        Problem(skill="story", kind=kind, key=key, context=text, question=q, steps=notes, answer=answer)
        for kind, (q, notes, answer) in asked
    ]


def notes(rng: random.Random, split: Split, num_events: tuple[int, int] = (6, 9)) -> tuple[str, list[str]]:
    """A story and notes on how things stand at its end, each twice, in no order."""
    while True:
        state = State(rng)
        state.run(rng.randint(*num_events))
        if split_of("story " + "; ".join(state.key)) == split:
            break
    lines = 2 * [f"Place of {name}: {place}" for name, place in state.at.items()]
    lines += 2 * [f"The {thing}: {holder}" for thing, holder in state.held.items()]
    lines += [f"Day of the {thing}: {day}" for thing, day in state.since.items() if day]
    rng.shuffle(lines)
    return " ".join(state.sentences), lines
