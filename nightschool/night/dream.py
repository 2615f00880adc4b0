"""Dreams: what a sleeper rehearses so that a night of learning costs it nothing it knew.

A dream's question is the model's own words at high temperature or what it heard by day, half the time spliced with
another in the middle, and with a few words of a third in the place of its own. Or it is one of tonight's lessons with
another name in it: what is learned of one must not be said of all, and the evening self still knows that it knows
nothing of them. The model answers. Nothing in a dream need be true, so no token is learned as a label: the sleeper is
held to the whole distribution that its evening self, frozen, has at each of them (forward KL, train/losses.py). How far
it has drifted from that self is measured on other dreams. But: one question a dream; where a model was never taught to
ask, its own words are mostly babble; a name is a capital inside a sentence.
Sources: Hoel 2021 (2007.09560) for dreams as corrupted inputs; Marek et al. 2026 (2605.26097) for KL on self-samples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.night.kinds import NAME
from nightschool.night.memory import told
from nightschool.tasks.attempt import turns_of
from nightschool.text import chat
from nightschool.text.document import Document, Message
from nightschool.text.packing import Batch
from nightschool.train.losses import distil

HOT = 1.2  # temperature of its own words
NEAR, AFTER = 0.5, 0.25  # share of the dreams that are lessons with other names; of these, after something heard
OWN = 0.25  # share of the halves that are its own words; the others were heard
SPLICED = 0.5  # share of the dreams that are of two texts: a short question does not survive it
SLIPS = 0.1  # share of the words whose place another's takes
ASKED, ANSWERED = 48, 96  # most tokens of its own words, and of an answer


def dream(
    engine: Engine, heard: Sequence[Document], num_dreams: int, seed: int, lessons: Sequence[Document] = ()
) -> list[Document]:
    """heard: conversations, each with one thing the user said, or texts. Tools at hand then are so in the dream.
    lessons: tonight's."""
    tokenizer, rng = engine.tokenizer, random.Random(f"dreams {seed}")
    one, other = (chat.render(tokenizer, [Message("user", said)])[0] for said in ("A", "B"))
    opening = one[: next(i for i, pair in enumerate(zip(one, other, strict=True)) if len(set(pair)) == 2)]
    hot = Sampling(temperature=HOT, max_new_tokens=ASKED, seed=seed)
    babble = [
        Document(text=turns_of(tokenizer, c)[0].content)
        for c in engine.generate([opening] * max(1, round(OWN * num_dreams)), hot)
    ]
    learned = [text for text in map(told, lessons) if NAME.search(text)]
    known = {name for text in learned for name in NAME.findall(text)}
    others = sorted({name for document in heard for name in NAME.findall(told(document))} - known)
    dreams = []
    for _ in range(num_dreams):
        first, second, third = (rng.choice(babble if rng.random() < OWN else heard) for _ in range(3))
        if learned and others and rng.random() < NEAR:
            said = NAME.sub(rng.choice(others), rng.choice(learned))
            if rng.random() < AFTER:
                said = f"{told(second)}\n\n{said}"
        else:
            said = spliced(rng, *map(told, (first, second, third)))
        turn = Message("user", said)
        dreams.append(Document(messages=(turn,), tools=second.tools, kind="dream", info="seed", gen=1))
    prompts = [ids for ids, _ in chat.render_many(tokenizer, [(d.messages, d.tools) for d in dreams], generate=True)]
    room = engine.context - ANSWERED
    kept = [(d, ids) for d, ids in zip(dreams, prompts, strict=True) if len(ids) < room]
    answers = engine.generate([ids for _, ids in kept], Sampling(max_new_tokens=ANSWERED, seed=seed))
    return [
        replace(d, messages=(*d.messages, *turns_of(tokenizer, answer)))
        for (d, _), answer in zip(kept, answers, strict=True)
    ]


def spliced(rng: random.Random, first: str, second: str, third: str) -> str:
    """The beginning of one text and the end of another, or one text, here and there with a word of a third."""
    head, tail, others = (text.split(" ") for text in (first, second, third))
    both = head[: rng.randint(0, len(head))] + tail[rng.randint(0, len(tail) - 1) :]
    words = both if rng.random() < SPLICED else tail
    return " ".join(rng.choice(others) if rng.random() < SLIPS else word for word in words)


@torch.no_grad()
def drift(model: Transformer, evening: Transformer, batches: Sequence[Batch]) -> float:
    """How far the model has gone from its evening self: mean KL(evening || model) in nats a token of these dreams."""
    loss, device = distil(evening), model.lm_head.weight.device
    apart = [loss(model, batch.to(device))["dream"] for batch in batches]
    return sum(float(total) for total, _ in apart) / sum(float(count) for _, count in apart)
