"""The whole life on real text and real conversations, on a CPU: `nightschool speedrun` without the town, measured.

    python bench/real_day.py --text TEXT... --chat CHAT... --val VAL.jsonl.gz --task GSM8K.jsonl.gz --exams EXAM...

corpus -> tokenizer -> pretrain -> sft -> practice on GSM8K -> a night with a folder of documents -> exams -> report.
--text and --chat are what `nightschool corpus` takes; a line of VAL is {"text"}, whole documents that are in neither:
some short ones, drawn by the seed, are read at night, the others measure bits per byte. Each stage is a process of its
own, the command that a user would type; killed at any moment, or stopped by --seconds, the same command goes on.
results/real_day.json holds what came of it, with 30 answers that nobody chose, results/real_day.html the life's report.

But: one run, one seed. Seconds of a shared machine mean little; those the processor computed for are beside them.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

from nightschool import config, device, runs
from nightschool.stages import speedrun
from nightschool.text import sources

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "real_day.json"
SHORT = 200, 3000  # bytes of a document for the night: a small model's own questions about it are few
HOURS = 2.0  # bar, for the whole life
STAGES = (*speedrun.stages(speedrun.Config()), "report")
PROGRESS = re.compile(r"^\w+ +\d+%")
NOISE = re.compile(r" is done$| done in |^stopped; to go on|^talk to it|^report: |^{")


@dataclass(frozen=True)
class Config:
    """Live a whole life on real data."""

    text: tuple[str, ...]  # to read
    chat: tuple[str, ...]  # conversations of school
    val: Path  # .jsonl(.gz) of documents that are in neither
    task: str  # to practise: a file of GSM8K's form
    exams: tuple[str, ...]  # files of multiple choice
    out: Path = Path("real_day")  # the life
    depth: int = 4
    context: int = 512
    vocab_size: int = 4096
    tokens: int = 6_000_000  # to read
    sft_tokens: int = 1_500_000  # of school
    rl_steps: int = 10
    documents: int = 6  # to read at night
    per_sentence: int = 2
    n: int = 200  # questions of each exam
    threads: int = 1
    seed: int = 0
    seconds: float = 0.0  # if not 0: stop after so long, saved; the same command goes on

    def __post_init__(self) -> None:
        config.at_least(self, 1, "documents", "n", "threads")
        config.at_least(self, 0, "seconds")
        if not self.val.is_file():
            raise config.UserError(f"no file {self.val}; --val names documents that are not learned from")


def set_aside(c: Config) -> tuple[Path, Path]:
    """A folder of documents for the night, and a file of the rest of VAL."""
    folder, rest = c.out / "documents", c.out / "held_out.jsonl"
    if not rest.exists():
        folder.mkdir(parents=True, exist_ok=True)
        texts = [document.text for document, _ in sources.documents(c.val)]
        short = [i for i, text in enumerate(texts) if SHORT[0] <= len(text.encode()) <= SHORT[1]]
        drawn = sorted(random.Random(f"documents {c.seed}").sample(short, c.documents))
        for i in drawn:
            (folder / f"{i}.txt").write_text(texts[i], encoding="utf-8")
        runs.write_jsonl(rest, ({"text": text} for i, text in enumerate(texts) if i not in drawn))
    return folder, rest


def life_of(c: Config) -> list[str]:
    """The speedrun of this life: one process does all of it, the bench a stage at a time."""
    folder, rest = set_aside(c)
    flags: dict[str, Sequence[Any]] = {
        "out": [c.out / "life"],
        "text": c.text,
        "chat": c.chat,
        "documents": [folder],
        "held-out": [rest],
        "task": [c.task],
        "exams": c.exams,
        "world-share": [0],
        **{name.replace("_", "-"): [getattr(c, name)] for name in ("depth", "context", "vocab_size", "tokens")},
        **{name.replace("_", "-"): [getattr(c, name)] for name in ("sft_tokens", "rl_steps", "per_sentence", "n")},
        **{name: [getattr(c, name)] for name in ("threads", "seed")},
        "save-seconds": [60],
    }
    return ["speedrun", *(str(part) for name, values in flags.items() for part in (f"--{name}", *values))]


def stop(signum: int, frame: FrameType | None) -> None:
    raise config.Stopped(signum)


def live(c: Config, until: str, end: float) -> dict[str, Any]:
    """One process of the life, up to this stage or to the end of our time -> what it took and said."""
    last = ["--until", until] if until != "report" else []
    log, began = c.out / "log.txt", time.perf_counter()
    before = log.stat().st_size if log.exists() else 0
    with log.open("a") as file:
        command = [sys.executable, "-m", "nightschool", *life_of(c), *last]
        process = subprocess.Popen(command, stderr=file, stdout=file, env={**os.environ, "PYTHONPATH": str(ROOT)})
        pid = 0
        try:
            while not pid:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if not pid and time.perf_counter() > end:
                    raise config.Stopped(signal.SIGTERM)
                time.sleep(0.1)
        except config.Stopped:
            process.terminate()  # what it has is saved
            pid, status, usage = os.wait4(process.pid, 0)
    with log.open(encoding="utf-8") as file:
        file.seek(before)
        said = [line.rstrip() for line in file if not PROGRESS.match(line)]
    row = {
        "stage": until,
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss / (1 << 20 if sys.platform == "linux" else 1 << 30),
        "said": said,
    }
    with (c.out / "processes.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def account(c: Config) -> dict[str, Any]:
    """What the life's folders say, stage by stage and as a whole."""
    life, arms = c.out / "life", dict[str, Any]()
    rows, known = runs.read_jsonl(c.out / "processes.jsonl"), set[str]()  # a stage that is done says its line again
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        folder = life / {"night": "night-001"}.get(stage, stage)
        meta = runs.read_json(folder / "meta.json") if (folder / "meta.json").exists() else {}
        settled = runs.read_json(folder / "config.json")["settled"] if (folder / "config.json").exists() else {}
        said = [line for row in mine for line in row["said"] if line and not NOISE.search(line)]
        arms[stage] = {
            "processes": len(mine),
            **{name: sum(row[name] for row in mine) for name in ("seconds", "cpu_seconds")},
            "peak_gb": max(row["peak_gb"] for row in mine),
            **{name: meta[name] for name in ("tokens", "loss", "bits_per_byte", "flops", "hindrance") if name in meta},
            **{name: settled[name] for name in ("epochs", "cautions") if name in settled},
            **{name: value for name, value in meta.items() if re.search(r"documents|bytes|duplicates|contamin", name)},
            "said": [line for line in dict.fromkeys(said) if line not in known],
        }
        known |= set(said)
    return arms


