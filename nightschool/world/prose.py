"""Things to read: portraits, places, letters, diaries, scenes, market days, recipes, entries, fables, news.

Each kind of document is one short function (rng, town) -> text; the sentences are those of prose.toml.
People, kin, prices and events are the town's own, so a text never contradicts its town. But: two texts of one
town may tell different small happenings of the same day.
"""

from __future__ import annotations

from random import Random
from typing import Any

from nightschool.text.document import Document
from nightschool.world import lexicon
from nightschool.world.grammar import expand, fill, load
from nightschool.world.lexicon import MONTHS, NUMBERS_IN_WORDS, WEEKDAYS, plural, singular
from nightschool.world.problem import Split
from nightschool.world.town import Person, Town, town

Slots = dict[str, Any]


def prose(rng: Random, split: Split) -> Document:
    """One document about a town of this split."""
    here = town(rng, split)
    (kind,) = rng.choices(tuple(KINDS), tuple(KINDS.values()))
    return Document(text=kind(rng, here))


def texts(table: str) -> Any:
    return load("prose.toml")[table]


def say(rng: Random, slots: Slots, *symbols: str) -> str:
    """One sentence of each symbol, in this order."""
    return " ".join([expand(texts("grammar"), symbol, rng, **slots)[0] for symbol in symbols])


def some(rng: Random, slots: Slots, symbol: str, low: int, high: int) -> list[str]:
    """Low to high different productions of one symbol."""
    chosen = rng.sample(texts("grammar")[symbol], rng.randint(low, high))
    return [fill(texts("grammar"), production, rng, **slots)[0] for _, production in chosen]


def third(verb_phrase: str) -> str:
    """bake bread -> bakes bread; carry bags -> carries bags; teach the young -> teaches the young."""
    verb, space, rest = verb_phrase.partition(" ")
    if verb.endswith(("ch", "sh", "s", "x", "o")):
        verb += "es"
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        verb = verb[:-1] + "ies"
    else:
        verb += "s"
    return verb + space + rest


def about(person: Person, prefix: str = "") -> Slots:
    """The slots of one person: name, he, job, ..."""
    duty = texts("duty").get(person.job, "learn to read and write")
    he, him, his = ("she", "her", "her") if person.woman else ("he", "him", "his")
    slots = {
        "name": person.name, "surname": person.surname, "age": person.age, "job": person.job or "child",
        "place": person.place, "street": person.street, "number": person.number, "hobby": person.hobby,
        "food": person.food, "one": singular(person.food), "colour": person.colour, "thing": person.belonging,
        "pet": person.pet, "pet_name": person.pet_name, "instrument": person.instrument, "duty": duty,
        "duties": third(duty), "he": he, "him": him, "his": his,
    }  # fmt: skip
    return {prefix + key: value for key, value in slots.items()} if prefix else slots


def slots_for(rng: Random, here: Town, *cast: Person) -> Slots:
    """Three grown people (the first has no prefix, then b. and c.) and the small things a text may need."""
    a, b, c = (*cast, *rng.sample([p for p in here.adults if p not in cast], 3 - len(cast)))
    event = rng.choice(here.events)
    places, rooms = rng.sample(tuple(texts("place")), 3), rng.sample(lexicon.ROOMS, 3)
    x, y = rng.sample(("dog", "cat", "goat", "horse", "cow", "pig", "duck", "hen", "rabbit", "donkey"), 2)
    mild, mild2 = rng.sample(("patient", "cheerful", "quiet", "careful", "clever", "gentle", "curious"), 2)
    return {
        **about(a), **about(b, "b."), **about(c, "c."), "town": here.name, "day": rng.choice(WEEKDAYS),
        "event": event.name, "eday": event.weekday, "hour": f"{event.hour} o'clock", "eplace": event.place,
        "ehost": event.host, "p1": places[0], "p2": places[1], "p3": places[2], "r1": rooms[0],
        "r2": rooms[1], "r3": rooms[2], "x": x, "y": y, "goods": rng.choice(tuple(here.prices)),
        "road": b.street, "num": NUMBERS_IN_WORDS[rng.randint(2, 12)], "colour2": rng.choice(lexicon.COLOURS),
        "thing2": rng.choice(lexicon.OBJECTS), "mild": mild, "mild2": mild2,
        "instrument2": rng.choice(lexicon.INSTRUMENTS),
    }  # fmt: skip


