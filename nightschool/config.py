"""What every verb shares at its door: the one error a caller sees, the parser, checks on a config's fields.

A config is a frozen dataclass. Its fields come from the command line over a TOML file over the defaults; the
comment beside a field is its help. tyro reads the values, and what it complains of is brought to one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

C = TypeVar("C")


class UserError(Exception):
    """The caller's mistake: one line that names the mend. The program prints it and exits with code 2."""


class BelowBar(Exception):
    """The work is done and its result below the bar that the caller set: the headline is printed, exit code 1."""

    def __init__(self, line: str, headline: dict[str, Any]) -> None:
        super().__init__(line)
        self.headline = headline


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end; whoever raises it has saved what there was to save."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def at_least(config: Any, minimum: float, *names: str) -> None:
    """Refuse a field below its minimum, by name and value."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= minimum:
            raise UserError(f"{name} must be at least {minimum:g}; got {value!r}")


def closest(word: str, words: list[str]) -> str:
    """'; did you mean WORD?' for the nearest of the words, or '' where none is near."""
    near = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def parse(config: type[C], argv: list[str], prog: str) -> C:
    """`[FILE.toml] [--field value ...]` -> a config. UserError for anything unknown or of the wrong type."""
    import tyro  # here, so that modules which only raise errors start fast

    if argv and argv[0].endswith(".toml"):
        argv = [*read_toml(Path(argv[0])), *argv[1:]]  # the last value wins
    known = [*field_names(config), "--help"]
    for arg in argv:
        name = arg.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            raise UserError(f"unknown field {name}{closest(name, known) or f'; see {prog} --help'}")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return tyro.cli(config, args=argv, prog=prog)
        except SystemExit as end:
            if not end.code:  # --help
                raise
    raise UserError(f"{condense(said.getvalue())}; see {prog} --help")


def read_toml(path: Path) -> list[str]:
    """A TOML file as command-line flags: `depth = 4` -> --depth 4; a table holds a nested dataclass."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read {path} as TOML: {error}") from None
    return to_flags(table)


def to_flags(table: dict[str, Any], prefix: str = "") -> list[str]:
    flags: list[str] = []
    for key, value in table.items():
        name = f"{prefix}{key.replace('_', '-')}"
        if isinstance(value, dict):
            flags += to_flags(value, f"{name}.")
        elif isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, list) else [value]
            flags += [f"--{name}", *map(str, values)]
    return flags


def field_names(config: type, prefix: str = "") -> list[str]:
    """The flags of a dataclass: `--depth`, `--costs.watts`; a bool has its `--no-` too."""
    names: list[str] = []
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(hints[field.name]):
            names += field_names(hints[field.name], f"{name}.")
        else:
            names += [f"--{name}", f"--no-{name}"] if hints[field.name] is bool else [f"--{name}"]
    return names


def condense(box: str) -> str:
    """tyro's framed complaint -> its first paragraph on one line."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith("╭")]
    rule = next((i for i, line in enumerate(lines) if set(line) <= {"─", "╰", "╯"}), len(lines))
    return " ".join(lines[:rule]).strip().removesuffix(".")
