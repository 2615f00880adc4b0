"""Is anything lost when a run is killed? Every stage at toy size, killed again and again, against undisturbed runs.

    python bench/resume.py          some minutes on one idle core; writes results/resume.json

A trial is one run folder: its command is started and killed with SIGKILL three times, then left to finish. Moments are
drawn in turn: any time at all (imports and exams included), after some steps, in the midst of a save, and after the
last step. In every second trial a file of the newest state is then damaged too. What a trial ends with must be, bit
for bit, what an undisturbed run has: weights, optimizer and log (but for its times). A kill is survived if its trial
is. The full disk is a tmpfs of 64 MB with a file that leaves too little room, mounted in a name space of its own
(util-linux's unshare); the run must end with a line that says so and go on once there is room.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightschool import config, runs
from nightschool.night import diversity
from nightschool.train import checkpoint

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "resume.json"
STAGES = {  # verb -> its flags; each starts from the undisturbed run before it
    "pretrain": "--tokenizer {life}/tokenizer --tokens 8192",
    "sft": "--start {life}/pretrain --tokens 8192 --exam-n 1",
    "rl": "--start {life}/sft --steps 6 --problems 1 --group-size 2 --max-new-tokens 12 --exam-n 0",
    "night": "--start {life}/rl --tokens 8192 --per-document 1 --n-gate 1",
}
COMMON = "--threads 1 --dtype float32 --save-seconds 0.1"
MOMENTS = ("any", "step", "save", "end")
KILLS_A_TRIAL = 3
DISK_MB = 64


@dataclass(frozen=True)
class Config:
    """Kill every stage at random moments and compare what it ends with."""

    kills: int = 52  # in all, an equal share a stage
    full: int = 4  # times that the disk is full
    seed: int = 0
    inside: Path | None = None  # only for its own use: the life, in the name space that has the full disk

    def __post_init__(self) -> None:
        config.at_least(self, 1, "kills")
        config.at_least(self, 0, "full")


def command(verb: str, life: Path, out: Path) -> list[str]:
    flags = f"{STAGES[verb]} {COMMON}".format(life=life).split()
    return [sys.executable, "-m", "nightschool", verb, *flags, "--out", str(out)]


def start(verb: str, life: Path, out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = out.with_suffix(".log").open("a")
    return subprocess.Popen(command(verb, life, out), env=environment, stdout=subprocess.DEVNULL, stderr=log)


def said(out: Path) -> str:
    return out.with_suffix(".log").read_text()


def finish(verb: str, life: Path, out: Path) -> int:
    return start(verb, life, out).wait()


def ends_with(out: Path) -> dict[str, Any]:
    """Hashes of the weights and the optimizer's state, and the log without its times."""
    rows = runs.read_jsonl(out / "metrics.jsonl")
    state = checkpoint.folders(out / "state")[-1]
    files = (out / "checkpoint" / "model.safetensors", state / "model.safetensors", state / "optim.safetensors")
    hashes = [hashlib.blake2b(path.read_bytes()).hexdigest() for path in files]
    timed = ("seconds", "tokens_per_second")
    return {"hashes": hashes, "log": [{k: v for k, v in row.items() if k not in timed} for row in rows]}


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: subprocess.Popen[str], happened: Any) -> None:
    while process.poll() is None and not happened():
        time.sleep(0.001)


def wait_for_moment(kind: str, process: subprocess.Popen[str], out: Path, undisturbed: Any, rng: random.Random) -> None:
    """Return at a moment of this kind, or when the process has ended."""
    log, state = out / "metrics.jsonl", out / "state"
    if kind == "any":
        end = time.monotonic() + rng.uniform(0, undisturbed["seconds"])
        wait_for(process, lambda: time.monotonic() > end)
    elif kind == "step":
        lines = num_lines(log) + rng.randint(1, 3)
        wait_for(process, lambda: num_lines(log) >= lines)
    elif kind == "save":
        lines = num_lines(log) + rng.randint(0, 2)
        wait_for(process, lambda: num_lines(log) > lines and (state / "writing").exists())
        time.sleep(rng.uniform(0, 0.02))
    else:
        last = state / f"step-{undisturbed['log'][-1]['step']:06d}"
        wait_for(process, last.exists)
        time.sleep(rng.uniform(0, 1))


def damage(out: Path, rng: random.Random) -> bool:
    """Cut, change or remove a file of the newest state, if there is one before it."""
    states = checkpoint.folders(out / "state")
    if len(states) < 2:
        return False
    path = rng.choice(sorted(states[-1].iterdir()))
    body = bytearray(path.read_bytes())
    harm = rng.choice(("cut", "change", "remove"))
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(body[: rng.randrange(len(body))])
    else:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        path.write_bytes(body)
    return True


