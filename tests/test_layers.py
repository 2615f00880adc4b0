"""A folder imports only from those above it in the reading order."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nightschool"
ORDER = ["config", "ranks", "runs", "device", "text", "world", "model", "train"]
ORDER += ["tasks", "rl", "night", "serve", "stages", "lab", "__main__"]
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(module: str) -> str:
    return module.removeprefix("nightschool.").partition(".")[0]


def imported(source: str) -> set[str]:
    """The modules of ours that a source imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "nightschool" else {module}
    return {name for name in found if name.startswith("nightschool.")}


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])
def test_imports_only_from_above(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    for module in imported(path.read_text()):
        assert layer(module) in ORDER, f"{module} has no place in the reading order"
        assert ORDER.index(layer(module)) <= ORDER.index(own), f"{path.name} imports {module}, which comes later"


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])
def test_nothing_happens_at_import(path: Path) -> None:
    """At the top of a module no call stands alone: no banner, no mkdir, no settings."""
    for node in ast.parse(path.read_text()).body:
        assert not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)), ast.unparse(node)
