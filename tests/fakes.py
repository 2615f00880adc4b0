"""Small fakes for the tests of what talks: an engine that says what it is told to say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nightschool.model.engine import Stop, Token
from nightschool.model.sampling import Sampling
from nightschool.serve.speaker import Speaker, Tool
from nightschool.tasks.tools import FUNCTIONS
from nightschool.text.tokenizer import Tokenizer, train

TEXT = "the kite is red. What is 12+30? Answer: 42. naïve café, 雪だるま calculator lookup expression "


@dataclass
class FakeEngine:
    """`answer` takes the prompt, special tokens spelled out, and gives what to say, spelled the same way."""

    answer: Callable[[str], str]
    tokenizer: Tokenizer = field(default_factory=lambda: train([TEXT] * 3, 300))
    context: int = 512
    seconds: float = 0.0  # a token
    prompts: list[str] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    num_said: int = 0
    num_running: int = 0

    def stream(self, prompt: Sequence[int], sampling: Sampling, tool: Any = None, num_top: int = 5) -> Iterator[Token]:
        assert prompt
        assert len(prompt) + sampling.max_new_tokens <= self.context
        self.prompts.append(self.tokenizer.decode(prompt))
        self.samplings.append(sampling)
        ids = [
            *self.tokenizer.backend.encode(self.answer(self.prompts[-1]), add_special_tokens=False).ids,
            self.tokenizer.turn_end,
        ]
        self.num_running += 1
        try:
            for left, id in reversed(list(enumerate(reversed(ids[: sampling.max_new_tokens])))):
                time.sleep(self.seconds)
                assert self.num_running == 1, "one answer at a time"
                self.num_said += 1
                stop: Stop = "end" if id == self.tokenizer.turn_end else "" if left else "length"
                top = [(id, -0.25), (self.tokenizer.end_of_text, -1.5), (0, float("-inf"))]
                yield Token(0, id, -0.25, True, stop, top[:num_top])
        finally:
            self.num_running -= 1


def fake_speaker(answer: str | Callable[[str], str], **engine: Any) -> Speaker:
    """A speaker with one tool that answers always alike."""
    fake = FakeEngine(answer if callable(answer) else lambda prompt: answer, **engine)
    return Speaker("town", "0 M parameters", fake, {"calculator": Tool(FUNCTIONS[0], lambda call: "42")})  # type: ignore[arg-type]
