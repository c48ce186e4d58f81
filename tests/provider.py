"""A server that misbehaves as LLM providers do, and counts what it bills.

The model in a request names the behaviour; `BEHAVIOURS` has them all, by the ids of the cases. An answer costs 3
micro-dollars an input token and 15 an output token. `user` in a request (for Anthropic `metadata.user_id`) is the
query, so that what happens once happens to its first request only.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from time import time
from typing import Any, Literal

IN_MICROS, OUT_MICROS = 3, 15
USAGE_IN, USAGE_OUT = 12, 30
SAID = "the answer is four"


@dataclass(frozen=True)
class Play:
    """One response. `billed` is input and output tokens; `silence` comes before the head, `drip` is the time over which
    the body is sent, both in units of the server's `slow`."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    billed: tuple[int, int] = (0, 0)
    silence: float = 0.0
    drip: float = 0.0
    ending: Literal["whole", "half", "reset", "never", "close"] = "whole"


@dataclass(frozen=True)
class Asked:
    """One request. `nth` counts from 1 those of its query to its model, `earlier` those before on its connection."""

    model: str
    query: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    nth: int
    earlier: int
    is_key_known: bool

    @property
    def is_messages(self) -> bool:
        return self.path.endswith("/messages")


Behaviour = Callable[[Asked], Play]


def sent(value: Any, status: int = 200, **more: Any) -> Play:
    """JSON."""
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    return Play(status, json.dumps(value).encode(), headers, **more)


def page(status: int, title: str, **more: Any) -> Play:
    """HTML."""
    body = f"<!doctype html><html><head><title>{title}</title></head><body>{title}</body></html>".encode()
    return Play(status, body, {"content-type": "text/html; charset=utf-8"}, **more)


def body_of(asked: Asked, text: str | None = SAID, end: str = "stop", tokens: tuple[int, int] = (12, 30)) -> Any:
    """A good body in the request's dialect."""
    if asked.is_messages:
        ends = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": ends.get(end, end),
            "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
        }
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    if asked.path.endswith("/responses"):
        content = [{"type": "output_text", "text": text}]
        output = [{"type": "message", "role": "assistant", "content": content}]
        usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
        return {"id": "r", "object": "response", "status": "completed", "model": asked.model, "output": output} | {
            "usage": usage
        }
    if asked.path.endswith("/completions") and "chat" not in asked.path:
        return {"model": asked.model, "choices": [{"index": 0, "text": text, "finish_reason": end}], "usage": usage}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": end}
    return {"id": "c", "object": "chat.completion", "model": asked.model, "choices": [choice], "usage": usage}


def good(
    asked: Asked, text: str | None = SAID, end: str = "stop", tokens: tuple[int, int] = (12, 30), **more: Any
) -> Play:
    """A good answer, billed as it says."""
    return sent(body_of(asked, text, end, tokens), billed=tokens, **more)


def changed(**fields: Any) -> Behaviour:
    """A good answer with these fields replaced, those that are None left out; billed 12 and 30 tokens."""

    def behave(asked: Asked) -> Play:
        body = body_of(asked) | fields
        return sent({name: value for name, value in body.items() if value is not None}, billed=(USAGE_IN, USAGE_OUT))

    return behave


def said(message: dict[str, Any], content: list[Any], text: str | None, end: str, tokens: tuple[int, int]) -> Behaviour:
    """An answer with more in its message (for Anthropic, with this content)."""

    def behave(asked: Asked) -> Play:
        body = body_of(asked, text, end, tokens)
        if asked.is_messages:
            body["content"] = content
        else:
            body["choices"][0]["message"] |= message
        return sent(body, billed=tokens)

    return behave


def in_bytes(change: Callable[[bytes], bytes], **more: Any) -> Behaviour:
    """A good answer, its bytes changed on the way."""

    def behave(asked: Asked) -> Play:
        play = good(asked)
        return replace(play, body=change(play.body), **more)

    return behave


