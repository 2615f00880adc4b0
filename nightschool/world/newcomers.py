"""A new family moves to town: facts that nobody knew by day, told once, in passages and in the day's talk.

By day their names are anybody's: passages about other towns bear them. What the news says of them, and the wording in
which the morning asks for it, are met nowhere else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nightschool.config import UserError
from nightschool.text.document import Document, Message
from nightschool.world.attributes import ATTRIBUTES, KIN, Fact, kin
from nightschool.world.lexicon import FIRST_NAMES, NEW_MEN, NEW_NAMES, NEW_WOMEN
from nightschool.world.passages import people, tell
from nightschool.world.problem import Problem

FACTS_A_PERSON = 7  # of the 8 attributes; the eighth is never told
FACTS_A_DOCUMENT = 8
TOLD = (
    "Have you heard of our new neighbours? {}",
    "Let me tell you about the new family. {}",
    "There is news in town. {}",
)
THANKS = ("Thank you for telling me.", "That is good to know.", "Thank you. I will think about it tonight.")


@dataclass(frozen=True)
class News:
    facts: tuple[Fact, ...]
    documents: tuple[Document, ...]  # passages, and conversations in which somebody told
    strangers: tuple[str, ...]  # everyone else, of whom nothing is known in the morning either


def newcomers(seed: int, num_people: int = 8, known: Sequence[str] = ()) -> News:
    """A family of `num_people` (4 or 8): 7 facts each and 4 ties, 60 facts for 8 people. known: names of
    families that came before. UserError where the town has no names left."""
    rng = random.Random(f"newcomers {seed}")
    women, men = (tuple(name for name in names if name not in known) for names in (NEW_WOMEN, NEW_MEN))
    if num_people > len(women + men):
        raise UserError(f"no names are left for a family of {num_people}; at most {len(women + men)} can move in")
    cast = people(rng, num_people, women, men)
    names = list(cast)
    values = {a.name: rng.sample(a.values, num_people) for a in ATTRIBUTES}
    facts: list[Fact] = []
    documents: list[Document] = []
    for i in range(0, num_people, 4):
        group = names[i : i + 4]
        told = [
            Fact(name, attribute, values[attribute.name][names.index(name)])
            for name in group
            for attribute in rng.sample(ATTRIBUTES, FACTS_A_PERSON)
        ]
        for person, relative in ((group[0], group[1]), (group[2], group[3])):
            told.append(Fact(person, kin(rng.choice(KIN[cast[relative]])), relative))
        rng.shuffle(told)
        facts += told
        for j in range(0, len(told), FACTS_A_DOCUMENT):
            text = tell(rng, cast, told[j : j + FACTS_A_DOCUMENT], "train")
            if j == 0:
                user = Message("user", rng.choice(TOLD).format(text))
                documents.append(Document(messages=(user, Message("assistant", rng.choice(THANKS)))))
            else:
                documents.append(Document(text=text))
    strangers = tuple(name for name in FIRST_NAMES + NEW_NAMES if name not in (*cast, *known))
    return News(tuple(facts), tuple(documents), strangers)


def questions(facts: Sequence[Fact], wording: int = -1) -> list[Problem]:
    """A closed-book question for each fact, in a wording that no training used (the last one)."""
    return [
        Problem(
            skill="news",
            kind=fact.attribute.name,
            key=f"news {fact.note}",
            question=fact.attribute.ask[wording].format(X=fact.person),
            steps=(fact.note,),
            answer=fact.value,
        )
        for fact in facts
    ]
