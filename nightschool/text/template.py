"""The chat template of a model that was taken in: messages -> (ids, loss mask), as its other readers render them.

The template is a stranger's program: jinja's sandbox runs it, and text is all that is taken from it. Its special tokens
become ids. One that is spelled out in what people and tools say is broken by a mark while the template runs, so that it
stays text; the assistant may say tags (<think>, <tool_call>), which are no control tokens.

What is learned is found by rendering: a turn is what it adds to the prompt that asks for it, up to the token that ends
it. A turn that the template writes otherwise once the talk has gone on (Qwen3 drops earlier thoughts) is not learned
there, since the model never says it so, but in a lesson of its own that ends with it.

How a model calls tools is found by rendering too: as JSON between tags (Qwen, Hermes) or bare (Llama 3). A template
that knows of no tools, or writes calls otherwise, gets them as ours has them, tools by name in the system turn and
calls as plain text, to be learned.

But: templates that ask for the date get the same day always, or training could not be repeated; of the tools in a
conversation that is learned they see the names; thoughts are part of the content, and where a template can ask for none
(Qwen3) none are asked for, since a few hundred tokens do not hold them; a template that never ends isn't stopped.
Source: transformers' chat_template_utils.py, for what a template may call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nightschool.config import UserError
from nightschool.text.document import Message
from nightschool.text.tokenizer import CALL_END, CALL_START, TEMPLATE, Tokenizer, byte_alphabet, read

DAY = date(2024, 7, 26)  # what Llama 3's template falls back to
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>")  # Qwen's, Llama 3's, Llama 2's
THOUGHTLESS = {"enable_thinking": False}  # Qwen3's own word
TAG = r"(<[^<>\s]+>)"
PRIVATE = range(0xE000, 0xF900)  # characters for private use
ASKED = (Message("user", "What is 12 + 30?"), Message("assistant", "12 + 30 = 42"))
CALLED = {"name": "calculator", "arguments": {"expression": "12 + 30"}}

Announced = str | dict[str, Any]  # a tool's name, or all there is to say of it: {"name", "description", "parameters"}
Conversation = tuple[Sequence[Message], Sequence[Announced]]
Rendered = tuple[list[int], list[int]]  # ids; mask, 1 = trained on


class CallForm(NamedTuple):
    """How a call is said: JSON of a name and, under `key`, arguments, between two tags or bare."""

    opens: str
    key: str
    closes: str


OURS = CallForm(CALL_START, "arguments", CALL_END)


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} stands around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own contract)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Callable[[], str]) -> str:
        return caller()


def environment(generation: type[Extension]) -> ImmutableSandboxedEnvironment:
    """What a chat template runs in."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = tojson
    made.globals |= {"raise_exception": refuse, "strftime_now": DAY.strftime}
    return made


@lru_cache(maxsize=8)
def compiled(template: str) -> Template:
    return environment(Generation).from_string(template)


@lru_cache(maxsize=64)
def splitter(tokens: frozenset[str]) -> re.Pattern[str]:
    """Finds any of the tokens, the longest where several begin."""
    return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")


def fill(tokenizer: Tokenizer, records: Sequence[dict[str, Any]], generate: bool, **options: Any) -> str:
    """What a tokenizer's template makes of messages."""
    config = tokenizer.config
    names = {name: config[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(name)}
    try:
        return compiled(tokenizer.template).render(
            messages=records, add_generation_prompt=generate, **{"tools": None} | names | options
        )
    except Exception as error:  # a stranger's program may raise anything
        why = " ".join(str(error).split())
        raise UserError(f"the model's chat template cannot render this conversation: {why}") from error


@lru_cache(maxsize=8)
def call_form(tokenizer: Tokenizer) -> CallForm | None:
    """How the template writes an assistant's call; None where it writes none, or otherwise."""
    asked = {"role": "user", "content": ASKED[0].content}
    called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALLED}]}
    try:
        turn = fill(tokenizer, [asked, called], False).removeprefix(fill(tokenizer, [asked], True))
        call, end = json.JSONDecoder().raw_decode(turn, turn.index("{"))
    except (UserError, ValueError):
        return None
    key = next((name for name, value in call.items() if value == CALLED["arguments"]), None)
    if call.get("name") != CALLED["name"] or key is None:
        return None
    before, after = turn[: turn.index("{")], turn[end:].partition(tokenizer.config["eos_token"])[0]
    opens, closes = re.search(rf"{TAG}\s*$", before), re.match(rf"\s*{TAG}", after)
    if opens and closes:
        return CallForm(opens[1], key, closes[1])
    return None if (before + after).strip() else CallForm("", key, "")


