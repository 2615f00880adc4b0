"""`nightschool export`: a run's checkpoint for other programs, refused unless they read what we meant.

hf: a Hugging Face directory for transformers, vLLM, MLX. gguf: one file for llama.cpp, Ollama and LM Studio, with an
Ollama Modelfile beside it. What was written is read back, and asked of the readers that are installed here.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nightschool.config import UserError
from nightschool.model import exchange, gguf, peers
from nightschool.model.transformer import Transformer
from nightschool.runs import atomic, write_text
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.text.tokenizer import TURN_END, TURN_START, Tokenizer

# Ollama's own template language; it does not read the one in the GGUF, only guesses which known one it is.
CHATML = f"""{{{{- range .Messages }}}}{TURN_START}{{{{ .Role }}}}
{{{{ .Content }}}}{TURN_END}
{{{{ end }}}}{TURN_START}assistant
"""
PROBE = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye"))


@dataclass(frozen=True)
class Config:
    run: Annotated[Path, tyro.conf.Positional]  # the run folder whose checkpoint is exported
    to: Literal["hf", "gguf"]  # a Hugging Face directory, or one GGUF file and its Modelfile
    out: Path  # the folder to write
    quant: gguf.Quant | None = None  # how matrices are stored in a gguf; None = f16. hf stays float32

    def __post_init__(self) -> None:
        if self.to == "hf" and self.quant:
            raise UserError(f"quant {self.quant!r} is for --to gguf; --to hf keeps float32")


def main(config: Config) -> dict[str, Any]:
    checkpoint = exchange.checkpoint_of(config.run)
    if config.to == "gguf":
        gguf.library()
        if config.out.exists() and any(p.suffix != ".gguf" and p.name != "Modelfile" for p in folder(config.out)):
            raise UserError(f"{config.out} holds something that is no export; choose another --out")
    model, tokenizer = exchange.load(checkpoint)
    model = model.to("cpu")  # where other readers are asked
    if config.to == "hf":
        path, checks = to_hf(config.out, checkpoint, model, tokenizer)
    else:
        path, checks = to_gguf(config.out, config.run.resolve().name, model, tokenizer, config.quant or "f16")
    print(*checks, sep="\n", file=sys.stderr)
    return {"path": str(path), "bytes": sum(p.stat().st_size for p in folder(path)), "checks": checks}


def folder(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else [path]


def to_hf(out: Path, checkpoint: Path, model: Transformer, tokenizer: Tokenizer) -> tuple[Path, list[str]]:
    """The checkpoint as it is, with what may be missing of its small files."""
    card = checkpoint / "README.md"
    body = card.read_text(encoding="utf-8").removeprefix("---\n").partition("---\n")[2] if card.is_file() else ""
    exchange.save(out, model, tokenizer, body)
    again = exchange.load(out)[0].state_dict()
    if wrong := [name for name, w in model.state_dict().items() if not w.equal(again[name])]:
        raise UserError(f"{out}: {wrong[0]} read back is not what was written")
    return out, [f"read back: all {len(again)} tensors equal", peers.ask_transformers(out, model, tokenizer)]


def to_gguf(
    out: Path, name: str, model: Transformer, tokenizer: Tokenizer, quant: gguf.Quant
) -> tuple[Path, list[str]]:
    """DIR/NAME-QUANT.gguf, there only if every check held, and DIR/Modelfile."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{quant}.gguf"
    with atomic(path) as temporary:
        gguf.write(temporary, model, tokenizer, name, quant)
        stored = gguf.check(temporary, model, tokenizer)
        checks = [f"read back: all {len(stored.state_dict())} tensors equal within the rounding of {quant}"]
        checks.append(peers.ask_llama_cpp(temporary, stored, tokenizer, quant))
    write_text(out / "Modelfile", modelfile(path.name, model, tokenizer))
    return path, checks


def modelfile(name: str, model: Transformer, tokenizer: Tokenizer) -> str:
    """For `ollama create NAME -f Modelfile`. A chat template that is not plain ChatML is left for Ollama to find."""
    stop = next(token for token, id in tokenizer.special.items() if id == tokenizer.turn_end)
    lines = [f"FROM ./{name}", f'PARAMETER stop "{stop}"', f"PARAMETER num_ctx {model.config.max_position_embeddings}"]
    head = head_of(tokenizer, PROBE[1:])
    system = re.fullmatch(rf"{re.escape(TURN_START)}system\n([^\"]*){re.escape(TURN_END)}\n", head or "")
    if head_of(tokenizer, PROBE) == "" and (head == "" or system):
        lines.append(f'TEMPLATE """{CHATML}"""')
        lines += [f'SYSTEM """{system[1]}"""'] if system else []
    return "\n".join(lines) + "\n"


def head_of(tokenizer: Tokenizer, messages: tuple[Message, ...]) -> str | None:
    """What the model's template says before messages of plain ChatML; None: it writes them otherwise."""
    turns = "".join(f"{TURN_START}{m.role}\n{m.content}{TURN_END}\n" for m in messages) + f"{TURN_START}assistant\n"
    text = tokenizer.decode(chat.render(tokenizer, messages, generate=True)[0])
    return text.removesuffix(turns) if text.endswith(turns) else None
