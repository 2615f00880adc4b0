"""Files and hub data sets -> documents, one at a time: memory stays flat however large they are.

A source is a file, a folder, a glob, or a data set of the hub (hub.py), and holds
    .txt .md         text, in parts of some 32,000 characters that end where a paragraph does
    .html .htm       likewise its words, without mark-up, scripts and styles
    .jsonl .parquet  records: "text"; or "messages", "conversations" (ShareGPT's "from" and "value"), "prompt" and
                     "completion", "question" and "answer", "instruction" (Alpaca's, with an "input") and "output";
                     names of "tools" beside them
each as it is, .gz or .zst. A record of .jsonl that says where its words came from, as those of the night's
reflections.jsonl do, keeps its lineage. Records without text are skipped; what cannot be read ends in one line that
names the place. But: UTF-8 only, and a page's menus and footers stay.
"""

from __future__ import annotations

import glob
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

from nightschool.config import UserError
from nightschool.text import chat, hub
from nightschool.text.document import Document, Info, Kind
from nightschool.text.html import words_of_page

KINDS = (".txt", ".md", ".html", ".htm", ".jsonl", ".parquet")
PACKED = (".gz", ".zst")
PART = 32_768  # characters of a text that are one document: it can be held out, and memory stays flat
ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_response": "tool"}  # ShareGPT's
PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"))
COLUMNS = ("text", "messages", "conversations", "tools", "input", *(name for pair in PAIRS for name in pair))


class Row(NamedTuple):
    """A record, where it stands, and how many bytes of its file have been read by then."""

    record: Any
    place: str
    position: int


def files_of(sources: Sequence[str]) -> list[Path]:
    """Every file that the sources name, fetched if it must be, in a fixed order. UserError where one names none."""
    files = list[Path]()
    for source in sources:
        path = Path(source)
        if source.startswith(hub.PREFIX):
            found = [file for file in hub.fetch(source) if kind_of(file) in KINDS]
        elif path.is_dir():
            seen = (file for file in path.rglob("*") if "/." not in f"/{file.relative_to(path)}" and file.is_file())
            found = sorted(file for file in seen if kind_of(file) in KINDS)
        else:
            found = [path] if path.exists() else sorted(map(Path, glob.glob(source, recursive=True)))
            if unknown := next((file for file in found if kind_of(file) not in KINDS), None):
                raise UserError(f"{unknown} must be one of {' '.join(KINDS)}, each also .gz or .zst")
        if not found:
            raise UserError(f"cannot read {source}: no such file, or none of {' '.join(KINDS)} (also .gz, .zst) in it")
        files += found
    return list(dict.fromkeys(files))


def check(sources: Sequence[str]) -> None:
    """files_of() without the hub: UserError before anything is fetched or written."""
    files_of([source for source in sources if not source.startswith(hub.PREFIX)])


def kind_of(path: Path) -> str:
    """a.jsonl.gz -> .jsonl"""
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def documents(path: Path) -> Iterator[tuple[Document, Row]]:
    """The documents of one file, each with the row it came from. UserError names the place of what is wrong."""
    for row in rows(path):
        document = document_of(row.record, row.place)
        if document.kind == "dream":
            raise UserError(f"{row.place} is a dream, of which no word is true; only the night learns from those")
        if document.messages or document.text.strip():
            yield document, row


def rows(path: Path) -> Iterator[Row]:
    """The records of one file as they are; of text, {"text": a part of it}."""
    if kind_of(path) == ".parquet":
        yield from rows_of_parquet(path)
        return
    try:
        with path.open("rb") as raw:
            lines = decoded(unpacked(raw, path.suffix), path)
            if kind_of(path) == ".jsonl":
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        place = f"{path} line {number}"
                        yield Row(parsed(line, place), place, raw.tell())
            else:
                text = lines if kind_of(path) in (".txt", ".md") else io.StringIO(words_of_page("".join(lines)))
                for number, part in enumerate(parts(text), start=1):
                    yield Row({"text": part}, f"{path} part {number}", raw.tell())
    except OSError as error:  # gzip's own errors are among them
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); copy or fetch it anew") from None


def unpacked(raw: BinaryIO, suffix: str) -> Iterator[bytes]:
    """The lines of a file, decompressed. EOFError where it is damaged; gzip has two more errors for that."""
    if suffix == ".zst":
        zstd = needed("backports.zstd", ".zst")
        try:
            yield from zstd.ZstdFile(raw)
        except zstd.ZstdError as error:
            raise EOFError(error) from None
    else:
        yield from gzip.GzipFile(fileobj=raw) if suffix == ".gz" else raw


