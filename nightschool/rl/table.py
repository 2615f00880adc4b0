"""What a judge said, held against what is true: a table, its measures, and what is alarming about them.

Sources: Youden's J of a noisy verifier decides between learning slowly and collapse, see 2510.00915; EWMA charts
(Roberts 1959).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from nightschool.rl.credit import reached
from nightschool.rl.judge import marks
from nightschool.tasks.attempt import Attempt

BOUNDS = {"gap": (1, 0.05), "precision": (-1, 0.8), "J": (-1, 0.5)}  # which way is bad, and from where
FADE = 0.8  # what a table counts one window later
ENOUGH = 8  # attempts that a share must be of


@dataclass(frozen=True)
class Table:
    """What was measured, by what the judge said and what is true; earlier windows count less."""

    right: float = 0.0  # judged right, and right
    fooled: float = 0.0  # judged right, and wrong
    missed: float = 0.0  # judged wrong, and right
    wrong: float = 0.0

    def plus(self, judged: Sequence[bool], true: Sequence[bool]) -> Table:
        pairs = list(zip(judged, true, strict=True))
        cells = ((True, True), (True, False), (False, True), (False, False))
        return Table(*(n + pairs.count(cell) for n, cell in zip(astuple(self), cells, strict=True)))

    def faded_into(self, window: Table) -> Table:
        return Table(*(FADE * old + new for old, new in zip(astuple(self), astuple(window), strict=True)))

    def measures(self) -> dict[str, tuple[float, float]]:
        """gap, precision and J, each where there is enough to tell, with its standard error."""
        said, good, bad = self.right + self.fooled, self.right + self.missed, self.fooled + self.wrong
        found = {}
        if good + bad >= ENOUGH:
            found["gap"] = (
                (self.fooled - self.missed) / (good + bad),
                (self.fooled + self.missed) ** 0.5 / (good + bad),
            )
        if said >= ENOUGH:
            p = self.right / said
            found["precision"] = p, (p * (1 - p) / said) ** 0.5
        if min(good, bad) >= ENOUGH:
            p, q = self.right / good, self.fooled / bad
            found["J"] = p - q, (p * (1 - p) / good + q * (1 - q) / bad) ** 0.5
        return found

    @property
    def row(self) -> dict[str, float]:
        return {name: value for name, (value, _) in self.measures().items()}

    def alarm(self) -> str:
        """What is bad, or ""."""
        found = ((name, *BOUNDS[name], *both) for name, both in self.measures().items())
        return ", ".join(
            f"{name} {value:.2f}" for name, sign, bound, value, error in found if sign * (value - bound) > error
        )


def by_line(judged: Sequence[Attempt], true: Sequence[Attempt]) -> Table:
    """The same table of lines: those that came to be judged, up to the first error of either."""
    pairs = [
        (i < reached(a) or a.verdict.first_error is None, right)
        for a, b in zip(judged, true, strict=True)
        for i, right in enumerate(marks(b)[: reached(a) + 1])
    ]
    return Table().plus([said for said, _ in pairs], [right for _, right in pairs])
