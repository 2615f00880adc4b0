"""`nightschool report LIFE`: one self-contained page that tells a life, day -> night -> morning.

It only reads what the runs wrote and scores nothing again; what is not there yet is left out in a sentence.
The page is report.html, a jinja template that escapes every word of the model's; here are its facts, in figures.py
its words for numbers and its pictures.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jinja2
import tyro

from nightschool.config import UserError, at_least
from nightschool.runs import Costs, read_json, write_text
from nightschool.stages.figures import (
    Json,
    called,
    duration,
    line_chart,
    money,
    pct,
    power,
    short,
    signed,
    smooth,
    whiskers,
)
from nightschool.stages.marked import audit_of, telling

SKILLS = ("story", "passage", "absent", "arithmetic", "word_problem", "letter_count", "tool")
DAY = ("tokenizer", "text", "conversations", "corpus", "pretrain", "import", "sft", "rl", "review", "evening")
NIGHTS = ("night", "read")  # how the folders of those begin
WEAK = 0.6  # below this accuracy the page says that the model cannot do it


@dataclass(frozen=True)
class Config:
    life: tyro.conf.Positional[Path]  # the folder of one life's run folders; report.html is written into it
    watts: float | None = None  # drawn by the machine; None = what each run assumed
    dollars_per_kwh: float | None = None  # price of electricity; None = what each run assumed
    dollars_per_hour: float | None = None  # rent of the machine; None = what each run assumed
    control: Path = Path("results/quickstart_control.json")  # what re-reading teaches; shown where it exists

    def __post_init__(self) -> None:
        at_least(self, 0, "watts", "dollars_per_kwh", "dollars_per_hour")


# Reading


def load(path: Path) -> Json:
    return read_json(path) if path.exists() else {}


def load_lines(path: Path) -> list[Json]:
    """The whole lines of a JSONL file; the last may still be under way."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def folders_of(life: Path) -> list[Path]:
    """The life's run folders in the order they were lived: day, its exam, nights, whatever came after."""

    def place(name: str) -> int:
        return DAY.index(name) if name in DAY else len(DAY) + (not name.startswith(NIGHTS))

    return sorted((path.parent for path in life.glob("*/config.json")), key=lambda f: (place(f.name), f.name))


def scores_of(folders: Sequence[Path], split: str) -> Json:
    """The latest scores on this split among these folders; {} where there are none."""
    found = [load(path) for folder in folders for path in sorted(folder.glob("scores*.json"))]
    return next((scores for scores in reversed(found) if scores["split"] == split), {})


def latest(folders: Sequence[Path], name: str) -> list[Json]:
    return next((rows for folder in reversed(folders) if (rows := load_lines(folder / name))), [])


def parameters_of(folders: Sequence[Path]) -> int:
    """Parameters of the last checkpoint, counted in the header of its safetensors file; 0 without one."""
    paths = [path for folder in folders if (path := folder / "checkpoint" / "model.safetensors").exists()]
    if not paths:
        return 0
    with paths[-1].open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def bill(meta: Json, config: Config) -> Json:
    """A run's line of the bill; its energy and price counted anew where the caller sets an assumption."""
    given = {f.name: value for f in fields(Costs) if (value := getattr(config, f.name)) is not None}
    costs = Costs(**(meta["assumptions"] | given))
    return meta | (costs.of(meta["seconds"]) if given else {}) | {"assumptions": asdict(costs)}


def in_order(names: Iterable[str]) -> list[str]:
    """The seven skills in their own order, then others by name."""
    return sorted(set(names), key=lambda name: ((*SKILLS, name).index(name), name))


def clock(runs: Sequence[Json]) -> Json:
    """Where each run, dusk and dawn lie on the clock of the life, in per cent of its seconds."""
    total = sum(run["seconds"] for run in runs) or 1
    ends = [100 * end / total for end in itertools.accumulate((run["seconds"] for run in runs), initial=0.0)]
    nights = [place for place, run in enumerate(runs) if run["name"].startswith(NIGHTS)]
    dusk, dawn = (ends[nights[0]], ends[nights[-1] + 1]) if nights else (100.0, 100.0)
    return {"spans": list(zip(runs, ends[:-1], ends[1:], strict=True)), "dusk": dusk, "dawn": dawn}


# The page


def losses_of(folders: Sequence[Path]) -> list[Json]:
    """Loss (in RL, reward) of each stage against its tokens."""
    losses = []
    for folder in folders:
        rows = load_lines(folder / "metrics.jsonl")
        key = "reward" if any("reward" in row for row in rows) else "loss"
        if points := smooth([(row["tokens"], row[key]) for row in rows if key in row]):
            tokens, values = points[-1][0], [y for _, y in points]
            more = {"first": values[0], "last": values[-1], "tokens": tokens}
            chart = line_chart(points, tokens, min(values), max(values))
            losses.append({"stage": folder.name, "key": key, "chart": chart} | more)
    return losses


