import random
from pathlib import Path

import numpy as np
import pytest

from nightschool.config import UserError
from nightschool.text.corpus import encode
from nightschool.text.document import Document, Message
from nightschool.text.packing import Item, batches
from nightschool.text.shards import Corpus, write_shard
from nightschool.text.tokenizer import Tokenizer, train

TALK = (Message("user", "Hi"), Message("assistant", "Good morning."))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["It rained 0 1 2 3 all day.", "user\nHi assistant\nGood morning."] * 9, 320)


@pytest.fixture(scope="module")
def items(tokenizer: Tokenizer) -> list[Item]:
    rng = random.Random(0)
    texts = [Document(text=f"{n}. " + "It rained. " * rng.randint(1, 9)) for n in range(90)]
    return encode(tokenizer, [*texts, *[Document(messages=TALK)] * 10])


@pytest.fixture(scope="module")
def folder(items: list[Item], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for number, part in enumerate((items[:40], [], items[40:90], items[90:])):
        write_shard(folder, f"train-{number:05d}", tokenizer, part, split="train")
    return folder


@pytest.fixture
def corpus(folder: Path, tokenizer: Tokenizer) -> Corpus:
    return Corpus.open(folder, "train", tokenizer)


def plain(found: list[Item]) -> list[tuple[list[int], list[float]]]:
    return sorted((list(map(int, item.ids)), list(map(float, item.mask))) for item in found)


def test_what_was_written_is_read(corpus: Corpus, items: list[Item], folder: Path) -> None:
    assert corpus.num_documents == 100
    assert corpus.num_tokens == sum(len(item.ids) for item in items)
    assert plain([corpus.item(i) for i in range(100)]) == plain(items)
    assert list(corpus.item(67).ids) == list(items[67].ids)
    assert corpus.shards[0].ids.dtype == np.uint16
    assert [path.name for path in folder.glob("*.mask")] == ["train-00003.mask"]  # where not all is learned


def test_generations_come_back(tmp_path: Path, items: list[Item], tokenizer: Tokenizer) -> None:
    """They were lost, and a run that had read a model's words reported none."""
    write_shard(tmp_path, "train-00000", tokenizer, [items[0], items[1]._replace(gen=2)])
    again = Corpus.open(tmp_path, "train", tokenizer)
    assert [item.gen for item in again.items([0, 1], 4)] == [0] * len(again.items([0], 4)) + [2] * len(
        again.items([1], 4)
    )


def test_a_large_vocabulary_has_wider_ids(tmp_path: Path, tokenizer: Tokenizer) -> None:
    class Large(Tokenizer):
        vocab_size = 70_000

    large = Large.__new__(Large)
    large.__dict__ |= tokenizer.__dict__ | {"vocab_size": 70_000}
    write_shard(tmp_path, "train-00000", large, [Item([69_999, 1], [1, 1])])
    assert list(Corpus.open(tmp_path, "train", large).item(0).ids) == [69_999, 1]


def test_every_epoch_has_every_document_once_in_its_own_order(corpus: Corpus, items: list[Item]) -> None:
    size = round(300 * 100 / corpus.num_tokens)
    assert 100 % size
    stream = [item for i in range(200 // size + 1) for item in corpus.chunk(i, 0, 300, 1000)]
    assert plain(stream[:100]) == plain(stream[100:200]) == plain(items)
    orders = [[list(item.ids) for item in stream[a : a + 100]] for a in (0, 100)]
    assert orders[0] != orders[1]
    assert [list(item.ids) for item in corpus.chunk(0, 1, 300, 1000)] != orders[0][:size]
    assert plain(corpus.chunk(0, 0, 2 * corpus.num_tokens, 1000)) == plain([*items, *items])  # more than there is


def test_long_texts_go_on_and_long_conversations_do_not(corpus: Corpus, items: list[Item]) -> None:
    text, talk = corpus.items([0], 5), corpus.items([99], 5)
    assert [t for item in text for t in item.ids[1:]] == list(items[0].ids[1:])
    assert max(item.num_positions for item in text) == 5
    assert plain(talk) == plain(items[99:])


def test_batches_go_on_at_a_cursor(corpus: Corpus, tokenizer: Tokenizer) -> None:
    def stream(cursor: dict[str, int] | None):
        return batches(
            lambda i: corpus.chunk(i, 0, 300, 32),
            tokens_per_batch=128,
            row_length=32,
            pad_id=tokenizer.end_of_text,
            seed=0,
            cursor=cursor,
        )

    whole = [batch for batch, _ in zip(stream(None), range(40), strict=False)]  # past an epoch
    later = next(stream(whole[29].cursor))
    assert (later.ids == whole[30].ids).all()
    assert (later.weights == whole[30].weights).all()
    assert later.cursor == whole[30].cursor


def test_refuses(folder: Path, tokenizer: Tokenizer, tmp_path: Path, items: list[Item]) -> None:
    with pytest.raises(UserError, match=r"no dev documents in .*nightschool corpus"):
        Corpus.open(folder, "dev", tokenizer)
    with pytest.raises(UserError, match="another tokenizer"):
        Corpus.open(folder, "train", train(["another"] * 9, 300))
    write_shard(tmp_path, "train-00000", tokenizer, items)
    (tmp_path / "train-00000.bin").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"train-00000.bin is not what was written"):
        Corpus.open(tmp_path, "train", tokenizer)
