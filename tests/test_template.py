"""Strangers' chat templates: transformers' own rendering is the oracle; what is learned is worked by hand."""

import json
from pathlib import Path
from typing import Any

import foreign
import pytest
from transformers import AutoTokenizer

from nightschool.config import UserError
from nightschool.tasks.tools import FUNCTIONS, described
from nightschool.text import chat, corpus, template
from nightschool.text.document import Document, Message
from nightschool.text.tokenizer import Tokenizer

CALL: dict[str, Any] = {"name": "lookup", "arguments": {"who": "Ada <|im_end|>"}}
TALKS: dict[str, tuple[Message, ...]] = {
    "one": (Message("user", " Where? \n"), Message("assistant", "In the kitchen. ")),
    "system": (Message("system", "Be brief.\n"), Message("user", "Where?"), Message("assistant", "Here.")),
    "two": (
        Message("user", "Hi"),
        Message("assistant", "<think>\nwell\n</think>\n\nHello."),
        Message("user", "Bye"),
        Message("assistant", "<think>\nhm\n</think>\n\nSo long! 雪だるま"),
    ),
    "tool": (
        Message("user", "Who?"),
        Message("assistant", "Let me see.", (CALL,)),
        Message("tool", "kitchen"),
        Message("assistant", "In the kitchen."),
    ),
}


@pytest.fixture(scope="module", params=["qwen", "llama"])
def taken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Tokenizer]:
    folder = tmp_path_factory.mktemp(request.param)
    foreign.write_tokenizer(folder, request.param)
    return request.param, folder, template.adopt(folder)


def learned(tokenizer: Tokenizer, messages: tuple[Message, ...]) -> str:
    ids, mask = chat.render(tokenizer, messages)
    return tokenizer.decode(i for i, m in zip(ids, mask, strict=True) if m)


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("tools", [(), ("lookup",), FUNCTIONS])
def test_transformers_renders_the_same_ids(
    taken: tuple[str, Path, Tokenizer], talk: str, tools: tuple[template.Announced, ...]
) -> None:
    make, folder, tokenizer = taken
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    messages = []
    for m in TALKS[talk]:
        calls = [{"type": "function", "function": call} for call in m.tool_calls]
        messages.append({"role": m.role, "content": m.content, **({"tool_calls": calls} if calls else {})})
    empty = {"type": "object", "properties": {}}
    functions = [
        {"name": tool, "description": "", "parameters": empty} if isinstance(tool, str) else tool for tool in tools
    ]
    schemas = [{"type": "function", "function": f} for f in functions] or None
    # The day is always the same with us. In the stranger's reading a special token in a call would be one: left out.
    source = theirs.chat_template.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    for upto, generate in ((len(messages), False), (len(messages) - 1, True)):
        text = theirs.apply_chat_template(
            messages[:upto],
            tools=schemas,
            chat_template=source,
            add_generation_prompt=generate,
            tokenize=False,
            enable_thinking=not generate,  # what the model says may have thoughts, but it is asked for none
        )
        ids = chat.render(tokenizer, TALKS[talk][:upto], tools, generate)[0]
        assert tokenizer.decode(ids) == text
        if make == "llama" or talk != "tool":
            assert theirs(text, add_special_tokens=False).input_ids == ids


def test_what_is_learned(tmp_path: Path) -> None:
    for make in ("qwen", "llama"):
        foreign.write_tokenizer(tmp_path / make, make)
    qwen, llama = template.adopt(tmp_path / "qwen"), template.adopt(tmp_path / "llama")
    # the empty thoughts are what this template makes of a turn without any, and what it asks the model to say
    assert learned(qwen, TALKS["one"]) == "<think>\n\n</think>\n\nIn the kitchen. <|im_end|>"
    # "Hello." alone is what a past turn looks like, not what the model says: read, not learned
    assert learned(qwen, TALKS["two"]) == "<think>\nhm\n</think>\n\nSo long! 雪だるま<|im_end|>"
    assert learned(llama, TALKS["one"]) == "In the kitchen.<|eot_id|>"
    assert learned(llama, TALKS["two"]).count("<|eot_id|>") == 2
    assert learned(llama, TALKS["two"][:1]) == ""


def test_a_turn_written_otherwise_later_is_a_lesson_of_its_own(tmp_path: Path) -> None:
    for make in ("qwen", "llama"):
        foreign.write_tokenizer(tmp_path / make, make)
    qwen, llama = template.adopt(tmp_path / "qwen"), template.adopt(tmp_path / "llama")

    def spoken(tokenizer: Tokenizer, talk: str) -> list[str]:
        found = chat.lessons(tokenizer, [(TALKS[talk], ())])[0]
        return [tokenizer.decode(i for i, m in zip(ids, mask, strict=True) if m) for ids, mask in found]

    assert spoken(qwen, "two") == [
        "<think>\nhm\n</think>\n\nSo long! 雪だるま<|im_end|>",
        "<think>\nwell\n</think>\n\nHello.<|im_end|>",
    ]
    call = 'Let me see.\n<tool_call>\n{"name": "lookup", "arguments": {"who": "Ada <|im_end|>"}}\n</tool_call>'
    assert spoken(qwen, "tool") == [
        "<think>\n\n</think>\n\nIn the kitchen.<|im_end|>",
        f"<think>\n\n</think>\n\n{call}<|im_end|>",
    ]
    assert len(spoken(llama, "two")) == 1
    items = corpus.encode(
        qwen, [Document(messages=TALKS["two"]), Document(text="a town"), Document(messages=TALKS["one"])]
    )
    assert len(items) == 4
    for tokenizer, make in ((qwen, "qwen"), (llama, "llama")):
        theirs: Any = AutoTokenizer.from_pretrained(tmp_path / make)
        (text,) = corpus.encode(tokenizer, [Document(text="a town")])
        assert text.ids == [*theirs("a town").input_ids, tokenizer.end_of_text]


