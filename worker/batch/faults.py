"""Why a line of a batch has no answer, as codes. `sentences` says them in words. Pure.

`LineFaultCode` are the faults of a line, found before anything is sent. `FailureCode` are the ends of a request that
was sent: the reasons of a deferral, the classes of a failed call, and three of our own.
"""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct

from worker.contract.codes import DeferReason, ErrorClass

LineFaultCode = Literal[
    "invalid_json_line",
    "line_too_long",
    "custom_id",
    "unsupported_method",
    "unsupported_url",
    "unsupported_format",
    "invalid_body",
    "request_too_large",
    "refused_request",
]
# `batch_expired`: the deadline passed. `unanswered`: no inference worker answered in time. `answer_lost`: the answer
# was paid, and is not on `answers`. `dead_letter`: the router could not use the query.
OwnCode = Literal["batch_expired", "unanswered", "answer_lost", "dead_letter"]
FailureCode = DeferReason | ErrorClass | OwnCode

# The status that a provider sends with a refusal of this class. Other classes are no refusals: nothing came.
STATUS_OF: dict[str, int] = {
    "rate_limited": 429,
    "quota": 429,
    "context_length": 400,
    "content_filter": 400,
    "refused_request": 400,
    "auth": 401,
    "misconfigured": 404,
}
ERROR_CLASSES = frozenset(get_args(ErrorClass))


class LineFault(Struct, frozen=True):
    """Why a line cannot be sent. `custom_id` is the line's own, where it is a text; `param` the field at fault."""

    code: LineFaultCode
    detail: str = ""
    custom_id: str | None = None
    param: str | None = None
