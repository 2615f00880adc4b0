from pathlib import Path
from typing import Any


def write(folder: Path, about: str, result: dict[str, Any]) -> None:
    pass
