"""One text, written in every way that is read, comes back the same; what cannot be read says so in one line."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from backports import zstd

from nightschool.config import UserError
from nightschool.text import sources
from nightschool.text.document import Document, Message
from nightschool.text.html import words_of_page
from nightschool.text.sources import documents, files_of

TEXT = "It rained.\n\nEverywhere: 雪だるま."
TALK = (Message("user", "Hi"), Message("assistant", "Good morning."))
OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good morning."}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Good morning."}]


def read(path: Path) -> list[Document]:
    return [document for document, _ in documents(path)]


def as_parquet(records: list[dict[str, Any]], path: Path) -> bytes:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path.read_bytes()


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".md", ".html", ".jsonl"])
def test_text_in_every_form(tmp_path: Path, kind: str, packed: str) -> None:
    written = {
        ".html": f"<title></title><style>p {{}}</style><p>{TEXT.replace(chr(10) * 2, '</p><p>')}",
        ".jsonl": json.dumps({"text": TEXT}) + '\n\n{"text": " "}\n',
    }.get(kind, "\ufeff" + TEXT + "\r\n")
    path = tmp_path / f"a{kind}{packed}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}[packed](written.encode()))
    assert files_of([str(tmp_path)]) == [path]
    assert read(path) == [Document(text=TEXT, kind="real", info="doc")]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    as_parquet([{"text": TEXT, "score": n} for n in range(600)], path)
    rows = [row for _, row in documents(path)]
    assert [row.record["text"] for row in rows] == [TEXT] * 600
    assert rows[7].place == f"{path} row 8"
    assert rows[-1].position == path.stat().st_size
    as_parquet([{"messages": OPENAI}], path)
    assert read(path)[0].messages == TALK


@pytest.mark.parametrize(
    "record",
    [
        {"messages": OPENAI},
        {"conversations": SHAREGPT, "id": "7"},
        {"prompt": "Hi", "completion": "Good morning."},
        {"prompt": OPENAI[:1], "completion": OPENAI[1:]},
        {"question": "Hi", "answer": "Good morning."},
        {"instruction": "Hi", "input": "", "output": "Good morning.", "rejected": "What?"},
    ],
)
def test_conversations_in_every_shape(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record | {"tools": ["lookup"]}))
    (document,) = read(tmp_path / "a.jsonl")
    assert (document.messages, document.tools, document.info) == (TALK, ("lookup",), "doc")


def test_what_an_instruction_is_about_stands_below_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"instruction": "Mend:", "input": "teh", "output": "the"}')
    assert read(tmp_path / "a.jsonl")[0].messages[0].content == "Mend:\n\nteh"


def test_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.md.gz", ".git/d.txt", "e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in files_of([str(tmp_path)])] == ["a.txt", "b.txt", "c.md.gz"]
    assert [path.name for path in files_of([f"{tmp_path}/*.txt", f"{tmp_path}/a.txt"])] == ["a.txt", "b.txt"]
    assert files_of([f"{tmp_path}/**/c.*"]) == [tmp_path / "deep" / "c.md.gz"]


def test_a_long_text_is_cut_between_paragraphs_and_nothing_is_lost(tmp_path: Path) -> None:
    paragraphs = [f"Chapter {n}. " + "It rained. " * 300 for n in range(100)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs))
    texts = [document.text for document in read(tmp_path / "a.txt")]
    assert "\n\n".join(texts) == "\n\n".join(paragraphs)
    assert all(sources.PART <= len(text) < sources.PART + 4000 for text in texts[:-1])
    (tmp_path / "a.txt").write_text("It rained.\n" * 10_000)  # without paragraphs
    texts = [document.text for document in read(tmp_path / "a.txt")]
    assert "\n".join(texts) == ("It rained.\n" * 10_000).strip()
    assert max(map(len, texts)) <= 2 * sources.PART


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(num_lines: int) -> int:
        with gzip.open(tmp_path / "a.jsonl.gz", "wb", 1) as file:
            file.writelines(json.dumps({"text": f"{n} {TEXT * 100}"}).encode() + b"\n" for n in range(num_lines))
        tracemalloc.start()
        assert sum(1 for _ in documents(tmp_path / "a.jsonl.gz")) == num_lines
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    assert peak(2000) < 1.2 * peak(200) < 2_000_000


def test_page() -> None:
    page = """<html><head><title>Rain</title><script>if (a < b) rain()</script></head><body>
        <h1>\n  Rain &amp;\n snow </h1>\n<p> It <b>rain</b>ed,<br/>and\t<i>snowed</i> .<ul><li>one<li>two</ul>
        <pre>a  b\n  c</pre><!-- no --></body></html>"""
    assert words_of_page(page) == "Rain\n\nRain & snow\n\nIt rained,\nand snowed .\n\none\ntwo\n\na  b\n  c"


GZIPPED = gzip.compress(b"It rained. " * 99)
BAD = {
    "a.txt": {
        b"\x89PNG\0\0": "a.txt is a binary file; give text",
        b"caf\xe9 au lait": "a.txt is not UTF-8 at line 1, byte 3",
    },
    "a.txt.gz": {b"It rained.": "cannot read .*a.txt.gz: Not a gzipped file", GZIPPED[:-20]: "damaged or cut short"},
    "a.txt.zst": {b"It rained.": "damaged", zstd.compress(b"It rained. " * 99)[:-8]: "damaged or cut short"},
    "a.parquet": {b"PAR1 and so on": "damaged or no parquet file"},
    "a.pdf": {b"%PDF": r"must be one of .txt .md .html .htm .jsonl .parquet, each also .gz or .zst"},
    "a.jsonl": {
        b'{"text": "x"}\n{"text"': "cannot read .*a.jsonl line 2 as JSON",
        b"[" * 100_000: "line 1 as JSON",
        b'{"prompt": "x"}': """line 1: a record needs "text", a list .*; it has 'prompt'""",
        b'{"messages": []}': "line 1: a record needs",
        b"[1]": "it has none of them",
        b'{"text": "\\ud800"}': "line 1: .*surrogates",
        b'{"messages": [{"role": "god"}]}': "line 1: a message needs a role",
        b'{"conversations": [{"from": "god", "value": "x"}]}': "line 1: a message needs a role",
        b'{"messages": [{"role": "user", "content": "Hi"}]}': "no assistant turn",
        b'{"messages": [{"role": "user"}], "tools": [7]}': "line 1: .tools. must be a list of names",
    },
}


@pytest.mark.parametrize(("name", "data", "line"), [(n, d, line) for n in BAD for d, line in BAD[n].items()])
def test_refuses(tmp_path: Path, name: str, data: bytes, line: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=line) as error:
        list(documents(files_of([str(tmp_path / name)])[0]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["{}/nowhere.txt", "{}", "{}/*.jsonl"])
def test_refuses_sources_without_files(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match=r"no such file, or none of .txt"):
        files_of([source.format(tmp_path)])


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UserError, match=r"reading .parquet needs pyarrow; pip install 'nightschool\[corpora\]'"):
        read(tmp_path / "a.parquet")
