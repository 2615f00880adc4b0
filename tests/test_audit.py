"""The collapse audit: planted collapses come out as what they are, no collapse as none, intervals hold the truth."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from nightschool.__main__ import main
from nightschool.config import UserError
from nightschool.night import collapse, diversity, kinds
from nightschool.serve import client
from nightschool.stages import audit as stage
from nightschool.world.grammar import expand
from nightschool.world.jokes import jokes

EVIL = "<script>alert('x')</script>"
NEAR = "near_duplicate"


def tell(n: int, seed: int) -> list[str]:
    """n jokes of the world's grammar."""
    rng = Random(seed)
    return [expand(jokes(), "joke", rng)[0] for _ in range(n)]


def tale(kind: int) -> str:
    """The one text of a kind: 14 words that no other kind has together."""
    rng = Random(f"tale {kind}")
    return " ".join("".join(rng.choices("abcdefghiklmnorstu", k=rng.randint(3, 8))) for _ in range(14))


def audit(samples: list[str], reference: list[str], seed: int = 0) -> dict[str, Any]:
    lengths, pool = (np.array([len(text) for text in texts], np.int64) for texts in (samples, reference))
    return collapse.audit(lambda: samples, lengths, lambda: reference, pool, seed)


def effective(found: dict[str, Any], who: str = "samples", resolution: str = NEAR) -> dict[str, float]:
    return found[who]["kinds"][resolution]["effective_number"]


def share(found: dict[str, Any], name: str, who: str = "samples") -> float:
    return found[who]["kinds"][NEAR][name]["value"]


# Planted cases


REFERENCE = [tale(kind) for kind in range(3000)]


def test_twenty_five_texts_told_forty_times() -> None:
    found = audit([text for text in REFERENCE[:25] for _ in range(40)], REFERENCE)
    for resolution in ("exact", NEAR, "lexical"):
        assert effective(found, resolution=resolution)["value"] == pytest.approx(25, rel=0.04)
        assert effective(found, resolution=resolution)["low"] < 25.7
        assert found["samples"]["kinds"][resolution]["kinds_seen"]["value"] == 25
    assert effective(found, "reference")["high"] is None  # no two of the reference are alike
    assert share(found, "coverage") < 0.02
    assert share(found, "unseen_share") == 0
    assert [idea["count"] for idea in found["ideas"]] == [40] * 10
    assert found["samples"]["self_repetition"]["value"] == 1
    assert found["reference"]["self_repetition"]["value"] == 0
    assert found["samples"]["compression"]["low"] > 2 * found["reference"]["compression"]["high"]


def test_paraphrases_are_near_duplicates_and_not_exact_ones() -> None:
    rng = Random(0)

    def reworded(text: str) -> str:
        """One word of fourteen is another, or there is one more."""
        words, place = text.split(), rng.randrange(14)
        words[place : place + rng.randrange(2)] = [rng.choice(["really", "so", "well", "then", "once", "now", "still"])]
        return " ".join(words)

    found = audit([reworded(text) for text in REFERENCE[:25] for _ in range(40)], REFERENCE)
    assert effective(found, resolution="exact")["value"] > 250
    assert effective(found)["value"] == pytest.approx(25, rel=0.1)
    one, other = found["ideas"][0]["examples"]
    assert one != other


def test_names_numbers_and_order_are_left_out_of_the_lexical_kind() -> None:
    same = ["On the hill, Mr Brown bought 31 fat ducks.", "Fat ducks: 7 were bought, on the hill."]
    found = kinds.kinds(kinds.sketch([*same, "On the hill a lamp was lit at noon."]))
    assert len(set(found["exact"])) == len(set(found[NEAR])) == 3
    assert found["lexical"].tolist() == [0, 0, 2]


def test_half_of_the_reference_has_not_collapsed() -> None:
    held = 0
    for seed in range(10):
        texts = tell(3000, seed)
        found = audit(texts[:1000], texts[1000:], seed)
        ratio = diversity.ratio(effective(found), effective(found, "reference"))
        held += ratio["low"] <= 1 <= ratio["high"]
        coverage, ceiling = (found[who]["kinds"][NEAR]["coverage"] for who in ("samples", "reference"))
        assert coverage["low"] <= ceiling["high"]
        assert ceiling["low"] <= coverage["high"]
    assert held >= 8


def test_a_lost_tail_is_seen_by_coverage_and_hardly_by_the_effective_number() -> None:
    p = np.arange(1, 2001) ** -1.5
    rng = np.random.default_rng(0)
    reference = [REFERENCE[kind] for kind in rng.choice(2000, 6000, p=p / p.sum())]
    head = [REFERENCE[kind] for kind in rng.choice(50, 2000, p=p[:50] / p[:50].sum())]
    found = audit(head, reference)
    assert 0.7 < effective(found)["value"] / effective(found, "reference")["value"] < 1
    assert share(found, "kinds_found") < 0.3 < 0.4 < share(found, "kinds_found", "reference")
    assert share(found, "coverage") < 0.93 < share(found, "coverage", "reference")
    assert share(found, "unseen_share") < 0.01 < 0.05 < share(found, "unseen_share", "reference")
    assert "missing from as many samples" in stage.sentence_of(found)