def scores_of(c: Config) -> dict[str, Any]:
    """Bits per byte and exams after each stage that was examined; names of texts without their folders."""
    found = {}
    for stage in ("pretrain", "sft", "rl", "night-001"):
        for path in sorted((c.out / "life" / stage).glob("scores*.json")):
            scores = runs.read_json(path)
            texts = {Path(name).name: bits for name, bits in scores.get("texts", {}).items()}
            own = {k: scores[k] for k in ("bits_per_byte", "choices") if scores.get(k)}
            found[stage] = found.get(stage, {}) | own | ({"texts": texts} if texts else {})
    return found


def command_of(c: Config) -> str:
    """What makes this again: every field that is not its default, but for where the time was cut."""
    words = ["python bench/real_day.py"]
    for field in fields(c):
        value = getattr(c, field.name)
        if value != field.default and field.name not in ("out", "seconds"):
            given = value if isinstance(value, tuple) else (value,)
            words += [f"--{field.name.replace('_', '-')}", *map(str, given)]
    return " ".join(words)


def write(c: Config, arms: dict[str, Any]) -> dict[str, Any]:
    life = c.out / "life"
    examined = next(life / name for name in ("night-001", "rl") if (life / name / "answers.jsonl").exists())
    whole = {name: sum(arm.get(name, 0) for arm in arms.values()) for name in ("seconds", "cpu_seconds", "tokens")}
    whole |= {"peak_gb": max(arm["peak_gb"] for arm in arms.values()), **runs.Costs().of(whole["cpu_seconds"])}
    found = (
        ("hours of one core", whole["cpu_seconds"] / 3600, HOURS, whole["cpu_seconds"] <= 3600 * HOURS),
        ("stages done, or ended in a line that says why not", len(arms), len(STAGES), len(arms) == len(STAGES)),
    )
    meta = {
        **runs.source(),
        "versions": runs.versions(),
        "device": device.device_name("cpu"),
        "threads": c.threads,
        "seeds": [c.seed],
        "whole": whole,
        "assumptions": asdict(runs.Costs()),
        "ran": "all stages on a CPU; of issue 3's real day the H200 part was not run",
    }
    runs.write_json(
        RESULTS,
        {
            "command": command_of(c),
            "meta": meta,
            "arms": arms,
            "scores": scores_of(c),
            "transcripts": runs.read_jsonl(examined / "answers.jsonl"),
            "bars": [
                {"name": name, "value": value, "low": None, "high": None, "bar": bar, "holds": holds}
                for name, value, bar, holds in found
            ],
        },
    )
    runs.write_text(RESULTS.with_suffix(".html"), (life / "report.html").read_text(encoding="utf-8"))
    return whole


def main(c: Config) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, stop)
    c.out.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + c.seconds if c.seconds else float("inf")
    path = c.out / "processes.jsonl"
    done = {row["stage"] for row in (runs.read_jsonl(path) if path.exists() else []) if row["code"] == 0}
    for stage in STAGES:
        if stage in done:
            continue
        row = live(c, stage, end)
        print(f"{stage}: {row['seconds']:.0f} s", *row["said"], sep="\n  ", file=sys.stderr, flush=True)
        if row["code"]:
            return {"stopped_in": stage, "code": row["code"]}
    return write(c, account(c))


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/real_day.py"))))
