"""Talk to a model in the terminal: streaming, tools shown, as many turns as the context holds.

Piped in, each line is a message and its answer goes to stdout. But: no multi-line messages, nothing is saved.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from nightschool.config import Stopped, UserError, at_least
from nightschool.model.sampling import Sampling
from nightschool.serve.speaker import AT_HAND, Called, Ended, Said, Speaker, Tool, fit, load, reply
from nightschool.text.document import Message

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what could steer a terminal; \t and \n may pass


@dataclass(frozen=True)
class Config:
    path: tyro.conf.Positional[Path]  # a life folder (its newest checkpoint), a run folder or a checkpoint
    system: str = ""  # what the model is told before the conversation; "" = nothing
    temperature: float = 0.3  # 0 = always the likeliest token
    top_p: float = 1.0  # keep the likeliest tokens that hold this share
    max_new_tokens: int = 256  # an answer's length in tokens, tool calls included
    seed: int | None = None  # None = other answers each time
    tools: bool | None = None  # announce the calculator and the look-up; None = the first, to a model raised here

    def __post_init__(self) -> None:
        at_least(self, 0, "temperature", "top_p", "seed")
        at_least(self, 1, "max_new_tokens")
        if any("\ud800" <= char <= "\udfff" for char in self.system):  # bytes that the shell could not read
            raise UserError("system must be UTF-8")


HELP = """/new              start over
/system TEXT      what the model is told first; without TEXT, nothing
/temperature X    0 = always the likeliest token; now {temperature:g}
/quit             leave (so does Ctrl-D); Ctrl-C stops an answer"""


def read_line(console: Console) -> str | None:
    """The next line without control characters; None at the end of the input."""
    try:
        line = input("> " if console.is_terminal else "")  # not rich's prompt, which line editing overwrites
    except EOFError:
        return None
    return CONTROL.sub("", line).strip()


def show(console: Console, text: str, style: str | None = None, end: str = "\n") -> None:
    console.out(CONTROL.sub("\ufffd", text), style=style, highlight=False, end=end)


def answer(
    console: Console,
    speaker: Speaker,
    messages: Sequence[Message],
    tools: Mapping[str, Tool],
    sampling: Sampling,
) -> tuple[tuple[Message, ...], float]:
    """Print one reply as it comes -> (the turns it adds, seconds to its first token). Ctrl-C ends it."""
    start, first, text = time.perf_counter(), 0.0, ""
    turns: tuple[Message, ...] = ()
    try:
        for event in reply(speaker, messages, tools, sampling):
            first = first or time.perf_counter() - start
            match event:
                case Said():
                    text += event.text
                    show(console, event.text, end="")
                case Called():
                    arguments = ", ".join(map(str, event.arguments.values()))
                    show(console, f"{event.name}({arguments}) → {event.result}", "dim cyan")
                case Ended():
                    turns = event.turns
                    show(console, "" if event.reason == "stop" else " …")
    except Stopped:
        raise
    except KeyboardInterrupt:
        turns = (Message("assistant", text),)
        show(console, " [stopped]", "dim")
    return turns, first


def main(config: Config) -> dict[str, Any]:
    speaker = load(config.path)
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # bytes that are no text must not end the talk
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    console = Console(force_terminal=interactive, soft_wrap=True)
    if interactive:
        import readline  # noqa: F401  # line editing and history for input()

        show(console, f"{speaker.name} · {speaker.about} · /help for commands", "dim")
    return talk(console, speaker, config)


def talk(console: Console, speaker: Speaker, config: Config) -> dict[str, Any]:
    """Read lines and answer them until the input ends -> headline: turns and the median first token in ms."""
    tools = speaker.tools if config.tools else {}  # small strangers call them at every word
    if config.tools is None and not speaker.engine.tokenizer.brought:
        tools = {name: speaker.tools[name] for name in AT_HAND}
    system, temperature, messages, waits = config.system, config.temperature, list[Message](), list[float]()
    while True:
        try:
            line = read_line(console)
        except Stopped:
            raise
        except KeyboardInterrupt:
            show(console, "\n/quit or Ctrl-D to leave", "dim")
            continue
        command, _, rest = (line or "").partition(" ")
        if line is None or command == "/quit":
            break
        if not line:
            continue
        if command == "/help":
            show(console, HELP.format(temperature=temperature), "dim")
        elif command == "/new":
            messages = []
        elif command == "/system":
            system, messages = rest.strip(), []
        elif command == "/temperature":
            if re.fullmatch(r"\d{1,2}(\.\d+)?", rest.strip()):
                temperature = float(rest)
            else:
                show(console, "a number from 0 to 99, as in /temperature 0.7", "yellow")
        elif command.startswith("/"):
            show(console, f"no command {command}; /help lists them", "yellow")
        else:
            head = [Message("system", system)] if system else []
            asked = [*head, *messages, Message("user", line)]
            sampling = Sampling(
                temperature=temperature,
                top_p=config.top_p,
                max_new_tokens=config.max_new_tokens,
                seed=random.getrandbits(31) if config.seed is None else config.seed,
            )
            try:
                asked = fit(speaker, asked, tools, min(config.max_new_tokens, speaker.engine.context // 2))
            except UserError as error:  # too long, or nothing the model's own chat template renders
                show(console, str(error), "yellow")
                continue
            turns, wait = answer(console, speaker, asked, tools, sampling)
            messages = [*asked[len(head) :], *turns]
            waits.append(wait)
    if console.is_terminal:
        show(console, "")  # the headline gets a line of its own
    middle = sorted(waits)[len(waits) // 2] if waits else None
    return {"turns": len(waits), "first_token_ms": middle and round(1000 * middle, 1)}
