"""What a reader can write about a text: the town's form, which a model raised there was taught, the form for any text,
which asks a chat model in words, and gaps, which a program asks of any text.

The town's: a question with notes and an answer, where the document must say each note's person and value in one breath,
and no more of its reflections may deny it; what is kept is then linked across documents. Any text's: questions,
restatements, objections, links between two passages and talks of two readers, each turn asked for by itself, since
small models keep no layout. All name nobody and no number that their passages do not. An answer must be what its
sentence says, that of a link be said by one passage alone and asked of a name in the other alone; a restatement must
have a third of its sentence's words, and who answers in a talk must quote five words of the text in a row. But: a
program that compares words lets a fluent mistake pass whose names and numbers are right ("Ann pays Bob" for "Bob pays
Ann"), takes any capital inside a sentence for a name, and sees no pronoun whose noun is elsewhere; English only.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, starmap
from typing import Any

from nightschool.night.memory import Index, Passage, sentences, words
from nightschool.night.read import Exercise, Form, Reflection, started
from nightschool.world import school

# The town's

QUESTION, ANSWER = "Question: ", "Answer: "


def town_exercises(passages: Sequence[Passage], how_many: Sequence[int]) -> list[Exercise]:
    exercises = []
    for passage, num in zip(passages, how_many, strict=True):
        asks = [(ask, line) for ask in school.ASK_ABOUT for line in school.sentences(passage.text)]
        for i in range(num):
            ask, line = asks[i % len(asks)]
            exercises.append(Exercise("question", (passage,), (ask.format(line),), line))
    return exercises


def said_together(text: str, person: str, value: str) -> bool:
    """Does a sentence hold the value and the person, or a pronoun for the person of the sentence before?"""
    for before, sentence in pairwise(["", *text.split(". ")]):
        spoken_of = f"{before} {sentence}" if sentence.startswith(("He ", "She ")) else sentence
        if value in sentence and person in spoken_of:
            return True
    return False


def town_shaped(exercise: Exercise, written: Sequence[str]) -> Reflection:
    """A text as a reflection, refused where its form or its notes are wrong."""
    (text,) = written
    first, *notes, last = text.split("\n") if text.count("\n") >= 2 else ("", "", "")
    solution = "\n".join((*notes, last))
    made = replace(
        started(exercise, "question", written), turns=(first.removeprefix(QUESTION), solution), topic=solution
    )
    if not (first.startswith(QUESTION) and last.startswith(ANSWER) and all(": " in note for note in notes)):
        return replace(made, why="is not a question with notes and an answer")
    values = [note.split(": ", 1)[1] for note in notes]
    persons = [note.split(": ", 1)[0].rpartition(" of ")[2] for note in notes]
    pairs = list(zip(persons, values, strict=True))
    if any(person == value or not said_together(exercise.text, person, value) for person, value in pairs):
        return replace(made, why="notes what the text does not say")
    if last.removeprefix(ANSWER) != values[-1]:
        return replace(made, why="does not answer with its last note")
    return made


def notes_of(reflection: Reflection) -> list[tuple[str, str, str]]:
    """(what, whose, value) of each of its notes."""
    found = []
    for note in reflection.turns[1].split("\n")[:-1]:
        about, value = note.split(": ", 1)
        what, _, person = about.rpartition(" of ")
        found.append((what, person, value))
    return found


def outvoted(reflections: Sequence[Reflection]) -> list[Reflection]:
    """Refuse what others on the same text deny: it says one thing of a person's job, and names one tie of a person and
    a value. The note of more reflections stands; of two with as many, neither."""
    votes: dict[Any, Counter[Any]] = defaultdict(Counter)

    def claims(r: Reflection) -> Iterator[tuple[Any, Any]]:
        for note in notes_of(r):
            what, person, value = note
            yield (r.parents, what, person), note
            yield (r.parents, frozenset((person, value))), note

    for r in reflections:
        if r.kept:
            for claim, note in claims(r):
                votes[claim][note] += 1

    def stands(claim: Any, note: Any) -> bool:
        return all(votes[claim][note] > n for rival, n in votes[claim].items() if rival != note)

    why = "is denied by its other reflections"
    return [r if not r.kept or all(starmap(stands, claims(r))) else replace(r, why=why) for r in reflections]


def linked(reflections: Sequence[Reflection]) -> list[Reflection]:
    """Links between what is kept, on one text or on two: a question about a person, asked of somebody's relative.
    They are the program's, of the reader's own words.

    "brother of Amina: Omar" and "What pet has Omar? ..." -> "What pet has Amina's brother? ..."
    """
    single = [(r, *notes_of(r)[0]) for r in reflections if r.kept and len(notes_of(r)) == 1]
    persons = {person for _, _, person, _ in single}
    ties = {r.turns[1]: (r, what, person, value) for r, what, person, value in single if value in persons}
    links = list[Reflection]()
    for tie, kin, person, relative in ties.values():
        for r, _, whose, value in single:
            if whose == relative and value != person and whose in r.turns[0]:
                question = r.turns[0].replace(whose, f"{person}'s {kin}")
                solution = tie.turns[1].split("\n")[0] + "\n" + r.turns[1]
                parents = tuple(dict.fromkeys(tie.parents + r.parents))
                links.append(Reflection("link", parents, max(tie.gen, r.gen), "", (question, solution), solution))
    return links


def voted_and_linked(reflections: Sequence[Reflection]) -> list[Reflection]:
    stand = outvoted(reflections)
    return stand + linked(stand)


# Any text's

SHORTLY = "Answer in a few words, from the text alone."
ASKS = {
    "question": ("{}\n\nWrite one short question about this.", SHORTLY),
    "restatement": ("Rewrite this sentence in other words: {}",),
    "objection": (
        "{}\n\nWhat might a careful reader object to this? Say it in one sentence.",
        "Reply to this objection with what the text says, and quote it.",
    ),
    "link": ("Ask a question that one can only answer who has read both texts. One begins with: {}", SHORTLY),
    "discussion": (
        "You are new to this. Ask about what puzzles you most in this sentence, naming what you ask about: {}",
        "You know this text well. Answer the question above in two sentences, and quote the text.",
        "You doubt the answer above. Say in one sentence what it leaves open or gets wrong.",
        "You know this text well. Reply to the doubt above in two sentences, and quote the text.",
    ),
}
ALONE = ("question", "restatement", "objection")  # kinds that begin without the text: a small model loses the sentence
ROUND = ("question", "restatement", "question", "link", "question", "objection", "question", "discussion")
ASKED = re.compile(r"[^\n?:\"“”]+\?")
LABEL = re.compile(r"^\W*(?:answer|restatement|rewritten|in other words)\W*?:\s*", re.I)
RUN = 5  # words in a row that a talk must have in common with its text
HELD = 0.6  # share of what an answer adds to its question of which its sentence must have more
TOLD = 1 / 3  # least share of a sentence that its restatement must have
LESS = set(words("a an the of to in on at for by with and or is are was were be it its that this he she they"))
NEGATIONS = set(words("no not never none nobody nothing without t"))


def exercises(passages: Sequence[Passage], how_many: Sequence[int]) -> list[Exercise]:
    index, made = Index([passage.text for passage in passages]), list[Exercise]()
    for number, (passage, num) in enumerate(zip(passages, how_many, strict=True)):
        lines = sentences(passage.text)
        near = [passages[i] for i in index.search(" ".join(names(passage.text)), 32) if i != number]
        others = [other for other in near if other.source != passage.source] or near
        for i in range(num):
            kind, line = ROUND[(i // len(lines) + i % len(lines)) % len(ROUND)], lines[i % len(lines)]
            kind = kind if others or kind != "link" else "question"
            read = (passage, others[i % min(len(others), 4)]) if kind == "link" else (passage,)
            first, *more = ASKS[kind]
            made.append(Exercise(kind, read, (first.replace("{}", line), *more), line, alone=kind in ALONE))
    return made


def shaped(exercise: Exercise, written: Sequence[str]) -> Reflection:
    kind, text, line = exercise.kind, exercise.text, exercise.sentence
    turns = tuple(LABEL.sub("", turn).strip(' \n*"“”') for turn in written)
    if kind in ("question", "link"):  # what it asked last
        turns = (sentences((ASKED.findall(turns[0]) or ["?"])[-1])[-1], turns[1])
    made = replace(started(exercise, kind, written), turns=turns, topic=" ".join(words(line)))
    if not all(words(turn) for turn in turns) or len(set(turns)) < len(turns):
        why = "asks and answers nothing" if kind in ("question", "link") else "is no talk of two"
    elif names(" ".join(turns)) - set(words(text)):
        why = "names who or what the text does not"
    elif kind == "question":
        asked = content(turns[0]) & content(line)
        why = "" if asked and holds(line, *turns) else "asks or answers what its sentence does not say"
    elif kind == "link":
        why = "" if joins([passage.text for passage in exercise.passages], *turns) else "does not need both texts"
    elif kind == "restatement":
        told = len(content(line) & content(turns[0])) >= TOLD * len(content(line))
        why = "only copies the text" if within(turns[0], text) else "" if told else "says little of its sentence"
    else:
        why = "" if any(share_run(turn, text) for turn in turns[1::2]) else "quotes nothing of the text"
    return replace(made, why=why)


def holds(text: str, question: str, answer: str) -> bool:
    """Does a text say most of what an answer adds to its question?"""
    added = content(answer) - content(question)
    return len(added & content(text)) > HELD * len(added)


def joins(texts: Sequence[str], question: str, answer: str) -> bool:
    """Does one of two texts alone hold the answer, and the other alone a name of the question?"""
    held = [text for text in texts if holds(text, question, answer)]
    beside = [text for text in texts if text not in held]
    return len(held) == len(beside) == 1 and bool(names(question) & set(words(beside[0])) - set(words(held[0])))


def content(text: str) -> set[str]:
    return set(words(text)) - LESS


def within(quote: str, text: str) -> bool:
    """Word for word, whatever the case and the signs between."""
    return f" {' '.join(words(quote))} " in f" {' '.join(words(text))} "


def share_run(text: str, other: str) -> bool:
    said = words(text)
    return any(within(" ".join(said[i : i + RUN]), other) for i in range(len(said) - RUN + 1))


def names(text: str) -> set[str]:
    """Words with a capital inside a sentence, and numbers, in lower case: 'The Elbe has 3.' -> {'elbe', '3'}"""
    return {found[0].lower() for sentence in sentences(text) for found in named(sentence)}


def named(sentence: str) -> list[re.Match[str]]:
    """Where its names and numbers stand."""
    found = enumerate(re.finditer(r"\w+", sentence))
    return [m for i, m in found if any(map(str.isdigit, m[0])) or (i and m[0][0].isupper() and m[0] != "I")]


def agrees(said: str, other: str) -> bool:
    """Two short answers say the same: as many numbers and negations, and most of their other words in common."""
    a, b = content(said), content(other)
    exact = [{w for w in x if w in NEGATIONS or any(map(str.isdigit, w))} for x in (a, b)]
    return exact[0] == exact[1] and len(a & b) >= 0.6 * (len(a) + len(b)) / 2 > 0


# Any text's, asked by a program: for readers who cannot write

GAP = "____"
GAPS = (
    "Fill the gap: {}",
    "Which word is missing here? {}",
    "One word has been left out. {} Which one?",
    "What belongs in the gap of this? {}",
    "Complete this: {}",  # kept for exams
)
BESIDE = 3, 16  # words that are left on either side, at least where there are so many, and at most


def gaps_of(text: str) -> list[tuple[str, re.Match[str]]]:
    """(sentence, where) of each name and number of a text; what it also writes small is no name."""
    small = set(re.findall(r"\b[a-z]\w*", text))
    return [(line, m) for line in sentences(text) for m in named(line) if m[0].lower() not in small]


def gap(sentence: str, left_out: re.Match[str], rng: random.Random) -> str:
    """Some of a sentence, without a word of it."""
    before = re.findall(r"\S+\s*", sentence[: left_out.start()])
    after = re.findall(r"\s*\S+", sentence[left_out.end() :])
    return "".join((*before[-rng.randint(*BESIDE) :], GAP, *after[: rng.randint(*BESIDE)]))


def gap_exercises(passages: Sequence[Passage], how_many: Sequence[int]) -> list[Exercise]:
    """The names and numbers of a text in turn, in any taught wording, with more or less of their sentence."""
    made = []
    for passage, num in zip(passages, how_many, strict=True):
        found, rng = gaps_of(passage.text), random.Random(passage.text)
        for i in range(num if found else 0):
            line, m = found[i % len(found)]
            question = rng.choice(GAPS[:-1]).format(gap(line, m, rng))
            made.append(Exercise("gap", (passage,), (), f"{m.start()} {line}", (question, m[0])))
    return made


def gap_shaped(exercise: Exercise, written: Sequence[str]) -> Reflection:
    gen = exercise.passages[0].gen  # no model stands between
    made = started(exercise, "gap", exercise.turns)
    return replace(made, turns=exercise.turns, topic=exercise.sentence, gen=gen)


FORMS = {
    # at temperature 1 a small model slips in every third line, and a brought one in every line
    "town": Form(town_exercises, town_shaped, str.__eq__, "{}", 0.8, voted_and_linked),
    "any": Form(exercises, shaped, agrees, f"{{}}\n\n{SHORTLY}", 0.5, list),
    "gaps": Form(gap_exercises, gap_shaped, agrees, "{}", 1.0, list),
}
