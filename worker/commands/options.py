"""Options that many verbs share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from worker.contract.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Settings file; default ./tollgate.toml if it is there, then the running demo."
    ),
]


def _writable(file: Path | None) -> Path | None:
    """The file, if it can be written: known before the work is done whose result it is to hold."""
    if file is None:
        return None
    if file.is_dir():
        raise typer.BadParameter(f"{file} is a directory; name a file")
    if not file.parent.is_dir():
        raise typer.BadParameter(f"{file.parent} is no directory; make it, or name another")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise typer.BadParameter(f"{file} may not be written; name another")
    return file


JsonOption = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the result to this file as JSON.", callback=_writable),
]


def write_json(file: Path | None, result: Any) -> None:
    """Write a result of a command as --json asks; nothing for None."""
    if file is not None:
        import msgspec

        file.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def settings_from(config: Path | None, flags: dict[str, Any] | None = None) -> Settings:
    """Settings from --config, ./tollgate.toml or the running demo. Raises FixSetting."""
    from worker.contract.settings import load_settings

    return load_settings(config or _found(), flags)


def _found() -> Path | None:
    """./tollgate.toml, else that of the demo that this user runs; None where there is neither."""
    here = Path("tollgate.toml")
    if here.exists():
        return here
    from worker.estimation.demo_data import demo_directory, is_own

    demo = demo_directory()
    # Another user's file could name a broker of theirs, which would be sent this user's password.
    return demo / here if is_own(demo) and (demo / here).exists() else None
