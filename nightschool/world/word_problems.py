"""Word problems: a small story about a number of things, solved one calculation a line."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from nightschool.world.lexicon import CONTAINERS, GOODS, MEN, WOMEN, plural
from nightschool.world.problem import Problem, Split, split_of

LONGEST = 3  # steps of the longest problem in SFT; RL practises on LONGEST + 1


@dataclass
class Tale:
    """A problem being told: sentences so far, calculations so far, and what the person has now."""

    rng: random.Random
    name: str
    she: str
    goods: str
    other: str
    total: int
    sentences: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def say(self, *wordings: str, **slots: object) -> None:
        self.sentences.append(
            self.rng.choice(wordings).format(
                X=self.name, she=self.she, She=self.she.title(), g=self.goods, Y=self.other, **slots
            )
        )

    def calculate(self, op: str, number: int) -> None:
        before = self.total
        self.total = {"+": before + number, "-": before - number, "*": before * number}[op]
        self.steps.append(f"{before}{op}{number}={self.total}")


def gain(tale: Tale) -> None:
    n = tale.rng.randint(2, 9)
    tale.say(
        "Then {she} buys {n} more.",
        "{Y} gives {X} {n} more {g}.",
        "{She} finds another {n} {g}.",
        "At the market, {she} buys {n} more {g}.",
        "A neighbour brings {X} {n} {g}.",
        n=n,
    )
    tale.calculate("+", n)


def lose(tale: Tale) -> None:
    n = tale.rng.randint(2, min(9, tale.total - 1))
    tale.say(
        "Then {she} gives {n} of them to {Y}.",
        "{She} sells {n} {g}.",
        "{She} loses {n} of the {g}.",
        "{X} hands {n} {g} to {Y}.",
        "On the way home, {n} {g} are lost.",
        n=n,
    )
    tale.calculate("-", n)


def double(tale: Tale) -> None:
    tale.say(
        "Then the number of {g} doubles.",
        "By the evening, {she} has twice as many.",
        "{Y} brings {X} just as many {g} again, which makes twice as many.",
    )
    tale.calculate("*", 2)


def bags(tale: Tale) -> None:
    """Two calculations: so many bags of so many."""
    k, n, container = tale.rng.randint(2, 5), tale.rng.randint(2, 5), tale.rng.choice(CONTAINERS)
    tale.say(
        "Then {she} buys {k} {cs} with {n} {g} in each.",
        "{Y} brings {k} {cs}, and each {c} holds {n} {g}.",
        "{She} fetches {k} {cs} of {n} {g} each.",
        k=k,
        n=n,
        c=container,
        cs=plural(container),
    )
    tale.steps.append(f"{k}*{n}={k * n}")
    tale.calculate("+", k * n)


def aside(tale: Tale) -> None:
    """A sentence with a number that does not matter."""
    tale.say(
        "{Y} has {n} {g} too.",
        "{Y} is {n} years older than {X}.",
        "It takes {X} {n} minutes to walk home.",
        n=tale.rng.randint(2, 20),
    )


def word_problem(rng: random.Random, split: Split, num_steps: tuple[int, int] = (1, LONGEST)) -> Problem:
    """A problem of `num_steps` (low, high) calculations, which are its key."""
    while True:
        names = rng.choice(((WOMEN, "she"), (MEN, "he")))
        name = rng.choice(names[0])
        other = rng.choice([n for n in (rng.choice(WOMEN), rng.choice(MEN)) if n != name])
        tale = Tale(rng, name, names[1], rng.choice(GOODS[:16]), other, total=rng.randint(4, 20))
        start = tale.total
        tale.say(
            "{X} has {n} {g}.",
            "{X} starts the day with {n} {g}.",
            "In the morning, {X} has {n} {g}.",
            n=start,
        )
        wanted = rng.randint(*num_steps)
        while len(tale.steps) < wanted:
            events: list[Callable[[Tale], None]] = [gain]
            if tale.total >= 4:
                events.append(lose)
            if tale.total <= 20:
                events.append(double)
            if wanted - len(tale.steps) >= 2:
                events.append(bags)
            rng.choice(events)(tale)
        if rng.random() < 0.3:
            position = rng.randint(1, len(tale.sentences))
            aside(tale)
            tale.sentences.insert(position, tale.sentences.pop())
        if split_of("word_problem " + (key := " ".join(tale.steps))) == split:
            break
    question = rng.choice(
        (
            "How many {g} does {X} have now?",
            "How many {g} does {X} have in the end?",
            "How many {g} has {X} got now?",
        )
    )
    return Problem(
        skill="word_problem",
        kind=f"steps_{wanted}",
        key=f"word_problem {key}",
        question=" ".join(tale.sentences) + " " + question.format(X=tale.name, g=tale.goods),
        steps=tuple(tale.steps),
        answer=str(tale.total),
    )
