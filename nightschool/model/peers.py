"""What other readers make of a checkpoint, against what we make of it: transformers and llama.cpp, where installed.

Each is fed a few prompts and our own greedy answers to them: its logits must be ours, and its likeliest next token at
every step of an answer too, so that it would have written the same. But: ties within the tolerance may fall either way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nightschool.config import UserError
from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import Transformer
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.text.tokenizer import Tokenizer

QUESTIONS = ("Hello! Who are you?", "What is 27 + 15?", "Où est l'été ? 漢字 🦉 1024\n\n  x = [1, 2]")
NUM_TOKENS = 24  # of an answer
CONTEXT = 512  # that llama.cpp is given; it keeps the logits of each position
# Largest difference of a logit, as a share of the largest logit; what other orders of summing come to, and in
# llama.cpp activations that are rounded as the weights are.
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "q8_0": 5e-2}
Logits = Callable[[list[int]], Tensor]  # ids (T,) -> (T, V)


@torch.no_grad()
def compare(who: str, theirs: Logits, model: Transformer, tokenizer: Tokenizer, tolerance: float) -> str:
    """Their logits and greedy answers against ours -> what was found, in words. UserError where they differ."""
    prompts = [chat.render(tokenizer, [Message("user", q)], generate=True)[0] for q in QUESTIONS]
    room = model.config.max_position_embeddings - max(map(len, prompts)) - 1
    greedy = Sampling(temperature=0, max_new_tokens=max(1, min(NUM_TOKENS, room)), overflow="slide")
    worst, num_tokens = 0.0, 0
    for answer in Engine(model, tokenizer, dtype=torch.float32).generate(prompts, greedy):
        ids = (answer.prompt_ids + answer.ids)[: model.config.max_position_embeddings]
        here, there = model(torch.tensor([ids]))[0].float(), theirs(ids).float()
        scale = here.abs().max().clamp(min=1)
        worst = max(worst, ((here - there[:, : here.shape[1]]).abs().max() / scale).item())
        for t in range(len(answer.prompt_ids) - 1, len(ids) - 1):
            best, chosen = there[t].max(), there[t, ids[t + 1]]
            if best - chosen > 2 * tolerance * scale:
                raise UserError(f"{who} writes otherwise than we do after {tokenizer.decode(ids[: t + 1])[-40:]!r}")
            num_tokens += 1
    if not worst <= tolerance:
        raise UserError(
            f"{who} gives other logits than we do: by {worst:.1e} of the largest; at most {tolerance:g} may be"
        )
    return f"{who}: logits equal within {worst:.1e} of the largest, greedy text equal over {num_tokens} tokens"


def ask_transformers(folder: Path, model: Transformer, tokenizer: Tokenizer) -> str:
    """What transformers makes of a checkpoint folder. UserError where it differs."""
    try:
        import transformers
    except ImportError:
        return "transformers: not installed, not asked"
    transformers.utils.logging.disable_progress_bar()
    safe = {"use_safetensors": True, "trust_remote_code": False}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **safe)
    reader = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for question in QUESTIONS:
        ids = chat.render(tokenizer, [Message("user", question)], generate=True)[0]
        if reader(tokenizer.decode(ids), add_special_tokens=False).input_ids != ids:
            raise UserError(f"transformers reads {question!r} as other tokens than we do")
    return compare(
        "transformers", lambda ids: theirs(torch.tensor([ids])).logits[0], model, tokenizer, TOLERANCE["f32"]
    )


def ask_llama_cpp(path: Path, model: Transformer, tokenizer: Tokenizer, quant: str) -> str:
    """What llama.cpp makes of a GGUF file, against `model` with the very weights in it. UserError where it differs."""
    try:
        import llama_cpp
    except ImportError:
        return "llama.cpp: llama-cpp-python is not installed, not asked"
    context, f32 = min(CONTEXT, model.config.max_position_embeddings), llama_cpp.GGML_TYPE_F32
    theirs = llama_cpp.Llama(str(path), n_ctx=context, logits_all=True, type_k=f32, type_v=f32, verbose=False)
    for question in QUESTIONS:
        ids = chat.render(tokenizer, [Message("user", question)], generate=True)[0]
        if theirs.tokenize(tokenizer.decode(ids).encode(), add_bos=False, special=True) != ids:
            raise UserError(f"llama.cpp reads {question!r} as other tokens than we do")

    def logits(ids: list[int]) -> Tensor:
        theirs.reset()
        theirs.eval(ids)
        return torch.from_numpy(theirs.scores[: len(ids)].copy())

    return compare("llama.cpp", logits, model, tokenizer, TOLERANCE[quant])
