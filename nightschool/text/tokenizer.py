"""Byte-level BPE: text <-> token ids, by the `tokenizers` library with Qwen2's split pattern (single digits).

Special tokens hold the last ids. They are never found in text: a user who types "<|im_end|>" gets the bytes
he typed, and only chat.py and the corpus place special ids. No normalizer: decode(encode(text)) is text, byte
for byte. The tokenizer of a model that was taken in keeps its own files, special tokens and chat template. But: of
those, byte-level BPE only.
Sources: Sennrich 2016 (1508.07909); GPT-2's byte alphabet; the split pattern of Qwen2's tokenizer.json.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from nightschool.config import UserError
from nightschool.runs import read_json, write_json, write_text

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL_START, CALL_END = "<tool_call>", "</tool_call>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END, CALL_START, CALL_END)
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
CONFIG: dict[str, Any] = {  # tokenizer_config.json, as transformers' AutoTokenizer reads it
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": None,
    "eos_token": TURN_END,
    "pad_token": END_OF_TEXT,
    "clean_up_tokenization_spaces": False,
}
SPLIT = (  # contractions | word with at most one sign before it | one digit | signs | line ends | spaces
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary -> that byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Tokenizer:
    """A trained vocabulary. `backend` is the `tokenizers` object that is saved, special tokens included.

    `config` is tokenizer_config.json, whose eos_token ends a turn and whose pad_token separates documents. `template`
    is the chat template of a model that was taken in; "" = ours.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any] = CONFIG, template: str = "") -> None:
        saved = json.loads(backend.to_str())
        self.backend, self.config, self.template = backend, config, template
        self.special: dict[str, int] = {token["content"]: token["id"] for token in saved["added_tokens"]}
        # Those that steer; the others are tags which a model may say, such as <think>.
        self.control = {token["content"] for token in saved["added_tokens"] if token["special"]} | {config["eos_token"]}
        # Text is encoded by a copy that knows no special tokens, so it can't yield their ids.
        self.plain = tokenizers.Tokenizer.from_str(json.dumps(saved | {"added_tokens": [], "post_processor": None}))
        self.vocab_size: int = 1 + max(backend.get_vocab().values())
        self.begin_of_text: list[int] = backend.encode("").ids  # Llama's <|begin_of_text|>; with us none
        self.end_of_text, self.turn_end = self.special[config["pad_token"]], self.special[config["eos_token"]]

    @property
    def brought(self) -> bool:
        """Whether its model was taken in: those alone have a template of their own, and keep it."""
        return self.template != ""

    def encode(self, text: str) -> list[int]:
        return self.plain.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """encode() of each text, many times faster where there are many."""
        return [encoding.ids for encoding in self.plain.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens spelled out; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", "replace")

    def stream(self) -> Stream:
        return Stream(self.token_bytes)

    @cached_property
    def fingerprint(self) -> str:
        """What tells this vocabulary from all others."""
        return hashlib.blake2b(self.backend.to_str().encode(), digest_size=16).hexdigest()

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Id -> the bytes it stands for; a special token's are its spelling."""
        alphabet = byte_alphabet()
        table = [b""] * self.vocab_size
        for token, i in self.plain.get_vocab().items():
            table[i] = bytes(alphabet[char] for char in token)
        for token, i in self.special.items():
            table[i] = token.encode()
        return table

    @cached_property
    def byte_lengths(self) -> list[int]:
        """Id -> bytes of raw text it stands for, which bits per byte divides by. Special tokens: 0."""
        special = set(self.special.values())
        return [0 if i in special else len(token) for i, token in enumerate(self.token_bytes)]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers' AutoTokenizer reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        write_json(folder / "tokenizer_config.json", self.config)

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        backend, config, template = read(folder)
        asked = [config.get("eos_token"), config.get("pad_token")] if template else SPECIAL
        missing = [str(token) for token in asked if backend.token_to_id(str(token)) is None]
        if missing:
            mend = "take it in with `nightschool import` first" if template else "it is not one of ours"
            raise UserError(f"{folder / 'tokenizer.json'} lacks the special tokens {' '.join(missing)}; {mend}")
        return Tokenizer(backend, config, template)


def read(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any], str]:
    """What lies in a folder: tokenizer.json, tokenizer_config.json, and the chat template, "" if it is ours."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"no tokenizer.json in {folder}; name a folder that `nightschool tokenizer` wrote")
    try:
        backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"{path} is not a tokenizer ({error}); write it again or copy it anew") from error
    path, jinja = folder / "tokenizer_config.json", folder / TEMPLATE.name
    config = read_json(path) if path.is_file() else CONFIG
    template = config.get("chat_template") or ""
    if isinstance(template, list):  # several by name, as transformers 4 wrote them
        template = next((each["template"] for each in template if each["name"] == "default"), "")
    if jinja.is_file():
        template = jinja.read_text(encoding="utf-8")
    config = {name: value for name, value in config.items() if name not in ("chat_template", "auto_map")}
    return backend, config, "" if template == TEMPLATE.read_text(encoding="utf-8") else template


class Stream:
    """A decoder that takes one id at a time and gives text as soon as its UTF-8 characters are whole."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        self.token_bytes = token_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, id: int) -> str:
        """The text that `id` completes: "" in the middle of a character."""
        return self.decoder.decode(self.token_bytes[id])

    def end(self) -> str:
        """What is left: U+FFFD where the last character never became whole."""
        return self.decoder.decode(b"", final=True)


def script_of(text: str) -> str:
    """'Où est Mara?' -> 'latin': the script of most letters, of some 200 looked at; 'none' without letters.

    Unicode's own names of letters begin with it; Chinese is 'cjk', Japanese 'hiragana', 'katakana' or 'cjk'.
    """
    names = (unicodedata.name(c, "none") for c in text[:: len(text) // 200 + 1] if c.isalpha())
    found = Counter(name.split()[0] for name in names).most_common(1)
    return found[0][0].lower() if found else "none"


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` ids (256 bytes and the special tokens included) from texts.

    The same texts give the same vocabulary: merges go by count, then by the pair's ids.
    """
    smallest = 256 + len(SPECIAL)
    if vocab_size < smallest:
        raise UserError(f"vocab_size must be at least {smallest} (256 bytes, special tokens); got {vocab_size}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # As in Qwen's own tokenizer the call tags are not "special": decoders that skip those must keep a call
    # readable.
    backend.add_tokens([AddedToken(t, special=t not in (CALL_START, CALL_END), normalized=False) for t in SPECIAL])
    return Tokenizer(backend)
