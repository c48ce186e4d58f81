"""Refusals in the words of many providers, and the waits that they ask for."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from worker.contract.settings import LlmSettings
from worker.inference.dialects import Request
from worker.inference.models import is_same_model
from worker.inference.outcomes import Outcome, outcome_of
from worker.inference.waits import retry_after_ms

NOW_MS = 1_800_000_000_000
LLM = LlmSettings(budget_usd=Decimal(1), base_url="http://127.0.0.1:1/v1")
AZURE = LlmSettings(budget_usd=Decimal(1), base_url="https://x.openai.azure.com/openai/deployments/d")
REQUEST = Request("chat", "m", b"{}", 10)


def outcome(status: int, body: Any, llm: LlmSettings = LLM, **headers: str) -> Outcome:
    """The outcome of a reply: a text is a body as it is, everything else is JSON."""
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return outcome_of(status, headers, raw, REQUEST, llm, NOW_MS)


def openai(message: str, code: str | None = None, kind: str = "invalid_request_error") -> Any:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


REFUSALS = [
    (429, openai("Rate limit reached for gpt-4o: Limit 30000, Used 29000, Requested 2000."), "rate_limited", "zero"),
    (429, openai("Request too large for gpt-4o: Limit 30000, Requested 31000."), "refused_request", "zero"),
    (429, openai("You exceeded your current quota, please check your plan.", "insufficient_quota"), "quota", "zero"),
    (429, {"error": {"code": "billing_hard_limit_reached", "message": "Billing hard limit"}}, "quota", "zero"),
    (429, {"message": "Too many requests"}, "rate_limited", "zero"),
    (429, "Too Many Requests", "rate_limited", "zero"),
    (429, "", "rate_limited", "zero"),
    (402, {"error": {"message": "This request requires more credits", "code": 402}}, "quota", "zero"),
    (403, {"error": {"message": "Your account is suspended, check your billing"}}, "quota", "zero"),
    (403, openai("Incorrect API key provided", "invalid_api_key"), "auth", "zero"),
    (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], "auth", "zero"),
    (400, openai("User location is not supported for the API use."), "misconfigured", "zero"),
    (404, {"error": 'model "llama9" not found, try pulling it first'}, "misconfigured", "zero"),
    (
        400,
        openai("The model `x` does not exist or you do not have access to it.", "model_not_found"),
        "misconfigured",
        0,
    ),
    (400, {"error": {"message": "m is not a valid model ID", "code": 400}}, "misconfigured", "zero"),
    (405, {"detail": "Method Not Allowed"}, "misconfigured", "zero"),
    (400, {"error": "input length exceeds the context length"}, "context_length", "zero"),
    (400, openai("Requested token count exceeds the model's maximum"), "context_length", "zero"),
    (400, {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds"}}, "context_length", 0),
    (413, {"error": {"message": "x"}}, "context_length", "zero"),
    (400, {"error": {"code": "data_inspection_failed", "message": "inappropriate"}}, "content_filter", "unknown"),
    (400, openai("Your request was rejected as a result of our safety system."), "content_filter", "unknown"),
    (400, openai("max_tokens must be at least 1"), "refused_request", "zero"),
    (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "refused_request", "zero"),
    (
        422,
        {"detail": [{"loc": ["body", "x"], "msg": "bad", "input": "my billing question"}]},
        "refused_request",
        "zero",
    ),
    (400, {"__type": "ThrottlingException", "message": "Rate exceeded, throttled"}, "rate_limited", "zero"),
    (503, "<html><title>503 Service Temporarily Unavailable</title></html>", "overloaded", "unknown"),
    (503, {"error": {"message": "The model is overloaded.", "status": "UNAVAILABLE"}}, "overloaded", "zero"),
    (529, "", "overloaded", "zero"),
    (500, openai("The server had an error"), "overloaded", "unknown"),
    (524, "<html>a timeout occurred</html>", "timeout", "unknown"),
    (522, "<html>connection timed out</html>", "unreachable", "unknown"),
    (301, "", "misconfigured", "zero"),
    (200, {"error": {"message": "Internal error", "code": 502}}, "overloaded", "unknown"),
    (200, {"error": {"message": "Something broke"}}, "bad_answer", "unknown"),
    (200, {"error": {"type": "rate_limit_error", "message": "slow down"}}, "rate_limited", "zero"),
    (200, "", "bad_answer", "unknown"),
    (200, "null", "bad_answer", "unknown"),
    (200, '"text"', "bad_answer", "unknown"),
    (200, "[" * 100_000, "bad_answer", "unknown"),
    (200, {"choices": ["nonsense"]}, "bad_answer", "unknown"),
    (200, {"choices": [{"message": 3, "finish_reason": ["x"]}]}, None, "unknown"),
    (204, "", "bad_answer", "unknown"),
]


@pytest.mark.parametrize(("status", "body", "error_class", "cost"), REFUSALS)
def test_refusals(status: int, body: Any, error_class: str | None, cost: str | int) -> None:
    """The class and the cost follow from the status and from the provider's own words, never from the question's."""
    found = outcome(status, body)
    assert found.error_class == error_class
    assert found.cost == (cost or "zero")


def test_the_settings_say_what_a_failure_costs() -> None:
    """Where 500 and 502 are known to be free, the call is repeated in its dispatch."""
    free = LLM.model_copy(update={"server_error_cost": "zero"})
    assert outcome(502, "Bad Gateway", free).cost == "zero"
    assert outcome(504, "", free).cost == "unknown"


def test_azure_may_charge_a_long_prompt() -> None:
    """Azure's terms allow it to charge for an input limit; the others refuse before they work."""
    assert outcome(400, openai("maximum context length is 9", "context_length_exceeded"), AZURE).cost == "unknown"


