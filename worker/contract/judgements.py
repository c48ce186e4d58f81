"""Scores of answers that come after the answers, on `judgements`: thumbs of users, a judge's, a test's."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from worker.contract.formats import Body, find_body
from worker.contract.messages import Identity, Share


class Judgement(Struct, frozen=True, omit_defaults=True):
    """A score of an answer, from 0 to 1, in any partition of `judgements`.

    It names the dispatch that was answered, or the query: then the answer that the query got in the end is meant. `by`
    names who judged. A judge who judges again replaces the own score.
    """

    quality: Share
    dispatch_id: Identity | None = None
    query_id: Identity | None = None
    by: Identity | None = None


_json = msgspec.json.Decoder(Judgement)
_packed = msgspec.msgpack.Decoder(Judgement)


def read_judgement(value: bytes | None, max_bytes: int) -> Judgement | None:
    """The judgement in a record's value; None where nobody can use it."""
    body = find_body(value) if value and len(value) <= max_bytes else None
    if not isinstance(body, Body):
        return None
    try:
        judgement = _json.decode(body.data) if body.is_json else _packed.decode(body.data)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError):
        return None
    return judgement if judgement.dispatch_id or judgement.query_id else None
