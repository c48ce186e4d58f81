"""Whether the model that answered is the model that was asked. Pure.

Providers answer with a dated name (gpt-4o-2024-08-06 for gpt-4o, claude-sonnet-4-20250514 for claude-sonnet-4-0), and
gateways put the provider before it. Another model has another price.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

# What names a version of one model: a date, a number of three digits or more, `latest`, a tag.
VERSION = re.compile(
    r"([-@:._](latest|preview|exp|experimental|stable|default|free|\d{3,8}|\d{4}-\d{2}-\d{2}|\d{2}-\d{2,4}|0"
    r"|v\d+(:\d+)?))+$"
)


def is_same_model(asked: str, answered: str, also: Iterable[str] = ()) -> bool:
    """Whether `answered` names the asked model; `also` are other names of it, with `*` for any characters."""
    given = answered.lower()
    if any(fnmatchcase(given, name.lower()) for name in also):
        return True
    return _stem(asked) == _stem(answered)


def _stem(model: str) -> str:
    name = model.lower().rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
    return VERSION.sub("", name)
