"""Data sets of the Hugging Face hub, whole on disk before anything else starts.

`hub:owner/name/pattern` names those files of a data set whose path fits the pattern, or one of DATASETS by its short
name. huggingface_hub fetches (its resume, hashes and retries; HF_ENDPOINT, HF_HOME and HF_TOKEN are its own); here is
what it leaves to the caller: to say how much there is to fetch, to have room for it, to go on after what it gives up
on, and never to hand over less than was asked for.
With HF_HUB_OFFLINE=1 what is on disk is taken as it is.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import constants, errors

from nightschool.config import UserError, closest

T = TypeVar("T")
PREFIX = "hub:"
DATASETS = {  # what the real run learns from: short name -> owner/name/pattern
    "climbmix": "karpathy/climbmix-400b-shuffle/shard_000??.parquet",  # the first 100 of 6,543, as nanochat has them
    "fineweb-edu": "HuggingFaceFW/fineweb-edu/sample/10BT/*.parquet",
    "smoltalk": "HuggingFaceTB/smol-smoltalk/data/train-*.parquet",
    "gsm8k": "openai/gsm8k/main/train-*.parquet",
    "gsm8k-test": "openai/gsm8k/main/test-*.parquet",
}
FINAL = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)  # gated: the first
WAITS = (1.0, 5.0, 30.0, 120.0)  # seconds before each further try


def fetch(source: str, waits: tuple[float, ...] = WAITS) -> list[Path]:
    """All files of a hub source, on disk. UserError where there is no such data set, file, room or network."""
    name = source.removeprefix(PREFIX)
    owner, _, rest = DATASETS.get(name, name).partition("/")
    repo, _, pattern = rest.partition("/")
    if not (owner and repo and pattern):
        known = f"hub:owner/name/pattern, or hub: and one of {', '.join(DATASETS)}"
        raise UserError(f"{source} must be {known}{closest(name, list(DATASETS))}")

    def snapshot(**how: Any) -> Any:
        repo_id = f"{owner}/{repo}"
        return huggingface_hub.snapshot_download(repo_id, repo_type="dataset", allow_patterns=[pattern], **how)

    def patiently(act: Callable[[], T]) -> T:
        """Again after each wait, unless the hub has said no."""
        for wait in (*waits, None):
            try:
                return act()
            except Exception as error:  # of the system, of httpx, of the library: they have no class in common
                if isinstance(error.__cause__ or error, FINAL):
                    raise UserError(f"{source}: {reason(error)}") from None
                if wait is None:
                    mend = "what came is kept: the same command goes on"
                    raise UserError(
                        f"cannot fetch {source} from {constants.ENDPOINT} ({reason(error)}); {mend}"
                    ) from None
                say(f"{source}: {reason(error)}; again in {wait:g} s")
                time.sleep(wait)
        raise AssertionError

    if constants.HF_HUB_OFFLINE:
        waits = ()
        root = Path(patiently(lambda: snapshot(local_files_only=True)))
        return sorted(p for p in root.rglob("*") if p.is_file() and fnmatch(p.relative_to(root).as_posix(), pattern))
    files = patiently(lambda: snapshot(dry_run=True))
    sizes = [file.file_size or 0 for file in files if file.will_download]
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if sum(sizes) > free:
        raise UserError(f"{source} needs {gigabytes(sum(sizes))} more, and {gigabytes(free)} are free; see HF_HOME")
    if sizes:
        say(f"{source}: {len(sizes)} of {len(files)} files are missing, {gigabytes(sum(sizes))} to fetch")
    root = Path(patiently(lambda: snapshot(revision=files[0].commit_hash))) if files else Path()
    return sorted(root / file.filename for file in files)


def gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"


def reason(error: BaseException) -> str:
    """The first line of what an error, or the one behind it, says."""
    error = error.__cause__ or error
    return next(iter(str(error).splitlines()), type(error).__name__)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
