"""Out of memory: smaller parts first, then activations twice, then a line that names the mend. Memory is pretended."""

import pytest
import torch

from nightschool.config import UserError
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.text.packing import Batch
from nightschool.train.fit import fit, prepare
from nightschool.train.loop import backward
from nightschool.train.losses import Losses, next_token


def model() -> Transformer:
    made = Transformer(ModelConfig(61, 16, 24, 2, 2, 1, 8, 32))
    g = torch.Generator().manual_seed(0)
    for p in made.parameters():
        p.data.normal_(float(p.ndim == 1), 0.2, generator=g)
    return made


def batch(rows: int = 8, length: int = 16) -> Batch:
    ids = torch.randint(61, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones(rows, length), (torch.arange(length) // 5).expand(rows, length))


def memory(kept: int, recomputed: int):  # type: ignore[no-untyped-def]
    """A loss in a memory that holds so many positions, or so many where activations are computed twice."""

    def loss(model: Transformer, micro: Batch) -> Losses:
        if micro.ids.numel() > (recomputed if model.model.recompute else kept):
            raise torch.OutOfMemoryError("pretended")
        return next_token(model, micro)

    return loss


@pytest.mark.parametrize(
    ("kept", "recomputed", "expected", "twice"),
    [(999, 999, 128, False), (70, 999, 64, False), (20, 999, 128, True), (0, 40, 32, True), (0, 16, 16, True)],
)
def test_halves_then_recomputes(
    kept: int, recomputed: int, expected: int, twice: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    made = model()
    assert fit(made, memory(kept, recomputed), batch(), least=32) == expected
    assert made.model.recompute == twice
    assert all(p.grad is None for p in made.parameters())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == int(twice or expected < 128)


def test_too_large_is_named() -> None:
    with pytest.raises(UserError, match="--depth below 2"):
        fit(model(), memory(0, 15), batch())


def test_a_cpu_takes_it_as_it_is() -> None:
    assert prepare(model(), memory(0, 0), iter([])) > 1024


def test_recomputing_leaves_the_gradient_as_it_is() -> None:
    kept, twice = model(), model()
    twice.model.recompute = True
    for made in (kept, twice):
        backward(made, next_token, [batch()])
    for a, b in zip(kept.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.gpu
def test_a_gpu_step_equals_a_cpu_step() -> None:
    here, there = model(), model().to("cuda")
    assert prepare(there, next_token, iter([batch()])) >= 16
    for made in (here, there):
        backward(made, next_token, [batch()])
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad.cpu(), rtol=1e-2, atol=1e-4)