def portrait(rng: Random, here: Town, person: Person | None = None) -> str:
    """Who somebody is, in five to eight sentences."""
    person = person or rng.choice(here.persons)
    slots = slots_for(rng, here) | about(person)
    middle = ["home", "habit", "leisure", "taste", "nature"]
    middle += [symbol for symbol in ("job", "instrument", "pet") if getattr(person, symbol)]
    middle = rng.sample(middle, rng.randint(3, 5))
    if kin := here.kin(person):
        word, other = rng.choice(kin)
        what = f"is the {other.job}" if other.job else f"is {other.age} years old"
        slots |= {"kin": word, "b.name": other.name, "b.is": what}
        middle.insert(rng.randint(0, len(middle)), "kin")
    lines = {"job": "work", "instrument": "music", "pet": "pet_line", "kin": "kin_line"}
    first = "portrait" if person.job else "child_portrait"
    return say(rng, slots, first, *(lines.get(symbol, symbol) for symbol in middle), "last_line")


def place(rng: Random, here: Town, name: str = "") -> str:
    """A place of the town, who works there and what happens there."""
    name = name or rng.choice(tuple(texts("place")))
    where, look = texts("place")[name]
    lines = [f"The {name} of {here.name} {where}. {look}"]
    for person in here.adults:
        if person.place == name:
            lines.append(say(rng, about(person), "worker"))
    for event in here.events:
        if event.place == name:
            at = f"Every {event.weekday} at {event.hour} o'clock"
            lines.append(f"{at} there is {lexicon.article(event.name)}, and {event.host} is the host.")
    slots = slots_for(rng, here)
    return " ".join((*lines, *some(rng, slots, "visit", 2, 4), say(rng, slots, "place_end")))


def letter(rng: Random, here: Town) -> str:
    """A letter from b to name."""
    slots = slots_for(rng, here)
    body = (say(rng, slots, "opening"), *some(rng, slots, "news", 2, 4), say(rng, slots, "wish"))
    return f"{say(rng, slots, 'dear')}\n\n{' '.join(body)}\n\n{say(rng, slots, 'sign')}\n{slots['b.name']}"


def diary(rng: Random, here: Town) -> str:
    """Two or three days of somebody's life."""
    writer, *friends = rng.sample(here.adults, 4)
    weekday, month, date = rng.randrange(7), rng.choice(MONTHS), rng.randint(1, 25)
    grammar, pages = texts("grammar"), []
    woke, felt, did = (rng.sample(grammar[part], k) for part, k in (("woke", 3), ("felt", 3), ("did", 9)))
    for i in range(rng.randint(2, 3)):
        slots = slots_for(rng, here) | about(writer) | about(friends[i], "b.")
        chosen = (woke[i], *did[3 * i : 3 * i + rng.randint(2, 3)], felt[i])
        lines = [fill(grammar, production, rng, **slots)[0] for _, production in chosen]
        pages.append(f"{WEEKDAYS[(weekday + i) % 7]}, {date + i} {month}. {' '.join(lines)}")
    return "\n\n".join(pages)


def scene(rng: Random, here: Town, *cast: Person) -> str:
    return say(rng, slots_for(rng, here, *cast), "scene")


def chapter(rng: Random, here: Town) -> str:
    """Who somebody is, where the work is done, and two things that happened."""
    hero, friend = rng.sample(here.adults, 2)
    first, second = rng.sample(texts("grammar")["scene"], 2)
    told = (
        fill(texts("grammar"), production, rng, **slots_for(rng, here, *cast))[0]
        for (_, production), cast in ((first, (hero, friend)), (second, (friend, hero)))
    )
    return "\n\n".join((portrait(rng, here, hero), place(rng, here, hero.place), *told))


