"""The engine against the uncached forward pass, and its sampling against the distributions it names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nightschool.config import UserError
from nightschool.model import engine as engine_module
from nightschool.model.engine import Completion, Engine
from nightschool.model.sampling import Sampling, draw, truncate, uniforms
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.text import chat, tokenizer
from nightschool.text.document import Message

TOKENIZER = tokenizer.train(["a town, its people and what they say"], 280)
V = TOKENIZER.vocab_size
NO_STOP = ()


def make_model(heads: int = 4, groups: int = 2, tied: bool = True, context: int = 64) -> Transformer:
    config = ModelConfig(V, 64, 96, 3, heads, groups, 16, context, tie_word_embeddings=tied)
    model = Transformer(config)
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():  # large enough that each part of the network matters; norms away from 1
        p.data.normal_(1.0 if p.ndim == 1 else 0.0, 0.3, generator=g)
    return model


def make_prompts(*lengths: int) -> list[list[int]]:
    g = torch.Generator().manual_seed(2)
    return [torch.randint(0, V, (n,), generator=g).tolist() for n in lengths]


@torch.inference_mode()
def uncached(model: Transformer, completion: Completion, temperature: float = 1.0) -> list[float]:
    """The log-prob of each sampled id, by a forward pass over the whole window each time."""
    ids, log_probs, context = list(completion.prompt_ids), [], model.config.max_position_embeddings
    for i, (id, sampled) in enumerate(zip(completion.ids, completion.mask, strict=True)):
        if len(ids) >= context and sampled:  # the engine slides before it samples again
            ids = ids[-(context // 2) :]
        if sampled:
            logits = model(torch.tensor([ids]))[0, -1] / temperature
            log_probs.append(torch.log_softmax(logits, -1)[id].item())
        else:
            log_probs.append(0.0)
        ids.append(completion.ids[i])
    return log_probs


@pytest.mark.parametrize(("heads", "groups", "tied"), [(4, 4, True), (4, 2, False), (4, 1, True)])
def test_equals_uncached_forward_over_ragged_prompts(heads: int, groups: int, tied: bool) -> None:
    model = make_model(heads, groups, tied)
    sampling = Sampling(temperature=1.7, max_new_tokens=20, stop_ids=(3, 5, 9, 11, 40, 77))
    engine = Engine(model, TOKENIZER, slots=4)
    prompts = make_prompts(1, 2, 30, 7, 7, 19, 3, 12, 1, 5)
    completions = engine.generate(prompts, sampling)
    assert [c.prompt_ids for c in completions] == prompts
    assert {c.stop for c in completions} == {"end", "length"}  # rows joined and left while others went on
    for c in completions:
        assert len(c.ids) == len(c.log_probs) == len(c.mask) <= 20
        assert (c.ids[-1] in sampling.stop_ids) == (c.stop == "end")
        assert not set(c.ids[:-1]) & set(sampling.stop_ids or ())
        assert c.log_probs == pytest.approx(uncached(model, c, 1.7), abs=1e-4)


def test_matrices_in_parts_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, sampling = make_model(), make_prompts(5, 9), Sampling(max_new_tokens=8, stop_ids=NO_STOP)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)
    engine = Engine(model, TOKENIZER)
    assert [len(w) for w in engine.decoder.layers[0] if w is not None and w.ndim == 3] == [
        4,
        4,
        12,
        4,
    ]  # outputs 128, 64, 192, 64
    for c in engine.generate(prompts, sampling):
        assert c.log_probs == pytest.approx(uncached(model, c), abs=1e-4)


def test_load_takes_new_weights_and_keeps_no_reference() -> None:
    model, prompts = make_model(), make_prompts(5, 9)
    engine = Engine(model, TOKENIZER)
    sampling = Sampling(max_new_tokens=8, stop_ids=NO_STOP)
    before = engine.generate(prompts, sampling)
    for p in model.parameters():
        p.data.mul_(0.9)
    assert engine.generate(prompts, sampling) == before
    engine.load(model)
    for c in engine.generate(prompts, sampling):
        assert c.log_probs == pytest.approx(uncached(model, c), abs=1e-4)


def test_samples_depend_on_the_rows_own_seed() -> None:
    engine = Engine(make_model(), TOKENIZER, slots=3)
    prompts = make_prompts(4, 11, 6, 2, 9)
    together = engine.generate(prompts, Sampling(max_new_tokens=12, seed=40, stop_ids=NO_STOP))
    for i, prompt in enumerate(prompts):
        [alone] = engine.generate([prompt], Sampling(max_new_tokens=12, seed=40 + i, stop_ids=NO_STOP))
        assert alone.ids == together[i].ids
    same_prompt = engine.generate([prompts[0]] * 8, Sampling(max_new_tokens=12, stop_ids=NO_STOP))
    assert len({tuple(c.ids) for c in same_prompt}) > 4


def test_greedy_takes_the_likeliest() -> None:
    model = make_model()
    [c] = Engine(model, TOKENIZER).generate(
        make_prompts(6), Sampling(temperature=0, max_new_tokens=10, stop_ids=NO_STOP)
    )
    with torch.inference_mode():
        best = model(torch.tensor([c.prompt_ids + c.ids]))[0].argmax(-1).tolist()
    assert c.ids == best[5:-1]
    assert c.log_probs == [0.0] * 10


def test_draw_follows_the_truncated_distribution() -> None:
    p = torch.tensor([0.05, 0.5, 0.15, 0.3])
    n = 20_000
    logits, uniform = p.log().expand(n, 4), uniforms(7, n)
    for sampling, kept in (
        (Sampling(), [0.05, 0.5, 0.15, 0.3]),
        (Sampling(top_p=0.8), [0, 0.5, 0, 0.3]),
        (Sampling(top_p=0.81), [0, 0.5, 0.15, 0.3]),
        (Sampling(top_p=0.01), [0, 0.5, 0, 0]),
        (Sampling(min_p=0.2), [0, 0.5, 0.15, 0.3]),
        (Sampling(min_p=1.0), [0, 0.5, 0, 0]),
        (Sampling(temperature=0.5), (p**2).tolist()),
        (Sampling(temperature=0.5, top_p=0.9, min_p=0.1), [0, 0.25, 0, 0.09]),
    ):
        want = torch.tensor(kept) / sum(kept)
        ids, log_probs, _ = draw(logits, uniform, sampling)
        share = torch.bincount(ids, minlength=4) / n
        assert share.tolist() == pytest.approx(want.tolist(), abs=0.015), sampling
        assert ((share > 0) == (want > 0)).all(), sampling
        assert torch.allclose(log_probs, want.log()[ids], atol=1e-5), sampling


def test_draw_at_the_ends_of_the_interval_never_takes_the_impossible() -> None:
    p = torch.tensor([[0.0, 0.7, 0.3, 0.0]]).log()
    ends = torch.tensor([1.0, 2.0**-24])
    assert draw(p.expand(2, 4), ends, Sampling())[0].tolist() == [2, 1]
    assert truncate(torch.tensor([[0.25] * 4]), 0.5, 0).tolist() == [[0.25] * 4]  # ties stay in


def force(monkeypatch: pytest.MonkeyPatch, script: list[int]) -> None:
    """Make the next draws of a batch of one take the script's ids, at their true log-probs."""
    left = iter(script)

    def scripted(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.tensor([next(left)])
        return ids, torch.log_softmax(logits, -1)[0, ids], torch.softmax(logits, -1)

    monkeypatch.setattr(engine_module, "draw", scripted)


def said(text: str, *calls: dict[str, Any]) -> list[int]:
    """What an assistant samples in a turn, its <|im_end|> included."""
    ids, mask = chat.render(TOKENIZER, [Message("assistant", text, calls)])
    return [i for i, m in zip(ids, mask, strict=True) if m]


CALL = {"name": "calculator", "arguments": {"expression": "347*28"}}


def test_tools_answer_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(context=512)
    user = Message("user", "347*28?")
    prompt = chat.render(TOKENIZER, [user], generate=True)[0]
    turns = [Message("assistant", "", (CALL,)), Message("tool", "<|im_end|>9716"), Message("assistant", "It is 9716.")]
    heard: list[tuple[int, dict[str, Any]]] = []

    def calculator(row: int, call: dict[str, Any]) -> str:
        heard.append((row, call))
        return "<|im_end|>9716"  # what a tool says stays text

    script = said("", CALL) + said("It is 9716.")
    force(monkeypatch, script)
    [c] = Engine(model, TOKENIZER).generate([prompt], Sampling(max_new_tokens=200), calculator)
    assert heard == [(0, CALL)]
    ids, mask = chat.render(TOKENIZER, [user, *turns])
    ids, mask = ids[: len(prompt) + len(c.ids)], mask[: len(prompt) + len(c.ids)]  # the last line end is not said
    assert prompt + c.ids == ids
    assert c.mask == mask[len(prompt) :]
    assert c.stop == "end"
    assert c.log_probs == pytest.approx(uncached(model, c), abs=1e-4)


@pytest.mark.parametrize(
    ("sampling", "num_heard", "stop"),
    [
        (Sampling(max_calls=0), 0, "end"),
        (Sampling(max_calls=1), 1, "end"),
        (Sampling(max_new_tokens=len(said("", CALL))), 0, "end"),  # no token left to go on with
        (Sampling(max_new_tokens=len(said("", CALL)) + 1), 1, "length"),
    ],
)
def test_tools_stop(monkeypatch: pytest.MonkeyPatch, sampling: Sampling, num_heard: int, stop: str) -> None:
    heard = []
    force(monkeypatch, said("", CALL) * 2)
    engine = Engine(make_model(context=512), TOKENIZER)
    [c] = engine.generate([[1, 2]], sampling, lambda row, call: heard.append(row) or "1")  # type: ignore[func-returns-value]
    assert (len(heard), c.stop) == (num_heard, stop)


def test_malformed_call_ends_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [TOKENIZER.special["<tool_call>"], *TOKENIZER.encode("{oops"), TOKENIZER.turn_end]
    force(monkeypatch, broken)
    [c] = Engine(make_model(), TOKENIZER).generate([[1]], Sampling(), lambda row, call: "never")
    assert (c.ids, c.stop) == (broken, "end")


def test_the_end_of_the_context() -> None:
    model = make_model(context=32)
    engine = Engine(model, TOKENIZER, slots=2)
    prompts = make_prompts(31, 5, 20)
    for c in engine.generate(prompts, Sampling(max_new_tokens=100, stop_ids=NO_STOP)):
        assert c.stop == "context"
        assert len(c.prompt_ids) + len(c.ids) == 32
    slide = Sampling(max_new_tokens=100, stop_ids=NO_STOP, overflow="slide")
    for c in engine.generate([*prompts, *make_prompts(32, 70)], slide):
        assert (len(c.ids), c.stop) == (100, "length")
        assert c.log_probs == pytest.approx(uncached(model, c), abs=1e-4)


def test_a_very_long_prompt_is_refused_or_slides() -> None:
    engine, prompt = Engine(make_model(), TOKENIZER), TOKENIZER.encode("so it goes " * 10_000)
    with pytest.raises(UserError, match=r"prompt 1 has [\d,]+ tokens and the context holds 64; shorten it or"):
        engine.steps([[1], prompt], Sampling())
    [c] = engine.generate([prompt], Sampling(max_new_tokens=70, overflow="slide", stop_ids=NO_STOP))
    assert len(c.ids) == 70
    with pytest.raises(UserError, match="prompt 0 is empty"):
        engine.generate([[]], Sampling())


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"temperature": math.nan}, {"top_p": 0}, {"top_p": 1.5}, {"min_p": 2}, {"max_new_tokens": 0}],
)
def test_sampling_refuses_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_stream_yields_what_generate_returns_with_alternatives() -> None:
    engine, sampling = Engine(make_model(), TOKENIZER), Sampling(max_new_tokens=9, stop_ids=NO_STOP)
    [c] = engine.generate([[1, 2, 3]], sampling)
    tokens = list(engine.stream([1, 2, 3], sampling))
    assert [t.id for t in tokens] == c.ids
    assert [t.stop for t in tokens] == [""] * 8 + ["length"]
    for t in tokens:
        assert len(t.top) == 5
        assert [p for _, p in t.top] == sorted((p for _, p in t.top), reverse=True)
        assert t.id not in dict(t.top) or dict(t.top)[t.id] == pytest.approx(t.log_prob, abs=1e-4)
    stopped = engine.stream([1, 2, 3], sampling)  # a reader may go away, and another may read meanwhile
    assert [next(stopped).id, next(stopped).id] == c.ids[:2]
    assert engine.generate([[1, 2, 3]], sampling) == [c]
    assert [t.id for t in stopped] == c.ids[2:]


def test_bfloat16_stays_near() -> None:
    model = make_model()
    engine = Engine(model, TOKENIZER, dtype=torch.bfloat16)
    for c in engine.generate(make_prompts(3, 17), Sampling(temperature=4.0, max_new_tokens=20, stop_ids=NO_STOP)):
        assert c.log_probs == pytest.approx(uncached(model, c, 4.0), abs=0.15)