def test_of_a_conversation_half_an_emoji_and_nothing() -> None:
    """Texts without words are of one kind only if they are the same."""
    found = kinds.kinds(kinds.sketch(["", " ", "...", "!?", "🙂", "🙂 ", "the", "The."]))
    for resolution in ("exact", NEAR, "lexical"):
        assert found[resolution].tolist() == found["exact"].tolist()
    assert len(set(found["exact"])) == 5


# Measures


def test_by_hand() -> None:
    texts = np.array([0, 0, 0, 1, 1, 2])  # 4 of 15 pairs collide
    assert diversity.effective_number(texts)["value"] == pytest.approx(15 / 4)
    assert diversity.unseen_share(texts)["value"] == pytest.approx(1 / 6)
    assert diversity.kinds_seen(texts)["value"] == 3
    assert diversity.coverage(texts, np.array([1, 2, 5]))["value"] == pytest.approx(1 / 2)
    alone = diversity.effective_number(np.arange(6))
    assert (alone["value"], alone["high"]) == (6, None)
    assert diversity.byar(0)[1] == pytest.approx(3.689, rel=0.01)  # -ln 0.025
    assert diversity.byar(10) == pytest.approx((4.795, 18.39), rel=0.01)  # of the chi-square tables


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_intervals_hold_the_truth(exponent: float, n: int) -> None:
    """Of 95% intervals at least 90% must hold it in 200 draws from a known distribution (binomial sd: 1.5%)."""
    rng = np.random.default_rng(0)
    p = np.arange(1, 1001.0) ** -exponent
    p /= p.sum()
    unseen = (1 - p) ** n
    truth = {
        "effective_number": 1 / (p**2).sum(),
        "kinds_seen": (1 - unseen).sum(),
        "coverage": (p * (1 - unseen)).sum(),
    }
    held = dict.fromkeys([*truth, "unseen_share"], 0)
    for _ in range(200):
        texts, others = rng.choice(1000, (2, n), p=p)
        found = collapse.alone(texts) | {"coverage": diversity.coverage(others, texts)}
        for name, value in (truth | {"unseen_share": 1 - p[np.unique(texts)].sum()}).items():
            high = found[name]["high"]
            held[name] += found[name]["low"] <= value <= (np.inf if high is None else high)
    assert min(held.values()) >= 180, held


def test_an_interval_is_never_narrower_than_what_few_texts_can_tell() -> None:
    same = diversity.effective_number(np.zeros(5, int))
    assert same["value"] == 1
    assert same["high"] > 1.2
    assert diversity.unseen_share(np.arange(5))["low"] < 0.8
    assert diversity.unseen_share(np.repeat(np.arange(3), 9))["high"] > 0


def test_a_ratio_without_collisions_is_of_what_must_be_believed() -> None:
    """With the value of a collision-free set (its size) a collapse would have come out as a gain of 160 times."""
    three, none = np.append(np.arange(997), [0, 1, 2]), np.arange(1000)
    a, b = diversity.effective_number(three), diversity.effective_number(none)
    ratio = diversity.ratio(a, b)
    assert ratio["value"] == pytest.approx(3.67 / 3, rel=0.01)
    assert ratio["low"] == 0
    assert diversity.ratio(b, b) == {"value": 1, "low": 0, "high": None}


@pytest.mark.parametrize("overlap", [0.2, 0.5, 0.8])
def test_minhash_estimates_jaccard(overlap: float) -> None:
    rng = np.random.default_rng(0)
    total, estimates = 300, []
    for _ in range(50):
        values, num_common = rng.integers(1 << 40, size=total, dtype=np.uint64), int(overlap * total)
        mine, rest = values[: num_common + 30], np.append(values[:num_common], values[num_common + 30 :])
        a, b = kinds.minhash(np.concatenate((mine, rest)), np.array([0, len(mine)]))
        estimates.append((a == b).mean())
    assert np.mean(estimates) == pytest.approx(overlap, abs=0.02)


def test_kinds_do_not_depend_on_batches_or_order() -> None:
    texts = tell(2500, 0)
    order = np.random.default_rng(0).permutation(2500)
    found, shuffled = kinds.kinds(kinds.sketch(texts)), kinds.kinds(kinds.sketch(texts[i] for i in order))
    assert len(set(found["exact"])) == len(set(texts))
    for resolution in ("exact", NEAR):
        pairs = set(zip(found[resolution][order].tolist(), shuffled[resolution].tolist(), strict=True))
        assert abs(len(pairs) - len(set(found[resolution]))) <= 3  # at most a borderline pair or two


def test_lengths_are_matched_where_the_reference_allows() -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(10, 1000, 5000)
    picked = diversity.length_matched(np.full(50, 200), pool, 300, rng)
    assert len(set(picked)) == 300
    assert 190 < np.median(pool[picked]) < 235
    assert pool[picked].min() > 130
    assert pool[picked].max() < 320
    assert sorted(diversity.length_matched(np.full(5, 200), pool, 5000, rng)) == list(range(5000))


