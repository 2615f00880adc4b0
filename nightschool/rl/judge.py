"""A learned judge of steps: an attempt -> for each line, and for the stop, is it right?

It is a copy of the model with heads on its hidden states, which look at the last token of each line and at the token
that ends the attempt. It is pessimistic: a line passes where the heads' mean, less their spread, is above one half, and
the first line that does not pass is the first error. So its verdicts are a verifier's in form, and credit does not know
who wrote them.

It learns from marked attempts, up to their first error, and from what a cheat would try first, made of their right
lines: stopped short, a line said twice, the work for another problem. Each head has its own part of the attempts. But:
no samples of a policy that was set on it; made-up cheats have one turn; it needs a task that marks steps.

Sources: Tango (2505.15034) and Cooper (2508.05613) for training with the policy; Master-RM (2507.08794) for negatives
that hold nothing; ensembles for pessimism (2310.02743).

B batch, T time, C channels, K heads.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from nightschool.model.engine import Completion
from nightschool.model.exchange import write_tensors
from nightschool.model.transformer import Transformer
from nightschool.rl.potential import starts_of_lines
from nightschool.tasks.attempt import Attempt, turns_of
from nightschool.tasks.task import Verdict, lines_of
from nightschool.text.packing import Batch, Item, collate
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.loop import update
from nightschool.train.losses import Losses
from nightschool.train.optim import Optimizer
from nightschool.world.problem import Problem

HEADS = 4
PESSIMISM = 1.0  # standard deviations of the heads below their mean
LEARNING_RATE = 0.001
BATCH = 64  # marked attempts of a step of `fit`, and a cheat for each where one can be made
NEWEST = 256  # half of them are drawn from so many of the last


class Judge(nn.Module):
    def __init__(self, body: Transformer, seed: int = 0) -> None:
        super().__init__()
        self.body, self.heads = body, nn.Linear(body.config.hidden_size, HEADS)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.heads.weight.normal_(0, body.config.hidden_size**-0.5, generator=generator)
            self.heads.bias.zero_()

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) -> logits of "right so far" after each token (B, T, K), float32."""
        return self.heads(self.body.hidden(ids).float())

    def save(self, path: Path) -> None:
        write_tensors(path, {name: p.detach().contiguous() for name, p in self.named_parameters()})

    def load(self, path: Path) -> None:
        self.load_state_dict(load_file(path), strict=False)  # a tied head has no entry of its own


def unmarked(tokenizer: Tokenizer, problem: Problem, completion: Completion) -> Attempt:
    """An attempt that nobody has judged: all of its lines wrong."""
    transcript = turns_of(tokenizer, completion)
    return Attempt(problem, completion, transcript, Verdict(0.0, (False,) * len(lines_of(transcript)), 0))


def places(tokenizer: Tokenizer, attempt: Attempt) -> list[int]:
    """Where to look, as places in prompt and completion: the last token of each line and, where an attempt was not cut
    off, the one that ends it."""
    made = attempt.completion
    ends = [start - 1 for start in starts_of_lines(tokenizer, attempt)[1:]]
    ends += [len(made.ids) - 1] if made.stop == "end" else []
    return [len(made.prompt_ids) + end for end in ends]


def marks(attempt: Attempt) -> list[bool]:
    """What a verifier says of the lines and the stop, up to the first error; where he finds none and yet the answer is
    wrong, it is the stop that is."""
    verdict = attempt.verdict
    num_lines = len(verdict.steps)
    if verdict.first_error is None:
        return [True] * num_lines + [verdict.outcome >= 1]
    return [True] * verdict.first_error + [False]


