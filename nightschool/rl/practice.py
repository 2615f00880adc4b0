"""What practice does with attempts before it learns from them: is there anything to learn, what is tried again, and
what has each line earned, by the name that --credit takes.

An assigner (rl/credit.py) looks at attempts alone; credit by a potential or a review sends tokens through a model.
"""

from __future__ import annotations

from collections.abc import Callable

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.rl.batch import Credits, Groups, in_groups
from nightschool.rl.credit import Assigner, potential, reached, reviewed
from nightschool.rl.potential import monte_carlo, starts_of_lines, value
from nightschool.rl.review import read
from nightschool.tasks.attempt import attempt, resume
from nightschool.tasks.task import Task
from nightschool.tasks.world import draw

Creditor = Callable[[Groups, Sampling], tuple[Credits, int]]  # `earned` by some credit
COSTLY = ("value", "monte_carlo", "review")  # names of credit besides ASSIGNERS
NUM_SHOWN = 32  # dev problems whose attempts are kept for the report


def first_look(
    engine: Engine, task: Task, assign: Assigner, sampling: Sampling, k: int, seed: int
) -> tuple[Groups, str]:
    """k attempts at some dev problems, and why practice would be burnt time, or "". Where these attempts cannot be told
    from one another, 64 at each of eight other problems decide."""

    def tried(n: int, copies: int, seed: int) -> Groups:
        return in_groups(attempt(engine, task, draw(task, "dev", n, seed), sampling, copies), copies)

    def differ(groups: Groups) -> bool:
        return any(any(line) for group in groups for line in assign(group))

    groups = tried(NUM_SHOWN, k, seed)
    if differ(groups) or differ(more := tried(8, 64, seed + 1)):
        return groups, ""
    if more[0][0].verdict.outcome >= 1:
        return groups, "nothing to learn: every attempt is right; choose harder problems"
    return groups, "not viable yet: pass@64 is 0; go on with sft, or choose easier problems"


def again(engine: Engine, task: Task, groups: Groups, sampling: Sampling, copies: int) -> tuple[Groups, int]:
    """Each group and, from the last right line of its wrong attempts, further goes at the rest; how many tokens went
    through the model for them. What is tried is thus what the model does not do yet, not what it can."""
    wrong = [(i, a) for i, g in enumerate(groups) for a in g if a.verdict.first_error is not None]
    begun = [(a, starts_of_lines(engine.tokenizer, a)[reached(a)]) for _, a in wrong]
    more = resume(engine, task, begun, sampling, copies)
    longer = [list(group) for group in groups]
    for j, (i, _) in enumerate(wrong):
        longer[i] += more[j * copies : (j + 1) * copies]
    once = sum(len(a.completion.prompt_ids) + start for a, start in begun)
    tails = sum(len(a.completion.ids) - begun[j // copies][1] for j, a in enumerate(more))
    return longer, once + tails


def earned(
    credit: Assigner | str,
    engine: Engine,
    task: Task,
    model: Transformer,
    groups: Groups,
    sampling: Sampling,
    lam: float = 1.0,
    continuations: int = 4,
) -> tuple[Credits, int]:
    """What each line of each attempt earned, and how many tokens went through a model to find out.

    credit: a function of a group, or one of the COSTLY names. model: whose hidden states tell a value, or the reviewer;
    lam: credit.potential's.
    """
    if not isinstance(credit, str):
        return [credit(group) for group in groups], 0
    attempts = [a for group in groups for a in group]
    if credit == "review":
        found, num_tokens = read(model, engine.tokenizer, attempts)
        marks = iter(found)
        return [reviewed(group, [next(marks) for _ in group]) for group in groups], num_tokens
    if credit == "value":
        values = value(model, engine.tokenizer, groups)
        num_tokens = sum(len(a.completion.prompt_ids) + len(a.completion.ids) for a in attempts)
    else:
        values, num_tokens = monte_carlo(engine, task, groups, sampling, continuations)
    return [potential(group, phi, lam) for group, phi in zip(groups, values, strict=True)], num_tokens


def credited(
    engine: Engine, task: Task, groups: Groups, sampling: Sampling, copies: int, credit: Creditor
) -> tuple[Groups, Credits, int]:
    """`again` and credit: groups, what they earned, tokens. In one hand, for ranks round differently."""
    groups, again_tokens = again(engine, task, groups, sampling, copies)
    credits, credit_tokens = credit(groups, sampling)
    return groups, credits, again_tokens + credit_tokens