def error(status: int, message: str, code: str | None = None, kind: str = "invalid_request_error", **more: Any) -> Play:
    """An error as OpenAI and Anthropic write it."""
    return sent(
        {"type": "error", "error": {"message": message, "type": kind, "code": code, "param": None}}, status, **more
    )


def busy(**headers: str) -> Play:
    """429 that passes, with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return error(429, "Rate limit reached for requests", "rate_limit_exceeded", "requests", headers=named)


def always(play: Play) -> Behaviour:
    return lambda _: play


def first(play: Play | Behaviour, times: int = 1) -> Behaviour:
    """This for a query's first requests, a good answer later."""

    def behave(asked: Asked) -> Play:
        if asked.nth > times:
            return good(asked)
        return play if isinstance(play, Play) else play(asked)

    return behave


def events(asked: Asked) -> Play:
    """A stream that nobody asked for, without usage."""
    parts = [
        {"model": asked.model, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "the answer "}}]},
        {"model": asked.model, "choices": [{"index": 0, "delta": {"content": "is four"}}]},
        {"model": asked.model, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    lines = [f"data: {json.dumps(part)}" for part in parts] + ["data: [DONE]"]
    return Play(200, "\n\n".join(lines).encode(), {"content-type": "text/event-stream"}, billed=(USAGE_IN, USAGE_OUT))


CALL = {"id": "t", "type": "function", "function": {"name": "add", "arguments": "{}"}}
USE = {"type": "tool_use", "id": "t", "name": "add", "input": {}}
REFUSED = {"type": "text", "text": "I cannot do that."}
WINDOW = "This model's maximum context length is 4096 tokens, your messages have 5000 tokens"
GEMINI_BUSY = {
    "code": 429,
    "status": "RESOURCE_EXHAUSTED",
    "message": "You exceeded your current quota, please check your plan and billing details.",
    "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.6s"}],
}
FILTERED = {"code": "content_filter", "message": "The response was filtered", "param": "prompt", "status": 400}
LLAMA = {"code": 400, "type": "exceed_context_size_error", "message": "too big", "n_ctx": 512, "n_prompt_tokens": 600}
GEMINI_LONG = {
    "code": 400,
    "status": "INVALID_ARGUMENT",
    "message": "The input token count (9) exceeds the maximum (8).",
}
NO_MODEL = error(404, "The API deployment for this resource does not exist.", "DeploymentNotFound")
RESETS = {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "600ms"}
OTHERS = {"x_ratelimit_remaining_requests": "9", "x_ratelimit_reset_requests": "4m0s"}
TOLD = {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}
OWN_KEY = {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.000486}}

BIG = "four " * 400_000

