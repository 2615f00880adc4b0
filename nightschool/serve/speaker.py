"""A loaded model that holds a conversation: what the terminal and the server share.

`reply` renders the conversation, streams the answer as events, runs the tools it has and goes on after them.
A conversation too long for the context slides by whole turns: the oldest go, the system message stays.
But: a turn that went is forgotten, not summarised.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nightschool.config import UserError
from nightschool.model import exchange
from nightschool.model.engine import Engine, Token
from nightschool.model.sampling import Sampling
from nightschool.tasks.task import Task
from nightschool.tasks.tools import FUNCTIONS, Facts, call_tool
from nightschool.tasks.world import draw
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.world.tools import lookup


class Tool(NamedTuple):
    """What a model may call."""

    function: dict[str, Any]  # its name, description and parameters, as OpenAI's API has them
    run: Callable[[dict[str, Any]], str] | None  # a call, {"name", "arguments"} -> its observation; None: the caller's


# What a talk has at hand where nobody says otherwise. Not the look-up: in a table a model looks for what it has learned
# at night, where nobody has written it.
AT_HAND = ("calculator",)


class TooLong(UserError):
    """The prompt leaves no room for an answer in the model's context."""


@dataclass(frozen=True)
class Speaker:
    """A loaded model and the tools it may use."""

    name: str
    about: str  # its size, in words
    engine: Engine
    tools: Mapping[str, Tool]


@dataclass(frozen=True)
class Said:
    """The text that `token` completed: "" inside a character of several tokens."""

    text: str
    token: Token


@dataclass(frozen=True)
class Called:
    name: str
    arguments: dict[str, Any]
    result: str | None  # None: a tool of the caller, who runs it and asks again


@dataclass(frozen=True)
class Ended:
    reason: Literal["stop", "length", "tool_calls"]
    turns: tuple[Message, ...]  # what the reply adds to the conversation
    num_tokens: int  # sampled, tool calls included


def newest_checkpoint(path: Path) -> Path:
    """A checkpoint to talk to: `path` itself, its run's, or a life's newest (night-*, rl, sft, pretrain, import)."""
    nights = sorted(path.glob("night-*"), key=lambda night: (len(night.name), night.name), reverse=True)
    runs = (path, *nights, *(path / verb for verb in ("rl", "sft", "pretrain", "import")))
    for folder in (path, *(run / "checkpoint" for run in runs)):
        if exchange.is_checkpoint(folder):
            return folder
    raise UserError(f"no checkpoint in {path}; run `nightschool quickstart --out {path}` first")


def town_facts(num_facts: int = 200) -> Facts:
    """What the look-up knows of the town: the tables of problems that no exam's test set holds."""
    facts: dict[str, dict[str, str]] = {}
    for problem in draw(Task(lookup), "dev", num_facts, seed=0):
        for name, row in problem.data["table"].items():
            facts.setdefault(name, {}).update(row)
    return facts


def load(path: Path) -> Speaker:
    """A life, run or checkpoint folder -> a warm model, whose next first token comes at once."""
    model, tokenizer = exchange.load(newest_checkpoint(path))
    num_parameters = sum(p.numel() for p in model.parameters())
    context = model.config.max_position_embeddings
    name = next(part for part in reversed(path.resolve().parts) if part != "checkpoint")
    about = f"{num_parameters / 1e6:.1f} M parameters · {context:,} tokens of context"
    run = partial(call_tool, facts=town_facts())
    tools = {function["name"]: Tool(function, run) for function in FUNCTIONS}
    speaker = Speaker(name, about, Engine(model, tokenizer), tools)
    for _ in reply(speaker, [Message("user", "Hello")], {}, Sampling(max_new_tokens=2)):
        pass
    return speaker


def prompt_of(speaker: Speaker, messages: Sequence[Message], tools: Mapping[str, Tool]) -> list[int]:
    """The ids the model reads before it answers."""
    functions = [tool.function for tool in tools.values()]
    return chat.render(speaker.engine.tokenizer, messages, functions, generate=True)[0]


def check(speaker: Speaker, messages: Sequence[Message], tools: Mapping[str, Tool]) -> int:
    """The prompt's length in tokens. Raises TooLong where no room is left for an answer."""
    num_tokens, context = len(prompt_of(speaker, messages, tools)), speaker.engine.context
    if num_tokens >= context:
        raise TooLong(f"{num_tokens:,} tokens are too long for a model that reads {context:,}; send less")
    return num_tokens


