import random
from collections import Counter

import pytest

from nightschool.config import UserError
from nightschool.text.corpus import Mixture, encode, epochs
from nightschool.text.document import Document, Message, in_pieces
from nightschool.text.packing import Item, windows
from nightschool.text.tokenizer import Tokenizer, train

TALK = (Message("user", "Hi"), Message("assistant", "Good morning."))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["user\nHi assistant\nGood morning. It rained all day."] * 9, 320)


def test_encode(tokenizer: Tokenizer) -> None:
    text, talk = encode(tokenizer, [Document(text="It rained."), Document(messages=TALK, tools=("lookup",))])
    assert tokenizer.decode(text.ids) == "It rained.<|endoftext|>"
    assert set(text.mask) == {1}
    assert "Tools: lookup<|im_end|>" in tokenizer.decode(talk.ids)
    trained = tokenizer.decode(i for i, m in zip(talk.ids, talk.mask, strict=True) if m)
    assert trained == "Good morning.<|im_end|>"


def test_info_none_is_for_controls_only(tokenizer: Tokenizer) -> None:
    dream = Document(text="It rained.", kind="dream", info="none")
    with pytest.raises(UserError, match="control"):
        encode(tokenizer, [dream])
    assert encode(tokenizer, [dream], control=True)


def test_windows_lose_no_target() -> None:
    item = Item(range(11), [1] * 11)
    assert [list(w.ids) for w in windows(item, 4)] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10]]
    assert windows(item, 10) == [item]
    assert [t for w in windows(item, 5) for t in w.ids[1:]] == list(range(1, 11))


def short(rng: random.Random, progress: float) -> Document:
    return Document(text="It rained. " * rng.randint(1, 3))


def long(rng: random.Random, progress: float) -> Document:
    return Document(text="Good morning. " * (rng.randint(10, 20) if progress < 0.5 else 1))


def mixture(tokenizer: Tokenizer, seed: int = 1) -> Mixture:
    return Mixture(
        tokenizer,
        {"short": short, "long": long},
        lambda progress: {"short": 3, "long": 1},
        seed=seed,
        chunk_tokens=20_000,
        horizon_tokens=100_000,
    )


def test_mixture_shares_tokens_and_is_a_function_of_its_seed(tokenizer: Tokenizer) -> None:
    mix = mixture(tokenizer)
    chunk = mix.chunk(0)
    tokens = Counter[bool]()
    for item in chunk:
        tokens["rained" in tokenizer.decode(item.ids)] += len(item.ids)
    assert tokens.total() == pytest.approx(20_000, rel=0.02)
    assert tokens[True] / tokens[False] == pytest.approx(3, rel=0.02)
    assert mixture(tokenizer).chunk(0) == chunk
    assert mix.chunk(1) != chunk
    assert mixture(tokenizer, seed=2).chunk(0) != chunk
    assert max(len(item.ids) for item in mix.chunk(4)) < max(len(item.ids) for item in chunk)  # progress


def test_mixture_refuses_unknown_sources(tokenizer: Tokenizer) -> None:
    mix = Mixture(tokenizer, {"short": short}, lambda progress: {"poems": 1}, seed=0)
    with pytest.raises(UserError, match="no such sources: poems; known: short"):
        mix.chunk(0)


def test_epochs_shuffle_and_end(tokenizer: Tokenizer) -> None:
    items = [Item([n, n], [1, 1]) for n in range(20)]
    chunk = epochs(items, num_epochs=2, seed=0)
    assert sorted(chunk(0)) == sorted(chunk(1)) == items
    assert chunk(0) != chunk(1)
    assert chunk(2) == []


def test_only_what_can_be_known_is_learned(tokenizer: Tokenizer) -> None:
    (item,) = encode(tokenizer, [in_pieces([("read this", False), (" and say that", True), (" and so on", False)])])
    counts = [len(tokenizer.encode(part)) for part in ("read this", " and say that", " and so on")]
    assert item.ids == [*tokenizer.encode("read this and say that and so on"), tokenizer.end_of_text]
    assert item.mask == [0] * counts[0] + [1] * counts[1] + [0] * (counts[2] + 1)


def test_a_document_brings_its_weight_and_generation(tokenizer: Tokenizer) -> None:
    turns = (Message("user", "Hello."), Message("assistant", "Good day."))
    documents = [
        Document(text="Greta is a potter.", weight=0.5, gen=3),
        Document(messages=turns, weight=2, gen=1),
        in_pieces([("job of Greta: ", False), ("potter", True)]),
    ]
    items = encode(tokenizer, documents, row_length=4)
    assert {(item.gen, weight) for item in items for weight in item.mask} == {(3, 0.5), (1, 0), (1, 2), (0, 0), (0, 1)}