BEHAVIOURS: dict[str, Behaviour] = {
    "01": good,
    "later": lambda asked: good(asked, silence=0.1),
    "big": lambda asked: good(asked, BIG),
    "02": first(busy(retry_after="1")),
    "03": first(lambda _: busy(retry_after=formatdate(time() + 1, usegmt=True), date=formatdate(time(), usegmt=True))),
    "04": first(busy(retry_after_ms="600", retry_after="40")),
    "05": first(busy(**RESETS, **OTHERS)),
    "06": first(busy(retry_after="0"), times=2),
    "07": always(busy(retry_after="86400")),
    "08": always(error(429, "You exceeded your current quota", "insufficient_quota", "insufficient_quota")),
    "09": always(error(429, "Request too large on tokens per min (TPM): Limit 10, Requested 20", None, "tokens")),
    "10": first(sent([{"error": GEMINI_BUSY}], 429)),
    "11": first(error(503, "Overloaded", "server_is_overloaded", "server_error", headers={"retry-after": "1"})),
    "12": first(error(529, "Overloaded", None, "overloaded_error", headers={"x-should-retry": "true"})),
    "13": first(error(503, "Loading model", None, "unavailable_error"), times=4),
    "14": first(page(502, "502 Bad Gateway")),
    "15": first(page(504, "504 Gateway Time-out", silence=0.2, billed=(USAGE_IN, USAGE_OUT))),
    "16": first(Play(500, b"Internal Server Error", {"content-type": "text/plain"})),
    "17": always(error(402, "Insufficient Balance", None, "unknown_error")),
    "18": always(error(400, "Your credit balance is too low to access the Anthropic API.")),
    "19": first(sent({"error": {"message": "Provider returned error", "code": 429}})),
    "20": lambda asked: good(asked, "the answer", "error", (12, 7)),
    "21": lambda asked: sent(body_of(asked, None, tokens=(12, 5)) | {"choices": []}, billed=(12, 5)),
    "22": lambda asked: sent({"model": asked.model, "choices": None, "content": None}, billed=(12, 0)),
    "23": said(
        {"reasoning_content": "Let me see. " * 9}, [{"type": "thinking", "thinking": "Hm."}], None, "length", (12, 200)
    ),
    "24": said({"refusal": "I cannot do that."}, [REFUSED], None, "stop", (12, 9)),
    "25": lambda asked: good(asked, None, "content_filter", (12, 14)),
    "26": always(sent({"error": FILTERED}, 400, billed=(12, 16))),
    "27": said({"tool_calls": [CALL]}, [USE], None, "tool_calls", (12, 18)),
    "28": lambda asked: good(asked, "", tokens=(12, 1)),
    "29": in_bytes(lambda body: body[:-40]),
    "30": first(lambda asked: good(asked, ending="half")),
    "31": first(lambda asked: good(asked, ending="reset")),
    "32": lambda asked: Play(ending="close") if asked.earlier else good(asked),
    "33": lambda asked: good(asked, silence=1.0),
    "34": lambda asked: good(asked, drip=3.0),
    "35": lambda asked: good(asked, ending="never"),
    "36": in_bytes(lambda body: b"\n" * 5_000 + body, drip=0.3),
    "37": in_bytes(lambda body: b"\xef\xbb\xbf" + body),
    "38": in_bytes(lambda body: body, headers={"content-type": "text/plain"}),
    "39": always(page(200, "Sign in")),
    "40": changed(score=float("nan")),
    "41": in_bytes(lambda body: body.replace(b"is four", b"is \xfe four")),
    "42": in_bytes(gzip.compress, headers={"content-type": "application/json", "content-encoding": "gzip"}),
    "42-plain": in_bytes(bytes, headers={"content-type": "application/json", "content-encoding": "gzip"}),
    "43": events,
    "44": lambda asked: good(asked, "{" + "\n" * 3_000, "length", (12, 4_096)),
    "45": lambda asked: sent({**body_of(asked), "usage": None}, billed=(USAGE_IN, USAGE_OUT)),
    "46": changed(usage=dict.fromkeys((*TOLD, "input_tokens", "output_tokens"), 0)),
    "47": changed(usage={"prompt_tokens": "12", "completion_tokens": 30.0}),
    "48": changed(usage=TOLD | {"completion_tokens": 5}),
    "49": changed(usage=TOLD | OWN_KEY),
    "50": changed(model="huge/other-model"),
    "51": lambda asked: sent(
        body_of(asked, tokens=(12, 90)) | {"choices": body_of(asked)["choices"] * 3}, billed=(12, 90)
    ),
    "52": lambda asked: good(asked, tokens=(4, 30)),
    "53": always(error(400, WINDOW, "context_length_exceeded")),
    "54": always(
        sent({"object": "error", "message": WINDOW, "type": "BadRequestError", "param": None, "code": 400}, 400)
    ),
    "55": always(sent({"error": LLAMA}, 400)),
    "56": always(error(400, "prompt is too long: 200001 tokens > 200000 maximum")),
    "57": always(sent([{"error": GEMINI_LONG}], 400)),
    "58": always(page(413, "413 Payload Too Large")),
    "59": always(error(400, "Unsupported parameter: 'max_tokens' is not supported", "unsupported_parameter")),
    "60": always(sent({"object": "error", "detail": [{"type": "extra_forbidden", "loc": ["body", "store"]}]}, 422)),
    "61": always(NO_MODEL),
    "62": always(error(401, "Incorrect API key provided: k-secret", "invalid_api_key", "authentication_error")),
    "63": first(error(401, "The token has expired", "token_expired", "authentication_error")),
    "64": always(error(403, "Country, region, or territory not supported", "unsupported_country_region_territory")),
    "65": always(Play(307, b"", {"location": "http://localhost:9/v1/chat/completions"})),
    "66": first(error(408, "The operation timed out", "Timeout", billed=(12, 0))),
    "67": lambda asked: replace(
        good(asked, silence=1.0 if asked.nth == 1 else 0.0), billed=(0, 0) if asked.is_key_known else (12, 30)
    ),
}


