"""The only door to chat: messages -> (ids, loss mask), and an assistant's text -> message.

One jinja template (ChatML, calls as Hermes JSON) lies beside this file and ships with every checkpoint, where
transformers' apply_chat_template renders it to the same ids. Special tokens come from the template alone: it
is rendered once for each shape of conversation, with slots where the words go, and split at its special
tokens; the words are filled in afterwards and encoded as plain text. A model that was taken in keeps its own template
(template.py). But: no images; of tools our template has the names alone, not their parameters.
Sources: OpenAI's ChatML; NousResearch's Hermes function calling; transformers' {% generation %} tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import count
from typing import Any, NamedTuple, get_args

from jinja2 import Template

from nightschool.config import UserError
from nightschool.text import template as foreign
from nightschool.text.document import Message, Role
from nightschool.text.template import OURS, Announced, CallForm, Conversation, Generation, Rendered, environment
from nightschool.text.tokenizer import SPECIAL, TEMPLATE, Tokenizer

TRAINED, UNTRAINED = "\ue000", "\ue001"  # private-use characters around what the assistant says
SLOT = "\ue002{}\ue003"


class Marked(Generation):
    def mark(self, caller: Callable[[], str]) -> str:
        return TRAINED + caller() + UNTRAINED


class Piece(NamedTuple):
    """A special token and the text up to the next one: a format string over the conversation's words."""

    special: str
    special_mask: int
    head: str  # text that is never trained on: "assistant\n" before what he says
    body: str
    body_mask: int


@cache
def template() -> Template:
    return environment(Marked).from_string(TEMPLATE.read_text(encoding="utf-8"))


@lru_cache(maxsize=4096)
def skeleton(shape: tuple[tuple[str, bool, int], ...], num_tools: int, generate: bool) -> tuple[Piece, ...]:
    """The pieces of conversations of one shape: (role, has content?, number of calls) of each message."""
    slots = map(SLOT.format, count())
    messages = [
        {
            "role": role,
            "content": next(slots) if has_content else "",
            "tool_calls": [{"name": next(slots), "arguments": next(slots)} for _ in range(num_calls)],
        }
        for role, has_content, num_calls in shape
    ]
    tools = [next(slots) for _ in range(num_tools)]
    text = template().render(messages=messages, tools=tools, add_generation_prompt=generate)
    text = re.sub(SLOT.format(r"(\d+)"), r"{\1}", text.replace("{", "{{").replace("}", "}}"))
    empty, *parts = re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", text)
    assert not empty, f"the template starts outside a turn: {empty!r}"
    pieces, mask = [], 0
    for special, after in zip(parts[::2], parts[1::2], strict=True):
        special_mask = mask
        if UNTRAINED in after:
            mask, after = 0, after.replace(UNTRAINED, "")
        head, turned, body = after.rpartition(TRAINED)
        mask = 1 if turned else mask
        pieces.append(Piece(special, special_mask, head, body, mask))
    return tuple(pieces)


def fill(messages: Sequence[Message], tools: Sequence[str], generate: bool) -> list[Piece]:
    """The pieces of one conversation, its words filled in."""
    shape = tuple((m.role, bool(m.content), len(m.tool_calls)) for m in messages)
    words: list[str] = []  # in the order of skeleton's slots
    for message in messages:
        if message.content:
            words.append(message.content)
        for call in message.tool_calls:
            words += [call["name"], json.dumps(call["arguments"], ensure_ascii=False)]
    words += tools
    return [
        Piece(special, special_mask, head, body.format(*words), body_mask)
        for special, special_mask, head, body, body_mask in skeleton(shape, len(tools), generate)
    ]


def render_many(tokenizer: Tokenizer, conversations: Sequence[Conversation], generate: bool = False) -> list[Rendered]:
    """render() of each conversation, encoded together: some times faster."""
    if tokenizer.template:
        return [foreign.render(tokenizer, messages, tools, generate) for messages, tools in conversations]
    filled = [fill(messages, foreign.names(tools), generate) for messages, tools in conversations]
    texts = {text for pieces in filled for p in pieces for text in (p.head, p.head + p.body)}
    ids_of = dict(zip(texts, tokenizer.encode_many(list(texts)), strict=True))
    rendered = []
    for pieces in filled:
        ids: list[int] = []
        mask: list[int] = []
        for special, special_mask, head, body, body_mask in pieces:
            text_ids = ids_of[head + body]
            # A line end that begins a reply may merge with the head's: then that token is trained on.
            num_head = len(ids_of[head]) - (text_ids[: len(ids_of[head])] != ids_of[head])
            ids += [tokenizer.special[special], *text_ids]
            mask += [special_mask] + [0] * num_head + [body_mask] * (len(text_ids) - num_head)
        rendered.append((ids, mask))
    return rendered


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Announced] = (), generate: bool = False
) -> Rendered:
    """Messages -> ids and mask, both (T,). The mask is 1 on the assistant's words, calls and <|im_end|>.

    With `generate` the ids end where the assistant's next turn begins, and a template not ours marks nothing.
    """
    return render_many(tokenizer, [(messages, tools)], generate)[0]


