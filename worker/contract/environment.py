"""Settings from environment variables: TOLLGATE_<SECTION>__<NAME>, TOLLGATE_LLMS__<LLM>__<NAME>, and
TOLLGATE_BUDGETS__<BUDGET>__<NAME>.

Case does not matter. In <LLM> and <BUDGET>, neither do characters that shells allow in no variable: whatever stands
between letters and digits is `_`, so that TOLLGATE_LLMS__GPT_4O__BUDGET_USD is the budget of "gpt-4o". Variables
override the LLMs and the budgets of the settings file; they add none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from worker.contract.errors import FixSetting

PREFIX = "tollgate_"
# The sections that hold a table for each name.
NAMED = {"llms": "LLM", "budgets": "budget"}
_BETWEEN = re.compile(r"[\W_]+")


def nested(variables: Mapping[str, str], sections: Collection[str], file: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `variables` make, by section and name; `file` is the settings file.

    Raises FixSetting for a section, an LLM or a budget that is not there, and for a variable that names no setting.
    """
    found: dict[str, Any] = {}
    for variable, section, name in _ours(variables, sections):
        place = found.setdefault(section, {})
        if section in NAMED:
            table, _, name = name.rpartition("__")
            known = file.get(section)
            place = place.setdefault(
                _configured(variable, section, table, known if isinstance(known, dict) else ()), {}
            )
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


def _configured(variable: str, section: str, name: str, known: Collection[str]) -> str:
    """The LLM or the budget that a variable means."""
    if name in known:
        return name
    meant = [one for one in known if plain(one) == plain(name)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise FixSetting(f"{variable}: may mean {' or '.join(map(repr, meant))}; set it in the settings file")
    names = ", ".join(sorted(f"TOLLGATE_{section.upper()}__{plain(one)}__<NAME>" for one in known)) or "none"
    raise FixSetting(f"{variable}: is no {NAMED[section]} of the settings file, which lists {names}")


def plain(name: str) -> str:
    """A name as it stands in a variable: `gpt-4o` is GPT_4O."""
    return _BETWEEN.sub("_", name).strip("_").upper()