def fit(speaker: Speaker, messages: Sequence[Message], tools: Mapping[str, Tool], reserve: int) -> list[Message]:
    """The newest whole turns that leave `reserve` tokens for an answer.

    The last turn may use up the reserve; where it alone fills the context, TooLong.
    """
    head = list(messages[:1]) if messages[0].role == "system" else []
    starts = [i for i, message in enumerate(messages) if message.role == "user"] or [len(head)]
    kept = [*head, *messages[starts.pop() :]]
    check(speaker, kept, tools)
    while starts:
        longer = [*head, *messages[starts.pop() :]]
        if len(prompt_of(speaker, longer, tools)) > speaker.engine.context - reserve:
            break
        kept = longer
    return kept


def say(
    engine: Engine, ids: list[int], tools: Container[str], sampling: Sampling, num_top: int
) -> Generator[Said, None, tuple[Message, int, bool]]:
    """One assistant's turn -> (its message, tokens sampled, whether it ended by itself).

    Where calls have no tokens of their own, a turn that begins like one is held back until it ends.
    """
    special, decoder, form = engine.tokenizer.special, engine.tokenizer.stream(), chat.call_form(engine.tokenizer)
    opens, closes, begin = special.get(form.opens), special.get(form.closes), form.opens or "{"
    ends = {opens, closes, *(special[token] for token in engine.tokenizer.control)}
    text, num_tokens, ended = "", 0, False
    call = "" if opens is None and tools else None  # the text of a call that is still open
    calls: list[dict[str, Any]] = []
    for token in engine.stream(ids, sampling, num_top=num_top):
        num_tokens += 1
        piece = None
        if token.id == opens and call is None:
            call = ""
        elif token.id == closes and call is not None:
            parsed = chat.parse(form.opens + call + form.closes, form).tool_calls
            known = [c for c in parsed if c["name"] in tools]
            calls += known
            piece, call = None if known else call, None  # what can't be called stays what it is, text
        elif token.id in ends:
            ended = True
            break
        elif call is not None:
            call += decoder.add(token.id)
            if opens is None and not begin.startswith(call.lstrip()[: len(begin)]):
                piece, call = call, None
        else:
            piece = decoder.add(token.id)
        if piece is not None:
            text += piece
            yield Said(piece, token)
    if call and opens is None and (known := [c for c in chat.parse(call, form).tool_calls if c["name"] in tools]):
        calls, call = known, None
    if call:
        text += call
        yield Said(call, token)
    return Message("assistant", text, tuple(calls)), num_tokens, ended


def reply(
    speaker: Speaker,
    messages: Sequence[Message],
    tools: Mapping[str, Tool],
    sampling: Sampling,
    num_top: int = 0,
) -> Iterator[Said | Called | Ended]:
    """Answer a conversation that `check` let pass; every token comes with its `num_top` likeliest.

    `tools` are announced as the model's template does it; the call of one that the caller runs ends the reply.
    `sampling.max_new_tokens` counts over all turns of the reply.
    """
    turns: list[Message] = []
    left = sampling.max_new_tokens
    while True:
        ids = prompt_of(speaker, [*messages, *turns], tools)
        room = min(left, speaker.engine.context - len(ids))
        if room <= 0:
            yield Ended("length", tuple(turns), sampling.max_new_tokens - left)
            return
        turn_sampling = replace(sampling, max_new_tokens=room)
        turn, num_tokens, ended = yield from say(speaker.engine, ids, tools, turn_sampling, num_top)
        left -= num_tokens
        turns.append(turn)
        if not ended or not turn.tool_calls:
            yield Ended("stop" if ended else "length", tuple(turns), sampling.max_new_tokens - left)
            return
        for call in turn.tool_calls:
            run = tools[call["name"]].run
            result = run(call) if run else None
            yield Called(call["name"], call["arguments"], result)
            if result is not None:
                turns.append(Message("tool", result))
        if any(tools[call["name"]].run is None for call in turn.tool_calls):
            yield Ended("tool_calls", tuple(turns), sampling.max_new_tokens - left)
            return
