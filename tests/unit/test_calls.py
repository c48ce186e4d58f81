"""One call is one HTTP request, to one host, within one limit; a key is never shown."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.provider import Provider, providing
from worker.contract.codes import Dialect
from worker.contract.errors import FixSetting
from worker.contract.messages import Query
from worker.contract.settings import LlmSettings, load_settings
from worker.inference import dialects
from worker.inference.calls import Caller, Ended
from worker.inference.dialects import Request, Unsendable, request_of
from worker.inference.keys import read_key

ASKED = Query(body={"messages": [{"role": "user", "content": "2 + 2?"}]})
KEY = "k-abcdef"


def settings(base_url: str, **more: Any) -> LlmSettings:
    """An LLM at this address."""
    return LlmSettings.model_validate({"budget_usd": 1, "base_url": base_url, "api_key": KEY, **more})


def call(
    query: Query = ASKED, address: str | None = None, left_ms: int = 300_000, **more: Any
) -> tuple[Ended, Provider]:
    """One dispatch to a provider of good answers, or to another address."""

    async def run() -> tuple[Ended, Provider]:
        async with providing() as provider, Caller({"m": settings(address or provider.base_url, **more)}) as caller:
            return await caller.call("m", query, "0-0-1", int(time.time() * 1_000) + left_ms), provider

    return asyncio.run(run())


def test_nothing_listens() -> None:
    """A refused connection cost nothing: nothing was sent."""
    ended, _ = call(address="http://127.0.0.1:9/v1")
    assert ended.outcome.error_class == "unreachable"
    assert ended.outcome.cost == "zero"
    assert "127.0.0.1:9" in str(ended.outcome.error)


def test_localhost_is_two_addresses() -> None:
    """A server that listens on one of the addresses of `localhost` is found."""

    async def run() -> Ended:
        async with providing() as provider:
            address = provider.base_url.replace("127.0.0.1", "localhost")
            async with Caller({"m": settings(address)}) as caller:
                return await caller.call("m", ASKED, "0-0-1", int(time.time() * 1_000) + 300_000)

    assert asyncio.run(run()).outcome.ok


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies and addresses of the environment are not taken."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    ended, provider = call(timeout_seconds=30, left_ms=60_000)
    assert ended.outcome.ok
    assert len(provider.asked) == 1


def test_a_proxy_of_the_settings_is_used() -> None:
    """A proxy that does not answer is the call's end, so the settings' proxy was asked."""
    ended, provider = call(proxy="http://127.0.0.1:9", timeout_seconds=30, left_ms=31_000)
    assert ended.outcome.error_class == "unreachable"
    assert provider.asked == []


def test_a_body_that_cannot_be_decompressed() -> None:
    """The provider answered, and nothing of it can be used: what that cost is not known."""

    async def run() -> Ended:
        async with providing() as provider, Caller({"42-plain": settings(provider.base_url)}) as caller:
            return await caller.call("42-plain", ASKED, "0-0-1", int(time.time() * 1_000) + 300_000)

    outcome = asyncio.run(run()).outcome
    assert (outcome.error_class, outcome.error, outcome.cost) == ("bad_answer", "encoding", "unknown")


def test_too_late_to_start() -> None:
    """A call starts only if its dispatch has as long left as the call may take; else it is a free timeout."""
    ended, provider = call(timeout_seconds=30, left_ms=29_000)
    assert ended.outcome.error_class == "timeout"
    assert ended.outcome.cost == "zero"
    assert provider.asked == []


def test_others_wait_too() -> None:
    """After a 429, no call of this LLM starts before the provider's time."""

    async def run() -> tuple[list[Ended], Provider, float]:
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(providing())
            # The first call is refused once; the second would be answered at once.
            named = {name: settings(provider.base_url) for name in ("02", "m")}
            caller = await stack.enter_async_context(Caller(named))
            deadline_ms = int(time.time() * 1_000) + 300_000
            refused = asyncio.create_task(caller.call("02", ASKED, "0-0-1", deadline_ms))
            while not caller.lines["02"].not_before:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            other = await caller.call("m", ASKED, "0-1-1", deadline_ms)
            unheld = time.monotonic() - began
            later = await caller.call("02", ASKED, "0-2-1", deadline_ms)
            return [await refused, other, later], provider, unheld

    ended, provider, unheld = asyncio.run(run())
    assert all(one.outcome.ok for one in ended)
    assert ended[2].latency_ms >= 500, "the LLM's other call waited"
    assert unheld < 0.8, "another LLM's call did not wait"
    assert len(provider.asked) == 4


def test_only_model_and_streaming_are_replaced() -> None:
    """A request goes out as it came, but for its model and its streaming."""
    body = {"model": "auto", "stream": True, "stream_options": {}, "temperature": 0.5, "unheard_of": [1, None]}
    ended, provider = call(Query(body=body | ASKED.body), model="theirs")  # type: ignore[operator]
    sent = provider.asked[0].body
    assert sent == {"model": "theirs", "temperature": 0.5, "unheard_of": [1, None], **ASKED.body}  # type: ignore[dict-item]
    assert "not_streamed" in ended.outcome.remarks


PLAIN: list[tuple[Dialect, str, dict[str, Any]]] = [
    ("chat", "/v1/chat/completions", {"messages": [{"role": "user", "content": "2?"}], "max_tokens": 9}),
    ("responses", "/v1/responses", {"input": "2?", "max_output_tokens": 9}),
    ("messages", "/v1/messages", {"messages": [{"role": "user", "content": "2?"}], "max_tokens": 9}),
    ("completions", "/v1/completions", {"prompt": "2?", "max_tokens": 9}),
]


