"""How people type: the same question with room around its signs, or with the signs in words, in small letters, without
its last sign, or as the next of several. What it asks, and so its answer, stays the same.

"What is 38+45?" -> "whats 38 + 45", "And what is 38 plus 45?", ...
"""

from __future__ import annotations

import re
from random import Random

SIGN = re.compile(r"(?<=\d)([-+*/])(?=\d)")
IN_WORDS = {"+": (" plus ",), "-": (" minus ",), "*": (" times ", " x ", "x"), "/": (" divided by ",)}
OPENINGS = re.compile(r"(What|How|Where|Who|Which|Can|Please|Work|I need|Count|Spell|Tell|In the word|Look|Use)\b")
SHORT = (("what is", "what's"), ("what is", "whats"), ("please ", ""))
BEFORE = ("And ", "And ", "Ok, ", "Now: ", "Next: ", "Then ", "So, ")


def typed(question: str, rng: Random) -> str:
    """A question of one sentence, or of several whose first is not a request, as somebody might type it."""
    if rng.random() < 0.5:
        in_words = rng.random() < 0.5
        question = SIGN.sub(lambda m: rng.choice(IN_WORDS[m[1]]) if in_words else f" {m[1]} ", question)
    if OPENINGS.match(question) and rng.random() < 0.4:
        question = question[0].lower() + question[1:]
        if rng.random() < 0.5:
            question = question.replace(*rng.choice(SHORT))
        if rng.random() < 0.3:
            question = rng.choice(BEFORE) + question
    if rng.random() < 0.2:
        question = question.rstrip(".?")
    return question
