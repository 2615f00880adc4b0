"""The machine: threads, the allocator, and which number format it is fast in. Nothing happens at import.

But: macOS runs on the CPU (untried).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch

from nightschool.config import UserError
from nightschool.runs import Run

Dtype = Literal["auto", "bfloat16", "float32"]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Device:
    type: str  # "cpu" or "cuda"
    name: str  # as the maker calls it
    threads: int
    dtype: torch.dtype  # to compute in; parameters are float32

    @property
    def facts(self) -> dict[str, Any]:
        """For meta.json."""
        return {"device": self.name, "threads": self.threads, "dtype": str(self.dtype).removeprefix("torch.")}


def set_up(threads: int = 0, dtype: str = "auto") -> Device:
    """Prepare this process. `threads` 0 = one a core; `dtype` auto = the faster of bfloat16 and float32 here.

    Raises UserError for a dtype we do not know.
    """
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype must be auto, {' or '.join(DTYPES)}; got {dtype!r}")
    if threads < 0:
        raise UserError(f"threads must be at least 0; got {threads}")
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    torch.set_flush_denormal(True)  # decayed averages of rare tokens end there, and are slow there
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = DTYPES[dtype] if dtype != "auto" else faster_dtype(kind)
    return Device(kind, device_name(kind), torch.get_num_threads(), chosen)


def set_up_for(run: Run, threads: int, dtype: str) -> Device:
    """`set_up`; a dtype that a probe found is the run's own from then on, for when it goes on elsewhere."""
    return set_up(threads, run.settle("dtype", lambda: set_up(threads, dtype).facts["dtype"]))


def place() -> torch.device:
    """Where models live and batches go: the current GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: by default each large tensor is mapped, zeroed page by page and unmapped anew,
    which costs 10-17% of a training step. Other C libraries are left alone. Source: mallopt(3)."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 26)


def faster_dtype(kind: str, seconds: float = 0.25) -> torch.dtype:
    """bfloat16 where a matrix product in it beats float32: without the instructions for it, it loses."""
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return max(DTYPES.values(), key=lambda dtype: products_per_second(dtype, seconds))


def products_per_second(dtype: torch.dtype, seconds: float, size: int = 512) -> float:
    """Products of two size x size matrices a second on the CPU: the median of the samples `seconds` allows."""
    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    a @ b  # the first call builds the kernel
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        samples.append(time.perf_counter() - start)
    return 1 / sorted(samples)[len(samples) // 2]


def device_name(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def process_seconds() -> float:
    """Seconds since this process started, imports included; off Linux, of its own CPU time (a lower bound)."""
    if sys.platform != "linux":
        return time.process_time()
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])  # since boot; proc(5), starttime
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_gb() -> float:
    """The most memory that this process held at a time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "linux" else 1 << 30)