def lessons(tokenizer: Tokenizer, conversations: Sequence[Conversation]) -> list[list[Rendered]]:
    """What there is to learn from each conversation: with our template it, rendered; with another's sometimes more."""
    if tokenizer.template:
        return [foreign.lessons(tokenizer, messages, tools) for messages, tools in conversations]
    return [[rendered] for rendered in render_many(tokenizer, conversations)]


def texts(messages: Sequence[Message], tools: Sequence[str] = ()) -> list[str]:
    """The text between special tokens, as it will be encoded: what a tokenizer is trained on."""
    return [piece.head + piece.body for piece in fill(messages, tools, generate=False)]


def resume(tokenizer: Tokenizer, observations: Sequence[Message]) -> list[int]:
    """The ids after an assistant's turn that ended in calls: what the tools said, and where his next turn begins."""
    if tokenizer.template:
        return foreign.resume(tokenizer, observations)
    return tokenizer.encode("\n") + render(tokenizer, observations, generate=True)[0]


def call_form(tokenizer: Tokenizer) -> CallForm:
    """How a model calls tools."""
    return (foreign.call_form(tokenizer) if tokenizer.template else None) or OURS


def said(tokenizer: Tokenizer, ids: Sequence[int]) -> Message:
    """An assistant's turn as it was sampled -> its message."""
    text = tokenizer.decode(ids[:-1] if ids and ids[-1] == tokenizer.turn_end else ids)
    return parse(text, call_form(tokenizer))


def parse(text: str, form: CallForm = OURS) -> Message:
    """What an assistant said, tags spelled out -> its message.

    'So <tool_call>{"name": "lookup", "arguments": {}}</tool_call>' -> content "So ", one call. Where a call
    is not whole, well-formed JSON with a name and arguments, all of the text stays content; so does what stands beside
    a bare call.
    """
    content, *parts = text.split(form.opens) if form.opens else ("", text)
    calls = []
    for part in parts:
        body, end, after = part.partition(form.closes) if form.closes else (part, "the end", "")
        try:
            calls.append(call_from(json.loads(body), form.key))
        except (ValueError, RecursionError):
            return Message("assistant", text)
        if not end or after.strip():
            return Message("assistant", text)
    return Message("assistant", content, tuple(calls))


def call_from(value: Any, key: str = "arguments") -> dict[str, Any]:
    """A call's name and arguments. ValueError where it is none, or could not be written as UTF-8."""
    if not isinstance(value, dict):
        raise ValueError(f"a tool call must be an object; got {value!r:.80}")
    name, arguments = value.get("name"), value.get(key)
    if not (isinstance(name, str) and isinstance(arguments, dict)):
        raise ValueError(f"a tool call needs a name and arguments; got {value!r:.80}")
    json.dumps([name, arguments], ensure_ascii=False).encode()
    return {"name": name, "arguments": arguments}


def message_from(record: Any) -> Message:
    """A message as OpenAI's API and the hub's data sets write it -> Message. UserError where it is none."""
    if not isinstance(record, dict) or record.get("role") not in get_args(Role):
        raise UserError(f"a message needs a role, one of {', '.join(get_args(Role))}; got {record!r:.80}")
    content, tool_calls = record.get("content") or "", record.get("tool_calls") or []
    if isinstance(content, list):  # parts, of which only text has its place so far
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str) or not isinstance(tool_calls, list):
        raise UserError(f"a message's content must be text and its tool_calls a list; got {record!r:.80}")
    calls = []
    try:
        content.encode()
        for call in tool_calls:
            call = call.get("function", call) if isinstance(call, dict) else call
            if isinstance(call, dict) and isinstance(call.get("arguments"), str):
                call = call | {"arguments": json.loads(call["arguments"])}
            calls.append(call_from(call))
    except (ValueError, RecursionError) as error:  # a lone surrogate is a ValueError too
        raise UserError(f"a message can't be read: {error}") from None
    return Message(record["role"], content, tuple(calls))
