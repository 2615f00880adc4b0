"""Reading by thinking: the model asks itself questions about what it was told, answers them, and has them checked.

It goes through the text sentence by sentence: which one it asks about is not its own choice, so that nothing is left
out and its questions stay as varied as the text. A reflection is kept if it has the form of a question with notes and
an answer, if the document says each note's person and value in one breath, and if the model, asked its question with
the document before it, answers the same. What is kept becomes closed-book conversations: information from the
document, on its way into the weights. But: the check knows sentences and pronouns, not meaning; what the model takes
for the wrong kind of word twice, in the right sentence, passes.
Sources: self-study (2506.06266), Active Reading (2508.09494).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.tasks.attempt import complete
from nightschool.text.document import Document, Message
from nightschool.world.school import ASK_ABOUT, sentences

TEMPERATURE = 0.8  # of the questions: at 1 a small model slips in every third line
QUESTION, ANSWER = "Question: ", "Answer: "


@dataclass(frozen=True)
class Reflection:
    """What the model wrote about a document, and what became of it."""

    source: str  # the document's id
    text: str
    question: str = ""
    solution: str = ""  # notes and answer, a line each
    why: str = ""  # why it was not kept; "" = kept

    @property
    def kept(self) -> bool:
        return not self.why

    @property
    def lesson(self) -> Document:
        """The question without its document."""
        turns = (Message("user", self.question), Message("assistant", self.solution))
        return Document(messages=turns, kind="reflection", info="doc", gen=1, parents=(self.source,))


def told(document: Document) -> str:
    """What there is to read in a document: its text, or what the user said in a conversation."""
    return document.text or " ".join(m.content for m in document.messages if m.role == "user")


def reflect(engine: Engine, documents: Sequence[Document], per_document: int, seed: int) -> list[Reflection]:
    """The model's own questions and answers about each document, sentence by sentence, sampled, checked."""
    pairs = []
    for document in documents:
        lines = sentences(told(document))
        asks = [ask.format(line) for ask in ASK_ABOUT for line in lines]
        pairs += [(document, asks[i % len(asks)]) for i in range(per_document)]
    sampling = Sampling(temperature=TEMPERATURE, max_new_tokens=64, seed=seed)
    texts = complete(engine, [f"{told(d)}\n\n{ask}" for d, ask in pairs], sampling)
    written = [shaped(d, text) for (d, _), text in zip(pairs, texts, strict=True)]
    again = [(d, r) for (d, _), r in zip(pairs, written, strict=True) if r.kept]
    asked = [f"{told(d)}\n\n{r.question}" for d, r in again]
    answers = complete(engine, asked, Sampling(temperature=0, max_new_tokens=64))
    checked = (
        r if answer == r.solution else replace(r, why="is answered otherwise when asked again")
        for (_, r), answer in zip(again, answers, strict=True)
    )
    return [next(checked) if r.kept else r for r in written]


def said_together(text: str, person: str, value: str) -> bool:
    """Does a sentence hold the value and the person, or a pronoun for the person of the sentence before?"""
    sentences = ["", *text.split(". ")]
    for before, sentence in pairwise(sentences):
        spoken_of = f"{before} {sentence}" if sentence.startswith(("He ", "She ")) else sentence
        if value in sentence and person in spoken_of:
            return True
    return False


def shaped(document: Document, text: str) -> Reflection:
    """A text as a reflection, refused where its form or its notes are wrong."""
    first, *notes, last = text.split("\n") if text.count("\n") >= 2 else ("", "", "")
    made = Reflection(document.id, text, first.removeprefix(QUESTION), "\n".join((*notes, last)))
    if not (first.startswith(QUESTION) and last.startswith(ANSWER) and all(": " in note for note in notes)):
        return replace(made, why="is not a question with notes and an answer")
    read = told(document)
    values = [note.split(": ", 1)[1] for note in notes]
    persons = [note.split(": ", 1)[0].rpartition(" of ")[2] for note in notes]
    pairs = list(zip(persons, values, strict=True))
    if any(person == value or not said_together(read, person, value) for person, value in pairs):
        return replace(made, why="notes what the text does not say")
    if last.removeprefix(ANSWER) != values[-1]:
        return replace(made, why="does not answer with its last note")
    return made
