"""Sampling from a model: batched over ragged prompts, with tools, log-probs and a stream of tokens.

Each step feeds every active row its last token and samples its next. A row that ends leaves its slot of the cache to
the last active row, and waiting rows are admitted to what is free: their ids, all but the last, are computed in one
pass. A row whose context changes otherwise, because a tool spoke or the window slid, waits to be admitted again. But:
no speculation, no cache kept between calls.

Source: Orca (OSDI 2022) for rows that join and leave a running batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nightschool.config import UserError
from nightschool.model.decoder import Decoder
from nightschool.model.sampling import Sampling, draw, uniforms
from nightschool.model.transformer import Transformer
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.text.tokenizer import Tokenizer

PREFILL_TOKENS = 4096  # most tokens of one prefill of several rows, padding counted; bounds its memory

Stop = Literal["", "end", "length", "context"]  # goes on | stop id | max_new_tokens | no room left in the context
Tool = Callable[[int, dict[str, Any]], str]  # (row, {"name", "arguments"}) -> observation


class Token(NamedTuple):
    """One new token of one row."""

    row: int
    id: int
    log_prob: float  # under the distribution it was drawn from; 0 where forced
    sampled: bool  # False: a tool said it
    stop: Stop  # not "" on the row's last token
    top: list[tuple[int, float]]  # the likeliest ids and their log-probs before truncation, likeliest first


@dataclass
class Completion:
    """What was added to one prompt. The stop id is part of it."""

    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)  # 1 = sampled, 0 = forced by a tool
    stop: Stop = ""


@dataclass
class Row:
    """A row in generation. `ids` is its context: prompt and all that followed, cut where the window slid."""

    index: int
    ids: list[int]
    uniforms: list[float]  # one for each token it may sample
    turn: list[int] = field(default_factory=list)  # what it sampled since the last header
    num_sampled: int = 0
    num_calls: int = 0


def take(waiting: list[Row], free: int) -> list[Row]:
    """Remove from the end what one prefill may hold: at least one row, at most `free`."""
    longest = 0
    for count, row in enumerate(reversed(waiting[-free:]), 1):
        longest = max(longest, len(row.ids))
        if count > 1 and count * longest > PREFILL_TOKENS:
            free = count - 1
            break
    group = waiting[-free:]
    del waiting[-free:]
    return group


def likeliest(p: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """Probabilities (B, V) -> for each row its `count` likeliest (id, log-prob)."""
    best = p.topk(min(count, p.shape[-1]))
    pairs = zip(best.indices.tolist(), best.values.log().tolist(), strict=True)
    return [list(zip(ids, log_probs, strict=True)) for ids, log_probs in pairs]


class Engine:
    """Generates from the weights a model had when it was last loaded; at most `slots` rows at once."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, slots: int = 64, dtype: torch.dtype | None = None
    ) -> None:
        """`dtype` None computes in the model's."""
        self.tokenizer, self.slots, self.context = tokenizer, slots, model.config.max_position_embeddings
        self.decoder = Decoder(model, dtype or model.dtype)

    def load(self, model: Transformer) -> None:
        """Take the model's weights as they are now; cheap enough for RL to do after each update."""
        self.decoder.load(model)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, tool: Tool | None = None
    ) -> list[Completion]:
        """Complete each prompt; see `steps`."""
        completions = [Completion(list(prompt)) for prompt in prompts]
        for tokens in self.steps(prompts, sampling, tool):
            for row, id, log_prob, sampled, stop, _ in tokens:
                completion = completions[row]
                completion.ids.append(id)
                completion.log_probs.append(log_prob)
                completion.mask.append(int(sampled))
                completion.stop = stop
        return completions

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, tool: Tool | None = None, num_top: int = 5
    ) -> Iterator[Token]:
        """What follows one prompt, token by token as it is made; see `steps`."""
        return (token for tokens in self.steps([prompt], sampling, tool, num_top) for token in tokens)

    def steps(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, tool: Tool | None = None, num_top: int = 0
    ) -> Iterator[list[Token]]:
        """Complete the prompts together; yields what each step added, in no fixed order of rows.

        With `tool`, a turn that ends in well-formed calls is answered: tool(row, call) for each, whose observations
        and a new assistant header follow as forced tokens. A row's samples depend on its prompt, seed and tools, and
        on its neighbours only by the rounding of larger products. Raises UserError where a prompt is empty, or fills
        the context and may not slide.
        """
        for i, prompt in enumerate(prompts):
            if not prompt:
                raise UserError(f"prompt {i} is empty; give at least one token")
            if len(prompt) >= self.context and sampling.overflow == "error":
                raise UserError(
                    f"prompt {i} has {len(prompt):,} tokens and the context holds {self.context:,}; "
                    "shorten it or choose overflow='slide'"
                )
        rows = [
            Row(i, self.window(list(prompt)), uniforms(sampling.seed + i, sampling.max_new_tokens).tolist())
            for i, prompt in enumerate(prompts)
        ]
        rows.sort(key=lambda row: (len(row.ids), row.ids))  # neighbours pad little or are equal; long ones go first
        return self.run(rows, sampling, tool, num_top)

    def window(self, ids: list[int]) -> list[int]:
        """What stays of a context: all of it, or where it is full its newest half."""
        return ids if len(ids) < self.context else ids[-max(1, self.context // 2) :]

    def run(self, waiting: list[Row], sampling: Sampling, tool: Tool | None, num_top: int) -> Iterator[list[Token]]:
        ends = self.tokenizer.turn_end, self.tokenizer.end_of_text
        stop_ids = set(ends if sampling.stop_ids is None else sampling.stop_ids)
        slots = min(self.slots, len(waiting))
        active: list[Row] = []
        cache: Tensor | None = None
        while waiting or active:
            free = slots - len(active)
            if waiting and free >= min(len(waiting), max(1, slots // 8)):  # a pass for few rows would be a waste
                group = take(waiting, free)
                columns = max(len(row.ids) + sampling.max_new_tokens - row.num_sampled for row in group)
                cache = self.decoder.reserve(cache, slots, min(columns, self.context))
                self.decoder.prefill(cache, len(active), [row.ids[:-1] for row in group])
                active += group
            assert cache is not None
            logits = self.decoder.step(cache, [row.ids[-1] for row in active], [len(row.ids) for row in active])
            uniform = torch.tensor([row.uniforms[row.num_sampled] for row in active], device=logits.device)
            ids, log_probs, p = draw(logits, uniform, sampling)
            top = likeliest(p, num_top) if num_top else [[]] * len(active)
            tokens, leaving = list[Token](), list[int]()
            for slot, (id, log_prob) in enumerate(zip(ids.tolist(), log_probs.tolist(), strict=True)):
                row, forced = active[slot], list[int]()
                stop: Stop = ""
                row.ids.append(id)
                row.turn.append(id)
                row.num_sampled += 1
                if id in stop_ids:
                    forced = self.observe(row, sampling, tool) if tool else []
                    stop = "" if forced else "end"
                elif row.num_sampled == sampling.max_new_tokens:
                    stop = "length"
                full = len(row.ids) + len(forced) >= self.context
                if full and not stop and sampling.overflow == "error":
                    stop, forced = "context", []
                tokens.append(Token(row.index, id, log_prob, True, stop, top[slot]))
                tokens += [Token(row.index, i, 0.0, False, "", []) for i in forced]
                if stop or forced or full:
                    leaving.append(slot)
                    if not stop:
                        row.ids = self.window(row.ids + forced)
                        waiting.append(row)
            yield tokens
            for slot in reversed(leaving):
                last = active.pop()
                if slot < len(active):
                    active[slot] = last
                    self.decoder.move(cache, len(active), slot, len(last.ids))

    def observe(self, row: Row, sampling: Sampling, tool: Tool) -> list[int]:
        """The forced tokens after the turn that `row` just ended: what its calls gave and a new header, or none."""
        if row.ids[-1] != self.tokenizer.turn_end or row.num_sampled == sampling.max_new_tokens:
            return []
        calls = chat.said(self.tokenizer, row.turn).tool_calls
        row.num_calls += len(calls)
        if not calls or row.num_calls > sampling.max_calls:
            return []
        row.turn = []
        observations = [Message("tool", tool(row.index, call)) for call in calls]
        return chat.resume(self.tokenizer, observations)
