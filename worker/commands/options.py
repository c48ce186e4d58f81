"""Options that many verbs share, and the app that each verb is."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from worker.contract.settings import LogSettings, Settings, load_settings
from worker.local.demo_directory import demo_directory, is_own

EXIT_CODES = {
    0: "done",
    2: "wrong usage",
    3: "the broker cannot be reached or refused a request",
    4: "a setting or a file is wrong",
}


def new_app(**options: Any) -> typer.Typer:
    """The app of a verb, as `main` expects it: help without markup, errors without decoration."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False, **options)


def more_help(*examples: str, **exits: str) -> str:
    """The end of a verb's help: examples, and its exit codes. `exit_1="..."` says what a code means here."""
    codes = EXIT_CODES | {int(name.removeprefix("exit_")): meaning for name, meaning in exits.items()}
    told = "; ".join(f"{code} {meaning}" for code, meaning in sorted(codes.items()) if meaning)
    heading = "Example:" if len(examples) == 1 else "Examples:"
    lines = "\n".join(f"  {example}" for example in examples)
    # Without the backspace, Typer would fill the lines of this paragraph.
    return f"\b\n{heading}\n{lines}\n\nExit codes: {told}."


def writable_file(file: Path | None) -> Path | None:
    """The file, if it can be written: checked before the work whose result it is to hold."""
    if file is None:
        return None
    if file.is_dir():
        raise typer.BadParameter(f"{file} is a directory; name a file")
    _check_parent(file)
    if file.exists() and not os.access(file, os.W_OK):
        raise typer.BadParameter(f"{file} cannot be written; change its permissions, or name another")
    return file


def replaceable_file(file: Path | None) -> Path | None:
    """The file, if another can be put in its place: its directory can be written."""
    if writable_file(file) is not None and file is not None and not os.access(file.parent, os.W_OK):
        raise typer.BadParameter(f"{file.parent} cannot be written; change its permissions, or name another")
    return file


def _check_parent(file: Path) -> None:
    if not file.parent.is_dir():
        raise typer.BadParameter(f"{file.parent} is not a directory; create it, or name another")
    if not file.exists() and not os.access(file.parent, os.W_OK):
        raise typer.BadParameter(f"{file.parent} cannot be written; change its permissions, or name another")


def writable_directory(directory: Path | None) -> Path | None:
    """The directory, if files can be made in it, or if it can be made."""
    if directory is None:
        return None
    nearest = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise typer.BadParameter(f"{nearest} is a file; name a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{nearest} cannot be written; change its permissions, or name another")
    return directory


def new_directory(directory: Path) -> Path:
    """The directory, if it does not exist and can be made."""
    if os.path.lexists(directory):
        raise typer.BadParameter(f"{directory} exists, and is never overwritten; name a new directory")
    writable_directory(directory.parent)
    return directory


def finite(number: float) -> float:
    """The number, if it is neither infinite nor nan: Typer takes both for a float."""
    if not isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number")
    return number


def each_of(names: Iterable[str]) -> Callable[[list[str] | None], list[str] | None]:
    """Checks that each value of a repeated option is one of these names. (Typer takes no Literal in a list.)"""

    def check(values: list[str] | None) -> list[str] | None:
        if unknown := [value for value in values or () if value not in names]:
            raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(names)}")
        return values

    return check


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The settings file. Without it: ./tollgate.toml if it exists, then the running demo's.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, instead of tables.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Also write the result to FILE, as JSON.",
        callback=writable_file,
        show_default=False,
    ),
]


def settings_from(config: Path | None, flags: dict[str, Any] | None = None) -> Settings:
    """Settings from --config, ./tollgate.toml or the running demo. Raises FixSetting."""
    return load_settings(config or _found(), flags)


def logging_settings_from(config: Path | None, flags: dict[str, Any] | None = None) -> Settings:
    """The same for a verb that runs on and logs. An error in the settings is logged as [log] says, too."""
    from worker.service import log, signals

    signals.ignore()
    log.configure(_log_settings(config or _found()))
    settings = settings_from(config, flags)
    log.configure(settings.log)
    return settings


def _log_settings(file: Path | None) -> LogSettings:
    """[log] of the settings file and the environment, whatever is wrong with the other settings."""
    section: Any = None
    with suppress(OSError, ValueError):
        section = None if file is None else tomllib.loads(file.read_text()).get("log")
    variables = {name.lower(): value for name, value in os.environ.items()}
    told = section if isinstance(section, dict) else {}
    for name in LogSettings.model_fields:
        told[name] = variables.get(f"tollgate_log__{name}", told.get(name))
    try:
        return LogSettings(**{name: value for name, value in told.items() if value is not None})
    except ValidationError:
        return LogSettings()


def _found() -> Path | None:
    """./tollgate.toml; without it that of the demo that this user runs; None if neither exists."""
    here = Path("tollgate.toml")
    if here.exists():
        return here
    demo = demo_directory()
    # Another user's file could name that user's broker, and this user's password would be sent there.
    return demo / here if is_own(demo) and (demo / here).exists() else None
