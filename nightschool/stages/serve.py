"""Serve a model: OpenAI's chat API and a page in the browser, on this machine alone unless told otherwise."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from nightschool.config import UserError, at_least
from nightschool.model.sampling import Sampling
from nightschool.serve import server
from nightschool.serve.speaker import load, newest_checkpoint
from nightschool.tasks.world import SKILLS, draw

EXAMPLES = (
    "story",
    "word_problem",
    "arithmetic",
    "letter_count",
    "passage",
    "tool",
)  # one of each on the page


@dataclass(frozen=True)
class Config:
    path: tyro.conf.Positional[Path]  # a life folder (its newest checkpoint), a run folder or a checkpoint
    host: str = "127.0.0.1"  # 0.0.0.0 = every machine that reaches this one may ask; there is no password
    port: int = 8000  # 0 = any free port
    temperature: float = 0.3  # where a request does not say; 0 = always the likeliest token
    max_new_tokens: int = 512  # an answer's length in tokens, where a request does not say

    def __post_init__(self) -> None:
        at_least(self, 0, "port", "temperature")
        at_least(self, 1, "max_new_tokens")
        if self.port > 65535:
            raise UserError(f"port must be at most 65535; got {self.port}")


def main(config: Config) -> dict[str, Any]:
    """Serve until Ctrl-C -> headline: where, and for how long."""
    checkpoint = newest_checkpoint(config.path)
    listening = server.listen(config.host, config.port)  # before loading: a taken port is known at once
    speaker = load(checkpoint)
    default = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
    of_town = () if speaker.engine.tokenizer.brought else EXAMPLES  # of which a stranger knows nothing
    problems = [draw(SKILLS[skill], "dev", 1, seed=3)[0] for skill in of_town]
    examples = [{"prompt": problem.prompt, "tools": bool(problem.tools)} for problem in problems]
    app = server.build_app(speaker, default, examples)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(
        f"{speaker.name} · {speaker.about}\ntalk to it at {url} · OpenAI's API at {url}/v1 · Ctrl-C to stop",
        file=sys.stderr,
    )
    start = time.perf_counter()
    with suppress(KeyboardInterrupt):  # uvicorn shuts down first, then hands it on
        server.serve(app, listening)
    return {"url": url, "model": speaker.name, "seconds": round(time.perf_counter() - start, 1)}
