"""Wrong input gets one line that names the mend, and exit code 2."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

import nightschool.__main__ as program
from nightschool.config import Stopped, UserError, at_least, parse
from nightschool.runs import Costs


@dataclass(frozen=True)
class Config:
    """Walk the dog."""

    out: Path = Path("out")  # where the run goes
    depth: int = 4  # layers
    rate: float | None = None  # learning rate; None = from the plan
    kind: Literal["long", "short"] = "long"  # which walk
    sizes: tuple[int, ...] = (1, 2)  # of the dogs
    num_steps: int = 3  # there and back
    fast: bool = False  # hurry
    costs: Costs = Costs()

    def __post_init__(self) -> None:
        at_least(self, 1, "depth", "num_steps")
        at_least(self, 0, "rate")


def read(*argv: str) -> Config:
    return parse(Config, list(argv), "nightschool walk")


def test_flags_over_toml_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "walk.toml"
    file.write_text('depth = 6\nfast = true\nnum_steps = 9\nsizes = [3, 4, 5]\nout = "a b"\n[costs]\nwatts = 20\n')
    assert read() == Config()
    config = read(str(file), "--num-steps", "7", "--rate", "0.5")
    assert config == Config(Path("a b"), 6, 0.5, "long", (3, 4, 5), 7, True, Costs(watts=20))
    assert read("--num_steps=5", "--costs.watts", "3", "--no-fast").costs.watts == 3


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("--dept 3", "unknown field --dept; did you mean --depth?"),
        ("--dpth=3", "unknown field --dpth; did you mean --depth?"),
        ("--xyzzy 3", "unknown field --xyzzy; see nightschool walk --help"),
        ("--costs.wats 3", "unknown field --costs.wats; did you mean --costs.watts?"),
        ("--no-fats", "unknown field --no-fats; did you mean --no-fast?"),
        (
            "--depth x",
            "Error parsing --depth: invalid literal for int() with base 10: 'x'; see nightschool walk --help",
        ),
        ("--depth", "Missing value for argument '--depth'. Expected 1 values; see nightschool walk --help"),
        ("--depth 4.5", "Error parsing --depth: invalid literal for int() with base 10: '4.5'"),
        ("--kind c", "invalid choice 'c' for argument '--kind'. Expected one of ('long', 'short')"),
        ("--fast yes", "Unrecognized options: yes"),
        ("stray", "Unrecognized options: stray"),
        ("--depth -3", "depth must be at least 1; got -3"),
        ("--rate nan", "rate must be at least 0; got nan"),
        ("none.toml", "cannot read none.toml as TOML: [Errno 2] No such file or directory: 'none.toml'"),
        (".toml", "cannot read .toml as TOML"),
    ],
)
def test_one_line_for_a_mistake(argv: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        read(*argv.split())
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"depht = 3", "unknown field --depht; did you mean --depth?"),
        (b"depth = 'many'", "Error parsing --depth: invalid literal for int() with base 10: 'many'"),
        (b"depth = ", "Invalid value"),
        (b"\xff\xfe\x00", "'utf-8' codec can't decode"),
        (b"[costs]\nwats = 3", "unknown field --costs.wats; did you mean --costs.watts?"),
    ],
)
def test_one_line_for_a_wrong_file(tmp_path: Path, text: bytes, line: str) -> None:
    file = tmp_path / "walk.toml"
    file.write_bytes(text)
    with pytest.raises(UserError) as error:
        read(str(file))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_help_has_the_comment_of_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read("--help")
    assert not end.value.code
    said = capsys.readouterr().out
    for words in (
        "Walk the dog",
        "where the run goes",
        "None = from the plan",
        "--costs.watts",
        "(default: 4)",
    ):
        assert words in said


def ends(monkeypatch: pytest.MonkeyPatch, argv: list[str], main: Any) -> int:
    """Run the program with a stage `chat` whose main is given."""
    stage = SimpleNamespace(Config=Config, main=main)
    monkeypatch.setattr(program.importlib, "import_module", lambda name: stage)
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)
    return program.main(argv)


def raising(error: BaseException) -> Any:
    def main(config: Config) -> None:
        raise error

    return main


def test_the_last_line_is_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(monkeypatch, ["chat", "--depth", "5"], lambda config: {"depth": config.depth}) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"depth": 5}
    assert ends(monkeypatch, ["chat"], lambda config: None) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("argv", "error", "code", "line"),
    [
        ([], None, 2, "which verb? one of quickstart "),
        (["quickstrat"], None, 2, "unknown verb 'quickstrat'; did you mean quickstart?"),
        (["--depth"], None, 2, "unknown verb '--depth'; see nightschool --help"),
        (["chat", "--dept", "3"], None, 2, "unknown field --dept; did you mean --depth?"),
        (
            ["chat"],
            UserError("no run in x; run `nightschool sft` first"),
            2,
            "no run in x; run `nightschool sft` first",
        ),
        (
            ["chat"],
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            2,
            "No space left on device: a/b; free",
        ),
        (
            ["chat"],
            OSError(errno.EROFS, "Read-only file system", "a"),
            2,
            "Read-only file system: a; choose a folder",
        ),
        (["chat"], OSError(errno.EADDRINUSE, "Address in use"), 2, "Address in use; choose another --port"),
        (
            ["chat", "--out", "a b"],
            KeyboardInterrupt(),
            130,
            "stopped; to go on: nightschool chat --out 'a b'",
        ),
        (["chat"], Stopped(signal.SIGTERM), 143, "stopped; to go on: nightschool chat"),
    ],
)
def test_how_the_program_ends(
    argv: list[str],
    error: BaseException | None,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ends(monkeypatch, argv, raising(error) if error else lambda config: None) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip().removeprefix("nightschool: ").startswith(line)
    assert "\n" not in said.err.strip()


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        ends(monkeypatch, ["chat"], raising(FileNotFoundError(errno.ENOENT, "No such file", "x")))


def test_help_is_instant_and_needs_no_torch() -> None:
    code = "import sys; from nightschool.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in program.VERBS)


def test_every_verb_has_its_stage() -> None:
    folder = Path(program.__file__).parent / "stages"
    names = {verb: f"{verb}{'_' * iskeyword(verb)}.py" for verb in program.VERBS if verb != "lab"}
    assert {verb for verb, name in names.items() if not (folder / name).exists()} == set()
    assert all((folder.parent / "lab" / f"{name}.py").exists() for name in program.LABS)
