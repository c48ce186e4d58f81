"""Settings from environment variables: TOLLGATE_<SECTION>__<NAME>, and TOLLGATE_LLMS__<LLM>__<NAME>.

Case does not matter. In <LLM>, neither do characters that shells allow in no variable: whatever stands between letters
and digits is `_`, so that TOLLGATE_LLMS__GPT_4O__BUDGET_USD is the budget of "gpt-4o". Variables override the LLMs of
the settings file; they add none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from worker.contract.errors import FixSetting

PREFIX = "tollgate_"
LLMS = "llms"
_BETWEEN = re.compile(r"[\W_]+")


def nested(variables: Mapping[str, str], sections: Collection[str], llms: Collection[str]) -> dict[str, Any]:
    """The settings that `variables` make, by section and name; `llms` are those of the settings file.

    Raises FixSetting for a section or an LLM that is not there, and for a variable that names no setting of theirs.
    """
    found: dict[str, Any] = {}
    for variable, section, name in _ours(variables, sections):
        place = found.setdefault(section, {})
        if section == LLMS:
            llm, _, name = name.rpartition("__")
            place = place.setdefault(_configured(variable, llm, llms), {})
        place[name.lower()] = variables[variable]
    return found


def _ours(variables: Mapping[str, str], sections: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Variables with their sections and names. Those without `__` may be somebody else's, such as TOLLGATE_PORT."""
    for variable in variables:
        if not variable.lower().startswith(PREFIX):
            continue
        section, nested, name = variable[len(PREFIX) :].partition("__")
        if nested and section.lower() not in sections:
            raise FixSetting(f"{variable}: there is no section {section.lower()!r}, only {', '.join(sections)}")
        if section.lower() in sections:
            if not name:
                raise FixSetting(f"{variable}: names a section; set its settings one by one, as {variable}__<NAME>")
            yield variable, section.lower(), name


def _configured(variable: str, llm: str, llms: Collection[str]) -> str:
    """The LLM that a variable means."""
    if llm in llms:
        return llm
    meant = [one for one in llms if plain(one) == plain(llm)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise FixSetting(f"{variable}: may mean {' or '.join(map(repr, meant))}; set it in the settings file")
    names = ", ".join(sorted(f"TOLLGATE_LLMS__{plain(one)}__<NAME>" for one in llms)) or "none"
    raise FixSetting(f"{variable}: is no LLM of the settings file, which lists {names}")


def plain(name: str) -> str:
    """An LLM's name as it stands in a variable: `gpt-4o` is GPT_4O."""
    return _BETWEEN.sub("_", name).strip("_").upper()