def skills_of(folders: Sequence[Path]) -> list[Json]:
    """Each skill's dev accuracy through the stages: a unit of x a stage, a dot for the exam that ends it."""
    stages = [(rows, scores_of([f], "dev")) for f in folders if (rows := load_lines(f / "metrics.jsonl"))]
    charts = []
    for skill in SKILLS:
        points, dots = [], []
        for place, (rows, scores) in enumerate(stages):
            most = rows[-1]["tokens"] or 1
            asked = [row for row in rows if skill in row.get("dev", {})]
            points += [(place + row["tokens"] / most, row["dev"][skill]) for row in asked]
            if score := scores.get("skills", {}).get(skill):
                dots.append((place + 1, score["accuracy"]))
        if points or dots:
            chart = line_chart(points, len(stages), 0, 1, dots)
            charts.append({"skill": skill, "chart": chart, "last": (dots or points)[-1][1]})
    return charts


def corpora_of(folders: Sequence[Path]) -> list[Json]:
    """What each corpus was sifted to, those that a stage made for itself too, and how often it was read."""
    places = [place for folder in folders for place in (folder, folder / "corpus")]
    found = {place: load(place / "meta.json") for place in places if "train_documents" in load(place / "meta.json")}
    asked = {folder: load(folder / "config.json").get("config", {}).get("corpus") or [] for folder in folders}
    corpora = []
    for place, meta in found.items():
        readers = [f for f, names in asked.items() if place.parent == f or place.name in map(name_of, names)]
        sources = load(place / "config.json")["config"]["sources"]
        settled = {f.name: load(f / "config.json").get("settled", {}) for f in readers}
        more: Json = {
            "name": place.name if place in folders else place.parent.name,
            "sources": [name_of(source) for source in sources],
            "epochs": {name: facts["epochs"] for name, facts in settled.items() if "epochs" in facts},
        }
        corpora.append(meta | more | {"bytes_per_token": meta["train_bytes"] / meta["train_tokens"]})
    return corpora


def name_of(source: str) -> str:
    """'data/text/a.jsonl.gz' -> 'a.jsonl.gz'"""
    return source.rpartition("/")[2]


def texts_of(folders: Sequence[Path], exams: Sequence[tuple[str, Json]]) -> Json:
    """Bits per byte of held-out texts: name -> when -> bits, after the stages that watched one and at the exams."""
    bits: dict[str, dict[str, float]] = {}
    whens = [*(folder.name for folder in folders), *(when for when, _ in exams)]
    for folder in folders:
        scores, corpora = load(folder / "scores.json"), load(folder / "config.json").get("config", {}).get("corpus")
        if corpora and "bits_per_byte" in scores:
            bits.setdefault(name_of(corpora[0]), {})[folder.name] = scores["bits_per_byte"]
    for when, scores in exams:
        for name, value in scores.get("texts", {}).items():
            bits.setdefault(name_of(name), {})[when] = value
    return {"whens": [when for when in whens if any(when in found for found in bits.values())], "rows": bits}


def unread_of(night: Path) -> Json:
    """A night that ended before it learned anything: what was written, and why it was refused. {} for any other."""
    written = load_lines(night / "written.jsonl")
    if not written or (night / "night.json").exists():
        return {}
    return {
        "written": len(written),
        "kept": sum(not row["why"] for row in written),
        "documents": len({parent for row in written for parent in row["parents"]}),
        "faults": Counter(row["why"] for row in written if row["why"]).most_common(3),
        "examples": [row for row in written if row["why"] and row["written"]][:4],
    }


def card(evening: Json, morning: Json, part: str) -> list[Json]:
    """Rows of the score card: a name, its scores of the evening, the morning or both, and their picture."""
    both = [(when, s[part]) for when, s in (("evening", evening), ("morning", morning)) if s.get(part)]
    rows = []
    for name in in_order(name for _, scores in both for name in scores):
        marks = [(when, scores[name]) for when, scores in both if name in scores]
        rows.append({"name": name, "marks": marks, "chart": whiskers(marks), "last": marks[-1][1]})
    return rows


def samples_of(rows: Sequence[Json], scores: Json, most: int = 2) -> list[Json]:
    """For each skill the first right and the first wrong answers on file: nobody chose them."""
    groups = []
    for skill in in_order(row["skill"] for row in rows):
        mine = [row for row in rows if row["skill"] == skill]
        sides = [[row for row in mine if bool(row["outcome"]) == good][:most] for good in (True, False)]
        groups.append({"skill": skill, "score": scores.get(skill), "sides": sides})
    return groups