def test_special_tokens_in_text_stay_text(taken: tuple[str, Path, Tokenizer]) -> None:
    _, _, tokenizer = taken
    everything, control = " ".join(tokenizer.special), " ".join(sorted(tokenizer.control))
    plain = (Message("system", "a"), Message("user", "b"), Message("assistant", "c"), Message("tool", "d"))
    words = (everything, everything, control, everything)  # the assistant may say tags
    evil = tuple(Message(m.role, m.content + w) for m, w in zip(plain, words, strict=True))
    special = set(tokenizer.special.values())
    ids, evil_ids = (
        chat.render(tokenizer, talk, [described("look", words, who=words)])[0]
        for talk, words in ((plain, "a"), (evil, everything))
    )
    assert [i for i in ids if i in special] == [i for i in evil_ids if i in special]
    assert tokenizer.decode(evil_ids).count(everything) == 5
    assert tokenizer.decode(evil_ids).count("c" + control) == 1


def test_resume_is_what_follows_a_turn(taken: tuple[str, Path, Tokenizer]) -> None:
    _, _, tokenizer = taken
    talk = TALKS["tool"][:3]
    whole = chat.render(tokenizer, talk, generate=True)[0]
    tail = chat.resume(tokenizer, talk[2:])
    assert whole[-len(tail) :] == tail
    assert whole[-len(tail) - 1] == tokenizer.turn_end


LISTED = foreign.PLAIN.replace("m.content", "m.content + (m.tool_calls | tojson if m.tool_calls else '')")


@pytest.mark.parametrize(
    ("make", "source", "form"),
    [
        ("qwen", foreign.QWEN, template.CallForm("<tool_call>", "arguments", "</tool_call>")),
        ("llama", foreign.LLAMA, template.CallForm("", "parameters", "")),
        ("qwen", foreign.PLAIN, None),
        ("qwen", LISTED, None),
    ],
)
def test_said_reads_a_call(tmp_path: Path, make: str, source: str, form: Any) -> None:
    """As the template writes it; what a template cannot write is spelled as ours."""
    foreign.write_tokenizer(tmp_path, make, source)
    tokenizer = template.adopt(tmp_path)
    assert template.call_form(tokenizer) == form
    talk = (TALKS["tool"][0], Message("assistant", "", (CALL,)))
    ids, mask = chat.render(tokenizer, talk, ["lookup"])
    turn = [i for i, m in zip(ids, mask, strict=True) if m]
    assert chat.said(tokenizer, turn).tool_calls == (CALL,)
    assert "lookup" in tokenizer.decode(ids).partition("Who?")[0]
    if form is None:
        told = '<tool_call>{"name": "lookup", "arguments": {"who": "Ada <|im_end|>"}}</tool_call>'
        assert tokenizer.decode(turn) == f"{told}<|im_end|>"
        assert tokenizer.decode(ids).startswith("<|im_start|>system\nTools: lookup<|im_end|>\n")


def test_what_is_no_call_stays_what_was_said(tmp_path: Path) -> None:
    foreign.write_tokenizer(tmp_path, "llama")
    tokenizer = template.adopt(tmp_path)
    for text in (
        '{"name": "lookup"}',
        '{"name": "lookup", "arguments": {}}',
        'So {"name": "a", "parameters": {}}',
        "{",
    ):
        assert chat.said(tokenizer, tokenizer.encode(text)) == Message("assistant", text)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{{ messages[0].__class__.__mro__ }}", "cannot render"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no special token"),
        ("{% for m in messages %}{{ m.role + ':' + m.content }}<|im_end|>{% endfor %}", "begins a turn otherwise"),
        ("{{ raise_exception('no users') }}", "no users"),
        ("{% if %}", "cannot render"),
    ],
)
def test_templates_that_show_no_turn_are_refused(tmp_path: Path, broken: str, message: str) -> None:
    generation = "{% if add_generation_prompt %}assistant: {% endif %}"
    foreign.write_tokenizer(tmp_path, "qwen", broken + generation)
    with pytest.raises(UserError, match=message) as error:
        template.adopt(tmp_path)
    assert "\n" not in str(error.value)


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    foreign.write_tokenizer(tmp_path, "qwen")
    path = tmp_path / "tokenizer_config.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"chat_template": None}))
    with pytest.raises(UserError, match="no chat template"):
        template.adopt(tmp_path)
    path.write_text(whole)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    saved["model"]["vocab"]["\u2581the"] = 999  # as SentencePiece has it
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="no byte-level BPE"):
        template.adopt(tmp_path)


def test_the_end_of_a_turn_is_found_where_the_config_names_another(tmp_path: Path) -> None:
    """Base models name the end of a document, while their template ends turns otherwise."""
    foreign.write_tokenizer(tmp_path, "qwen")
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<|endoftext|>", "pad_token": None}))
    tokenizer = template.adopt(tmp_path)
    assert tokenizer.turn_end == tokenizer.special["<|im_end|>"]
    assert tokenizer.end_of_text == tokenizer.special["<|endoftext|>"]


def test_what_was_not_taken_in_is_refused_by_load(tmp_path: Path) -> None:
    foreign.write_tokenizer(tmp_path, "llama")  # names no token that ends a document
    with pytest.raises(UserError, match="take it in with `nightschool import` first"):
        Tokenizer.load(tmp_path)
    template.adopt(tmp_path).save(tmp_path / "ours")
    (tmp_path / "ours" / "chat_template.jinja").write_text(foreign.LLAMA)
    assert Tokenizer.load(tmp_path / "ours").template == foreign.LLAMA
