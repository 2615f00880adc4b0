"""The report of a tiny life: well-formed, with its numbers, the model's words escaped, parts allowed to be missing."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_marked import AUDITS, EVIL, INCIDENT, rollout

from nightschool import runs
from nightschool.config import UserError
from nightschool.stages import report

VOID = {"meta", "br", "hr", "img", "input", "link"}
MINUS = "\N{MINUS SIGN}"


class Page(HTMLParser):
    """Text by element; asserts that each element is closed by its own tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def score(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "low": accuracy - 0.02, "high": min(1, accuracy + 0.02), "n": 500}


def live(life: Path, name: str, seconds: float = 60, **files: Any) -> None:
    """Write a finished run folder; a list becomes name.jsonl, a dict name.json."""
    (life / name).mkdir(parents=True)
    costs = runs.Costs()
    meta = {
        "command": f"nightschool {name} --out {name}",
        "commit": "0123456789abcdef",
        "diff": {"dirty": False, "hash": None},
        "versions": {"torch": "2.13.0"},
        "device": "a small machine",
        "threads": 2,
        "dtype": "float32",
        "seed": 7,
        "seconds": seconds,
        "tokens": 1_500_000,
        "flops": 31e12,
        **costs.of(seconds),
        "assumptions": {"watts": 65.0, "dollars_per_kwh": 0.30, "dollars_per_hour": 0.0},
    }
    for stem, value in ({"config": {"verb": name}} | files | {"meta": meta | files.get("meta", {})}).items():
        if isinstance(value, list):
            runs.write_jsonl(life / name / f"{stem}.jsonl", value)
        else:
            runs.write_json(life / name / f"{stem}.json", value)


@pytest.fixture
def day(tmp_path: Path) -> Path:
    life = tmp_path / "life"
    metrics = [{"step": i, "tokens": 100 * i, "loss": 5 / i} for i in range(1, 9)]
    metrics += [{"step": 8, "tokens": 800, "dev": {"story": 0.5}}]
    steps = [
        {"text": "2 + 2 = 4", "ok": True, "credit": 0.31},
        {"text": "4 * 3 = 11", "ok": False, "credit": -0.62},
        {"text": EVIL, "ok": False, "credit": -0.1},
    ]
    rollout = {"prompt": "How many?", "answer": "11", "steps": steps, "outcome": 0.0, "outcome_credit": -0.45}
    live(life, "pretrain", 240, metrics=metrics, scores={"split": "dev", "skills": {"story": score(0.51)}})
    live(life, "rl", rollouts=[rollout])
    skills = {"story": score(0.914), "tool": score(0.55)}
    live(life, "evening", scores={"split": "test", "skills": skills, "probes": {"trace": score(0.3)}})
    return life


@pytest.fixture
def life(day: Path) -> Path:
    night = {
        "documents": 12,
        "written": 318,
        "verified": 241,
        "precision": 0.983,
        "facts": {"evening": score(0.033), "morning": score(0.717), "control": None},
        "gate": {"passed": True, "reason": "facts up", "skills": {"story": [0.91, 0.92]}},
        "examples": [{"question": "Who?", "evening": EVIL, "morning": "Odile", "gold": "Odile"}],
        "reflections": [{"source": EVIL, "text": "Q: Who?", "verified": False, "why": "not in the text"}],
        "seconds": 83,
    }
    live(day, "night-001", 83, night=night)
    samples = [
        {
            "skill": skill,
            "kind": "",
            "prompt": EVIL,
            "gold": "3",
            "answer": a,
            "outcome": a == "3",
            "steps": [],
        }
        for skill in ("tool", "story")
        for a in ("3", "4", "3", EVIL)
    ]
    talk = [{"prompt": EVIL, "answer": "Hello."} for _ in range(50)]
    scores = {"split": "test", "skills": {"story": score(0.926), "tool": score(0.56)}}
    live(day, "morning", scores=scores, samples=samples, off_template=talk)
    return day