def to_batch(tokenizer: Tokenizer, attempts: Sequence[Attempt], bags: Sequence[int]) -> Batch:
    """A row an attempt. Streams: "bag", at the places that have a mark, the bits of the heads that learn from it;
    "right", the mark. A stream's numbers go where their token is the target, so they stand one token later."""
    items = []
    for a, bag in zip(attempts, bags, strict=True):
        ids = [*a.completion.prompt_ids, *a.completion.ids, tokenizer.end_of_text]
        bags_at, right_at = [0.0] * len(ids), [0.0] * len(ids)
        for place, right in zip(places(tokenizer, a), marks(a), strict=False):
            bags_at[place + 1], right_at[place + 1] = float(bag), float(right)
        items.append([Item(ids, [1.0] * len(ids), {"bag": bags_at, "right": right_at})])
    longest = -(-max(len(item.ids) - 1 for (item,) in items) // 32) * 32  # few shapes: see losses.learned
    return collate(items, longest, tokenizer.end_of_text, packed=False)


def marking(judge: Judge, batch: Batch) -> Losses:
    """The mean over marked places and the heads that learn from them, in nats."""
    bags = batch.streams["bag"].long()[..., None] >> torch.arange(HEADS, device=batch.ids.device) & 1  # (B, T, K)
    right = batch.streams["right"][..., None].expand(bags.shape)
    loss = F.binary_cross_entropy_with_logits(judge(batch.ids), right, reduction="none")
    return {"judge": ((loss * bags).sum(), bags.sum())}


def cheat(tokenizer: Tokenizer, rng: random.Random, a: Attempt, other: Attempt) -> Attempt | None:
    """A wrong attempt made of a's right lines, whose first error is known without asking; None where there is none.

    "short" stops after some of them, which is too soon; "twice" says one again; "swapped" puts them under the other's
    problem, wrong where they first differ from its right ones.
    """
    lines, theirs = (lines_of(x.transcript)[: marks(x).count(True)] for x in (a, other))
    kind, problem = rng.choice(("short", "twice", "swapped")), a
    if len(a.transcript) != 1 or a.transcript[0].tool_calls:
        return None
    if kind == "swapped":
        problem = other
        places = [i for i, (our, their) in enumerate(zip(lines, theirs, strict=False)) if our != their][:1]
    else:
        most = len(lines) - (kind == "short" and all(marks(a)))
        places = [rng.randint(1, most)] if most else []
    if not places:
        return None
    (place,) = places
    again = [lines[place - 1]] * rng.randint(1, 3)
    said = {"short": lines[:place], "twice": lines[:place] + again + lines[place:], "swapped": lines}[kind]
    ids = [*tokenizer.encode("\n".join(said)), tokenizer.turn_end]
    made = Completion(problem.completion.prompt_ids, ids, [0.0] * len(ids), [1] * len(ids), "end")
    steps = tuple(i < place for i in range(len(said)))
    return replace(unmarked(tokenizer, problem.problem, made), verdict=Verdict(0.0, steps, place, kind))


def fit(judge: Judge, tokenizer: Tokenizer, pool: Sequence[Attempt], num_steps: int, seed: int) -> tuple[float, int]:
    """Learn from marked attempts, the newest last -> mean loss in nats, positions computed. A function of its
    arguments: the optimizer begins anew."""
    optimizer = Optimizer(judge, embed_lr=LEARNING_RATE, norm_lr=LEARNING_RATE, muon=False)
    losses, num_positions = list[float](), 0
    for step in range(num_steps):
        rng = random.Random(f"judge {seed} {step}")
        chosen = rng.choices(range(len(pool)), k=BATCH // 2)
        chosen += rng.choices(range(max(0, len(pool) - NEWEST), len(pool)), k=BATCH // 2)
        bags = [random.Random(f"bag {i}").randrange(1, 2**HEADS) for i in chosen]
        made_up = (cheat(tokenizer, rng, pool[i], rng.choice(pool)) for i in chosen)
        cheats = [a for a in made_up if a]
        batch = to_batch(tokenizer, [*(pool[i] for i in chosen), *cheats], bags + [2**HEADS - 1] * len(cheats))
        row = update(judge, optimizer, marking, [batch], lr_scale=1 - step / num_steps, clip_norm=1.0)
        losses += [row["loss"]] if "loss" in row else []
        num_positions += batch.ids.numel()
    return fmean(losses), num_positions


@torch.no_grad()
def scores(judge: Judge, tokenizer: Tokenizer, attempts: Sequence[Attempt]) -> tuple[list[list[float]], int]:
    """Of each attempt's places the heads' mean probability of "right", less PESSIMISM times their spread; positions
    computed."""
    found, num_positions = list[list[float]](), 0
    for i in range(0, len(attempts), 128):
        some = attempts[i : i + 128]
        ids = to_batch(tokenizer, some, [0] * len(some)).ids
        p = judge(ids.to(judge.heads.weight.device)).sigmoid()
        low = (p.mean(-1) - PESSIMISM * p.std(-1)).cpu()
        found += [low[row, places(tokenizer, a)].tolist() for row, a in enumerate(some)]
        num_positions += ids.numel()
    return found, num_positions


def verdicts(judge: Judge, tokenizer: Tokenizer, attempts: Sequence[Attempt]) -> tuple[list[Attempt], int]:
    """The attempts, judged, and positions computed. What was cut off is not whole, whatever the judge thinks."""
    judged = []
    found, num_positions = scores(judge, tokenizer, attempts)
    for a, line in zip(attempts, found, strict=True):
        num_lines = len(a.verdict.steps)
        whole = None if a.completion.stop == "end" else num_lines
        first_error = next((i for i, score in enumerate(line) if score <= 0.5), whole)
        steps = tuple(first_error is None or i < first_error for i in range(num_lines))
        judged.append(replace(a, verdict=Verdict(float(first_error is None), steps, first_error, "judged")))
    return judged, num_positions


def to_row(a: Attempt) -> dict[str, Any]:
    """A marked attempt as JSON, with all that learning from it needs; `from_row` reads it."""
    made, verdict = a.completion, a.verdict
    return {
        "question": a.problem.prompt,
        "text": a.text,
        "outcome": verdict.outcome,
        "steps": verdict.steps,
        "first_error": verdict.first_error,
        "feedback": verdict.feedback,
        "stop": made.stop,
        "prompt_ids": made.prompt_ids,
        "ids": made.ids,
        "mask": made.mask,
    }


def from_row(tokenizer: Tokenizer, row: dict[str, Any]) -> Attempt:
    made = Completion(row["prompt_ids"], row["ids"], [0.0] * len(row["ids"]), row["mask"], row["stop"])
    verdict = Verdict(row["outcome"], tuple(row["steps"]), row["first_error"], row["feedback"])
    problem = Problem("", "", "", row["question"], "")
    return replace(unmarked(tokenizer, problem, made), verdict=verdict)
