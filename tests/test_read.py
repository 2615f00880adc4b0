"""Reading any documents: what each form lets through, what is looked up, a whole night of it beside a small server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from nightschool.__main__ import main
from nightschool.config import UserError
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.night.forms import FORMS, agrees, exercises, names, shaped
from nightschool.night.memory import Index, Passage, parts, sentences
from nightschool.night.read import NO_ROOM, Exercise, Reflection, by_engine, hold_out, reflect
from nightschool.stages import corpus
from nightschool.stages.ask import cite
from nightschool.text.document import record_of
from nightschool.text.sources import document_of, documents
from nightschool.text.tokenizer import train

ELBE = (
    "The Elbe flows through Dresden before it reaches the North Sea. Barges carry gravel on it. One stone is of 1616."
)
SEMPER = "Dresden lies on the Elbe. Its opera house was designed by Gottfried Semper."
PASSAGES = [Passage(ELBE, "elbe", "a.txt", gen=1), Passage(SEMPER, "semper", "b.txt")]


BARGES = "Barges carry gravel on it."
ASKS = "does not need both texts"


@pytest.mark.parametrize(
    ("kind", "turns", "why"),
    [
        ("question", ("What do barges carry?", "gravel"), ""),
        ("question", ('A nice one! **Question:** "What do barges carry?"', "**Answer:** Gravel.\n"), ""),
        ("question", ("What is asked here? What do barges carry?", "They carry gravel on it."), ""),
        ("question", ("Barges carry gravel.", "gravel"), "asks and answers nothing"),
        ("question", ("What do barges carry?", " "), "asks and answers nothing"),
        ("question", ("What is meant?", "gravel"), "asks or answers what its sentence does not say"),
        ("question", ("What do barges carry?", "coal from the mine"), "asks or answers what its sentence does not say"),
        ("question", ("What do barges carry?", "barges"), "asks or answers what its sentence does not say"),
        ("question", ("What did barges carry in 1617?", "gravel"), "names who or what the text does not"),
        ("question", ("What do barges carry?", "gravel, says Anna"), "names who or what the text does not"),
        ("restatement", ("In other words: It is boats that carry gravel.",), ""),
        ("restatement", ("barges carry gravel",), "only copies the text"),
        ("restatement", ("It is busy.",), "says little of its sentence"),
        ("objection", ("Is that all?", 'It says: "Barges carry gravel on it."'), ""),
        ("objection", ("Is that all?", "Gravel, it says."), "quotes nothing of the text"),
    ],
)
def test_any_text(kind: str, turns: tuple[str, ...], why: str) -> None:
    made = shaped(Exercise(kind, (PASSAGES[0],), ("",) * len(turns), BARGES), turns)
    assert made.why == why
    assert (made.parents, made.gen) == (("elbe",), 2)
    if kind == "question" and not why:
        assert made.turns[0] == "What do barges carry?"


@pytest.mark.parametrize(
    ("question", "answer", "why"),
    [
        ("Where does the river by Gottfried Semper's house end?", "in the North Sea", ""),
        ("Who designed the opera house of the city before the North Sea?", "Gottfried Semper", ""),
        ("Which river is by Semper's house?", "the Elbe", ASKS),  # his text alone says it
        ("Who designed the opera house?", "Gottfried Semper", ASKS),
        ("Where does it end?", "in the North Sea", ASKS),
    ],
)
def test_a_link_needs_both_texts(question: str, answer: str, why: str) -> None:
    made = shaped(Exercise("link", tuple(PASSAGES), ("", ""), BARGES), (question, answer))
    assert (made.why, made.parents) == (why, ("elbe", "semper"))


def test_a_discussion_alternates_and_quotes() -> None:
    asked = Exercise("discussion", (PASSAGES[0],), ("",) * 4)
    said = ["What do they carry?", "The barges carry gravel on it.", "Only that?", "So the text has it."]
    made = shaped(asked, said)
    assert made.kept
    assert [m.role for m in made.lesson.messages] == ["user", "assistant", "user", "assistant"]
    assert shaped(asked, [said[0], "It is gravel.", said[2], said[3]]).why == "quotes nothing of the text"
    assert shaped(asked, [said[0]] * 4).why == "is no talk of two"


def test_readers_take_turns_and_who_did_not_answer_answers_again() -> None:
    asked = [e for e in exercises(PASSAGES, [24, 0]) if e.sentence == BARGES]
    assert {e.kind for e in asked} == {"question", "restatement", "objection", "link", "discussion"}
    seen: list[tuple[str, str]] = []

    def reader(name: str, answer: str):  # type: ignore[no-untyped-def]
        def read(prompts: list[str], temperature: float, seed: int) -> list[str]:
            seen.extend((name, prompt) for prompt in prompts)
            asks = "What do barges carry?" if name == "first" else answer
            return [asks if temperature else answer] * len(prompts)

        return read

    made = reflect(FORMS["any"], asked, (reader("first", "the gravel"), reader("second", "gravel")), seed=0)
    assert {r.why for r in made if r.kind == "question"} == {""}
    assert ("first", f"{BARGES}\n\nWrite one short question about this.") in seen, "it loses the sentence in a text"
    again = f"{ELBE}\n\nWhat do barges carry?\n\nAnswer in a few words, from the text alone."
    assert {name for name, prompt in seen if prompt == again} == {"first", "second"}
    assert any(name == "second" and "Answer the question above" in prompt for name, prompt in seen)
    made = reflect(FORMS["any"], asked, (reader("first", "coal"), reader("second", "gravel")), seed=0)
    assert {r.why for r in made if r.kind == "question"} == {"is answered otherwise when asked again"}


def test_what_does_not_fit_is_said(start: Path) -> None:
    engine = Engine(*exchange.load(start / "checkpoint"), slots=4)
    reader = by_engine(engine, 8)
    long = Passage("The Elbe flows on. " * 200, "long")
    assert reader([ELBE, long.text], 0, 0)[1] == NO_ROOM
    made = reflect(FORMS["any"], exercises([long], [3]), (reader, reader), 0)
    assert {r.why for r in made if r.kind == "question"} == {NO_ROOM}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The gravel.", "gravel", True),
        ("in 1616", "1616", True),
        ("1616", "1617", False),
        ("It is not open", "It is open", False),
        ("Gottfried Semper", "Semper", True),
        ("the North Sea", "the Baltic", False),
        ("", "gravel", False),
    ],
)
def test_agrees(one: str, other: str, same: bool) -> None:
    assert agrees(one, other) == agrees(other, one) == same


def test_names() -> None:
    assert names("The Elbe has 3 arms. Its end is the Sea, I think.") == {"elbe", "3", "sea"}


def test_sentences_and_parts() -> None:
    text = 'He said "Stop." Then e.g. nothing.\n\nA title\n\nWhy? 4 of them.'
    assert sentences(text) == ['He said "Stop."', "Then e.g. nothing.", "A title", "Why?", "4 of them."]
    tokenizer = train([text] * 3, 300)
    cut = list(parts(text, tokenizer, 12))
    assert " ".join(cut) == " ".join(sentences(text))
    assert all(len(tokenizer.encode(part)) <= 14 or len(sentences(part)) == 1 for part in cut)


def test_index_is_bm25() -> None:
    index = Index(["a cat sat", "a dog sat sat sat", "a bird"])
    assert index.search("Which cat?", 3) == [0]
    assert index.search("what sat", 3) == [1, 0]  # three times is more than once, though the text is longer
    assert index.search("nothing else", 3) == []
    # tf 1 of 3 words where the mean is 10/3: 2.2 / (1 + 1.2 (0.25 + 0.75 * 0.9)) = 1.0427; idf ln(1 + 2.5/1.5) = 0.9808
    assert index.weights["cat"][0] == pytest.approx(1.0427 * 0.9808, abs=1e-3)


def test_cite() -> None:
    cited = cite("note\nAnswer: Gottfried Semper", "Who designed the opera house?", PASSAGES)
    assert cited == [{"file": "b.txt", "sentence": "Its opera house was designed by Gottfried Semper."}]
    assert cite("Peter", "Who designed the opera house?", PASSAGES) == []


def test_hold_out_keeps_another_of_the_topic() -> None:
    made = [Reflection("question", ("a",), 1, "", (f"q{i}", "x"), topic=f"t{i // 2}") for i in range(7)]
    assert [r.topic for r in hold_out(made, 10)] == ["t0", "t1", "t2"]
    assert len(hold_out(made, 2)) == 2
    alike = [Reflection("question", ("a",), 1, "", ("q", "x"), topic="t")] * 2
    assert hold_out(alike, 10) == []


# The stage


class Reflector(BaseHTTPRequestHandler):
    """Asks in ten ways how a sentence ends, and knows it again when it has the text."""

    asked: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        self.asked.append(prompt)
        if found := re.match(r"(\w+ \w+).*\n\nWrite one short question", prompt):
            way = "abcdefghij"[self.asked.count(prompt) % 10]  # requests come in any order
            said = f"Question: How ends {found[1].lower()} ({way * 3})?"
        elif found := re.search(r"ow ends (\w+ \w+) .*\n\nAnswer in", prompt):
            said = next(s for s in sentences(prompt) if s.lower().startswith(found[1].lower())).rstrip(".").split()[-1]
        else:
            said = "I would rather not."
        answer = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def reflector() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Reflector)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    Reflector.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A run whose model knows nothing."""
    tokenizer = train([ELBE, SEMPER] * 3, 300)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 48, 2, 2, 2, 16, 512))
    model.init_weights(0)
    exchange.save(tmp_path / "start" / "checkpoint", model, tokenizer, "")
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(ELBE + " The water falls low in summer. Stones can be seen in it.")
    (folder / "b.txt").write_text(SEMPER + " The old house burned down. The new house is open.")
    return tmp_path / "start"


