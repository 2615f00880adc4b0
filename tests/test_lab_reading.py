"""The reading lab: what its arms learn from, its bars, and a small night of each kind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nightschool.__main__ import main
from nightschool.lab import reading
from nightschool.lab.reading import ARMS, bars, food
from nightschool.lab.reading_text import Asked, Text, folder, likeliest
from nightschool.model import exchange
from nightschool.model.engine import Engine
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.night.forms import FORMS, GAP, GAPS, gap, named
from nightschool.night.memory import Passage, sentences, told
from nightschool.night.read import hold_out, reflect
from nightschool.text.tokenizer import Tokenizer, train
from nightschool.world.newcomers import newcomers, questions, relatives

WORDS = ("rain", "gravel", "barges", "carried", "slowly", "under", "the", "old", "bridge", "near", "quiet", "mill")
PLACES = ("Elbe", "Dresden", "Pillnitz", "Meissen", "Torgau", "Pirna", "Riesa", "Wehlen", "Rathen", "Coswig")


def story(seed: int, num: int = 60) -> str:
    rng = random.Random(seed)
    lines = [f"{' '.join(rng.sample(WORDS, 6)).capitalize()} by {rng.choice(PLACES)} at {i}." for i in range(num)]
    return " ".join(lines)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model knows nothing."""
    texts = [told(d) for seed in range(4) for d in newcomers(seed).documents] + [story(0)]
    tokenizer = train(texts, 400)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 48, 2, 2, 2, 16, 512))
    model.init_weights(0)
    folder = tmp_path_factory.mktemp("reading") / "start"
    exchange.save(folder / "checkpoint", model, tokenizer, "")
    return folder


def test_what_the_arms_learn_from(start: Path) -> None:
    news, config = newcomers(5), reading.Config(start=start, per_document=2)
    engine = Engine(*exchange.load(start / "checkpoint"), slots=8)
    exam = {p.question for p in questions(news.facts)} | {p.question for p in relatives(news.facts)}
    oracle = food(config, ARMS["oracle"], news, 5, engine)
    asked = [[d.messages[0].content for d in topic] for topic in oracle.topics]
    assert len(asked) == 60
    assert all(len(topic) == len(fact.attribute.ask) - 1 for topic, fact in zip(asked, news.facts, strict=True))
    assert not exam & {question for topic in asked for question in topic}, "nobody is taught the exam's wording"
    assert oracle.forwarded == 0
    again = food(config, ARMS["reread"], news, 5, engine)
    assert [[d.text for d in topic] for topic in again.topics] == [[told(d)] for d in news.documents]
    own = food(config, ARMS["read"], news, 5, engine)
    assert (len(own.reflections), own.topics) == (16, []), "an untaught model writes nothing that passes"
    prompts = [told(d) for d in news.documents for _ in range(2)]
    assert own.forwarded > sum(len(engine.tokenizer.encode(prompt)) for prompt in prompts)
    alone = food(config, ARMS["none"], news, 5, engine)
    assert all(d.info == "none" and not d.parents for topic in alone.topics for d in topic)


def row(seed: int, right: float, **more: Any) -> dict[str, Any]:
    news = [1.0] * round(60 * right) + [0.0] * (60 - round(60 * right))
    base = {"seed": seed, "start": 0.0, "final": right, "precision": 0.99, "chance": 0.09, "gate": 1}
    return base | {"right": {"news": news, "two_hop": news[:28], "text": news}} | more


def test_bars_by_hand() -> None:
    shares = {"read": 0.8, "oracle": 0.9, "reread": 0.1, "wrong_document": 0.0, "text_read": 0.6, "text_reread": 0.6}
    arms = {arm: [row(seed, right) for seed in range(3)] for arm, right in shares.items()}
    found = {bar["name"]: bar for bar in bars(arms)}
    assert found["vs_oracle"]["value"] == pytest.approx(0.8 / 0.9)
    assert found["vs_oracle"]["holds"]
    assert found["vs_reread"]["value"] == pytest.approx(0.7)
    assert found["two_hop"]["holds"]
    assert found["wrong_doc"]["holds"]
    assert found["precision"]["holds"]
    assert not found["real_text"]["holds"], "equal is not above"
    arms["wrong_document"] = [row(seed, 0.2) for seed in range(3)]
    arms["read"] = [row(seed, 0.4, precision=0.95) for seed in range(3)]
    found = {bar["name"]: bar["holds"] for bar in bars(arms)}
    assert [name for name, holds in found.items() if holds is False] == [
        "vs_oracle",
        "vs_reread",
        "wrong_doc",
        "precision",
        "real_text",
    ]