def test_a_whole_life(life: Path) -> None:
    headline = report.main(report.Config(life, control=life / "none.json"))
    html = (life / "report.html").read_text()
    page = Page(html)
    for words in (
        "91.4",
        "92.6",
        "71.7%",
        "318",
        "241",
        "98.3%",
        "Facts up",
        "not in the text",
        "+0.31",
        f"{MINUS}0.62",
    ):
        assert words in page.text, words
    assert page.text.count(f"{MINUS}0.45") == 3  # the same for each step: the straw
    assert "blames 1 right line" in page.text
    assert "Tool: only 56.0%" in page.text
    assert "50 times it said “Hello.”" in page.text
    assert "8\N{NBSP}min\N{NBSP}23\N{NBSP}s" in page.text  # 240 + 60 + 60 + 83 + 60
    assert "3.1\N{NBSP}\N{MULTIPLICATION SIGN}\N{NBSP}10¹³" in page.text
    assert page.text.index("story 92.6%") < page.text.index("tool 56.0%")  # in the skills' own order
    assert headline["skills"]["story"]["accuracy"] == 0.926
    assert headline["skills_evening"]["story"]["accuracy"] == 0.914
    assert headline["facts"] == {"evening": 0.033, "morning": 0.717}
    json.dumps(headline)


def test_words_of_the_model_stay_words_and_nothing_is_fetched(life: Path) -> None:
    report.main(report.Config(life, control=life / "none.json"))
    html = (life / "report.html").read_text()
    page = Page(html)
    assert "script" not in page.seen
    assert EVIL in page.text
    assert page.seen.isdisjoint({"link", "img", "iframe"})
    assert all(outside not in html for outside in ("http:", "https:", "url(", "@import", "src="))


def test_a_day_without_a_night(day: Path) -> None:
    headline = report.main(report.Config(day, control=day / "none.json"))
    text = Page((day / "report.html").read_text()).text
    assert "has not slept yet" in text
    assert "What it can do so far" in text
    assert "There are no samples yet." in text
    assert headline["skills"] is None


def test_a_life_that_has_only_begun(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "x", {})
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "config.json").write_text("{}")
    (tmp_path / "pretrain" / "metrics.jsonl").write_text('{"step": 1, "tokens": 9, "loss": 3.25}\n{"step": 2, "to')
    report.main(report.Config(tmp_path))
    text = Page((tmp_path / "report.html").read_text()).text
    assert "3.25" in text
    assert "No run has finished yet" in text


def test_a_life_on_real_text(tmp_path: Path) -> None:
    sifted = {"train_documents": 1889, "dev_documents": 41, "train_bytes": 7000, "train_tokens": 2000}
    sifted |= {"exact_duplicates": 15, "near_duplicates": 11, "contaminated": 2, "exams": {"copa.jsonl": 2}}
    learned = {"corpus": ["elsewhere/text"]}
    live(tmp_path, "text", meta=sifted, config={"config": {"sources": ["data/books.txt"]}, "settled": {}})
    said = {"epochs": 4.25, "cautions": ["the corpus will be read 4.2 times"]}
    live(
        tmp_path, "pretrain", config={"config": learned, "settled": said}, scores={"split": "dev", "bits_per_byte": 1.7}
    )
    copa, arc = score(0.5) | {"chance": 0.5}, score(0.31) | {"chance": 0.25}
    exams = {"split": "test", "skills": {}, "choices": {"copa": copa, "arc_easy": arc}, "texts": {"life/text": 1.8}}
    answers = [{"source": "chat", "prompt": EVIL, "answer": "Rain, mostly.", "reference": "Yes"}]
    hopeless = {"hindrance": "not viable yet: pass@64 is 0"}
    live(tmp_path, "rl", meta=hopeless, scores=exams, answers=answers, rollouts=[])
    reflection = {"kind": "question", "parents": ["a"], "written": EVIL, "why": "quotes what the text does not say"}
    live(tmp_path, "night-001", written=[reflection] * 7)
    report.main(report.Config(tmp_path, control=tmp_path / "none.json"))
    text = Page((tmp_path / "report.html").read_text()).text
    for words in (
        "1,889",
        "3.50",
        "4.2 times",
        "2 with copa.jsonl",
        "came from books.txt",
        "Pretrain: the corpus will be read 4.2 times.",
        "1.700",
        "1.800",
        "Not surely better than guessing: copa",
        "Practice was not viable yet",
        "Rain, mostly.",
        "wrote 7 reflections on them, of which none passed",
        "7 quotes what the text does not say",
    ):
        assert words in text, words
    assert "no exam on the test set" not in text
    assert "has not slept yet" not in text
    assert text.index("text") < text.index("The night")


def test_a_night_over_a_folder_of_documents(life: Path) -> None:
    """`read` knows no true answers, so its night has no precision; the page once broke on that."""
    night = runs.read_json(life / "night-001" / "night.json") | {"documents": 3, "written": 77}
    del night["precision"]
    live(life, "read", 30, night=night)
    report.main(report.Config(life, control=life / "none.json"))
    text = Page((life / "report.html").read_text()).text
    assert "It read 3 new documents and asked itself 77 questions" in text
    assert "with the true answer" not in text


