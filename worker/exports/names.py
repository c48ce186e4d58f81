"""Names of LLMs: what a user joins, and what looks alike and is listed for the user to join. Pure after reading."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from worker.contract.errors import FixSetting
from worker.exports.files import File

# `-2024-08-06`, `-20241022`, `@20241022`, `-2409`, `-latest`, `:beta`.
VERSION = re.compile(r"[-@:](\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest|beta|free)$")
SEPARATORS = re.compile(r"[\s_.]+")


class Names:
    """The LLM of each name that is seen. A name that the user does not join is an LLM of its own."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = dict(aliases)
        self.joined: dict[str, str] = {}

    def llm(self, seen: str) -> str:
        """The LLM of a name, as the user joined it."""
        found = self._aliases.get(seen)
        if found is None:
            return seen
        self.joined[seen] = found
        return found


def read_aliases(file: Path | None, pairs: Iterable[str]) -> dict[str, str]:
    """Aliases of a table with the columns `seen` and `llm`, and of pairs `seen=llm`. Raises FixSetting."""
    aliases: dict[str, str] = {}
    for row in File(file, file.name).rows() if file is not None else ():
        seen, llm = (row.get("seen"), row.get("llm")) if isinstance(row, Mapping) else (None, None)
        if not (isinstance(seen, str) and isinstance(llm, str) and seen.strip() and llm.strip()):
            raise FixSetting(f"{file}: aliases are a table with the columns `seen` and `llm`, and no empty cell")
        aliases[seen.strip()] = llm.strip()
    for pair in pairs:
        seen, equals, llm = pair.rpartition("=")
        if not equals or not seen.strip() or not llm.strip():
            raise FixSetting(f"--alias {pair}: write the name that is seen, =, and the LLM: gpt-4o-2024-08-06=gpt-4o")
        aliases[seen.strip()] = llm.strip()
    return aliases


def alike(llms: Iterable[str]) -> list[list[str]]:
    """LLMs whose names differ only by a date, a version, a provider before them, or by case."""
    groups: dict[str, list[str]] = defaultdict(list)
    for llm in sorted(set(llms)):
        groups[_bare(llm)].append(llm)
    return [group for group in groups.values() if len(group) > 1]


def _bare(llm: str) -> str:
    name = SEPARATORS.sub("-", re.split(r"[/:]", llm.removesuffix(":free").removesuffix(":beta"))[-1].lower())
    while (shorter := VERSION.sub("", name)) != name:
        name = shorter
    return name
