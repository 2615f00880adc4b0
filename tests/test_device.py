"""Setting up the machine."""

import subprocess
import sys

import pytest
import torch

from nightschool import device
from nightschool.config import UserError


def test_set_up_says_what_it_chose() -> None:
    before = torch.get_num_threads()
    chosen = device.set_up(threads=1, dtype="float32")
    torch.set_num_threads(before)
    assert (chosen.threads, chosen.dtype) == (1, torch.float32)
    assert chosen.name


@pytest.mark.parametrize(("threads", "dtype"), [(-1, "auto"), (0, "int8")])
def test_wrong_values_are_named(threads: int, dtype: str) -> None:
    with pytest.raises(UserError, match=str(threads) if threads else dtype):
        device.set_up(threads, dtype)


def test_the_probe_takes_the_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {torch.bfloat16: 1.0, torch.float32: 2.0}
    monkeypatch.setattr(device, "products_per_second", lambda dtype, seconds: speeds[dtype])
    assert device.faster_dtype("cpu") == torch.float32
    speeds[torch.bfloat16] = 3.0
    assert device.faster_dtype("cpu") == torch.bfloat16


def test_the_probe_is_short() -> None:
    assert device.products_per_second(torch.float32, seconds=0.01) > 0


def test_import_changes_nothing() -> None:
    code = "import torch; n = torch.get_num_threads(); import nightschool.device; assert n == torch.get_num_threads()"
    subprocess.run([sys.executable, "-c", code], check=True)