@pytest.mark.parametrize(("dialect", "path", "body"), PLAIN, ids=[one[0] for one in PLAIN])
def test_a_plain_text(dialect: Dialect, path: str, body: dict[str, Any]) -> None:
    """A plain text goes out in the LLM's own dialect, and its answer is understood."""
    ended, provider = call(Query(text="2?", max_output_tokens=9), dialects=[dialect])
    assert provider.asked[0].path == path
    assert provider.asked[0].body == body | {"model": "m"}
    assert ended.outcome.ok, ended.outcome
    assert ended.outcome.cost == "known"


UNSENDABLE = [
    (Query(body={"input": "x"}), "dialect"),
    (Query(embedding=[1.0]), "no_text"),
    (Query(body={"messages": [{"role": "user", "content": "\ud800"}]}), "not_json"),
]


@pytest.mark.parametrize(("query", "reason"), UNSENDABLE, ids=[one[1] for one in UNSENDABLE])
def test_unsendable(query: Query, reason: str) -> None:
    """What cannot be sent is refused before any HTTP, free, with a code."""
    ended, provider = call(query)
    assert ended.outcome.error_class == "refused_request"
    assert ended.outcome.cost == "zero"
    assert ended.outcome.remarks == (reason,)
    assert provider.asked == []


METADATA = [
    ({"tollgate-id": "q", "user_id": "u-1"}, {"user_id": "u-1"}),
    ({"tollgate-id": "q", "Tollgate-Tags": "a=b"}, None),
    ({"user_id": "u-1"}, {"user_id": "u-1"}),
    ({}, {}),
    ("text", "text"),
]


@pytest.mark.parametrize(("given", "sent"), METADATA)
def test_what_is_for_tollgate_stays_here(given: object, sent: object) -> None:
    """Metadata for Tollgate is not sent: Anthropic refuses metadata that it does not know."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "metadata": given}
    request = request_of(Query(body=body), "m", settings("http://h/v1"))
    assert not isinstance(request, Unsendable)
    assert json.loads(request.body).get("metadata") == sent


URLS: list[tuple[str, Dialect, str]] = [
    ("http://h:1/v1", "chat", "http://h:1/v1/chat/completions"),
    ("http://h:1/v1/", "responses", "http://h:1/v1/responses"),
    ("https://api.anthropic.com", "messages", "https://api.anthropic.com/v1/messages"),
    (
        "https://x.openai.azure.com/openai/deployments/d?api-version=1",
        "chat",
        "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
    ),
]


@pytest.mark.parametrize(("base_url", "dialect", "wanted"), URLS)
def test_addresses(base_url: str, dialect: Dialect, wanted: str) -> None:
    """A dialect's path goes under the address, and the address keeps its query."""
    assert dialects.url_of(base_url, dialect) == wanted


HEADERS: list[tuple[str, Dialect, str]] = [
    ("http://h/v1", "chat", "authorization"),
    ("http://h/v1", "messages", "x-api-key"),
    ("https://x.openai.azure.com/d", "chat", "api-key"),
]


@pytest.mark.parametrize(("base_url", "dialect", "name"), HEADERS)
def test_the_key_is_in_one_header(base_url: str, dialect: Dialect, name: str) -> None:
    """Each API takes its key in a header of its own."""
    headers = dialects.headers_of(Request(dialect, "m", b"{}", 0), base_url, KEY, "i")
    assert [header for header, value in headers.items() if KEY in value] == [name]


def test_openai_takes_no_max_tokens() -> None:
    """OpenAI's newer models refuse `max_tokens`; other servers know no other name."""
    llm = settings("https://api.openai.com/v1")
    request = request_of(Query(text="x", max_output_tokens=5), "m", llm)
    assert not isinstance(request, Unsendable)
    assert json.loads(request.body)["max_completion_tokens"] == 5


@pytest.mark.parametrize("text", ["k-1\n", " k-1 ", "k-1\r\n\n"])
def test_a_key_file_is_stripped(tmp_path: Path, text: str) -> None:
    """Editors end a file with a line break."""
    (tmp_path / "key").write_bytes(text.encode())
    assert read_key("x", LlmSettings(budget_usd=Decimal(1), api_key_file=tmp_path / "key")) == "k-1"


@pytest.mark.parametrize("text", [b"", b"  \n", b"sec\nret", b"sec ret", b"sec\x00ret", "séc".encode(), b"\xff\xfe"])
def test_what_is_no_key(tmp_path: Path, text: bytes) -> None:
    """A key that no header can hold is refused at the start; the error names the setting and not the key."""
    (tmp_path / "key").write_bytes(text)
    with pytest.raises(FixSetting) as refused:
        Caller({"x": LlmSettings(budget_usd=Decimal(1), base_url="http://h", api_key_file=tmp_path / "key")})
    assert "llms.x.api_key_file" in str(refused.value)
    assert "ret" not in str(refused.value).replace(str(tmp_path), "")


def test_a_key_in_the_settings_file_is_refused(tmp_path: Path) -> None:
    """A secret does not belong in the file; the error names the variable."""
    (tmp_path / "t.toml").write_text('[llms."gpt-4o"]\nbudget_usd = 1\napi_key = "k-1"\n')
    with pytest.raises(FixSetting, match="TOLLGATE_LLMS__GPT_4O__API_KEY") as refused:
        load_settings(tmp_path / "t.toml")
    assert "k-1" not in str(refused.value)


def test_the_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no text of the settings shows it."""
    (tmp_path / "t.toml").write_text('[llms."gpt-4o"]\nbudget_usd = 1\n')
    monkeypatch.setenv("TOLLGATE_LLMS__GPT_4O__API_KEY", "k-1")
    loaded = load_settings(tmp_path / "t.toml")
    assert read_key("gpt-4o", loaded.llms["gpt-4o"]) == "k-1"
    assert "k-1" not in repr(loaded)