def names(tools: Sequence[Announced]) -> list[str]:
    return [tool if isinstance(tool, str) else tool["name"] for tool in tools]


def spelled(messages: Sequence[Message], tools: Sequence[Announced]) -> list[Message]:
    """A conversation in which tools are announced and called in plain text, as our own template writes them."""
    turns = []
    for message in messages:
        calls = (json.dumps(call, ensure_ascii=False) for call in message.tool_calls)
        said = message.content + "".join(f"{OURS.opens}{call}{OURS.closes}" for call in calls)
        turns.append(Message(message.role, said))
    if tools:
        head = turns.pop(0).content + "\n" if turns[0].role == "system" else ""
        turns.insert(0, Message("system", f"{head}Tools: {', '.join(names(tools))}"))
    return turns


class Conversant:
    """One conversation before its template."""

    def __init__(self, tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Announced]) -> None:
        self.tokenizer = tokenizer
        if call_form(tokenizer) is None:
            messages, tools = spelled(messages, tools), ()
        words = json.dumps([[[m.content, m.tool_calls] for m in messages], list(tools)], ensure_ascii=False)
        self.mark = next(char for char in map(chr, PRIVATE) if char not in words)
        self.records = [self.record(message) for message in messages]
        unknown = {"description": "", "parameters": {"type": "object", "properties": {}}}
        functions = [{"name": tool, **unknown} if isinstance(tool, str) else tool for tool in tools]
        functions = self.broken(functions, self.tokenizer.special)
        self.tools = [{"type": "function", "function": function} for function in functions]

    def record(self, message: Message) -> dict[str, Any]:
        """A message as templates expect it, each special token that it must not say broken by the mark."""
        record: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            record["tool_calls"] = [{"type": "function", "function": call} for call in message.tool_calls]
        return self.broken(record, self.tokenizer.control if message.role == "assistant" else self.tokenizer.special)

    def broken(self, record: Any, forbidden: Iterable[str]) -> Any:
        """JSON, its special tokens broken by the mark."""
        text = json.dumps(record, ensure_ascii=False)
        return json.loads(
            splitter(frozenset(forbidden)).sub(lambda found: found[0][0] + self.mark + found[0][1:], text)
        )

    def text(self, num_messages: int | None, generate: bool, **options: Any) -> str:
        """What the template makes of the first messages, marks included; None: of all."""
        return fill(self.tokenizer, self.records[:num_messages], generate, tools=self.tools or None, **options)

    def turns(self) -> list[tuple[str, int, int]]:
        """Each turn that can be learned: the text up to its end, and from where to where in it the model speaks."""
        end_token, found = self.tokenizer.config["eos_token"], []
        for i, record in enumerate(self.records):
            if i and record["role"] == "assistant":
                prompt, text = self.text(i, True), self.text(i + 1, False)
                end = text.rfind(end_token) + len(end_token)
                if len(prompt) < end and text.startswith(prompt):
                    found.append((text[:end], len(prompt), end))
        return found

    def encode(self, text: str, learned: Sequence[tuple[int, int]] = ()) -> Rendered:
        """A rendered text -> its ids and their mask. A token that lies across the begin of a turn is learned."""
        ids: list[int] = []
        mask: list[int] = []
        at = 0
        for part in splitter(frozenset(self.tokenizer.special)).split(text):
            at += len(part)
            begin = next((a for a, b in learned if a < at <= b), at)
            if part in self.tokenizer.special:
                ids.append(self.tokenizer.special[part])
                mask.append(int(begin < at))
            else:
                head = text[at - len(part) : begin].replace(self.mark, "")
                encoding = self.tokenizer.plain.encode(part.replace(self.mark, ""), add_special_tokens=False)
                ids += encoding.ids
                mask += [int(end > len(head)) for _, end in encoding.offsets]
        return ids, mask


