"""One model behind OpenAI's chat API, and one page to talk to it.

POST /v1/chat/completions; GET /v1/models, /health, / (page.html) and /examples (what the page shows first).
One answer is generated at a time, in a worker thread, in the order of asking, so the event loop stays free; a
client that goes away ends its answer.

Beyond OpenAI's shape: `min_p`; a tool {"type": "calculator"} is run by the server, told in `tool_uses` of the
delta or message; "truncation": "auto" drops the oldest turns that do not fit instead of refusing.
But: no n > 1, penalties, JSON mode, images, keys, TLS, or /v1/completions.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nightschool.config import UserError
from nightschool.model.engine import Token
from nightschool.model.sampling import Sampling
from nightschool.serve.request import Ask, Refused, read
from nightschool.serve.speaker import AT_HAND, Called, Ended, Said, Speaker, reply
from nightschool.text.tokenizer import Tokenizer

BODY_LIMIT = 1_000_000  # bytes
Event = Said | Called | Ended


def cut(events: Iterable[Event], stop: Sequence[str]) -> Iterator[Event]:
    """End the answer before the first stop string; text that may be the start of one waits."""
    held: list[Said] = []
    num_tokens = 0
    for event in events:
        if isinstance(event, Said):
            held, num_tokens = [*held, event], num_tokens + 1
            text = "".join(said.text for said in held)
            end = min((text.find(s) for s in stop if s in text), default=None)
            if end is not None:
                for said in held:
                    if end > 0:
                        yield replace(said, text=said.text[:end])
                    end -= len(said.text)
                yield Ended("stop", (), num_tokens)
                return
            if any(text.endswith(s[:length]) for s in stop for length in range(1, len(s))):
                continue
        yield from held
        held = []
        if not isinstance(event, Said):
            yield event


async def generate(speaker: Speaker, worker: ThreadPoolExecutor, ask: Ask) -> AsyncIterator[Event]:
    """The events of one reply, made in the worker thread. Closing it stops the reply at the next token."""
    loop, queue, gone = asyncio.get_running_loop(), asyncio.Queue[Event | None](), threading.Event()

    def work() -> None:
        num_top = max(1, ask.top_logprobs) if ask.logprobs else 0
        events = reply(speaker, ask.messages, ask.tools, ask.sampling, num_top)
        try:
            for event in cut(events, ask.stop):
                if gone.is_set():
                    return
                loop.call_soon_threadsafe(queue.put_nowait, event)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    future = loop.run_in_executor(worker, work)
    try:
        while (event := await queue.get()) is not None:
            yield event
        await future  # raises what the worker raised
    finally:
        gone.set()


def entry(tokenizer: Tokenizer, id: int, log_prob: float) -> dict[str, Any]:
    """One token in OpenAI's logprobs; -9999 is its word for never."""
    raw = list(tokenizer.token_bytes[id])
    return {"token": tokenizer.decode([id]), "logprob": max(log_prob, -9999.0), "bytes": raw}


def log_probs(tokenizer: Tokenizer, token: Token, num_top: int) -> dict[str, Any]:
    """A token and its likeliest rivals, before truncation; greedy sampling too shows what the model thought."""
    top = [entry(tokenizer, id, log_prob) for id, log_prob in token.top[:num_top]]
    log_prob = dict(token.top).get(token.id, token.log_prob)
    return {**entry(tokenizer, token.id, log_prob), "top_logprobs": top}


