"""`nightschool import` and `export` end to end: what strangers wrote goes in, what they read comes out."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from nightschool.config import UserError
from nightschool.model import engine, exchange, peers
from nightschool.model.sampling import Sampling
from nightschool.model.transformer import ModelConfig, Transformer
from nightschool.serve.request import Refused, read
from nightschool.serve.speaker import load, reply
from nightschool.stages import export, import_
from nightschool.text import chat, template
from nightschool.text.document import Message
from nightschool.text.tokenizer import train

TALK = (Message("user", "Where is Ada's 12th lamp?"), Message("assistant", "In the kitchen."))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that was taken in."""
    folder = tmp_path_factory.mktemp("llama")
    foreign.write_checkpoint(folder / "theirs", "llama", shards="50KB")
    headline = import_.main(import_.Config(str(folder / "theirs"), folder / "import"))
    assert headline["family"] == "llama"
    assert headline["checks"][0].startswith("transformers: logits equal")
    assert import_.main(import_.Config(str(folder / "theirs"), folder / "import")) == headline  # nothing done again
    return folder / "import"


def ours(folder: Path) -> Path:
    tokenizer = train(chat.texts(TALK) * 5, 300)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 64, 2, 4, 2, 16, 128))
    model.init_weights(0)
    exchange.save(folder / "sft" / "checkpoint", model, tokenizer, "# Raised here")
    return folder / "sft"


def test_one_can_talk_to_what_was_taken_in(run: Path) -> None:
    speaker = load(run)
    *said, ended = reply(speaker, [Message("user", "Hello <|eot_id|>")], {}, Sampling(max_new_tokens=20, seed=1))
    assert len(said) == ended.num_tokens or ended.reason == "stop"  # type: ignore[union-attr]
    assert "<|" not in "".join(event.text for event in said)  # type: ignore[union-attr]


def test_the_server_says_what_a_template_refuses(run: Path) -> None:
    """The turns are right as OpenAI's API has it, but this template takes a system turn at the start alone."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}]
    with pytest.raises(Refused, match="no role system") as refused:
        read(json.dumps({"messages": turns}).encode(), load(run), Sampling())
    assert refused.value.status == 400


def test_a_tool_answers_in_the_models_own_words(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that ends in a call goes on as the stranger's template writes observations."""
    foreign.write_checkpoint(tmp_path / "theirs", "qwen3", max_position_embeddings=512)
    import_.main(import_.Config(str(tmp_path / "theirs"), tmp_path / "run", check=False))
    model, tokenizer = exchange.load(tmp_path / "run" / "checkpoint")
    call = Message("assistant", "", ({"name": "lookup", "arguments": {}},))
    ids, mask = chat.render(tokenizer, [TALK[0], call])
    script = [i for i, m in zip(ids, mask, strict=True) if m]

    def scripted(logits: torch.Tensor, uniform: torch.Tensor, sampling: Any) -> Any:
        return torch.tensor([script.pop(0) if script else 5]), torch.zeros(1), torch.ones_like(logits)

    monkeypatch.setattr(engine, "draw", scripted)
    prompt = chat.render(tokenizer, TALK[:1], generate=True)[0]
    tool = lambda row, call: "the kitchen"  # noqa: E731
    made = engine.Engine(model, tokenizer).generate([prompt], Sampling(max_new_tokens=60), tool)[0]
    forced = tokenizer.decode(i for i, m in zip(made.ids, made.mask, strict=True) if not m)
    assert forced == (
        "\n<|im_start|>user\n<tool_response>the kitchen</tool_response><|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n"
    )


def test_hf_is_the_checkpoint_as_it_is(tmp_path: Path) -> None:
    run = ours(tmp_path)
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer_config.json"):
        (run / "checkpoint" / name).unlink()  # what is missing is added
    headline = export.main(export.Config(run, "hf", tmp_path / "out"))
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(50)[None]
    torch.testing.assert_close(again(ids).logits, exchange.load(run / "checkpoint")[0](ids), atol=1e-4, rtol=0)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == chat.TEMPLATE.read_text()
    assert (tmp_path / "out" / "README.md").read_text().endswith("# Raised here\n")
    assert [check.split(":")[0] for check in headline["checks"]] == ["read back", "transformers"]
    # What was exported comes home; it used to be refused for having no template but ours.
    import_.main(import_.Config(str(tmp_path / "out"), tmp_path / "home"))
    _, tokenizer = exchange.load(tmp_path / "home" / "checkpoint")
    assert tokenizer.template == ""


