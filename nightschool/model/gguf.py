"""GGUF, the one file that llama.cpp, Ollama and LM Studio read: written by the gguf package, then read back.

Tensors get the package's own names. Two things differ from Hugging Face's layout: in the llama architecture the rows of
queries and keys lie as rotary partners side by side, and Llama 3's stretched frequencies are a tensor. Norms and biases
stay float32. But: no k-quants (llama.cpp's own quantize makes them of an f32 file); the pre-tokenizers in PRE alone.
Sources: gguf-py; llama.cpp's convert_hf_to_gguf.py, for which keys are expected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from nightschool.config import UserError
from nightschool.model.exchange import tensors_of
from nightschool.model.transformer import ModelConfig, Transformer, frequencies
from nightschool.text.tokenizer import SPLIT, TEMPLATE, Tokenizer

Quant = Literal["f32", "f16", "q8_0"]
BLOCK = 32  # weights of q8_0 that share a scale
BYTES, WORDS, DIGITS = "bytes as characters", "GPT-2's words, bytes as characters", "single digits"
PRE = {  # how a tokenizer splits text before it merges -> llama.cpp's name for it
    (SPLIT, BYTES): "qwen2",
    (SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|"), BYTES): "llama-bpe",
    (WORDS,): "gpt-2",
    (DIGITS, WORDS): "smollm",
}


def library() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise UserError("writing GGUF needs its package; pip install 'nightschool[gguf]'") from None
    return gguf


def write(path: Path, model: Transformer, tokenizer: Tokenizer, name: str, quant: Quant) -> None:
    """UserError where a tensor or the pre-tokenizer has no name in this format; nothing is written then."""
    gguf, c = library(), model.config
    pre = pre_tokenizer(tokenizer)
    tensors = {there: (w, kind_of(w, quant)) for _, there, w in named(model)}
    out = gguf.GGUFWriter(path, c.family)
    out.add_name(name)
    out.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[quant])  # gguf.LlamaFileType
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_block_count(c.num_hidden_layers)
    out.add_context_length(c.max_position_embeddings)
    out.add_embedding_length(c.hidden_size)
    out.add_feed_forward_length(c.intermediate_size)
    out.add_head_count(c.num_attention_heads)
    out.add_head_count_kv(c.num_key_value_heads)
    out.add_key_length(c.head_dim)
    out.add_value_length(c.head_dim)
    out.add_rope_dimension_count(c.head_dim)
    out.add_rope_freq_base(c.rope_theta)
    out.add_layer_norm_rms_eps(c.rms_norm_eps)
    out.add_vocab_size(c.vocab_size)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    tokens, types = vocabulary(tokenizer)
    out.add_token_list(tokens)
    out.add_token_types(types)
    out.add_token_merges(merges(tokenizer))
    bos = tokenizer.special.get(tokenizer.config.get("bos_token") or "")
    if bos is not None:
        out.add_bos_token_id(bos)
    out.add_add_bos_token(tokenizer.begin_of_text != [])
    out.add_eos_token_id(tokenizer.turn_end)
    out.add_eot_token_id(tokenizer.turn_end)
    out.add_pad_token_id(tokenizer.end_of_text)
    out.add_chat_template(tokenizer.template or TEMPLATE.read_text(encoding="utf-8"))
    for there, (w, kind) in tensors.items():
        out.add_tensor(there, gguf.quants.quantize(w.numpy(), kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def named(model: Transformer) -> Iterator[tuple[str, str, Tensor]]:
    """Each tensor's name with us ("": none) and in GGUF, and its values as they lie there, float32."""
    gguf, c = library(), model.config
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == c.family)
    names = gguf.get_tensor_name_map(arch, c.num_hidden_layers)
    for ours, w in tensors_of(model).items():
        there = names.get_name(ours, (".weight", ".bias"))
        if there is None:
            raise UserError(f"no name for the tensor {ours} in GGUF's {c.family}; update the gguf package")
        yield ours, there, paired(w, ours, c)
    if c.rope_scaling:
        plain, scaled = (frequencies(c.head_dim, c.rope_theta, s, torch.device("cpu")) for s in (None, c.rope_scaling))
        yield "", "rope_freqs.weight", plain / scaled