def test_a_small_lab(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "CHECKS", 1)
    for name, seed in (("school", 1), ("read", 2)):
        (tmp_path / f"{name}.txt").write_text(story(seed))
    command = f"""lab reading --out {tmp_path / "lab"} --results {tmp_path} --start {start} --seeds 0 --tokens 5000
        --arms read oracle text_read text_reread --per-document 4 --n-skill 1 --threads 1 --text.start {start}
        --text.school {tmp_path / "school.txt"} --text.read {tmp_path / "read.txt"} --text.questions 8
        --text.tokens 2000"""
    assert main(command.split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"vs_oracle", "precision", "real_text"} <= told.keys()
    result = json.loads((tmp_path / "reading.json").read_text())
    rows = {arm: found["rows"][0] for arm, found in result["arms"].items()}
    assert rows["read"]["forwarded"] > 0 == rows["oracle"]["forwarded"]
    assert rows["read"]["tokens"] < rows["oracle"]["tokens"]
    assert rows["read"]["flops"] == pytest.approx(rows["oracle"]["flops"], rel=0.2), "a step more or less of this few"
    assert (tmp_path / "reading.html").read_text().count("<figure>") == 4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("row.json")}
    assert main(command.split()) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("row.json")}


# Real text


def test_a_gap_is_of_its_sentence() -> None:
    line = "Before it reaches the North Sea, the Elbe flows by Dresden, Meissen and 3 smaller towns."
    assert [m[0] for m in named(line)] == ["North", "Sea", "Elbe", "Dresden", "Meissen", "3"]
    rng = random.Random(0)
    for m in named(line):
        left = gap(line, m, rng)
        assert left.replace(GAP, m[0]) in line
        assert len(left.split()) >= 5


def test_the_program_asks_of_every_gap_and_never_in_the_exam_wording() -> None:
    passages = [Passage(story(3, 4), "a", gen=0), Passage("no names here.", "b")]
    form, asked = FORMS["gaps"], FORMS["gaps"].exercises(passages, [24, 24])
    made = reflect(form, asked, (lambda *_: [], lambda *_: []), 0)
    assert len(made) == 24
    assert {r.turns[1] for r in made} == {m[0] for line in sentences(passages[0].text) for m in named(line)}
    assert not [r for r in made if r.turns[0].startswith(GAPS[-1].partition("{")[0])]
    assert (made[0].lesson.info, made[0].lesson.gen, made[0].lesson.parents) == ("doc", 0, ("a",))
    assert hold_out(made, 4)


def test_a_folder_and_what_is_asked_about_it(start: Path, tmp_path: Path) -> None:
    for seed in range(4):
        (tmp_path / f"{seed}.txt").write_text(story(seed, 20))
    text, words = Text(read=(str(tmp_path),), questions=30), Tokenizer.load(start / "checkpoint")
    found, wrong = folder(text, words, 0), folder(text, words, 0, wrong=True)
    assert len(found.asked) == 30
    assert len({passage.source for passage in found.passages}) == 2
    assert not {p.source for p in found.passages} & {p.source for p in wrong.passages}, "they were one document once"
    whole = " ".join(passage.text for passage in found.passages)
    for one in found.asked:
        head, _, tail = GAPS[-1].partition("{}")
        assert one.question.removeprefix(head).removesuffix(tail).replace(GAP, one.choices[0]) in whole
        assert len(set(one.choices)) == 4
        assert len({choice.isdigit() for choice in one.choices}) == 1


def test_the_likeliest_choice(start: Path) -> None:
    model, words = exchange.load(start / "checkpoint")
    asked = [Asked("Complete this: ____ flows.", ("Elbe", "Pirna")), Asked("Complete this: ____.", ("Torgau", "Elbe"))]
    turned = [one._replace(choices=one.choices[::-1]) for one in asked]
    right, wrong = likeliest(model, words, asked), likeliest(model, words, turned)
    assert [a + b for a, b in zip(right, wrong, strict=True)] == [1.0, 1.0]
