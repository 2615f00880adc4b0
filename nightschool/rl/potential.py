"""What an unfinished attempt is worth: values for `credit.potential`, one before each line and one before the stop.

    value        a linear head on the model's hidden states, fitted anew at each update in closed form, to each group's
                 attempts on those of the others: never on its own outcome, and no state that a kill could lose
    monte_carlo  the share of right answers among so many continuations from there

Any other function of attempts of this type is a potential as well. Sources: the critic of PPO (1707.06347), VinePPO
(2410.01679).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import torch

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl.credit import line_of_tokens
from nightschool.tasks.attempt import Attempt, resume
from nightschool.tasks.task import Task
from nightschool.text.packing import Item, collate
from nightschool.text.tokenizer import Tokenizer

Values = list[list[list[float]]]  # [group][attempt][line], the last entry is before the stop
RIDGE = 1.0  # pull of the head towards the mean; features have unit variance


def starts_of_lines(tokenizer: Tokenizer, attempt: Attempt) -> list[int]:
    """How many of the completion's tokens stand before each line and before the stop; what is never reached begins
    at the end."""
    lines = line_of_tokens(tokenizer, attempt)
    first = {line: place for place, line in reversed(list(enumerate(lines)))}
    return [first.get(i, len(lines)) for i in range(len(attempt.verdict.steps) + 1)]


def in_groups(groups: Sequence[Sequence[Attempt]], flat: Iterable[float]) -> Values:
    values = iter(flat)
    return [[[next(values) for _ in range(len(a.verdict.steps) + 1)] for a in group] for group in groups]


@torch.no_grad()
def value(model: Transformer, tokenizer: Tokenizer, groups: Sequence[Sequence[Attempt]]) -> Values:
    """Leave one group out, fit outcome ~ hidden state of the token before each line on the rest, apply."""
    attempts = [a for group in groups for a in group]
    rows = [
        [*a.completion.prompt_ids, *a.completion.ids, tokenizer.end_of_text] for a in attempts
    ]  # all but it: inputs
    longest = -(-max(len(row) - 1 for row in rows) // 32) * 32  # few shapes: see losses.learned
    items = [[Item(row, [1.0] * len(row))] for row in rows]
    batch = collate(items, longest, tokenizer.end_of_text, packed=False)
    hidden = model.hidden(batch.ids.to(model.lm_head.weight.device)).cpu()
    places = [
        (row, len(a.completion.prompt_ids) + start - 1)
        for row, a in enumerate(attempts)
        for start in starts_of_lines(tokenizer, a)
    ]
    x = hidden[[row for row, _ in places], [token for _, token in places]].double()
    x = torch.cat(((x - x.mean(0)) / (x.std(0) + 1e-6), x.new_ones(len(x), 1)), dim=1)
    y = torch.tensor([attempts[row].verdict.outcome for row, _ in places], dtype=x.dtype)
    pull = RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    pull[-1, -1] = 1e-6  # the mean is free
    gram, cross, fitted, at = x.T @ x + pull, x.T @ y, torch.empty_like(y), 0
    for group in groups:
        own = slice(at, at := at + sum(len(a.verdict.steps) + 1 for a in group))
        head = torch.linalg.solve(gram - x[own].T @ x[own], cross - x[own].T @ y[own])
        fitted[own] = (x[own] @ head).clamp(0, 1)
    return in_groups(groups, fitted.tolist())


def monte_carlo(
    engine: Engine, task: Task, groups: Sequence[Sequence[Attempt]], sampling: Sampling, copies: int
) -> tuple[Values, int]:
    """Continue from before each line `copies` times -> values, and tokens sampled for them. Equal beginnings share
    their continuations; where an attempt was cut off, there is none and its outcome stands."""
    tokenizer = engine.tokenizer
    begun: dict[tuple[int, ...], tuple[Attempt, int]] = {}
    worth: list[float | tuple[int, ...]] = []  # of each place: its outcome, or the ids before it
    for a in (a for group in groups for a in group):
        for start in starts_of_lines(tokenizer, a):
            ids = (*a.completion.prompt_ids, *a.completion.ids[:start])
            cut = start == len(a.completion.ids)
            worth.append(a.verdict.outcome if cut else ids)
            if not cut:
                begun.setdefault(ids, (a, start))
    tails = resume(engine, task, list(begun.values()), sampling, copies)
    value_of = {
        ids: fmean(tail.verdict.outcome for tail in tails[i * copies : (i + 1) * copies]) for i, ids in enumerate(begun)
    }
    num_sampled = sum(
        sum(tail.completion.mask[start:])
        for i, (_, start) in enumerate(begun.values())
        for tail in tails[i * copies : (i + 1) * copies]
    )
    values = in_groups(groups, (w if isinstance(w, float) else value_of[w] for w in worth))
    return values, num_sampled
