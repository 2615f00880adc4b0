"""The run folder: what a stage was asked, what it did, and files that are either whole or not there.

    DIR/config.json    the verb and its configuration, and what was settled once at the start
    DIR/metrics.jsonl  one object a step
    DIR/meta.json      written at the end: commit, versions, device, seed, command, seconds, tokens, dollars

Nothing here knows what the stages are. Each file is written to a temporary name, synced, and renamed. Of several ranks
the first alone reads and writes, and tells the others; all call what is here alike.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nightschool import ranks
from nightschool.config import UserError

LEARNED = "learned_gen_"  # in metrics.jsonl, before a generation: a step's tokens that so many models stand behind
PACKAGES = ("nightschool", "torch", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class Costs:
    """What an hour is assumed to cost."""

    watts: float = 65.0  # drawn by the whole machine at work; a laptop or small desktop
    dollars_per_kwh: float = 0.30
    dollars_per_hour: float = 0.0  # rent of the machine; 0 = your own

    def of(self, seconds: float) -> dict[str, float]:
        """Seconds of work -> its energy and price."""
        hours = seconds / 3600
        kwh = hours * self.watts / 1000
        return {"kwh": kwh, "dollars": kwh * self.dollars_per_kwh + hours * self.dollars_per_hour}


@dataclass(frozen=True)
class Run:
    """An open run folder."""

    out: Path
    verb: str
    config: Any  # the stage's dataclass
    lock: int | None  # rank 0's file descriptor, so that no two processes write one folder; None where all is written
    opened: float = field(default_factory=time.perf_counter)

    @staticmethod
    def open(out: Path, verb: str, config: Any) -> Run:
        """Create DIR and its config.json, or go on with the same run. UserError if it holds another."""
        return Run(out, verb, config, ranks.first(lambda: claim(out, verb, config)))

    def path(self, name: str) -> Path:
        return self.out / name

    def log(self, **row: Any) -> None:
        """Append a line to metrics.jsonl."""
        if ranks.rank() > 0:
            return
        with self.path("metrics.jsonl").open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop the metrics after a step, and a line that a kill tore; return those that stay."""
        return ranks.first(lambda: rewound(self.path("metrics.jsonl"), step))

    def settle(self, name: str, value: Callable[[], Any]) -> Any:
        """Find a value once and record it in config.json; a resumed run gets the recorded one (the dtype of a
        probe, the tokens that --minutes came to)."""

        def find() -> Any:
            config = read_json(self.path("config.json"))
            if name not in config["settled"]:
                config["settled"][name] = value()
                write_json(self.path("config.json"), config)
            return config["settled"][name]

        return ranks.first(find)

    @property
    def done(self) -> bool:
        return ranks.first(lambda: finished(self.out))

    @property
    def meta(self) -> dict[str, Any]:
        return ranks.first(lambda: read_json(self.path("meta.json")))

    def fed(self) -> dict[str, Any]:
        """What was learned from, by metrics.jsonl: the share of each generation among the tokens, and the real share,
        generation 0's. {} where nothing was counted."""
        path, tokens = self.path("metrics.jsonl"), Counter[str]()
        for row in read_jsonl(path) if path.exists() else []:
            tokens.update({name.removeprefix(LEARNED): n for name, n in row.items() if name.startswith(LEARNED)})
        generations = {g: n / tokens.total() for g, n in sorted(tokens.items())}
        return {"real_share": generations.get("0", 0.0), "generations": generations} if generations else {}

    def finish(self, **meta: Any) -> dict[str, Any]:
        """Write meta.json. `seconds` counts from `open` unless given; device, threads, dtype, tokens and
        flops
        are the stage's to give."""
        costs = getattr(self.config, "costs", Costs())
        seconds = meta.pop("seconds", time.perf_counter() - self.opened)
        whole = {
            "verb": self.verb,
            **source(),
            "versions": {"python": platform.python_version(), **versions()},
            "device": platform.machine(),
            "threads": os.cpu_count(),
            "dtype": None,
            "seed": getattr(self.config, "seed", None),
            "command": typed(),
            "seconds": seconds,
            "tokens": 0,
            "flops": 0,
            **costs.of(seconds),
            "assumptions": dataclasses.asdict(costs),
            **self.fed(),
            **meta,
            "finished": True,
        }
        ranks.first(lambda: write_json(self.path("meta.json"), whole))
        return whole


def finished(out: Path) -> bool:
    """A life's own meta.json, one folder up from its runs', says nothing of that."""
    path = out / "meta.json"
    return path.exists() and bool(read_json(path).get("finished"))


