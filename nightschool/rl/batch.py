"""Groups of attempts with their credit -> what the update takes. The prompt and what tools said have weight 0; a line
that the world puts in place of a wrong one is an item of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from nightschool.rl.credit import reached, spread
from nightschool.rl.potential import starts_of_lines
from nightschool.tasks.attempt import Attempt
from nightschool.text.packing import Batch, Item, collate
from nightschool.text.tokenizer import Tokenizer

Average = Literal["credited", "token", "sequence"]
Groups = list[list[Attempt]]
Credits = list[list[list[float]]]  # [group][attempt][line]


def to_item(tokenizer: Tokenizer, attempt: Attempt, credit: Sequence[float], average: Average = "credited") -> Item:
    """An attempt with its per-token streams. The prompt has weight 0."""
    made, prompt = attempt.completion, [0.0] * len(attempt.completion.prompt_ids)
    adv = spread(tokenizer, attempt, credit)
    share = {
        "credited": [float(a != 0) for a in adv],
        "token": [1.0] * len(adv),
        "sequence": [1 / max(sum(made.mask), 1)] * len(adv),
    }[average]
    return Item(
        made.prompt_ids + made.ids,
        prompt + [float(m) for m in made.mask],
        {
            "adv": prompt + adv,
            "old_logp": prompt + made.log_probs,
            "share": prompt + share,
            "ce_weight": [0.0] * (len(prompt) + len(adv)),
        },
    )


def to_items(tokenizer: Tokenizer, groups: Groups, credits: Credits, average: Average, drop_even: bool) -> list[Item]:
    """drop_even: leave out groups that credit does not move; at least one item stays."""
    return [
        to_item(tokenizer, a, earned, average)
        for group, given in zip(groups, credits, strict=True)
        for a, earned in zip(group, given, strict=True)
        if not drop_even or any(any(line) for line in given)
    ] or [to_item(tokenizer, groups[0][0], credits[0][0])]


def to_replay(item: Item) -> Item:
    zero = [0.0] * len(item.ids)
    return Item(item.ids, item.mask, {"adv": zero, "old_logp": zero, "share": zero, "ce_weight": item.mask})


def to_observed(tokenizer: Tokenizer, attempt: Attempt) -> Item:
    """The line that the world put in place of an attempt's first wrong one, after the right ones: learned like a page,
    whatever the reward was. But: the attempt has one turn."""
    made, line = attempt.completion, reached(attempt)
    before = made.prompt_ids + made.ids[: starts_of_lines(tokenizer, attempt)[line]]
    stopped = 0 < line == len(attempt.verdict.steps)  # and should have begun another line
    answer = tokenizer.encode("\n" * stopped + attempt.verdict.observation)
    return to_replay(Item(before + answer, [0.0] * len(before) + [1.0] * len(answer)))


def to_batch(items: Sequence[Item], tokenizer: Tokenizer, cursor: dict[str, Any] | None = None) -> Batch:
    longest = -(-max(item.num_positions for item in items) // 32) * 32  # few shapes: see losses.learned
    return collate([[item] for item in items], longest, tokenizer.end_of_text, packed=False, cursor=cursor)


def num_forward(groups: Groups) -> int:
    """Tokens that sampling computed: the prompt of a group once, and what was added to it."""
    return sum(len(g[0].completion.prompt_ids) + sum(len(a.completion.ids) for a in g) for g in groups)


def in_groups(attempts: Sequence[Attempt], size: int) -> Groups:
    return [list(attempts[i : i + size]) for i in range(0, len(attempts), size)]
