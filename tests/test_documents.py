"""The documents keep up with the code: what they must name, and what they point at."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from tests.test_repository import ROOT, text, tracked
from worker.commands.main import VERBS
from worker.contract.settings import Settings
from worker.core.alarms import MEANINGS

PAGE_LINES = 110


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting's dotted name; an LLM's stand under `llms.<name>`."""
    for name, field in model.model_fields.items():
        nested = field.annotation
        if name == "llms":
            nested, name = nested.__args__[1], "llms.<name>"  # type: ignore[union-attr]
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from settings_of(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_readme_names_every_setting() -> None:
    """By its dotted name, or beside another of its section by its last part."""
    readme = text("README.md")
    unnamed = {
        name
        for name in settings_of(Settings)
        if f"`{name}`" not in readme and f"`{name.rpartition('.')[2]}`" not in readme
    }
    assert unnamed == set()


def test_the_readme_names_every_command() -> None:
    """Also those that are groups of commands."""
    readme = text("README.md")
    assert {name for name in VERBS if f"`tollgate {name}" not in readme and f"`{name}`" not in readme} == set()


def test_the_architecture_is_one_page_and_maps_every_package() -> None:
    """A package that is not on the map has no place."""
    page = text("docs/ARCHITECTURE.md")
    packages = {path.split("/")[1] for path in tracked("worker/*/*.py")}
    assert len(page.splitlines()) <= PAGE_LINES, "the page is too long"
    assert {name for name in packages if f"| `{name}` |" not in page} == set()


@pytest.mark.parametrize("path", tracked("*.md"))
def test_links_lead_somewhere(path: str) -> None:
    """Every relative link of a document is a file of the repository, and no place is held for what is to come."""
    content = text(path)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", content) if "://" not in link]
    lost = [link for link in links if not ((ROOT / path).parent / link).exists()]
    assert (lost, "<!--" in content) == ([], False)


def test_the_readme_explains_every_alarm() -> None:
    """In the words of the log."""
    readme = text("README.md")
    assert {name for name, meaning in MEANINGS.items() if f"| `{name}` | {meaning} |" not in readme} == set()
