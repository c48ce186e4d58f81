"""Calls LLMs over HTTP: one call is one HTTP request, and every end of it is an Outcome.

aiohttp, which Faust brings, and not the providers' packages: those repeat a call twice without a word, follow
redirects to other hosts, have timeouts for each read and none for the call, and put a key with a line break into the
text of an error. Here a request is sent once, over HTTP/1.1, to the configured host or proxy and no other, within one
limit for the whole call. The environment (HTTP_PROXY, OPENAI_BASE_URL, ~/.netrc) changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace, TracebackType
from typing import Any

import aiohttp
import msgspec
from aiohttp.http_exceptions import ContentEncodingError
from msgspec import Struct

from worker.contract.errors import FixSetting
from worker.contract.messages import Query
from worker.contract.settings import LlmSettings
from worker.inference import dialects, outcomes
from worker.inference.dialects import Request, Unsendable
from worker.inference.keys import read_key
from worker.inference.outcomes import Outcome

# A larger body is not read to its end.
MOST_BODY_BYTES = 64_000_000
CONNECT_SECONDS = 30.0
# A server, or what is between, closes a connection that is idle for longer without a word.
IDLE_SECONDS = 10.0
NAMES_SECONDS = 60
# A NAT forgets a silent connection after two minutes or more; an answer takes longer.
PROBE_SECONDS = 60
MOST_HEADER_BYTES = 65_536

# Repeats of one call that was refused free, and the waits before them where the provider names none.
MOST_REPEATS = 5
# A host that refuses a connection twice is down, and the next LLM is faster.
UNREACHED_REPEATS = 1
FIRST_BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 0.5, 8.0
# A call that may start after others waited starts up to this much later, so that not all start at once.
JITTER_SHARE, JITTER_SECONDS = 0.1, 0.25


# What aiohttp raises before anything is sent: for the operator to mend, and for a host that does not answer.
WRONG_ADDRESS = (
    aiohttp.InvalidURL,
    aiohttp.ClientSSLError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientHttpProxyError,
)
NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
CONNECTION_BROKE = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)


class Ended(Struct, frozen=True):
    """How a dispatch's call ended. `requests` counts its HTTP requests, `latency_ms` is the time from the first."""

    outcome: Outcome
    latency_ms: int
    requests: int