def claim(out: Path, verb: str, config: Any) -> int | None:
    """Make a run folder this process's own until it ends -> the lock on it. One that is done anyone may open."""
    asked = {"verb": verb, "config": plain(config, out)}
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose a folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    lock = None
    if not finished(out):
        lock = os.open(out / ".lock", os.O_WRONLY | os.O_CREAT)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is at work in {out}; wait for it or choose another --out") from None
    path = out / "config.json"
    if path.exists():
        refuse_other(out, read_json(path), asked)
    elif any(p.is_file() and not p.name.startswith(".") for p in out.iterdir()):
        raise UserError(f"{out} holds files that are no run's; choose another --out")
    else:
        write_json(path, {**asked, "settled": {}})
    return lock


def rewound(path: Path, step: int) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        whole = [line for line in file if line.endswith("\n")]
    rows = [row for row in map(json.loads, whole) if row["step"] <= step]
    write_jsonl(path, rows)
    return rows


def plain(config: Any, out: Path) -> dict[str, Any]:
    """A configuration as JSON has it, paths as seen from `out`: a life that was moved whole holds the same runs."""

    def seen_from_out(path: Path) -> str:
        return os.path.relpath(path, out)

    return json.loads(json.dumps(dataclasses.asdict(config), default=seen_from_out))


def refuse_other(out: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    mend = "choose another --out, or remove it to start anew"
    if there["verb"] != asked["verb"]:
        raise UserError(f"{out} holds a run of {there['verb']!r}, not {asked['verb']!r}; {mend}")
    for name in there["config"].keys() | asked["config"].keys():
        old, new = there["config"].get(name), asked["config"].get(name)
        if old != new:
            raise UserError(f"{out} holds a run with {name} {old!r}, not {new!r}; {mend}")


def source() -> dict[str, Any]:
    """The commit of the code that runs, and the hash of what differs from it; None outside a checkout."""

    def git(*args: str) -> str | None:
        answer = subprocess.run(("git", *args), cwd=Path(__file__).parent, capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        diff = git("diff", "HEAD")
        commit = git("rev-parse", "HEAD")
    except FileNotFoundError:  # no git on this machine
        diff = commit = None
    digest = hashlib.blake2b(diff.encode(), digest_size=8).hexdigest() if diff else None
    return {"commit": commit, "diff": {"dirty": bool(diff), "hash": digest}}


def typed() -> str:
    """The command that started this process."""
    script = Path(sys.argv[0])
    program = ["python", f"bench/{script.name}"] if script.parent.name == "bench" else ["nightschool"]
    return shlex.join([*program, *sys.argv[1:]])


def publish(
    path: Path, arms: Any, bars: Sequence[dict[str, Any]], seeds: Sequence[int], command: str = "", **meta: Any
) -> dict[str, Any]:
    """Write what a lab or bench found, results/NAME.json -> each bar's value by name. `command`: that makes it again,
    where it is another than was typed."""
    meta = {**source(), "versions": versions(), "seeds": list(seeds)} | meta
    write_json(path, {"command": command or typed(), "meta": meta, "arms": arms, "bars": bars})
    return {bar["name"]: bar["value"] for bar in bars}


def versions(*others: str) -> dict[str, str]:
    """Of what results depend on, and of `others`."""
    found = {}
    for name in (*PACKAGES, *others):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # nightschool itself, run uninstalled
            found[name] = "uninstalled"
    return found


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, its folder made; what was written there is synced and renamed at the end, or
    removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_once(path: Path, make: Callable[[], None]) -> None:
    """Call `make` where there is no `path` yet; of several ranks the first does, and the others wait for it."""

    def unless_there() -> None:
        if not path.exists():
            make()

    ranks.first(unless_there)


def sync(path: Path) -> None:
    """Have the disk hold a file or a folder before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_json(path: Path) -> Any:
    """UserError if the file is not JSON: it was not written by us, or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"cannot read {path} as JSON: {error}") from None


def read_jsonl(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@contextmanager
def progress(label: str, total: float) -> Iterator[Callable[[float, str], None]]:
    """Show work on stderr: a bar on a terminal, else a line every five seconds. Yields show(done, note)."""
    if ranks.rank() > 0:
        yield lambda done, note: None
        return
    console = Console(stderr=True)
    began, first, printed = time.perf_counter(), None, float("-inf")
    columns = (
        TextColumn(f"{label:10}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%  {task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total, note="")

        def show(done: float, note: str) -> None:
            nonlocal first, printed
            now = time.perf_counter()
            first = done if first is None else first
            if done > first:
                minutes, seconds = divmod(round((now - began) * max(total - done, 0) / (done - first)), 60)
                note = f"{note}  {minutes}:{seconds:02} left"
            bar.update(task, completed=done, note=note)
            if not console.is_terminal and (now - printed >= 5 or done >= total):
                printed = now
                print(f"{label:10} {100 * done / total:3.0f}%  {note}", file=sys.stderr, flush=True)

        yield show