def test_a_shut_gate_is_said(life: Path) -> None:
    path = life / "night-001" / "night.json"
    night = runs.read_json(path) | {"dreams": [{"question": "Who is the goat?", "answer": "Omar"}]}
    runs.write_json(path, night | {"gate": {"passed": False, "reason": "story fell", "skills": {}}})
    report.main(report.Config(life, control=life / "none.json"))
    text = Page((life / "report.html").read_text()).text
    assert "The gate stayed shut" in text
    assert "the night was undone" in text
    assert "Who is the goat?" in text


def test_assumptions_can_be_set(life: Path) -> None:
    plain = report.main(report.Config(life, control=life / "none.json"))
    rented = report.main(report.Config(life, watts=130, dollars_per_hour=3.6))
    assert rented["kwh"] == pytest.approx(2 * plain["kwh"])
    assert rented["dollars"] == pytest.approx(2 * plain["dollars"] + 503 * 0.001)
    assert "130 W" in Page((life / "report.html").read_text()).text


def test_the_control_is_read_where_it_is_committed(life: Path, tmp_path: Path) -> None:
    runs.write_json(tmp_path / "control.json", {"arms": {"control": score(0.2)}})
    headline = report.main(report.Config(life, control=tmp_path / "control.json"))
    assert headline["facts"]["control"] == 0.2


def test_no_life_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quickstart"):
        report.main(report.Config(tmp_path))


def test_review_is_told(life: Path) -> None:
    live(life, "review", review={"first_error": score(0.917)}, rollouts=[rollout(0, True, False, text="1", review=0.3)])
    for row in (rows := report.load_lines(life / "review" / "rollouts.jsonl")):
        row["prompt"] = "How many?"
    runs.write_jsonl(life / "review" / "rollouts.jsonl", rows)
    path = life / "night-001" / "night.json"
    told = {"attempts": 64, "marked_right": 50, "wrong": 20, "found": 17, "mended": 12}
    runs.write_json(path, runs.read_json(path) | {"review": told})
    report.main(report.Config(life, control=life / "none.json"))
    text = Page((life / "report.html").read_text()).text
    for words in (
        "Its own review",
        "91.7% of the time",
        "reviewed 64 attempts",
        "the 20 wrong ones",
        "and 12 came out",
    ):
        assert words in text, words


def test_where_a_judge_was_wrong_is_told(day: Path) -> None:
    rows = [{"step": i, "tokens": i, "reward": 0.5, "rollouts": 50, "judge/verified": 2} for i in range(1, 41)]
    for i, gap in ((10, 0.0), (20, 0.3), (30, -0.1)):
        rows[i] |= {"judge/gap": gap, "judge/alarm": float(gap > 0.05)}
    live(day, "rl-judged", metrics=rows, audits=AUDITS, incidents=[INCIDENT])
    report.main(report.Config(day, control=day / "none.json"))
    page = (day / "report.html").read_text()
    text = " ".join(Page(page).text.split())
    for words in (
        "marked 4.0% of them",
        "once in 40 updates",
        "judged less true reward \N{MINUS SIGN}0.10",
        "After update 20: gap 0.30, J 0.10",
        "Of 4 attempts that were verified since, it had passed 2 that were wrong and refused 1 that was right.",
        "The policy went back to update 10.",
        "judge: right verifier: line 2 should be: 7",
        "judge: wrong verifier: right",
    ):
        assert words in text, words
    assert '<rect class="lost" x="25.00%" width="25.00%"' in page
    assert EVIL not in page
    assert "Youden" not in text.partition("Where the judge")[2].partition("After update")[0]  # never measured


def test_of_many_incidents_three_are_shown(day: Path) -> None:
    rows = [{"step": 60, "tokens": 1, "rollouts": 50, "judge/verified": 2}]
    incidents = [INCIDENT | {"step": step, "back_to": step - 11} for step in (21, 31, 41, 51)]
    live(day, "rl-judged", metrics=rows, audits=AUDITS, incidents=incidents)
    report.main(report.Config(day, control=day / "none.json"))
    text = Page((day / "report.html").read_text()).text
    assert [f"After update {step}:" in text for step in (20, 30, 40, 50)] == [False, True, True, True]
    assert "4 times in 60 updates" in text
    assert "The last three times are shown" in text


def test_a_life_without_a_judge_says_nothing_of_one(life: Path) -> None:
    report.main(report.Config(life, control=life / "none.json"))
    assert "the judge" not in Page((life / "report.html").read_text()).text