@dataclass
class Line:
    """One LLM as this process calls it: its key, and the monotonic time before which nothing is sent to it."""

    name: str
    settings: LlmSettings
    key: str | None
    not_before: float = 0.0

    def hold(self, seconds: float) -> None:
        """Send nothing for so long: the provider asked for it."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    def read_key_again(self) -> None:
        """Take the key as it is in its file now. A key that cannot be read leaves the old one."""
        try:
            self.key = read_key(self.name, self.settings)
        except FixSetting:
            return


@dataclass
class _Sent:
    """How far one HTTP request came."""

    headers: bool = False
    kept_connection: bool = False


@dataclass
class Caller:
    """Calls the LLMs that have a `base_url`. Use it as an asynchronous context manager; one serves a whole process.

    `idempotency_prefix` makes the keys of this system differ from those of others with the same account. `held_bytes`
    are the bytes of bodies that are being read.
    """

    llms: Mapping[str, LlmSettings]
    idempotency_prefix: str = "tollgate"
    lines: dict[str, Line] = field(init=False)
    jitter: Callable[[], float] = random.random
    held_bytes: int = 0
    _session: aiohttp.ClientSession | None = None

    def __post_init__(self) -> None:
        """Read every key. Raises FixSetting."""
        self.lines = {name: Line(name, llm, read_key(name, llm)) for name, llm in self.llms.items() if llm.base_url}

    async def __aenter__(self) -> Caller:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_on_headers_sent)
        trace.on_connection_reuseconn.append(_on_reuse)
        connector = aiohttp.TCPConnector(
            limit=sum(line.settings.max_open for line in self.lines.values()) or 1,
            keepalive_timeout=IDLE_SECONDS,
            ttl_dns_cache=NAMES_SECONDS,
            socket_factory=_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            trust_env=False,
            trace_configs=[trace],
            max_field_size=MOST_HEADER_BYTES,
            max_line_size=MOST_HEADER_BYTES,
            headers={"user-agent": "tollgate"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, name: str, query: Query, dispatch_id: str, deadline_ms: int) -> Ended:
        """Ask the LLM `name`, and again where it refused free, until it answers or the dispatch's time is over.

        Never raises but for its own cancellation.
        """
        line = self.lines[name]
        request = dialects.request_of(query, name, line.settings)
        if isinstance(request, Unsendable):
            return Ended(outcomes.unsendable(request.reason), 0, 0)
        return await self._repeat(line, request, f"{self.idempotency_prefix}-{dispatch_id}", deadline_ms)

    async def _repeat(self, line: Line, request: Request, idempotency_key: str, deadline_ms: int) -> Ended:
        began, requests = time.monotonic(), 0
        may_have_cost, key_was_read = False, False
        outcome = outcomes.broken(False, "timeout", "deadline", "deadline")
        last_start = began + deadline_ms / 1000 - time.time() - line.settings.timeout_seconds
        while True:
            wait = self._wait_seconds(line)
            if time.monotonic() + wait > last_start:
                if wait and not requests:
                    outcome = Outcome("rate_limited", "zero", retry_after_ms=int(wait * 1000), error="held")
                break
            if wait:
                await asyncio.sleep(wait)
                continue
            requests += 1
            outcome = await self._post(line, request, idempotency_key)
            step = outcomes.next_step(outcome, line.settings.honours_idempotency_key)
            may_have_cost |= outcome.cost == "unknown"
            if step == "leave" and not key_was_read:
                key_was_read = True
                line.read_key_again()
                continue
            repeats = UNREACHED_REPEATS if outcome.error_class == "unreachable" else MOST_REPEATS
            if step != "repeat" or requests > repeats:
                break
            pause = self._pause_seconds(outcome, requests)
            if time.monotonic() + pause > last_start:
                break
            if outcomes.fate(outcome) == "waits":
                line.hold(pause)
            await asyncio.sleep(pause)
        if may_have_cost and outcome.cost == "zero":
            outcome = msgspec.structs.replace(outcome, cost="unknown")
        return Ended(outcome, round((time.monotonic() - began) * 1000), requests)

    def _wait_seconds(self, line: Line) -> float:
        left = line.not_before - time.monotonic()
        return left + self.jitter() * JITTER_SECONDS if left > 0 else 0.0

    def _pause_seconds(self, outcome: Outcome, requests: int) -> float:
        """The wait before a repeat: at least what the provider says, or a backoff, in both cases with jitter."""
        if outcome.retry_after_ms is not None:
            asked = outcome.retry_after_ms / 1000
            return asked + self.jitter() * (asked * JITTER_SHARE + JITTER_SECONDS)
        backoff = FIRST_BACKOFF_SECONDS * 2.0 ** (requests - 1)
        return min(backoff, MOST_BACKOFF_SECONDS) * (0.5 + self.jitter())

    async def _post(self, line: Line, request: Request, idempotency_key: str) -> Outcome:
        """One HTTP request."""
        assert self._session is not None, "the caller is used as a context manager"
        llm, sent = line.settings, _Sent()
        base_url = llm.base_url or ""
        headers = dialects.headers_of(request, base_url, line.key, idempotency_key)
        try:
            async with (
                asyncio.timeout(llm.timeout_seconds),
                self._session.post(
                    dialects.url_of(base_url, request.dialect),
                    data=request.body,
                    headers=headers,
                    proxy=llm.proxy,
                    allow_redirects=False,
                    trace_request_ctx=sent,
                ) as response,
            ):
                raw = await self._read(response)
                named = {name.lower(): value for name, value in response.headers.items()}
                if raw is None:
                    return outcomes.unusable("too_large", response.status)
                return outcomes.outcome_of(response.status, named, raw, request, llm, int(time.time() * 1000))
        except Exception as error:  # Every exception of a call ends in a completion; none may end the worker.
            return _ended_by(error, sent)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The whole body, decompressed; None if it is too large."""
        parts, size = [], 0
        try:
            async for part in response.content.iter_any():
                size += len(part)
                self.held_bytes += len(part)
                if size > MOST_BODY_BYTES:
                    return None
                parts.append(part)
            return b"".join(parts)
        finally:
            self.held_bytes -= size


def _ended_by(error: Exception, sent: _Sent) -> Outcome:
    """The outcome of a call that an exception ended. The exception's text is not kept: it may hold a key."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError):
        name = f"{name} {error.host}:{error.port}"
    if isinstance(error, WRONG_ADDRESS):
        return Outcome("misconfigured", "zero", error=name)
    if isinstance(error, NOT_CONNECTED):
        return outcomes.broken(False, "unreachable", name)
    if isinstance(error, TimeoutError):
        return outcomes.broken(sent.headers, "timeout", name)
    if isinstance(error.__cause__, ContentEncodingError):
        return outcomes.unusable("encoding")
    if isinstance(error, CONNECTION_BROKE):
        return outcomes.broken(
            sent.headers, "unreachable", name, *(["kept_connection"] if sent.kept_connection else [])
        )
    return outcomes.unusable(name)


async def _on_headers_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    context.trace_request_ctx.headers = True


async def _on_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
    context.trace_request_ctx.kept_connection = True


def _socket(address: Any) -> socket.socket:
    """A socket that a NAT between does not forget."""
    made = socket.socket(address[0], address[1], address[2])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL"):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), PROBE_SECONDS)
    return made
