"""Answers of any OpenAI-compatible server, by urllib; OPENAI_API_KEY from the environment goes with it if set.

But: one user turn, no streaming; what is not mended by waiting ends in a UserError.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from nightschool.config import UserError

WAITS_SECONDS = (1, 2, 4, 8)  # before each further try of a busy server
TIMEOUT_SECONDS = 120
TOGETHER = 8  # requests at a time
AGAIN = "then the same command goes on"


def answer(endpoint: str, prompt: str, model: str | None = None, temperature: float = 1.0) -> str:
    """What the assistant says to the prompt. `endpoint` may end in /v1 or in /v1/chat/completions, or in neither."""
    url = endpoint.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1") + "/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": temperature}
    named = {"model": model} if model else {}
    request = Request(url, json.dumps(body | named).encode(), {"Content-Type": "application/json"})
    if key := os.environ.get("OPENAI_API_KEY"):
        request.add_unredirected_header("Authorization", f"Bearer {key}")  # not to wherever a redirect leads
    waits = iter(WAITS_SECONDS)
    while True:
        try:
            with urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return json.load(response)["choices"][0]["message"]["content"] or ""
        except HTTPError as error:
            if (error.code == 429 or error.code >= 500) and (seconds := next(waits, None)):
                time.sleep(seconds)
                continue
            detail = " ".join(error.read(300).decode(errors="replace").split())
            mend = "set OPENAI_API_KEY" if error.code in (401, 403) else "check --endpoint and --model"
            raise UserError(f"{url} answers {error.code} ({detail}); {mend}, {AGAIN}") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UserError(f"cannot reach {url} ({reason}); check --endpoint or start its server, {AGAIN}") from None
        except (ValueError, LookupError, TypeError):
            raise UserError(f"{url} sends no chat completion; give an OpenAI-compatible --endpoint") from None


def answers(endpoint: str, prompts: Sequence[str], model: str | None = None, temperature: float = 1.0) -> list[str]:
    """`answer` to each prompt, some at a time."""
    pool = ThreadPoolExecutor(TOGETHER)
    try:
        return list(pool.map(lambda prompt: answer(endpoint, prompt, model, temperature), prompts))
    finally:
        pool.shutdown(cancel_futures=True)
