"""The door of the server: a request body -> a checked `Ask`, or one refusal in OpenAI's error shape.

After `read` nothing in an Ask can be wrong. Fields we don't know are ignored, as OpenAI's own clients send
many; those that would change the answer and are not offered are refused.
Source: the OpenAI API reference, chat completions and errors.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nightschool.config import UserError
from nightschool.model.sampling import Sampling
from nightschool.serve.speaker import Speaker, Tool, TooLong, check, fit
from nightschool.text import chat
from nightschool.text.document import Message

NOT_OFFERED: dict[str, tuple[Any, ...]] = {  # field -> the only values it may have
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"),
    "truncation": ("disabled", "auto"),
}


class Refused(Exception):
    """A request that won't be answered: the HTTP status, and OpenAI's error fields."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}


@dataclass(frozen=True)
class Ask:
    """A request that has been checked."""

    messages: list[Message]
    num_prompt: int  # tokens
    tools: Mapping[str, Tool]
    sampling: Sampling
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool  # end the stream with a chunk that counts tokens
    logprobs: bool
    top_logprobs: int


def number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """The number `name`, in low..high; left out or null = default."""
    value = default if body.get(name) is None else body[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused(f"{name} must be a number from {low:g} to {high:g}; got {value!r:.40}", name)
    return value


def whole(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = number(body, name, default, low, high)
    if value != int(value):
        raise Refused(f"{name} must be a whole number; got {value!r:.40}", name)
    return int(value)


def typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        wanted = {list: "a list", dict: "an object", str: "a string", bool: "true or false"}[kind]
        raise Refused(f"{name} must be {wanted}; got {value!r:.40}", name)
    return value


def read_message(entry: Any, name: str) -> Message:
    """One entry of `messages`; `name` is what a refusal calls it."""
    typed(entry, dict, name)
    typed(entry.get("tool_calls") or [], list, f"{name}.tool_calls")
    if entry.get("role") == "developer":  # OpenAI's newer word
        entry = {**entry, "role": "system"}
    if isinstance(entry.get("content"), list) and any(
        not isinstance(part, dict) or not isinstance(part.get("text"), str) for part in entry["content"]
    ):
        raise Refused(f"{name}.content may hold parts of text only", name)
    try:
        return chat.message_from(entry)
    except (UserError, ValueError) as error:  # ValueError: arguments that are no JSON
        raise Refused(f"{name}: {error}", name) from None


def read_tools(body: dict[str, Any], speaker: Speaker) -> dict[str, Tool]:
    """{"type": "function", …} is the client's to run, {"type": "calculator"} ours."""
    tools: dict[str, Tool] = {}
    for entry in typed(body.get("tools") or [], list, "tools"):
        kind = typed(entry, dict, "tools").get("type")
        if kind == "function":
            function = typed(entry.get("function"), dict, "tools.function")
            tools[typed(function.get("name"), str, "tools.function.name")] = Tool(function, None)
        elif isinstance(kind, str) and kind in speaker.tools:
            tools[kind] = speaker.tools[kind]
        else:
            offered = ", ".join(("function", *speaker.tools))
            raise Refused(f"tools.type must be one of {offered}; got {kind!r:.40}", "tools")
    return {} if body.get("tool_choice") == "none" else tools


def read(raw: bytes, speaker: Speaker, default: Sampling) -> Ask:
    """Check everything a client may get wrong. Raises Refused."""
    try:
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, RecursionError):
        raise Refused("the body must be JSON in UTF-8") from None
    typed(body, dict, "the body")
    for field, allowed in NOT_OFFERED.items():
        if body.get(field) is not None and body[field] not in allowed:
            offered = " or ".join(map(json.dumps, allowed))
            raise Refused(f"{field} may only be {offered}; got {body[field]!r:.40}", field)
    entries = typed(body.get("messages"), list, "messages")
    if not entries:
        raise Refused("messages must hold at least one message", "messages")
    messages = [read_message(entry, f"messages[{i}]") for i, entry in enumerate(entries)]
    tools = read_tools(body, speaker)
    longest = whole(body, "max_tokens", default.max_new_tokens, 1, 1_000_000)
    longest = whole(body, "max_completion_tokens", longest, 1, 1_000_000)
    stop = [] if body.get("stop") is None else body["stop"]
    stop = typed([stop] if isinstance(stop, str) else stop, list, "stop")
    if len(stop) > 4 or not all(isinstance(text, str) and 0 < len(text) <= 1000 for text in stop):
        raise Refused("stop must be up to 4 strings of 1 to 1000 characters", "stop")
    sampling = replace(
        default,
        temperature=number(body, "temperature", default.temperature, 0, 2),
        top_p=number(body, "top_p", default.top_p, 1e-6, 1),
        min_p=number(body, "min_p", default.min_p, 0, 1),
        max_new_tokens=longest,
        seed=whole(body, "seed", random.getrandbits(31), -(2**63), 2**63 - 1) % 2**31,
    )
    logprobs = typed(body.get("logprobs") or False, bool, "logprobs")
    top_logprobs = whole(body, "top_logprobs", 0, 0, 20)
    if top_logprobs and not logprobs:
        raise Refused("top_logprobs needs logprobs: true", "top_logprobs")
    stream = typed(body.get("stream") or False, bool, "stream")
    options = typed(body.get("stream_options") or {}, dict, "stream_options")
    try:
        if body.get("truncation") == "auto":
            messages = fit(speaker, messages, tools, min(longest, speaker.engine.context // 2))
        num_prompt = check(speaker, messages, tools)
    except TooLong as error:
        raise Refused(str(error), "messages", "context_length_exceeded") from None
    except UserError as error:  # what the model's own chat template will not render
        raise Refused(str(error), "messages") from None
    return Ask(
        messages=messages,
        num_prompt=num_prompt,
        tools=tools,
        sampling=sampling,
        stop=tuple(stop),
        stream=stream,
        include_usage=bool(options.get("include_usage")),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
    )
