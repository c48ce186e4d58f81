"""The documents keep up with the code: what they must name, and what they point at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args, get_type_hints

from pydantic import BaseModel

from tests.test_repository import ROOT, text, tracked
from worker.commands.main import VERBS, lazy
from worker.contract.codes import DeferReason, FitCode, IgnoreCode, RejectCode, RemedyCode
from worker.contract.completions import Remark
from worker.contract.decisions import Cause
from worker.contract.errors import CheckBroker, CheckFailed, FixSetting, LeaveProcess
from worker.contract.settings import Settings
from worker.contract.topic_names import TopicNames
from worker.core.alarms import MEANINGS
from worker.service.metrics import Metrics

PAGE_LINES = 110


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting's dotted name; those of an LLM stand under `llms.<name>`, of a budget under `budgets.<name>`."""
    for name, field in model.model_fields.items():
        nested = field.annotation
        if not prefix and name in ("llms", "budgets"):
            nested, name = nested.__args__[1], f"{name}.<name>"  # type: ignore[union-attr]
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from settings_of(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def named(page: str) -> set[str]:
    """All that stands in backticks on a reference page."""
    return set(re.findall(r"`([^`]+)`", text(f"docs/reference/{page}.md")))


def test_the_reference_names_every_setting() -> None:
    """By its dotted name."""
    assert set(settings_of(Settings)) - named("settings") == set()


def test_the_reference_names_every_command() -> None:
    """Also those of groups."""
    commands = set()
    for verb in VERBS:
        group = getattr(lazy(verb), "commands", {})
        commands |= {f"tollgate {verb} {name}" for name in group} or {f"tollgate {verb}"}
    page = named("command-line")
    # Of one group, only the first command stands with the group's name.
    assert {name for name in commands if name not in page and name.rpartition(" ")[2] not in page} == set()


def test_the_reference_names_every_exit_code() -> None:
    """Those of errors and of wrong usage."""
    codes = {0, 2, *(error.exit_code for error in (FixSetting, CheckBroker, LeaveProcess, CheckFailed))}
    page = text("docs/reference/exit-codes.md")
    assert {code for code in codes if f"| {code} |" not in page} == set()


def test_the_reference_explains_every_alarm() -> None:
    """Each in a row of its own."""
    page = text("docs/reference/alarms.md")
    assert {name for name in MEANINGS if f"| `{name}` |" not in page} == set()


def test_the_reference_names_every_metric() -> None:
    """As it is scraped, with its labels."""
    metrics = Metrics()
    metrics.watch(tuple)
    scraped = {f"{group.name}_total" if group.type == "counter" else group.name for group in metrics.registry.collect()}
    page = {name.partition("{")[0] for name in named("metrics")}
    assert scraped - page == set()


def test_the_reference_names_every_topic() -> None:
    """And every reason of a deferral."""
    topics = {*TopicNames().all(["<llm>"])} - {TopicNames().dispatch("<llm>")} | {"dispatch.<llm>"}
    page = named("topics-and-messages")
    assert topics - page == set()
    assert set(get_args(DeferReason)) - page == set()


CODES = [RejectCode, IgnoreCode, RemedyCode, FitCode, Remark, get_type_hints(Cause)["kind"]]


def test_the_reference_names_every_code() -> None:
    """Each in a row of its own."""
    page = text("docs/reference/codes.md")
    assert {code for codes in CODES for code in get_args(codes) if f"| `{code}` |" not in page} == set()


def test_every_page_can_be_reached() -> None:
    """From the list of all pages."""
    listed = text("docs/README.md")
    pages = {path.removeprefix("docs/") for path in tracked("docs/*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in listed} == set()


def test_the_architecture_is_one_page_and_maps_every_package() -> None:
    """A package that is not on the map has no place."""
    page = text("docs/ARCHITECTURE.md")
    packages = {path.split("/")[1] for path in tracked("worker/*/*.py")}
    assert len(page.splitlines()) <= PAGE_LINES, "the page is too long"
    assert {name for name in packages if f"\n  {name}/ " not in page} == set()


def headings(path: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def faults_of_links(path: str) -> Iterator[str]:
    """Each relative link of a document that leads nowhere."""
    for link in re.findall(r"\]\(([^)]+)\)", text(path)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = ((ROOT / path).parent / file).resolve() if file else ROOT / path
        if not target.exists():
            yield f"{path}: {link} leads nowhere"
        elif anchor and anchor not in headings(str(target.relative_to(ROOT))):
            yield f"{path}: {link} names no heading"


def test_links_lead_somewhere() -> None:
    """Every relative link of a document is a file of the repository, and its anchor is a heading there."""
    assert [fault for path in tracked("*.md") for fault in faults_of_links(path)] == []


def test_no_document_holds_a_place_for_later_text() -> None:
    """A comment in a document would be text that nobody reads."""
    assert [path for path in tracked("*.md") if "<!--" in text(path)] == []