def test_an_error_quotes_nothing() -> None:
    """What is said of a refusal are codes: a sentence of the provider's may hold the question or a part of the key."""
    found = outcome(401, openai("Incorrect API key: sk-abc. You asked: my secret", "invalid_api_key"))
    assert found.error == "401 invalid_api_key"


WAITS: list[tuple[dict[str, str], Any, str, int | None]] = [
    ({"retry-after": "2"}, None, "", 2_000),
    ({"retry-after": "1.5"}, None, "", 1_500),
    ({"retry-after": "2s"}, None, "", 2_000),
    ({"retry-after": "0"}, None, "", None),
    ({"retry-after": "-3"}, None, "", None),
    ({"retry-after": "nan"}, None, "", None),
    ({"retry-after": "soon"}, None, "", None),
    ({"retry-after": "1800000030"}, None, "", 30_000),
    ({"retry-after-ms": "700", "retry-after": "30"}, None, "", 700),
    ({"retry-after": "Fri, 15 Jan 2027 08:00:05 GMT", "date": "Fri, 15 Jan 2027 08:00:00 GMT"}, None, "", 5_000),
    ({"retry-after": "Fri, 15 Jan 2027 08:00:05 GMT"}, None, "", 5_000),
    ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, None, "", 1_000),
    ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, None, "", 360_000),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8.64s"}, None, "", 8_640),
    ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6m0s"}, None, "", None),
    ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000002000"}, None, "", 2_000),
    (
        {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:09Z"},
        None,
        "",
        9_000,
    ),
    ({}, [{"error": {"details": [{"retryDelay": "1.2s"}]}}], "", 1_200),
    ({}, {"error": {"retry_after": 3}}, "", 3_000),
    ({}, {"parameters": {"retry_after_ms": "250"}}, "", 250),
    ({}, None, "Rate limit reached. Please try again in 1.2s.", 1_200),
    ({}, None, "please try again in 20ms", 20),
    ({}, None, "Please retry after 3 seconds", 3_000),
    ({}, None, "try again later", None),
    ({}, None, "", None),
]


@pytest.mark.parametrize(("headers", "body", "words", "wanted"), WAITS)
def test_waits(headers: dict[str, str], body: Any, words: str, wanted: int | None) -> None:
    """A wait in every spelling; what is none, or is zero, is left to the backoff."""
    assert retry_after_ms(headers, body, words, NOW_MS) == wanted


MODELS = [
    ("gpt-4o", "gpt-4o-2024-08-06", True),
    ("gpt-4o", "gpt-4o-mini-2024-07-18", False),
    ("gpt-5", "gpt-5-pro", False),
    ("openai/gpt-4o", "gpt-4o", True),
    ("claude-sonnet-4-0", "claude-sonnet-4-20250514", True),
    ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022", True),
    ("mistral-large-latest", "mistral-large-2411", True),
    ("gemini-2.0-flash", "gemini-2.0-flash-001", True),
    ("gemini-2.0-flash", "gemini-2.0-flash-lite", False),
    ("llama3:8b", "llama3:8b", True),
    ("llama3:8b", "llama3:70b", False),
    ("my-deployment", "gpt-4o-2024-11-20", False),
]


@pytest.mark.parametrize(("asked", "answered", "same"), MODELS)
def test_models(asked: str, answered: str, same: bool) -> None:
    """A dated name is the same model; a longer name is another one, with another price."""
    assert is_same_model(asked, answered) is same


def test_a_deployment_has_a_name_of_its_own() -> None:
    """`answers_as` names what a deployment answers as."""
    assert is_same_model("my-deployment", "gpt-4o-2024-11-20", ["gpt-4o*"])