def paired(w: Tensor, name: str, c: ModelConfig, back: bool = False) -> Tensor:
    """The llama architecture's queries and keys with rotary partners side by side, or back; all else as it is."""
    if c.family != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return w
    halves = (-1, c.head_dim // 2, 2) if back else (-1, 2, c.head_dim // 2)
    return w.unflatten(0, halves).transpose(1, 2).reshape(w.shape)


def kind_of(w: Tensor, quant: Quant) -> Any:
    """How a tensor is stored: vectors as float32; what does not divide into blocks as f16."""
    kinds = library().GGMLQuantizationType
    if w.ndim == 1 or quant == "f32":
        return kinds.F32
    return kinds.Q8_0 if quant == "q8_0" and w.shape[1] % BLOCK == 0 else kinds.F16


def pre_tokenizer(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for how the tokenizer splits text."""
    saved = json.loads(tokenizer.plain.to_str())["pre_tokenizer"] or {}
    steps = saved.get("pretokenizers", [saved])
    how = tuple(map(step_of, steps))
    if how not in PRE:
        raise UserError(f"no name in GGUF for how the tokenizer splits text ({steps!r:.80}); export --to hf")
    return PRE[how]


def step_of(step: dict[str, Any]) -> str:
    match step:
        case {"type": "Split", "pattern": {"Regex": str(pattern)}}:
            return pattern
        case {"type": "Digits", "individual_digits": True}:
            return DIGITS
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": regex}:
            return WORDS if regex else BYTES
    return "otherwise"


def vocabulary(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """Each id's token and its type (gguf.TokenType): normal 1, control 3, user-defined 4, unused 5."""
    tokens = [f"[PAD{i}]" for i in range(tokenizer.vocab_size)]
    types = [5] * len(tokens)
    for token, i in tokenizer.plain.get_vocab().items():
        tokens[i], types[i] = token, 1
    for token, i in tokenizer.special.items():
        tokens[i], types[i] = token, 3 if token in tokenizer.control else 4
    return tokens, types


def merges(tokenizer: Tokenizer) -> list[str]:
    pairs = json.loads(tokenizer.plain.to_str())["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]


def check(path: Path, model: Transformer, tokenizer: Tokenizer) -> Transformer:
    """Read a file back -> a model of the weights in it. UserError where any differs by more than its format must."""
    gguf = library()
    reader = gguf.GGUFReader(path)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    tokens, types = vocabulary(tokenizer)
    written = {"tokens": tokens, "token_type": types, "merges": merges(tokenizer)}
    if written != {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in written}:
        raise UserError(f"{path}: the tokenizer read back is not the one written")
    weights = {}
    for ours, there, w in named(model):
        tensor = stored.pop(there)
        found = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        if not bool(((found - w).abs() <= slack(w, tensor.tensor_type.name)).all()):
            raise UserError(f"{path}: {there} read back is not what was written")
        weights[ours] = paired(found, ours, model.config, back=True)
    if stored:
        raise UserError(f"{path}: {min(stored)} is no tensor of this model")
    weights.pop("", None)
    again = Transformer(model.config)
    again.load_state_dict(
        {name: weights.get(name, weights["model.embed_tokens.weight"]) for name in again.state_dict()}
    )
    return again


def slack(w: Tensor, kind: str) -> Tensor:
    """How far a stored weight may lie from the one meant."""
    if kind == "F32":
        return torch.zeros_like(w)
    if kind == "F16":
        return w.abs() * 2**-11 + 2**-25  # half a unit in the last place; the same among the smallest numbers
    largest = w.unflatten(-1, (-1, BLOCK)).abs().amax(-1, keepdim=True).expand(*w.shape[:-1], -1, BLOCK).flatten(-2)
    return largest * (0.5 / 127 + 2**-11) + 127 * 2**-25  # half a step of 127, and of the scale, itself an f16