class Provider:
    """The server. `billed` has the micro-dollars of each query, `asked` every request."""

    def __init__(self, slow: float) -> None:
        self.slow = slow
        self.base_url = ""
        self.asked: list[Asked] = []
        self.billed: Counter[str] = Counter()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._keys: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        earlier = 0
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer(reader, writer, earlier):
                earlier += 1
        with suppress(Exception):
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, earlier: int) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))))
        asked = self._note(lines[0].split(" ")[1], headers, body, earlier)
        # Model `by-user` plays what the query's user names before a colon.
        played = asked.query.partition(":")[0] if asked.model == "by-user" else asked.model
        play = BEHAVIOURS.get(played, good)(asked)
        self.billed[asked.query] += play.billed[0] * IN_MICROS + play.billed[1] * OUT_MICROS
        if play.ending == "reset":
            # A linger of 0 makes the close a reset.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if play.ending in ("reset", "close"):
            return False
        if play.ending == "never":
            await reader.read()
            return False
        await asyncio.sleep(play.silence * self.slow)
        return await self._send(writer, play)

    def _note(self, path: str, headers: dict[str, str], body: dict[str, Any], earlier: int) -> Asked:
        model, query = str(body["model"]), str(body.get("user") or (body.get("metadata") or {}).get("user_id"))
        self._counts[model, query] += 1
        key = headers.get("idempotency-key", "")
        asked = Asked(model, query, path, headers, body, self._counts[model, query], earlier, key in self._keys)
        self._keys.add(key)
        self.asked.append(asked)
        return asked

    async def _send(self, writer: asyncio.StreamWriter, play: Play) -> bool:
        headers = {"content-length": str(len(play.body)), **play.headers}
        head = [f"HTTP/1.1 {play.status} Said", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(head).encode())
        body = play.body[: len(play.body) // 2] if play.ending == "half" else play.body
        pieces = 40 if play.drip else 1
        size = len(body) // pieces + 1
        for start in range(0, len(body), size):
            writer.write(body[start : start + size])
            await writer.drain()
            await asyncio.sleep(play.drip * self.slow / pieces)
        return play.ending == "whole"


@asynccontextmanager
async def providing(slow: float = 1.0) -> AsyncIterator[Provider]:
    """A server on a free port of 127.0.0.1 while the block runs."""
    provider = Provider(slow)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, limit=2**24, backlog=1_024)
    provider.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield provider
    finally:
        server.close()


@contextmanager
def provided(slow: float = 1.0) -> Iterator[Provider]:
    """The same beside a test that is not asynchronous: the server runs in a thread of its own."""
    started, stop = threading.Event(), asyncio.Event()
    made: list[Any] = []

    async def run() -> None:
        async with providing(slow) as provider:
            made.extend((provider, asyncio.get_running_loop()))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    started.wait()
    try:
        yield made[0]
    finally:
        made[1].call_soon_threadsafe(stop.set)
        thread.join()
