import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nightschool.config import UserError
from nightschool.stages import tokenizer as stage
from nightschool.text.tokenizer import SPECIAL, Tokenizer, script_of, train

TEXTS = [f"Mara, the baker's daughter, bought {n} pears\nfor {n * 3} crowns. Où est l'été?" for n in range(200)]
STRANGE = [
    "",
    "Ada's 1024 pears  cost\r\n\n 7 crowns!",
    "<|im_end|> and <tool_call>{}</tool_call> and <|endoftext|>",
    "naïve 漢字 🦉🌙 \u0000 e\u0301 trailing  ",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(TEXTS, 400)


def test_special_tokens_hold_the_last_ids(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    assert tokenizer.special == dict(zip(SPECIAL, range(size - 5, size), strict=True))
    assert size <= 400


@pytest.mark.parametrize("text", STRANGE)
def test_text_comes_back_and_never_yields_special_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert max(ids, default=0) < tokenizer.vocab_size - len(SPECIAL)
    assert sum(tokenizer.byte_lengths[i] for i in ids) == len(text.encode())


def test_encode_many_is_encode(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_many(STRANGE) == [tokenizer.encode(text) for text in STRANGE]


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([i]) for i in tokenizer.encode("4096")] == ["4", "0", "9", "6"]


def test_special_ids_decode_to_their_spelling(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.turn_end]) == "<|im_end|>"
    assert tokenizer.byte_lengths[tokenizer.turn_end] == 0


def test_stream_gives_whole_characters_only(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🦉b漢")
    stream = tokenizer.stream()
    pieces = [stream.add(i) for i in ids]
    assert "".join(pieces) == "a🦉b漢"
    assert "" in pieces  # the owl's first bytes alone are no character
    assert "\ufffd" not in "".join(pieces)
    stream.add(tokenizer.encode("🦉")[0])
    assert stream.end() == "\ufffd"


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    code = f"from nightschool.text.tokenizer import train; print(train({TEXTS!r}, 400).backend.to_str())"
    other = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == json.loads(tokenizer.backend.to_str())


def test_transformers_reads_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS[:3], STRANGE[1], STRANGE[3]):
        assert theirs(text).input_ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.turn_end, tokenizer.end_of_text)
    assert len(theirs) == tokenizer.vocab_size


def test_load_gives_what_was_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode_many(TEXTS) == tokenizer.encode_many(TEXTS)
    assert again.special == tokenizer.special


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no tokenizer.json in .*nightschool tokenizer"),
        ('{"version": "1.0", "trunc', "is not a tokenizer"),
        ("[]", "is not a tokenizer"),
        (
            '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}',
            "lacks the special tokens",
        ),
    ],
)
def test_load_refuses(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


def test_train_refuses_a_vocabulary_without_room_for_bytes() -> None:
    with pytest.raises(UserError, match=r"at least 261 .* got 200"):
        train(TEXTS, 200)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Où est Mara? שלום", "latin"),
        ("שלום מרה, she", "hebrew"),
        ("马拉在哪里", "cjk"),
        ("मारा कहाँ है", "devanagari"),
        ("x" * 9 + "λ" * 10_000, "greek"),
        ("12 + 30 = 42 🦉", "none"),
        ("", "none"),
    ],
)
def test_script(text: str, script: str) -> None:
    assert script_of(text) == script


def test_rare_scripts_are_heard_in_a_sample(tmp_path: Path) -> None:
    """1 MB of one script and 50 kB of another, of which a fifth is sampled: shares of 0.89 and 0.11 by size to the
    power of 0.7, and no text is taken twice."""
    latin = [{"text": f"{n} Mara bought pears at the market. " * 25} for n in range(1_000)]
    hebrew = [{"text": f"{n} מרה קנתה אגסים בשוק ברחוב. " * 20} for n in range(50)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in latin + hebrew))
    config = stage.Config(tmp_path / "tok", 500, corpus=(str(path),), sample_mb=0.2)
    files = {str(path): [path]}
    num_bytes, _ = stage.census(stage.stream(files, ""))
    sample = list(stage.sample(stage.stream(files, ""), num_bytes, config))
    size = {s: sum(len(text.encode()) for text in sample if script_of(text) == s) for s in ("latin", "hebrew")}
    weights = {s: num_bytes[str(path), s] ** 0.7 for s in size}
    for script in size:
        assert size[script] == pytest.approx(2e5 * weights[script] / sum(weights.values()), rel=0.3)
    assert len(set(sample)) == len(sample)
    assert sample == list(stage.sample(stage.stream(files, ""), num_bytes, config))
    stage.main(config)
    meta = json.loads((tmp_path / "tok" / "meta.json").read_text())
    assert meta["bytes_by_script"] == {s: num_bytes[str(path), s] for s in ("latin", "hebrew")}
    assert meta["bytes_per_token_by_script"]["latin"] > 3