def market(rng: Random, here: Town) -> str:
    """Somebody buys something; the sums are right."""
    goods, goods2 = rng.sample(tuple(here.prices), 2)
    p, n = here.prices[goods], rng.randint(2, 9)
    t = p * n
    paid = rng.choice((t, -(-t // 5) * 5, -(-t // 10) * 10))  # rounded up to five, to ten
    slots = slots_for(rng, here) | {"goods": goods, "goods2": goods2, "price": f"{p} coin{'s' * (p > 1)}"}
    slots |= {"p": p, "n": n, "t": t, "paid": paid, "back": paid - t}
    talk = [say(rng, slots, symbol) for symbol in ("ask", "price", "choose", "total")]
    return "\n".join((*talk, say(rng, slots, "exact" if paid == t else "change", "after")))


def prices(rng: Random, here: Town) -> str:
    """The market's price board."""
    shown = rng.sample(tuple(here.prices), rng.randint(5, 9))
    head = f"Prices at the market of {here.name} on {rng.choice(WEEKDAYS)}:"
    return "\n".join((head, *(f"{goods}: {here.prices[goods]}" for goods in shown)))


def notice(rng: Random, here: Town) -> str:
    return say(rng, slots_for(rng, here), "notice")


def calendar(rng: Random, here: Town) -> str:
    """What happens in a week, day by day."""
    lines = [f"The week in {here.name}"]
    for weekday in WEEKDAYS:
        events = [e for e in here.events if e.weekday == weekday]
        today = [f"{e.name} at the {e.place}, {e.hour} o'clock, with {e.host}" for e in events]
        lines.append(f"{weekday}: {'; '.join(today) or say(rng, {}, 'quiet_day')}")
    return "\n".join(lines)


def news(rng: Random, here: Town) -> str:
    head = f"The {here.name} News, {rng.choice(WEEKDAYS)}, {rng.randint(1, 28)} {rng.choice(MONTHS)}"
    return "\n".join((head, *some(rng, slots_for(rng, here), "item", 3, 5)))


def directions(rng: Random, here: Town) -> str:
    slots = slots_for(rng, here)
    first, *steps, last = some(rng, slots, "step", 3, 5)
    words = rng.sample(("Then", "After that", "Next", "From there"), len(steps))
    then = "".join(f" {word} {step}." for word, step in zip(words, steps, strict=True))
    return say(rng, slots | {"first": first, "then": then, "last": last}, "way")


def how_to(rng: Random, here: Town) -> str:
    """A recipe, as a numbered list or as a paragraph."""
    recipe = rng.choice(tuple(texts("how_to").items()))
    one = rng.choice(("potato", "onion", "bean", "carrot", "cabbage", "tomato"))
    slots = slots_for(rng, here) | {"root": one, "roots": plural(one)}
    title, *steps = (fill(texts("grammar"), line, rng, **slots)[0] for line in (recipe[0], *recipe[1]))
    if rng.random() < 0.4:
        numbered = (f"{i}. {step[0].upper()}{step[1:]}." for i, step in enumerate(steps, start=1))
        return "\n".join((f"How to {title}", *numbered))
    words = ("First", *rng.sample(("Then", "After that", "Next", "Now"), len(steps) - 2), "Finally")
    told = (f"{word}, {step}." for word, step in zip(words, steps, strict=True))
    return " ".join((say(rng, slots | {"title": title}, "how"), *told))


def entry(rng: Random, here: Town) -> str:
    """An animal or a thing as in a first encyclopedia, or as a riddle."""
    table = rng.choice(("animal", "thing"))
    name, (first, second, third_) = rng.choice(tuple(texts(table).items()))
    slots = slots_for(rng, here) | {"it": name, "its": plural(name)}
    slots |= {"use": first, "made": second, "kept": third_}  # of an animal: what it does, eats, its habit
    if rng.random() < 0.3:
        return say(rng, slots, f"{table}_riddle")
    owners = [f" {p.name} {p.surname} has one named {p.pet_name}." for p in here.persons if p.pet == name]
    return say(rng, slots, f"{table}_entry") + "".join(owners)


def fable(rng: Random, here: Town) -> str:
    chosen = rng.choice(texts("fable"))
    text = fill(texts("grammar"), chosen["story"], rng, **slots_for(rng, here))[0]
    return f"{text} {chosen['moral']}" if rng.random() < 0.7 else text


def family(rng: Random, here: Town) -> str:
    """A family, as in the town's register."""
    father = rng.choice([p for p in here.adults if not p.woman])
    mother, children = here.people[father.spouse], [here.people[name] for name in father.children]
    lines = [f"{father.name} and {mother.name} {father.surname} live at {father.address}."]
    lines.append(f"{father.name} is the {father.job}, and {mother.name} is the {mother.job}.")
    if children:
        named = [f"{c.name}, {f'the {c.job}' if c.job else f'who is {c.age}'}" for c in children]
        count = "one child" if len(named) == 1 else f"{NUMBERS_IN_WORDS[len(named)]} children"
        lines.append(f"They have {count}: {'; and '.join(('; '.join(named[:-1]), named[-1])[len(named) < 2 :])}.")
    else:
        lines.append("They have no children.")
    for parent in (father, mother):
        if parent.parents:
            old = here.people[parent.parents[0]]
            lines.append(f"{parent.name}'s parents, {old.name} and {old.spouse}, live at {old.address}.")
    members = rng.sample((father, mother, *children), min(3, 2 + len(children)))
    return " ".join((*lines, *(say(rng, about(person), "of_the_family") for person in members)))


KINDS = {  # kind -> how often, in parts
    chapter: 6, portrait: 4, place: 3, letter: 3, diary: 3, scene: 6, market: 3, prices: 1, notice: 1, calendar: 1,
    news: 2, directions: 1, how_to: 2, entry: 3, fable: 2, family: 3,
}  # fmt: skip
