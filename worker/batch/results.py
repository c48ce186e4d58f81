"""The lines of the output files, in OpenAI's format. Pure.

A result is `{id, custom_id, response: {status_code, request_id, body}, error: null}`. In the file of errors, a call
that the provider refused has a `response` with a status of 400 or more; all else has `response: null` and an `error`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from worker.batch import sentences
from worker.batch.faults import STATUS_OF, LineFault
from worker.batch.tracker import Failed
from worker.contract.answers import Answer


class WrittenLine(Struct, frozen=True):
    """What is read of a line of an output file. `code` is the code of its error, where it has one."""

    custom_id: str | None
    id: str | None = None
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def code(self) -> str:
        """The code of its error."""
        body = (self.response or {}).get("body")
        inner = body.get("error") if isinstance(body, dict) else None
        told = self.error or (inner if isinstance(inner, dict) else {})
        return str(told.get("code"))

    @property
    def is_of_check(self) -> bool:
        """Whether it was found before anything was sent: it names a line."""
        return self.error is not None and "line" in self.error


def result(custom_id: str, answer: Answer) -> bytes:
    """The result of a line."""
    response = {"status_code": 200, "request_id": answer.dispatch_id, "body": Raw(answer.response)}
    return _line(answer.query_id, custom_id, response, None)


def failure(custom_id: str, query_id: str, end: Failed) -> bytes:
    """The error line of a request that was sent."""
    told = {"code": end.code, "message": sentences.failure(end), "cost_micros": end.spent_micros}
    if end.code not in STATUS_OF or end.dispatch_id is None:
        return _line(query_id, custom_id, None, told)
    body = {"error": {"type": end.code, **told}}
    return _line(
        query_id, custom_id, {"status_code": STATUS_OF[end.code], "request_id": end.dispatch_id, "body": body}, None
    )


def fault(number: int, problem: LineFault) -> bytes:
    """The error line of a line that was never sent."""
    told = {"code": problem.code, "message": sentences.fault(problem), "param": problem.param, "line": number}
    return _line(f"batch-line-{number}", problem.custom_id, None, told)


def _line(id_: str, custom_id: str | None, response: Any, error: Any) -> bytes:
    return msgspec.json.encode({"id": id_, "custom_id": custom_id, "response": response, "error": error}) + b"\n"
