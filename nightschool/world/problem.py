"""A question whose truth is known: what a family of the world yields."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from nightschool.text.document import Message

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class Problem:
    """One problem with its gold answer.

    The gold conversation is: user (context, blank line, question) -> assistant (`solution`), or, where the family
    uses tools, user -> assistant tool call -> tool observation -> ... -> assistant (`solution`).
    """

    skill: str  # story, passage, absent, arithmetic, word_problem, letter_count, tool, trace, sort, joke, ...
    kind: str  # a finer name inside the skill: one_hop, two_hop, add, subtract, calculator, ...
    key: str  # canonical: operands; word and letter; story state. Its hash decides the split, never the wording
    question: str
    answer: str  # the shortest right answer: "baker", "5321"; "" where every fluent answer is right
    context: str = ""  # a passage or story to read first
    steps: tuple[str, ...] = ()  # the worked lines, in order; one line each
    closing: str = ""  # how the solution ends; "" = "Answer: {answer}"
    tools: tuple[str, ...] = ()  # tool names announced
    calls: tuple[tuple[dict[str, Any], str], ...] = ()  # gold (call, observation) pairs
    before: tuple[Message, ...] = ()  # what was said earlier in the conversation
    data: dict[str, Any] = field(default_factory=dict)  # what the verifier needs: operands, state, table
    log_prob: float | None = None  # nats of this content under its grammar, where that is defined

    @property
    def prompt(self) -> str:
        return f"{self.context}\n\n{self.question}" if self.context else self.question

    @property
    def solution(self) -> str:
        """What a model should say: the worked lines, then the answer on a line of its own."""
        return "\n".join((*self.steps, self.closing or f"Answer: {self.answer}"))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The gold conversation."""
        turns = [Message("user", self.prompt)]
        for call, observation in self.calls:
            turns += [Message("assistant", "", (call,)), Message("tool", observation)]
        return (*turns, Message("assistant", self.solution))


def split_of(key: str) -> Split:
    """The set a canonical key belongs to: 80% train, 10% dev, 10% test, by its blake2b hash."""
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) % 10
    return "train" if bucket < 8 else "dev" if bucket == 8 else "test"