def decoded(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if b"\0" in line:
            raise UserError(f"{path} is a binary file; give text")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            where = f"line {number}, byte {error.start}"
            raise UserError(f"{path} is not UTF-8 at {where}; convert it, as with `iconv`") from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def parts(lines: Iterable[str]) -> Iterator[str]:
    """Lines -> texts of PART characters or a little more, up to a paragraph's end; of twice as many at the most,
    but for a line that is longer."""
    part, size = list[str](), 0
    for line in lines:
        if size + len(line) > 2 * PART or (size >= PART and not line.strip()):
            yield "".join(part).strip("\r\n")
            part, size = [], 0
        part.append(line)
        size += len(line)
    yield "".join(part).strip("\r\n")


def rows_of_parquet(path: Path) -> Iterator[Row]:
    parquet, size, number = needed("pyarrow.parquet", ".parquet"), path.stat().st_size, 0
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in file.schema_arrow.names if name in COLUMNS]
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield Row(record, f"{path} row {number}", size * number // file.metadata.num_rows)
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        raise UserError(f"{path} is damaged or no parquet file ({error}); copy or fetch it anew") from None


def needed(module: str, suffix: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.removesuffix(".parquet")
        raise UserError(f"reading {suffix} needs {package}; pip install 'nightschool[corpora]'") from None


def parsed(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {place} as JSON: {error}") from None


def document_from(line: str, place: str) -> Document:
    """One line of a .jsonl file -> its document. UserError names the place."""
    return document_of(parsed(line, place), place)


def document_of(record: Any, place: str) -> Document:
    """A record -> its document. UserError names the place."""
    record = record if isinstance(record, dict) else {}
    text, tools = record.get("text"), record.get("tools") or []
    try:
        if isinstance(text, str):
            text.encode()  # a lone surrogate could not be tokenized
            return Document(text=text, **lineage_of(record))
        turns = turns_of(record)
        if not turns:
            shapes = '"text", a list of "messages" or "conversations", or a question and an answer'
            raise UserError(f"a record needs {shapes}; it has {', '.join(map(repr, record)) or 'none of them'}")
        if not (isinstance(tools, list) and all(isinstance(tool, str) for tool in tools)):
            raise UserError('"tools" must be a list of names')
        messages = tuple(chat.message_from(turn) for turn in turns)
    except (UserError, UnicodeEncodeError) as error:
        raise UserError(f"{place}: {error}") from None
    if not any(message.role == "assistant" for message in messages):
        raise UserError(f"{place} has no assistant turn, so there is nothing to learn from it")
    return Document(messages=messages, tools=tuple(tools), **lineage_of(record))


def lineage_of(record: dict[str, Any]) -> dict[str, Any]:
    """Where the words came from, if the record says so as we write it; others may mean anything by these names."""
    kind, info, gen = (record.get(name) for name in ("kind", "info", "gen"))
    if kind in get_args(Kind) and info in get_args(Info):
        return {"kind": kind, "info": info, "gen": gen or 0, "parents": tuple(record.get("parents", ()))}
    return {"kind": "real", "info": "doc"}


def turns_of(record: dict[str, Any]) -> list[Any]:
    """The turns of a record in whichever common shape it has; [] where it has none."""
    for name in ("messages", "conversations"):
        if isinstance(turns := record.get(name), list) and turns:
            return [openai_turn(turn) for turn in turns]
    for pair in PAIRS:
        asked, answered = (record.get(name) for name in pair)
        if asked and answered:  # each a text, or turns already
            if pair[0] == "instruction" and (given := record.get("input")):
                asked = f"{asked}\n\n{given}"
            roles = zip(("user", "assistant"), (asked, answered), strict=True)
            return [t for role, x in roles for t in (x if isinstance(x, list) else [{"role": role, "content": x}])]
    return []


def openai_turn(turn: Any) -> Any:
    """{"from": "human", "value": "Hi"} -> {"role": "user", "content": "Hi"}; others stay as they are."""
    if isinstance(turn, dict) and "from" in turn:
        return {"role": ROLES.get(turn["from"], turn["from"]), "content": turn.get("value")}
    return turn
