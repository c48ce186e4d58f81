"""What a bare request cannot hold: id, deadline, allowed and denied LLMs, and tags. Pure.

They come as headers of the record, or under the same names in the request's `metadata`. A header wins over a field of
the query, and a field wins over `metadata`. Of a header that comes twice the last counts, as with a field of JSON that
comes twice. An empty value is none. A name that begins with `tollgate-` and is not known is refused: a misspelt
`tollgate-deny` must not be left out in silence.

| header | field | value |
|---|---|---|
| `tollgate-id` | `id` | text |
| `tollgate-deadline-ms`, or `tollgate-deadline` | `deadline_ms` | milliseconds since 1970, as decimal digits |
| `tollgate-allow`, `tollgate-deny` | `allow`, `deny` | names of LLMs: separated by commas, or a JSON array |
| `tollgate-tags` | `tags` | `<name>=<value>`, separated by commas, or a JSON object or array |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from worker.contract.codes import MAX_DETAIL_CHARACTERS, Rejection
from worker.contract.messages import Count, Identity, LlmNames, Query
from worker.contract.record import Headers

PREFIX = "tollgate-"
MOST_TAGS, MOST_TAG_CHARACTERS = 16, 64
# 3 March 1973 in milliseconds: a deadline before it is meant in seconds.
EARLIEST_MS = 100_000_000_000

FIELDS = {
    "id": "id",
    "deadline": "deadline_ms",
    "deadline-ms": "deadline_ms",
    "allow": "allow",
    "deny": "deny",
    "tags": "tags",
}
TYPES: dict[str, Any] = {"id": Identity, "deadline_ms": Count, "allow": LlmNames, "deny": LlmNames}


class _Refuse(Exception):
    """Carries a Rejection out of nested calls; it does not leave this module."""

    def __init__(self, rejection: Rejection) -> None:
        self.rejection = rejection


def completed(query: Query, headers: Headers) -> Query | Rejection:
    """The query with what its record's headers and its request's `metadata` add. Its tags are names with values."""
    try:
        inside, beside = _from_metadata(query), _from_headers(headers)
        found = {name: value for name, value in inside.items() if not getattr(query, name)} | beside
        tags = _tags(found.pop("tags", query.tags), "tags")
    except _Refuse as refused:
        return refused.rejection
    if tags != query.tags:
        found["tags"] = tags
    return msgspec.structs.replace(query, **found) if found else query


def late_seconds(deadline_ms: int | None) -> Rejection | None:
    """Why a deadline is refused that is in seconds and not in milliseconds."""
    if deadline_ms is not None and 0 < deadline_ms < EARLIEST_MS:
        return Rejection("deadline_in_seconds", detail=str(deadline_ms))
    return None


def tags_of(query: Query) -> dict[str, str]:
    """The tags of a query that `completed` gave."""
    return query.tags if isinstance(query.tags, dict) else {}


def _from_headers(headers: Headers) -> dict[str, Any]:
    given: dict[str, object] = {}
    for name, value in headers:
        if not name.lower().startswith(PREFIX):
            continue
        try:
            given[name.lower()] = (value or b"").decode()
        except UnicodeDecodeError:
            raise _Refuse(Rejection("header_value", detail=name[:MAX_DETAIL_CHARACTERS])) from None
    return _read(given.items(), "unknown_header", "header_value", "")


def _from_metadata(query: Query) -> dict[str, Any]:
    metadata = query.body.get("metadata") if query.body is not None else None
    if not isinstance(metadata, Mapping):
        return {}
    given = [(name, value) for name, value in metadata.items() if name.lower().startswith(PREFIX)]
    return _read(given, "unknown_field", "type", "metadata.")


def _read(given: Iterable[tuple[str, object]], unknown: Any, unusable: Any, place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given:
        shown = f"{place}{name}"[:MAX_DETAIL_CHARACTERS]
        field = FIELDS.get(name.lower().removeprefix(PREFIX))
        if field is None:
            raise _Refuse(Rejection(unknown, detail=shown))
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if field == "tags":
            found[field] = _tags(_parsed(value), shown)
            continue
        try:
            found[field] = msgspec.convert(_value(field, value), TYPES[field])
        except (msgspec.MsgspecError, ValueError):
            raise _Refuse(Rejection(unusable, detail=shown)) from None
        if field == "deadline_ms" and (late := late_seconds(found[field])) is not None:
            raise _Refuse(late)
    return found


def _value(field: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if field == "id":
        return value.strip()
    # A number of more digits cannot be a time, and takes long to read.
    if field == "deadline_ms":
        return int(value) if value.strip().isdecimal() and len(value) <= 20 else value
    return _parsed(value)


def _parsed(value: object) -> object:
    """A list or an object from text: JSON, or parts between commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in ("[", "{"):
        try:
            return msgspec.json.decode(value)
        except msgspec.MsgspecError:
            return None
    return [part.strip() for part in value.split(",") if part.strip()]


def _tags(given: object, shown: str) -> dict[str, str]:
    """Tags as names with values. A tag without a value has an empty one."""
    if isinstance(given, list) and all(isinstance(tag, str) for tag in given):
        pairs = [tag.partition("=")[::2] for tag in given]
        tags = {name.strip(): value.strip() for name, value in pairs}
    elif isinstance(given, dict) and all(isinstance(part, str) for pair in given.items() for part in pair):
        tags = given
    else:
        raise _Refuse(Rejection("tags", detail=shown))
    if len(tags) > MOST_TAGS:
        raise _Refuse(Rejection("tags", MOST_TAGS, str(len(tags))))
    for name, value in tags.items():
        if not name or max(len(name), len(value)) > MOST_TAG_CHARACTERS or "=" in name:
            raise _Refuse(Rejection("tags", MOST_TAG_CHARACTERS, name[:MAX_DETAIL_CHARACTERS]))
    return tags