def tell(config: Config) -> Json:
    """Everything the page says, read from the life's run folders."""
    life, folders = config.life, folders_of(config.life)
    dusk = max((i for i, f in enumerate(folders) if f.name.startswith(NIGHTS)), default=len(folders))
    night = load(folders[dusk] / "night.json") if dusk < len(folders) else {}
    evening, morning = scores_of(folders[:dusk], "test"), scores_of(folders[dusk:], "test")
    now, part = morning or evening, ("skills", "probes")
    runs = [bill({"name": f.name} | meta, config) for f in folders if (meta := load(f / "meta.json"))]
    total = {key: sum(run[key] for run in runs) for key in ("seconds", "tokens", "flops", "kwh", "dollars")}
    whole = load(life / "meta.json")  # quickstart's own account, from its first second to its last
    if whole:
        whole = bill(whole, config)
        total |= {key: whole[key] for key in ("seconds", "kwh", "dollars")}
    facts = night.get("facts", {})
    if facts and not facts.get("control"):
        facts |= {"control": load(config.control).get("arms", {}).get("control")}
    notes, off_template = night.get("reflections", []), latest(folders, "off_template.jsonl")
    choices = card(evening, morning, "choices")
    settled = {run["name"]: load(life / run["name"] / "config.json").get("settled", {}) for run in runs}
    commands = [re.sub(r" --until ('.*?'|\S+)", "", run["command"]) for run in ([whole] if whole else runs)]
    rollouts = latest(folders, "rollouts.jsonl")
    audited = next((f for f in reversed(folders) if (f / "audits.jsonl").exists()), life)
    return {
        "life": life,
        "runs": runs,
        "total": total,
        "machine": max(runs, key=lambda run: run["flops"], default={}),  # the run that did most of the work
        "commands": list(dict.fromkeys(commands)),
        "corpora": corpora_of(folders),
        "cautions": [(name, line) for name, s in settled.items() for line in s.get("cautions", [])],
        "parameters": parameters_of(folders),
        "clock": clock(runs),
        "evening": evening,
        "morning": morning,
        "card": card(evening, morning, "skills"),
        "probes": card(evening, morning, "probes"),
        "choices": choices,
        "guessed": [row["name"] for row in choices if (score := row["marks"][-1][1])["low"] <= score["chance"]],
        "texts": texts_of(folders, [("evening", evening), ("morning", morning)]),
        "bits_per_byte": [b for s in (evening, morning) if (b := s.get("bits_per_byte"))],
        "losses": losses_of(folders),
        "skills": skills_of(folders),
        "rollouts": telling(rollouts),
        "num_rollouts": len(rollouts),
        "judge": audit_of(*(load_lines(audited / f"{name}.jsonl") for name in ("metrics", "audits", "incidents"))),
        "hindrance": next((run["hindrance"] for run in reversed(runs) if run.get("hindrance")), ""),
        "review": next((found for folder in reversed(folders) if (found := load(folder / "review.json"))), {}),
        "night": night,
        "unread": unread_of(folders[dusk]) if dusk < len(folders) else {},
        "fed": load(folders[dusk] / "meta.json") if dusk < len(folders) else {},
        "facts": {n: {"score": s, "chart": whiskers([(n, s)])} for n, s in facts.items() if s},
        "reflections": [r for kind in (True, False) for r in [r for r in notes if r["verified"] == kind][:2]],
        "samples": samples_of(latest(folders, "samples.jsonl"), now.get("skills", {})),
        "conversations": latest(folders, "answers.jsonl"),
        "off_template": off_template,
        "answers": Counter(row["answer"] for row in off_template).most_common(),
        "weak": [(n, s) for p in part for n, s in now.get(p, {}).items() if s["accuracy"] < WEAK],
        "weakest": min(now.get("skills", {}).items(), key=lambda item: item[1]["accuracy"], default=None),
        "WEAK": WEAK,
    }


def main(config: Config) -> Json:
    """Write LIFE/report.html; the result is its headline. Refuses a folder in which nothing has been run."""
    life = config.life
    if not folders_of(life):
        raise UserError(f"no run folders in {life}; run `nightschool quickstart --out {life}` first")
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {f.__name__: f for f in (called, duration, money, pct, power, short, signed)}
    story = tell(config)
    write_text(out := life / "report.html", pages.get_template("report.html").render(story))
    skills = {"skills": story["morning"].get("skills"), "skills_evening": story["evening"].get("skills")}
    facts = {name: fact["score"]["accuracy"] for name, fact in story["facts"].items()}
    return {"report": str(out)} | story["total"] | skills | {"facts": facts}