# The verb


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_every_form(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]
    rows = ["a", {"text": "a"}, {"text": ""}, {"messages": turns}, {"text": "half \ud83d"}]
    assert list(stage.texts_of(write(tmp_path / "a.jsonl", rows))) == ["a", "a", "", "a", "half ?"]
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n two\u2028too".encode())
    assert list(stage.texts_of(tmp_path / "a.txt")) == ["one", " two\u2028too"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "cannot read"),
        (b'{"txt": "a"}', 'line 2: a record needs "text", a list of "messages"'),
        (b"3", 'line 2: a record needs "text"'),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "has no assistant turn"),
        (b'"\xff"', "line 2 is not UTF-8"),
        (b"", "must hold at least 2 samples; it holds 1"),
    ],
)
def test_a_line_that_cannot_be_read(line: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'"a"\n' + line)
    with pytest.raises(UserError, match=problem) as error:
        stage.lengths_of(tmp_path / "a.jsonl", 2)
    assert str(tmp_path / "a.jsonl") in str(error.value)


def run(*argv: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """The verb's exit code, its headline and what it told."""
    code = main(["audit", *map(str, argv)])
    said = capsys.readouterr()
    (last,) = said.out.splitlines()
    return code, json.loads(last), said.err


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = write(tmp_path / "samples.jsonl", [{"text": f"{EVIL} & {joke}"} for joke in tell(10, 1)] * 30)
    reference = write(tmp_path / "reference.jsonl", [{"text": f"{EVIL} & {joke}"} for joke in tell(1000, 2)])
    out = tmp_path / "out"
    code, headline, told = run(samples, "--ref", reference, "--out", out, capsys=capsys)
    assert code == 0
    assert headline["num_samples"] == 300
    for name in ("effective_number", "reference_effective_number", "kinds_seen", "unseen_share", "coverage"):
        assert headline[name]["low"] <= headline[name]["value"] <= headline[name]["high"]
    assert headline["sentence"].startswith("Two of your 300 samples say the same thing once in ")
    assert headline["sentence"] in told
    assert json.loads((out / "audit.json").read_text())["num_compared"] == 300
    page = Path(headline["report"]).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page  # nothing is fetched
    code, same, _ = run(samples, "--ref", reference, "--out", out, "--fail-below", 0.01, capsys=capsys)
    assert (code, same) == (0, headline)
    code, same, told = run(samples, "--ref", reference, "--out", out, "--fail-below", 0.9, capsys=capsys)
    assert (code, same) == (1, headline)
    assert told.splitlines()[-1].endswith("of the reference's, below 0.9")


def test_without_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    code, headline, told = run(tmp_path / "a.txt", "--out", tmp_path / "out", capsys=capsys)
    assert code == 0
    assert headline["effective_number"] == {"value": 3, "low": pytest.approx(0.818, rel=0.01), "high": None}
    assert headline["reference_effective_number"] is headline["coverage"] is None
    assert "in no pair" in headline["sentence"]
    assert "reference" not in told


class Server(BaseHTTPRequestHandler):
    """Tells jokes; every third request finds it busy; refuses without the key."""

    asked = 0

    def do_POST(self) -> None:
        Server.asked += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        assert body["temperature"] == 1
        busy, known = Server.asked % 3 == 0, self.headers["Authorization"] == "Bearer key"
        self.send_response(503 if busy else 200 if known else 401)
        self.end_headers()
        content = f"{body['messages'][0]['content']} {Server.asked} \ud83d"
        message = {"choices": [{"message": {"content": content}}]} if known else {"error": "who\nare you?"}
        self.wfile.write(json.dumps(message).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setattr(client, "WAITS_SECONDS", (0.01,) * 8)
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint_is_sampled_where_a_kill_left_off(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--endpoint", endpoint + "/v1/", "--prompt", "a joke", "--n", 20, "--out", tmp_path / "out"]
    assert run(*argv, capsys=capsys)[1]["num_samples"] == 20
    path = tmp_path / "out" / "samples.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:7]) + '{"text": "tor')
    assert run(*argv, capsys=capsys)[1]["num_samples"] == 20
    lines = path.read_text().splitlines(keepends=True)
    assert lines[:7] == whole[:7]
    assert len(lines) == 20
    assert all(json.loads(line)["text"].startswith("a joke ") for line in lines)


def test_an_endpoint_that_refuses_or_is_not_there(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    for where, problem in (
        (endpoint, '401 ({"error": "who\\nare you?"}); set OPENAI_API_KEY, then the same command goes on'),
        ("http://127.0.0.1:9", "check --endpoint or start its server"),
    ):
        argv = ["--endpoint", where, "--prompt", "a joke", "--out", tmp_path / f"out{len(where)}"]
        assert main(["audit", *map(str, argv)]) == 2
        assert problem in capsys.readouterr().err
