"""Spelling, and counting a letter: first spell, then a running count beside each letter."""

from __future__ import annotations

import random

from nightschool.text.document import Document, in_pieces
from nightschool.world.lexicon import SPELL_WORDS
from nightschool.world.problem import Problem, Split, split_of

ASK_COUNT = (
    "How many times does the letter {letter} appear in {word}?",
    "How often is the letter {letter} in the word {word}?",
    "Count the letter {letter} in {word}.",
    "How many {letter} are there in {word}?",
    "In the word {word}, how many times is there a letter {letter}?",
    "How many {letter}'s are in {word}?",
    "How many {letter}s are there in the word {word}?",
)
ASK_SPELL = (
    "Spell {word}.",
    "How do you spell {word}?",
    "What are the letters of {word}?",
    "Please spell {word}.",
)
ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "st",
    "br",
    "tr",
    "pl",
    "ch",
    "sh",
)
VOWELS = ("a", "e", "i", "o", "u", "ea", "oo")


def pseudo_word(rng: random.Random) -> str:
    """A word that means nothing: drills spelling where no word can be known by heart."""
    syllables = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 3)))
    return syllables + rng.choice(("", "n", "r", "t", "ll", "ck", "p"))


def spelled(word: str) -> str:
    return " ".join(word)


def counted(word: str, letter: str) -> str:
    """counted("noon", "o") -> "n0 o1 o2 n2"."""
    return " ".join(f"{c}{word[: i + 1].count(letter)}" for i, c in enumerate(word))


def letter_count(rng: random.Random, split: Split) -> Problem:
    """How often a letter stands in a word. Dev and test ask for other (word, letter) pairs than train."""
    while True:
        word = pseudo_word(rng) if split == "train" and rng.random() < 0.25 else rng.choice(SPELL_WORDS)
        letter = rng.choice(word) if rng.random() < 0.75 else rng.choice("aeiourstlnmdpcbgh")
        twice = [c for c in word if word.count(c) > 1]
        if split == "train" and twice and rng.random() < 0.4:
            letter = rng.choice(twice)  # too rare to be learned where letters fall as they may
        if split_of(f"letters {word} {letter}") == split:
            break
    count = word.count(letter)
    return Problem(
        skill="letter_count",
        kind=f"count_{min(count, 3)}",
        key=f"letters {word} {letter}",
        question=rng.choice(ASK_COUNT).format(letter=letter, word=word),
        steps=(f"Spell {word}: {spelled(word)}", f"Count {letter}: {counted(word, letter)}"),
        answer=str(count),
        data={"word": word, "letter": letter},
    )


def spell(rng: random.Random, split: Split) -> Problem:
    """Spell a word or a pseudo-word. Every real word may be spelled by day: the exam is in the counting."""
    while True:
        word = pseudo_word(rng) if rng.random() < 0.4 else rng.choice(SPELL_WORDS)
        if word in SPELL_WORDS or split_of(f"spell {word}") == split:
            break
    return Problem(
        skill="spell",
        kind="spell",
        key=f"spell {word}",
        question=rng.choice(ASK_SPELL).format(word=word),
        closing=f"Spell {word}: {spelled(word)}",
        answer=spelled(word),
        data={"word": word},
    )


def spelling(rng: random.Random, num_words: int = 8) -> Document:
    """A list of words, then each of them spelled: words are copied and taken apart as in a solution's first line."""
    words = rng.sample(SPELL_WORDS, num_words)
    pieces = [(f"Words: {', '.join(words)}", False)]
    for word in words:
        pieces += [("\nSpell", False), (f" {word}: {spelled(word)}", True)]
    return in_pieces(pieces)
