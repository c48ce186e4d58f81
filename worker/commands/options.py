"""Options that many verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from worker.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Settings file; default ./tollgate.toml if it is there, then the running demo."
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file as JSON.")]


def settings_from(config: Path | None, flags: dict[str, Any] | None = None) -> Settings:
    """Settings from --config, ./tollgate.toml or the running demo. Raises FixSetting."""
    from worker.demo_data import demo_directory
    from worker.settings import load_settings

    if config is None:
        found = (path for path in (Path("tollgate.toml"), demo_directory() / "tollgate.toml") if path.exists())
        config = next(found, None)
    return load_settings(config, flags)