def test_gguf_and_its_modelfile(tmp_path: Path) -> None:
    run = ours(tmp_path)
    headline = export.main(export.Config(run, "gguf", tmp_path / "out", "q8_0"))
    path = Path(headline["path"])
    assert path.name == "sft-q8_0.gguf"
    assert len(GGUFReader(path).tensors) == 2 + 11 * 2
    modelfile = (tmp_path / "out" / "Modelfile").read_text()
    assert "FROM ./sft-q8_0.gguf\n" in modelfile
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert "{{- range .Messages }}<|im_start|>{{ .Role }}" in modelfile


def test_what_a_template_says_where_nobody_gives_a_system_turn_is_told_to_ollama(tmp_path: Path) -> None:
    turn = "{{- '<|im_start|>system\\nYou are kind.<|im_end|>\\n' if messages[0].role != 'system' -}}"
    foreign.write_tokenizer(tmp_path, "qwen", turn + foreign.PLAIN)
    tokenizer, model = template.adopt(tmp_path), Transformer(ModelConfig(400, 32, 48, 1, 2, 2, 16, 64))
    modelfile = export.modelfile("m.gguf", model, tokenizer)
    assert "{{- range .Messages }}<|im_start|>{{ .Role }}" in modelfile
    assert modelfile.endswith('SYSTEM """You are kind."""\n')


def test_a_template_that_ollama_must_find_itself(run: Path, tmp_path: Path) -> None:
    export.main(export.Config(run, "gguf", tmp_path))
    modelfile = (tmp_path / "Modelfile").read_text()
    assert 'PARAMETER stop "<|eot_id|>"' in modelfile
    assert "TEMPLATE" not in modelfile


def test_a_reader_that_differs_stops_an_export(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, tokenizer = exchange.load(run / "checkpoint")
    other = exchange.load(run / "checkpoint")[0]
    other.get_parameter("model.layers.1.mlp.up_proj.weight").data[0] += 0.005
    with pytest.raises(UserError, match="transformers gives other logits than we do: by"):
        peers.ask_transformers(run / "checkpoint", other, tokenizer)
    other.get_parameter("model.embed_tokens.weight").data.neg_()
    with pytest.raises(UserError, match="transformers writes otherwise than we do after"):
        peers.ask_transformers(run / "checkpoint", other, tokenizer)
    monkeypatch.setattr(
        peers,
        "ask_llama_cpp",
        lambda *args: peers.compare("it", lambda ids: other(torch.tensor([ids]))[0], *args[1:3], 1e-4),
    )
    with pytest.raises(UserError, match="it writes otherwise"):
        export.to_gguf(tmp_path / "out", "m", model, tokenizer, "f16")
    assert list((tmp_path / "out").iterdir()) == []


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for, from a folder of files."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        names = sorted(p.name for p in self.folder.iterdir())
        if path.startswith("/api/models/town/small/"):
            tree = [
                {"type": "file", "path": name, "size": (self.folder / name).stat().st_size, "oid": "0" * 40}
                for name in names
            ]
            info = {"_id": "1", "id": "town/small", "sha": "a" * 40, "siblings": [{"rfilename": n} for n in names]}
            return self.send(json.dumps(tree if "/tree/" in path else info).encode(), body, "application/json")
        name = path.removeprefix(f"/town/small/resolve/{'a' * 40}/")
        if name not in names:
            return self.send_error(404)
        return self.send((self.folder / name).read_bytes(), body, "application/octet-stream")

    def send(self, data: bytes, body: bool, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    foreign.write_checkpoint(tmp_path / "theirs", "qwen2")
    (tmp_path / "theirs" / "pytorch_model.bin").write_bytes(b"never fetched")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"folder": tmp_path / "theirs"}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_name_on_the_hub(hub: str, tmp_path: Path) -> None:
    """HF_ENDPOINT is read when the library is imported: a process of its own."""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    code = "import sys; from nightschool.__main__ import main; sys.exit(10 * main({}) + main({}))"
    argv = [["import", name, "--no-check", "--out", str(tmp_path / name[5:])] for name in ("town/small", "town/other")]
    command = [sys.executable, "-c", code.format(*argv)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["family"] == "qwen2"
    assert not list((tmp_path / "home").rglob("*.bin"))
    assert "the hub did not give it" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "other").exists()