def tool_call(called: Called) -> dict[str, Any]:
    """A call for the client to run."""
    function = {"name": called.name, "arguments": json.dumps(called.arguments)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def tool_use(called: Called) -> dict[str, Any]:
    """A call that the server has run."""
    return {"name": called.name, "arguments": called.arguments, "result": called.result}


def count(ask: Ask, num_tokens: int) -> dict[str, int]:
    total = ask.num_prompt + num_tokens
    return {"prompt_tokens": ask.num_prompt, "completion_tokens": num_tokens, "total_tokens": total}


async def chunks(
    head: dict[str, Any], events: AsyncIterator[Event], ask: Ask, tokenizer: Tokenizer
) -> AsyncIterator[str]:
    """The answer as server-sent events."""

    def chunk(delta: dict[str, Any], **choice: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **choice}
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"

    num_calls = 0
    yield chunk({"role": "assistant", "content": ""})
    async with aclosing(events):  # type: ignore[type-var]
        async for event in events:
            match event:
                case Said(text, token) if ask.logprobs:
                    content = [log_probs(tokenizer, token, ask.top_logprobs)]
                    yield chunk({"content": text}, logprobs={"content": content, "refusal": None})
                case Said(text, _) if text:
                    yield chunk({"content": text})
                case Called(result=None):
                    yield chunk({"tool_calls": [{"index": num_calls, **tool_call(event)}]})
                    num_calls += 1
                case Called():
                    yield chunk({"tool_uses": [tool_use(event)]})
                case Ended():
                    yield chunk({}, finish_reason=event.reason)
                    if ask.include_usage:
                        usage = {"choices": [], "usage": count(ask, event.num_tokens)}
                        yield f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', **usage})}\n\n"
    yield "data: [DONE]\n\n"


async def complete(
    request: Request, head: dict[str, Any], events: AsyncIterator[Event], ask: Ask, tokenizer: Tokenizer
) -> Response:
    """The answer in one piece."""
    said: list[Said] = []
    called: list[Called] = []
    async with aclosing(events):  # type: ignore[type-var]
        async for event in events:
            if await request.is_disconnected():
                return Response(status_code=499)  # nobody reads it; nginx's number for that
            match event:
                case Said():
                    said.append(event)
                case Called():
                    called.append(event)
                case Ended():
                    ended = event
    message: dict[str, Any] = {"role": "assistant", "content": "".join(s.text for s in said), "refusal": None}
    if calls := [tool_call(c) for c in called if c.result is None]:
        message = {**message, "content": message["content"] or None, "tool_calls": calls}
    if uses := [tool_use(c) for c in called if c.result is not None]:
        message["tool_uses"] = uses
    content = [log_probs(tokenizer, s.token, ask.top_logprobs) for s in said]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": content, "refusal": None} if ask.logprobs else None,
        "finish_reason": ended.reason,
    }
    usage = count(ask, ended.num_tokens)
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


async def read_body(request: Request) -> bytes:
    """The body. One that announces ten times the limit is refused before it is sent; else what is too much is read on
    and dropped, up to a point, so that its sender hears why in place of a broken connection."""
    size, body = 0, bytearray()
    if (announced := int(request.headers.get("content-length", 0))) > 10 * BODY_LIMIT:
        size = announced
    else:
        async for piece in request.stream():
            size += len(piece)
            if size <= BODY_LIMIT:
                body += piece
            elif size > 100 * BODY_LIMIT:
                break
    if size > BODY_LIMIT:
        raise Refused(f"the body must be at most {BODY_LIMIT:,} bytes", code="request_too_large", status=413)
    return bytes(body)


def refuse(request: Request, error: Exception) -> Response:
    """Any error in OpenAI's shape."""
    match error:
        case Refused():
            status, fields = error.status, error.error
        case HTTPException():
            status, fields = (
                error.status_code,
                Refused(f"{request.method} {request.url.path}: {error.detail}").error,
            )
        case _:  # ours: Starlette raises it again for the log
            status, fields = (
                500,
                {"message": "internal error", "type": "server_error", "param": None, "code": None},
            )
    return JSONResponse({"error": fields}, status, {"Connection": "close"} if status == 413 else None)


def build_app(speaker: Speaker, default: Sampling, examples: Sequence[dict[str, Any]]) -> Starlette:
    """`default` holds what a request may leave out; `examples` are {"prompt": str, "tools": bool}, none of a model
    that was raised elsewhere."""
    worker = ThreadPoolExecutor(max_workers=1)
    started = int(time.time())
    page = resources.files("nightschool.serve").joinpath("page.html").read_text(encoding="utf-8")

    async def chat_completions(request: Request) -> Response:
        raw = await read_body(request)
        ask = await run_in_threadpool(read, raw, speaker, default)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": speaker.name}
        events = generate(speaker, worker, ask)
        if not ask.stream:
            return await complete(request, head, events, ask, speaker.engine.tokenizer)
        body = chunks(head, events, ask, speaker.engine.tokenizer)
        return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def models(request: Request) -> Response:
        card = {"id": speaker.name, "object": "model", "created": started, "owned_by": "nightschool"}
        return JSONResponse({"object": "list", "data": [card]})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": speaker.name})

    async def first_look(request: Request) -> Response:
        look = {
            "model": speaker.name,
            "about": speaker.about,
            "temperature": default.temperature,
            "tools": AT_HAND,
        }
        return JSONResponse({**look, "examples": list(examples)})

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        worker.shutdown(wait=False, cancel_futures=True)

    routes = [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/models", models),
        Route("/health", health),
        Route("/examples", first_look),
        Route("/", index),
    ]
    handlers = {Refused: refuse, HTTPException: refuse, Exception: refuse}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 = any free one. UserError where the port is taken or the host not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # what follows only repeats the address
        raise UserError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from error


def serve(app: Starlette, listening: socket.socket) -> None:
    """Answer until Ctrl-C; running answers get one second to end."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])
