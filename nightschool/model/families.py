"""What a config.json asks for: Hugging Face's words <-> our ModelConfig.

Old spellings and new: rope_theta with rope_scaling, or rope_parameters. But: what our Transformer is not is refused by
name, here and nowhere later.
Sources: transformers' Qwen3Config, Qwen2Config and LlamaConfig, versions 4 and 5.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nightschool.config import UserError
from nightschool.model.transformer import Family, ModelConfig, RopeScaling
from nightschool.runs import read_json
from nightschool.text.tokenizer import Tokenizer

ARCHITECTURES: dict[str, Family] = {
    "Qwen3ForCausalLM": "qwen3",
    "Qwen2ForCausalLM": "qwen2",
    "LlamaForCausalLM": "llama",
}
FIXED: dict[Family, dict[str, Any]] = {  # what our Transformer does, in each family's words
    "qwen3": {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
}


def config_json(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    sizes = asdict(config)
    family, scaling = sizes.pop("family"), sizes.pop("rope_scaling")
    scaling = scaling and {"rope_type": "llama3", **scaling}
    return {
        "architectures": [name for name, its in ARCHITECTURES.items() if its == family],
        "model_type": family,
        **sizes,
        **FIXED[family],
        "rope_scaling": scaling,
        "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": config.rope_theta},
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.special.get(tokenizer.config.get("bos_token") or ""),
        "eos_token_id": tokenizer.turn_end,
        "pad_token_id": tokenizer.end_of_text,
    }


def model_config(folder: Path) -> ModelConfig:
    """What a checkpoint's config.json asks for. UserError where that is not what our Transformer is."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"no config.json in {folder}; name the checkpoint/ folder of a run")
    saved = read_json(path)
    found = saved.get("architectures") if isinstance(saved, dict) else saved
    if not (isinstance(found, list) and len(found) == 1 and found[0] in ARCHITECTURES):
        raise UserError(f"{path} is not a {', '.join(ARCHITECTURES)} but {found}; only those can be loaded")
    family = ARCHITECTURES[found[0]]
    saved = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6} | saved  # transformers' defaults
    if family != "qwen3" and saved.get("head_dim") is None:
        sizes = numbers(path, saved, ["hidden_size", "num_attention_heads"])
        saved["head_dim"] = sizes["hidden_size"] // sizes["num_attention_heads"]
    asked = {**FIXED[family], "quantization_config": None, "partial_rotary_factor": 1.0}
    for name, value in asked.items():
        if saved.get(name, value) != value:
            raise UserError(f"{path}: {name} {saved[name]!r} is not supported; only {value!r} is")
    if strange := set(saved.get("layer_types") or ()) - {"full_attention"}:
        raise UserError(f"{path}: layer_types {min(strange)!r} is not supported; only 'full_attention' is")
    rope = (saved.get("rope_scaling") or {}) | (saved.get("rope_parameters") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f"{path}: rope_type {kind!r} is not supported; only 'default' and 'llama3' are")
    saved["rope_theta"] = saved.get("rope_theta") or rope.get("rope_theta", 10_000.0)
    sizes = numbers(path, saved, [f.name for f in fields(ModelConfig) if f.name not in ("family", "rope_scaling")])
    scaling = RopeScaling(**numbers(path, rope, [f.name for f in fields(RopeScaling)])) if kind == "llama3" else None
    return ModelConfig(**sizes, family=family, rope_scaling=scaling)


def numbers(path: Path, saved: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The values of these names. UserError unless each is a positive number, or a bool."""
    for name in names:
        value = saved.get(name)
        if not isinstance(value, int | float) or (value <= 0 and not isinstance(value, bool)):
            raise UserError(f"{path}: {name} must be a positive number; got {value!r}")
    return {name: saved[name] for name in names}