def trial(
    verb: str, life: Path, out: Path, undisturbed: Any, moments: list[str], harm: bool, rng: random.Random
) -> dict[str, Any]:
    """Kill a run at these moments, those that come after its end left out; `harm` its newest state; let it finish."""
    kills, in_save = [], 0
    for kind in moments:
        process = start(verb, life, out)
        wait_for_moment(kind, process, out, undisturbed, rng)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL or (out / "meta.json").exists():
            break
        kills.append(kind)
        in_save += (out / "state" / "writing").exists()
    damaged = harm and not (out / "meta.json").exists() and damage(out, rng)
    code = finish(verb, life, out)
    same = code == 0 and ends_with(out) == undisturbed["end"]
    told = " is damaged (" in said(out)
    return {"kills": kills, "in_save": in_save, "damaged": damaged, "told": told, "code": code, "identical": same}


def undisturbed_life(life: Path) -> dict[str, Any]:
    make = [sys.executable, "-m", "nightschool", "tokenizer", "--documents", "400", "--out", str(life / "tokenizer")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(make, env=environment, check=True, capture_output=True)
    found = {}
    for verb in STAGES:
        began = time.monotonic()
        assert finish(verb, life, life / verb) == 0, said(life / verb)
        seconds, end = time.monotonic() - began, ends_with(life / verb)
        found[verb] = {"seconds": seconds, "end": end, "log": end["log"]}
        print(f"{verb}: undisturbed in {seconds:.1f} s", file=sys.stderr, flush=True)
    return found


def full_disks(life: Path, undisturbed: Any, c: Config) -> list[dict[str, Any]]:
    """In a name space of its own: pretrain on a disk that is full, then on the same with room."""
    disk = life.parent / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)], check=True)
    rng, tried = random.Random(f"full {c.seed}"), []
    for i in range(c.full):
        out, ballast = disk / f"run-{i}", disk / "ballast"
        ballast.write_bytes(bytes(DISK_MB * 2**20 - rng.randrange(2**20, 24 * 2**20)))
        code = finish("pretrain", life, out)
        full = code == 2 and "No space left on device" in said(out)
        steps = num_lines(out / "metrics.jsonl")
        ballast.unlink()
        again = finish("pretrain", life, out)
        same = again == 0 and ends_with(out) == undisturbed["end"]
        tried.append({"full": full, "steps_before": steps, "code": again, "identical": same})
        shutil.rmtree(out)
        out.with_suffix(".log").unlink()
    return tried


def on_a_full_disk(life: Path, c: Config) -> list[dict[str, Any]] | str:
    """The trials on a full disk, or why there are none."""
    again = [sys.executable, __file__, "--inside", str(life), "--full", str(c.full), "--seed", str(c.seed)]
    done = subprocess.run(["unshare", "-rm", *again], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else f"not tried: {done.stderr.strip().splitlines()[-1]}"


def main(c: Config) -> Any:
    if c.inside:
        return full_disks(c.inside, runs.read_json(c.inside / "undisturbed.json")["pretrain"], c)
    arms: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        life = Path(folder) / "life"
        life.mkdir()
        undisturbed = undisturbed_life(life)
        runs.write_json(life / "undisturbed.json", undisturbed)
        arms["full disk"] = on_a_full_disk(life, c) if c.full else []
        for verb in STAGES:
            rng, trials = random.Random(f"{verb} {c.seed}"), list[dict[str, Any]]()
            while (left := -(-c.kills // len(STAGES)) - sum(len(t["kills"]) for t in trials)) > 0:
                first = KILLS_A_TRIAL * len(trials)
                moments = [MOMENTS[(first + i) % len(MOMENTS)] for i in range(min(left, KILLS_A_TRIAL))]
                out = Path(folder) / f"{verb}-{len(trials)}"
                trials.append(trial(verb, life, out, undisturbed[verb], moments, len(trials) % 2 == 0, rng))
                print(verb, json.dumps(trials[-1]), file=sys.stderr, flush=True)
                if trials[-1]["identical"]:
                    shutil.rmtree(out)
            arms[verb] = trials
    return runs.publish(RESULTS, arms, bars_of(arms), [c.seed], threads=1, dtype="float32")


def bars_of(arms: dict[str, Any]) -> list[dict[str, Any]]:
    trials = [t for verb in STAGES for t in arms[verb]]
    kills = [(kind, t["identical"]) for t in trials for kind in t["kills"]]
    damaged = [t for t in trials if t["damaged"]]
    full = arms["full disk"] if isinstance(arms["full disk"], list) else []
    shares = {
        "kills survived, the end bit-identical": [same for _, same in kills],
        "damaged states named, the one before taken, the end bit-identical": [
            t["identical"] and t["told"] for t in damaged
        ],
        "full disks named, and the end bit-identical": [t["full"] and t["identical"] for t in full],
    }
    bars = []
    for name, held in shares.items():
        if held:
            bars.append({"name": name, **diversity.share(sum(held), len(held)), "n": len(held), "bar": 1.0})
            bars[-1]["holds"] = all(held)
    counts = {"kills": len(kills), "in the midst of a save": sum(t["in_save"] for t in trials)}
    for name, least in (("kills", 50), ("in the midst of a save", 5)):
        number = counts[name]
        bars.append({"name": name, "value": number, "low": number, "high": number, "bar": least})
        bars[-1]["holds"] = number >= least
    return bars


if __name__ == "__main__":
    print(json.dumps(main(config.parse(Config, sys.argv[1:], prog="bench/resume.py"))))
