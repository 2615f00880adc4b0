"""What there is to know of a person: attributes with their values, wordings and questions, and kin.

Each attribute's last wording is kept for dev and test, its last question for the morning after a night. In four of
ten wordings the value comes before the person, which has to be learned by itself (LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from nightschool.world.lexicon import ANIMALS, COLOURS, FOODS, HOBBIES, INSTRUMENTS, JOBS, MONTHS, STREETS


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
