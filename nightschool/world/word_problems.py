"""Word problems: a small story about a number of things.

The solution goes through the story sentence by sentence: it repeats each and says what is left after it, so that
every line can be read off the line before and a longer story is no other work, only more of it:
"In the morning, Ada has 4 pears: 4", "Then she buys 2 more: 4+2=6", "Tom has 9 pears too: 6", "Answer: 6".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from nightschool.world.lexicon import CONTAINERS, GOODS, MEN, WOMEN, plural
from nightschool.world.problem import Problem, Split, split_of

LONGEST = 3  # steps of the longest problem in SFT; RL practises on LONGEST + 1


@dataclass
class Tale:
    """A problem being told: its sentences, its calculations, the solution's lines, and what the person has now."""

    rng: random.Random
    name: str
    she: str
    goods: str
    other: str
    total: int
    sentences: list[str] = field(default_factory=list)
    calculations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def say(self, *wordings: str, **slots: object) -> None:
        sentence = self.rng.choice(wordings).format(
            X=self.name, she=self.she, She=self.she.title(), g=self.goods, Y=self.other, **slots
        )
        self.sentences.append(sentence)
        self.lines.append(f"{sentence.removesuffix('.')}: {self.total}")

    def calculate(self, op: str, number: int, first: str = "") -> None:
        """What the last sentence does to the total; `first` is a calculation that comes before."""
        before = self.total
        self.total = {"+": before + number, "-": before - number, "*": before * number}[op]
        done = [first] if first else []
        done.append(f"{before}{op}{number}={self.total}")
        self.calculations += done
        self.lines[-1] = f"{self.sentences[-1].removesuffix('.')}: {'; '.join(done)}"


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
    tale.calculate("+", k * n, first=f"{k}*{n}={k * n}")


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
        after = rng.randint(0, wanted - 1) if rng.random() < 0.3 else wanted  # calculations before an aside
        while len(tale.calculations) < wanted:
            if len(tale.calculations) >= after:
                aside(tale)
                after = wanted
            events: list[Callable[[Tale], None]] = [gain]
            if tale.total >= 4:
                events.append(lose)
            if tale.total <= 20:
                events.append(double)
            if wanted - len(tale.calculations) >= 2:
                events.append(bags)
            rng.choice(events)(tale)
        if split_of("word_problem " + (key := " ".join(tale.calculations))) == split:
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
        steps=tuple(tale.lines),
        answer=str(tale.total),
    )
