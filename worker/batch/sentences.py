"""Sentences for people, made from the codes of lines without an answer: what is wrong, and what to do. Pure."""

from __future__ import annotations

from worker.batch.faults import LineFault, LineFaultCode, OwnCode
from worker.batch.tracker import Failed
from worker.contract import sentences
from worker.contract.codes import ErrorClass

LINE_FAULTS: dict[LineFaultCode, str] = {
    "invalid_json_line": "the line is not a JSON object",
    "line_too_long": "the line is longer than {detail} bytes, the most that a line may have",
    "custom_id": "custom_id is {detail}: it must be a text with at least one character",
    "unsupported_method": "the method is {detail}: only POST can be answered",
    "unsupported_url": "the url is {detail}: only /v1/chat/completions, /v1/responses, /v1/messages and "
    "/v1/completions can be answered",
    "unsupported_format": "the line is {detail}: send {{custom_id, method, url, body}}",
    "invalid_body": "the body is wrong: {detail}",
    "request_too_large": "the request is too large: {detail}",
    "refused_request": "the request asks nothing: {detail}",
}
CLASSES: dict[ErrorClass, str] = {
    "rate_limited": "the provider's rate limit was reached; run the batch again with --retry",
    "overloaded": "the provider was overloaded; run the batch again with --retry",
    "timeout": "the LLM did not answer in time; raise llms.<name>.timeout_seconds, or use --retry",
    "unreachable": "the connection to the provider failed; run the batch again with --retry",
    "context_length": "the request is longer than the LLM's context; shorten it, or name an LLM with more context",
    "content_filter": "the provider's filter refused the request or its answer; change the request",
    "refused_request": "the LLM does not take this request; change it, or name another LLM",
    "quota": "the provider's account has no money or allowance left; pay, or raise its limit",
    "auth": "the provider refused the key; correct llms.<name>.api_key_file",
    "misconfigured": "the model, the region or the address of the LLM is wrong; correct llms.<name>",
    "bad_answer": "the provider's answer could not be used; run the batch again with --retry",
}
OWN: dict[OwnCode, str] = {
    "batch_expired": "the deadline passed before an answer came; use --retry with a later --deadline",
    "unanswered": "no inference worker answered before the reservation expired; look at `tollgate infer`, then use "
    "--retry",
    "answer_lost": "the LLM answered, and its answer is not on the topic of answers: it was larger than "
    "inference.max_answer_bytes, or the inference worker publishes no answers",
    "dead_letter": "the router could not use the query",
}
TOLD: dict[str, str] = {code: told for several in (OWN, CLASSES) for code, told in several.items()}
# What a deferral's own sentence does not say to somebody who runs a batch.
RETRY = "then run the batch again with --retry"


def fault(problem: LineFault) -> str:
    """Why a line was not sent."""
    return LINE_FAULTS[problem.code].format(detail=problem.detail)


def failure(end: Failed) -> str:
    """Why a line that was sent has no answer."""
    if end.rejection is not None:
        return f"{OWN['dead_letter']}: {sentences.reason(end.rejection)}"
    own = TOLD.get(end.code)
    if own is not None:
        return own if end.llm is None else f"{end.llm}: {own}"
    if end.remedy is None or end.reason is None:
        return end.code
    return f"{sentences.deferral(end.reason, end.remedy)}; {RETRY}"
