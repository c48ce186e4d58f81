"""Exports for tests: small files in the form of each source, and what they become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker.exports.convert import Choices, Converted, convert
from worker.exports.files import files_of
from worker.exports.format import Wishes
from worker.exports.judge import ScoreWishes
from worker.exports.names import Names
from worker.exports.scores import read_labels, read_scale, short

USER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def write(place: Path, files: dict[str, Any]) -> Path:
    """Files of an export: a text as it is, rows as JSON lines or as a JSON list, another object as JSON."""
    for name, content in files.items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        elif name.endswith(".jsonl"):
            file.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        else:
            file.write_text(json.dumps(content), encoding="utf-8")
    return place


def read(place: Path, score: Sequence[str] = (), scale: Sequence[str] = (), labels: str = "", **more: Any) -> Converted:
    """A directory, converted with choices as the command line takes them."""
    scales = {short(name): read_scale(text) for name, _, text in (pair.rpartition("=") for pair in scale)}
    choices = Choices(
        Wishes(Names(more.pop("aliases", {})), [short(name) for name in score], more.pop("filter", None)),
        ScoreWishes(score, scales, read_labels([labels])),
        **more,
    )
    return convert(files_of([place]), [], choices, lambda _: None)


def scores(found: Converted) -> list[float | None]:
    """The scores, in order."""
    return [None if one.score is None else float(one.score) for one in found.results]


def call(request: str, **changed: Any) -> dict[str, Any]:
    """A row of LiteLLM's spend logs."""
    return {
        "request_id": request,
        "call_type": "acompletion",
        "spend": 0.01,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "model": "gpt-4o",
        "status": "success",
        "cache_hit": "False",
        "startTime": "2026-10-06 08:00:00",
        "proxy_server_request": {"messages": USER},
    } | changed


def span(given: str, **changed: Any) -> dict[str, Any]:
    """An observation of Langfuse."""
    return {
        "id": given,
        "traceId": "t",
        "type": "GENERATION",
        "startTime": "2026-10-06T08:00:00Z",
        "input": USER,
        "model": "gpt-4o",
        "totalCost": 0.01,
        "inputUsage": 10,
        "outputUsage": 5,
    } | changed


def table(values: Sequence[Any], **more: Any) -> list[dict[str, Any]]:
    """A table of a team's own with these scores."""
    return [{"id": str(n), "prompt": "Why?", "model": "gpt-4o", "score": v} | more for n, v in enumerate(values)]
