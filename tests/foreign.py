"""Checkpoints as strangers write them: random weights by transformers, tokenizers and chat templates of other makes.

The templates are this project's own, with the habits of real ones: ChatML with a default system turn, call tags,
thoughts that are dropped once a turn is past (Qwen); headers, a first token, trimmed content and a date (Llama).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from nightschool.text.tokenizer import SPLIT, train

TEXT = "Where is Ada's 12th lamp? In the kitchen, I think. It is 1024 steps away. naïve café, 雪だるま Hello "
LLAMA_SPLIT = SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
TOKENS = {
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"],
    "llama": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
}
QWEN = """
{%- if messages[0].role != 'system' or tools -%}
    {{- '<|im_start|>system\\n' + (messages[0].content if messages[0].role == 'system' else 'Be kind.') -}}
    {%- if tools -%}{{- '\\nTools:' -}}{%- for tool in tools -%}{{- ' ' + (tool | tojson) -}}{%- endfor -%}{%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages if m.role == 'user' -%}{%- set ns.last = messages.index(m) -%}{%- endfor -%}
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {%- set said = m.content.split('</think>')[-1].lstrip('\\n') -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if loop.index0 > ns.last -%}
            {%- if '</think>' in m.content -%}{{- m.content.split('</think>')[0] + '</think>\\n\\n' -}}
            {%- elif loop.last -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
        {%- endif -%}
        {{- said -}}
        {%- for call in m.tool_calls or [] -%}
            {{- '\\n<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif m.role == 'tool' -%}
        {{- '<|im_start|>user\\n<tool_response>' + m.content + '</tool_response><|im_end|>\\n' -}}
    {%- elif not (loop.first and m.role == 'system' and tools) -%}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' + ('' if enable_thinking | default(true) else '<think>\\n\\n</think>\\n\\n') -}}
{%- endif -%}
"""
PLAIN = """
{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
LLAMA = """
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + strftime_now('%d %b %Y') + '\\n\\n' -}}
{%- if messages[0]['role'] == 'system' -%}
    {{- messages[0]['content'] | trim -}}{%- set messages = messages[1:] -%}
{%- endif -%}
{%- for tool in tools or [] -%}{{- '\\n\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '<|eot_id|>' -}}
{%- for m in messages -%}
    {%- if m.role not in ['user', 'assistant', 'tool'] -%}{{- raise_exception('no role ' + m.role) -}}{%- endif -%}
    {%- if 'tool_calls' in m and m.tool_calls | length != 1 -%}{{- raise_exception('one call') -}}{%- endif -%}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim -}}
    {%- if 'tool_calls' in m -%}
        {%- set call = m.tool_calls[0].function -%}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}' -}}
    {%- endif -%}
    {{- '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""


def write_tokenizer(folder: Path, make: str, template: str | None = None) -> int:
    """tokenizer.json and tokenizer_config.json as transformers 4 wrote them -> the number of ids."""
    saved = json.loads(train([TEXT] * 4, 330).backend.to_str())
    saved["added_tokens"] = []
    if make == "llama":
        saved["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = LLAMA_SPLIT
    backend = tokenizers.Tokenizer.from_str(json.dumps(saved))
    backend.add_tokens([AddedToken(t, special="|" in t, normalized=False) for t in TOKENS[make]])
    if make == "llama":  # begins every text
        first = ("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))
        backend.post_processor = TemplateProcessing("<|begin_of_text|> $A", special_tokens=[first])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if make == "llama":
        ends = {
            "eos_token": {"__type": "AddedToken", "content": "<|eot_id|>", "special": True},
            "bos_token": "<|begin_of_text|>",
        }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **ends}
    config["chat_template"] = template or {"qwen": QWEN, "llama": LLAMA}[make]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return backend.get_vocab_size()


def write_checkpoint(folder: Path, family: str, tied: bool = True, shards: str = "1GB", **config: Any) -> Any:
    """A random model of a family, saved by transformers, which returns it. Its vocabulary is padded, as Qwen's is."""
    num_ids = write_tokenizer(folder, "llama" if family == "llama" else "qwen")
    kinds = {
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    }
    make_config, make_model = kinds[family]
    sizes: dict[str, Any] = {
        "vocab_size": -(-num_ids // 32) * 32,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.1,
        "tie_word_embeddings": tied,
        **({"head_dim": 32} if family == "qwen3" else {}),
    }
    torch.manual_seed(0)
    model = make_model(make_config(**sizes | config)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms away from 1, biases from 0
            parameter.data.normal_(1.0, 0.3)
    model.save_pretrained(folder, max_shard_size=shards)
    return model
