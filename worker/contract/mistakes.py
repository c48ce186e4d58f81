"""Mistakes in a settings file, in words for the operator."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from worker.contract import environment
from worker.contract.errors import FixSetting


def refuse_secrets(path: Path) -> None:
    """Raise FixSetting for a settings file that cannot be read, or that holds a secret."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise FixSetting(f"{path}: {error.strerror}; name the settings file with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FixSetting(f"{path}: {error}") from None
    kafka = content.get("kafka")
    if isinstance(kafka, dict) and "sasl_password" in kafka:
        raise FixSetting(
            "kafka.sasl_password: a secret does not belong in the settings file; set "
            "TOLLGATE_KAFKA__SASL_PASSWORD or kafka.sasl_password_file"
        )
    llms = content.get("llms")
    for llm, settings in llms.items() if isinstance(llms, dict) else ():
        if isinstance(settings, dict) and "api_key" in settings:
            raise FixSetting(
                f"llms.{llm}.api_key: a secret does not belong in the settings file; set "
                f"TOLLGATE_LLMS__{environment.plain(llm)}__API_KEY or llms.{llm}.api_key_file"
            )


def told(problem: Any) -> str:
    """One of pydantic's errors in words: the setting, what is wrong, and the value unless it may be a secret."""
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    silent = problem["type"] in ("missing", "value_error") or name.endswith(("password", "api_key"))
    given = "" if silent else f", not {problem['input']!r}"
    said = f"{problem['msg'].removeprefix('Value error, ')}{given}"
    # What is wrong between sections names its settings itself.
    return f"{name}: {said}" if name else said