def render(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Announced], generate: bool) -> Rendered:
    """See chat.render: the turns are marked that stand in the whole conversation as the model says them."""
    talk = Conversant(tokenizer, messages, tools)
    whole = talk.text(None, True, **THOUGHTLESS) if generate else talk.text(None, False)
    return talk.encode(whole, [] if generate else [(a, b) for text, a, b in talk.turns() if whole.startswith(text)])


def lessons(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Announced]) -> list[Rendered]:
    """See chat.lessons: the whole conversation, and one up to each turn that does not stand in it."""
    talk = Conversant(tokenizer, messages, tools)
    whole, turns = talk.text(None, False), talk.turns()
    apart = [talk.encode(text, [(a, b)]) for text, a, b in turns if not whole.startswith(text)]
    standing = [(a, b) for text, a, b in turns if whole.startswith(text)]
    return [talk.encode(whole, standing), *apart] if standing or not apart else apart


def resume(tokenizer: Tokenizer, observations: Sequence[Message]) -> list[int]:
    """See chat.resume: what follows a turn in a conversation that has one before the observations."""
    talk = Conversant(tokenizer, [*ASKED, *observations], ())
    whole, said = talk.text(None, True, **THOUGHTLESS), ASKED[-1].content
    return talk.encode(whole.partition(said)[2].partition(tokenizer.config["eos_token"])[2])[0]


def adopt(folder: Path) -> Tokenizer:
    """A stranger's tokenizer, its tokenizer_config.json settled as ours: eos_token ends a turn, pad_token a document.
    One of ours comes home as it is.

    UserError where it is no byte-level BPE, or where its chat template does not show what an assistant's turn is.
    """
    backend, config, template = read(folder)
    if not template and (folder / TEMPLATE.name).is_file():
        return Tokenizer.load(folder)
    if not template:
        raise UserError(f"no chat template in {folder}; add its chat_template.jinja, or take the instruct version")
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    if strange := set("".join(backend.get_vocab().keys() - added)) - byte_alphabet().keys():
        raise UserError(
            f"{folder}/tokenizer.json is no byte-level BPE (it has {min(strange)!r}); only that is supported"
        )
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(name)
        config[name] = token["content"] if isinstance(token, dict) else token  # transformers 4 wrote objects
    if not added:
        raise UserError(f"{folder}/tokenizer.json has no special tokens; a chat needs one that ends a turn")
    known = config["eos_token"] if config["eos_token"] in added else min(added)
    tokenizer = Tokenizer(backend, config | {"eos_token": known, "pad_token": known}, template)
    talk = Conversant(tokenizer, ASKED, ())
    after = splitter(frozenset(added)).search(talk.text(2, False).partition(ASKED[-1].content)[2])
    if after is None:
        raise UserError(f"{folder}: its chat template ends an assistant's turn with no special token")
    ends = [token for token in (*END_OF_TEXT, config["pad_token"], after[0]) if token in added]
    tokenizer = Tokenizer(backend, config | {"eos_token": after[0], "pad_token": ends[0]}, template)
    ids, mask = render(tokenizer, ASKED, (), generate=False)
    said = tokenizer.decode(i for i, m in zip(ids, mask, strict=True) if m)
    if not said.endswith(ASKED[-1].content + after[0]):
        raise UserError(
            f"{folder}: its chat template begins a turn otherwise than it asks for one, so none can be learned"
        )
    return tokenizer
