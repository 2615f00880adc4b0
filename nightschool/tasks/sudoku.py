"""Sudoku of 4 x 4: fill the empty cells, a line a cell, in any order: "b3=4" is row b, column 3.

There are 288 filled grids, so what a puzzle allows is read off a list. Every puzzle has one solution; a line is right
if it fills an empty cell as that one does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import permutations, product

from nightschool.tasks.task import Verdict, lines_of
from nightschool.text.document import Message
from nightschool.world.problem import Problem, Split, split_of

EMPTY = 8  # cells
CELLS = [f"{row}{column}" for row in "abcd" for column in "1234"]


@cache
def grids() -> tuple[str, ...]:
    """All filled grids, row after row: each digit once in every row, column and quarter."""
    rows = ["".join(p) for p in permutations("1234")]

    def fits(grid: tuple[str, ...]) -> bool:
        quarters = (grid[r][c : c + 2] + grid[r + 1][c : c + 2] for r in (0, 2) for c in (0, 2))
        columns = ("".join(row[c] for row in grid) for c in range(4))
        return all(len(set(part)) == 4 for part in (*columns, *quarters))

    return tuple("".join(grid) for grid in product(rows, repeat=4) if fits(grid))


def solutions(puzzle: str) -> list[str]:
    """The filled grids that agree with a puzzle, "." an empty cell."""
    return [grid for grid in grids() if all(p in (".", g) for p, g in zip(puzzle, grid, strict=True))]


def sudoku(rng: random.Random, split: Split) -> Problem:
    while True:
        grid = rng.choice(grids())
        empty = rng.sample(range(16), EMPTY)
        puzzle = "".join("." if i in empty else digit for i, digit in enumerate(grid))
        if len(solutions(puzzle)) == 1 and split_of(f"sudoku {puzzle}") == split:
            break
    shown = "\n".join(f"{row} {puzzle[4 * i : 4 * i + 4]}" for i, row in enumerate("abcd"))
    return Problem(
        skill="sudoku",
        kind=f"empty_{EMPTY}",
        key=f"sudoku {puzzle}",
        question=f"Fill the empty cells with 1 to 4.\n{shown}",
        answer=" ".join(grid[i : i + 4] for i in range(0, 16, 4)),
        steps=tuple(f"{CELLS[i]}={grid[i]}" for i in sorted(empty)),
        data={"puzzle": puzzle},
    )


def verify_sudoku(problem: Problem, transcript: Sequence[Message]) -> Verdict:
    said = [line.strip() for line in lines_of(transcript)]
    grid = problem.answer.replace(" ", "")
    left = {CELLS[i]: grid[i] for i, p in enumerate(problem.data["puzzle"]) if p == "."}
    closing = f"Answer: {problem.answer}"
    outcome = float(bool(said) and said[-1] == closing)
    for place, line in enumerate(said):
        cell, _, digit = line.partition("=")
        if not left and line == closing and place == len(said) - 1:
            return Verdict(outcome, (True,) * len(said))
        if left.get(cell) != digit:
            feedback = f"{cell} is {left[cell]}" if cell in left else f"{cell} is no empty cell"
            break
        del left[cell]
    else:
        place, feedback = len(said), "stops before the answer"
    return Verdict(outcome, tuple(i < place for i in range(len(said))), place, f"line {place + 1}: {feedback}")