def read(start: Path, *more: str) -> int:
    where = f"--start {start} --out {start.parent / 'read'} --threads 1 --dtype float32"
    return main(["read", str(start.parent / "texts"), *where.split(), *more])


def test_a_night_of_reading(start: Path, reflector: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = start.parent / "read"
    asked = ["--reflector", reflector, "--rounds", "1", "--per-sentence", "4"]
    assert read(start, *asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] > 8
    rows = [json.loads(line) for line in (out / "reflections.jsonl").read_text().splitlines()]
    assert len(rows) == told["verified"]
    assert {(row["kind"], row["info"], row["gen"], row["readers"][0]) for row in rows} == {
        ("reflection", "doc", 1, reflector)
    }
    assert {parent for row in rows for parent in row["parents"]} == {
        document.id for path in sorted((start.parent / "texts").iterdir()) for document, _ in documents(path)
    }
    taught = [d.messages[0].content for d, _ in documents(out / "reflections.jsonl")]
    assert all(row["prompt"] in taught for row in map(json.loads, (out / "samples.jsonl").read_text().splitlines()))
    assert not told["gate"], "a model of 20,000 weights can't learn this in a few steps"
    same = [path / "checkpoint" / "model.safetensors" for path in (start, out)]
    assert same[0].read_bytes() == same[1].read_bytes()
    num_asked = len(Reflector.asked)
    (out / "meta.json").unlink()  # as if it had been killed at the end
    (out / "written.jsonl").unlink()
    assert read(start, *asked) == 0
    assert len(Reflector.asked) == num_asked, "no question is paid for twice"


def test_the_alarm_undoes_the_night(start: Path, reflector: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(start, "--reflector", reflector, "--max-drift", "1e-9", "--rounds", "4") == 0
    told = json.loads(capsys.readouterr().out)
    assert "drifted" in told["reason"]
    steps = (start.parent / "read" / "metrics.jsonl").read_text().splitlines()
    assert "loss" in steps[-1]
    night = json.loads((start.parent / "read" / "night.json").read_text())
    assert night["dreams"], "who has no school dreams"


def test_a_peer_answers(start: Path, reflector: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(start, "--reflector", reflector, "--peer", str(start), "--per-sentence", "2") == 1
    counts = json.loads(capsys.readouterr().out)["counts"]["question"]
    assert "kept" not in counts, "this peer knows nothing"
    answers = (start.parent / "read" / "told-peer.jsonl").read_text().splitlines()
    assert len(answers) >= sum(counts.values())


def test_who_cannot_read_learns_nothing(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(start, "--per-sentence", "1") == 1
    said = capsys.readouterr()
    assert "0 of 9 reflections pass their check" in said.err
    assert "no weight was changed" in said.err
    assert json.loads(said.out)["verified"] == 0
    assert not (start.parent / "read" / "checkpoint").exists()


def test_a_program_asks_who_cannot_write(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(start, "--form", "gaps", "--rounds", "1", "--per-sentence", "6") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] == told["written"] > 20
    rows = [json.loads(line) for line in (start.parent / "read" / "reflections.jsonl").read_text().splitlines()]
    assert {(row["form"], row["info"], row.get("gen", 0)) for row in rows} == {("gap", "doc", 0)}
    assert {reader for row in rows for reader in row["readers"]} == {"a program"}
    asked = [json.loads(line) for line in (start.parent / "read" / "samples.jsonl").read_text().splitlines()]
    assert {row["gold"] for row in asked} <= {"Dresden", "North", "Sea", "1616", "Elbe", "Gottfried", "Semper"}


def test_ask_says_that_it_does_not_know(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = str(start.parent / "texts")
    assert main(["ask", "Quo vadis?", "--documents", texts, "--run", str(start), "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == {"answer": "The text does not say.", "known": False, "citations": []}
    assert main(["ask", "Quo vadis? " * 99, "--documents", texts, "--run", str(start), "--threads", "1"]) == 2
    assert "this model has room for 352; shorten it" in capsys.readouterr().err


# Lineage in corpora


def test_lineage_comes_back_from_a_file(tmp_path: Path) -> None:
    made = shaped(Exercise("restatement", (PASSAGES[0],), ("",), BARGES), ["Boats carry the gravel."])
    record = json.loads(json.dumps(record_of(made.lesson)))
    assert document_of(record, "here") == made.lesson
    assert document_of({"text": "x", "kind": "news", "gen": 3}, "here").gen == 0, "others' columns mean other things"
    dreams = tmp_path / "dreams.jsonl"
    dreams.write_text(json.dumps({"text": "x", "kind": "dream", "info": "seed", "gen": 1}))
    with pytest.raises(UserError, match="is a dream"):
        list(documents(dreams))


def test_a_corpus_keeps_its_floor_of_real_text(
    start: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "NUM_EXAM", 20)  # as in test_corpus_stage.py: exams are drawn once a process
    texts, own = start.parent / "texts", start.parent / "reflections.jsonl"
    rows = [{"text": f"{SEMPER} {i}", "kind": "reflection", "info": "doc", "gen": 1} for i in "abcdefgh"]
    own.write_text("\n".join(map(json.dumps, rows)))
    command = f"corpus {texts} {own} --tokenizer {start} --out {start.parent / 'corpus'} --dev-share 0.9 --no-near"
    assert main(command.split()) == 2
    assert "a model's own words, over 50%" in capsys.readouterr().err
    assert main([*command.replace("corpus --dev", "other --dev").split(), "--model-share", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["train_documents"] >= 8, "a model's own words are never held out"
    own.write_text(json.dumps(rows[0] | {"info": "none"}))
    assert main(command.replace("corpus --dev", "third --dev").split()) == 2
    assert "has info 'none'" in capsys.readouterr().err
