"""Codes are compared, sentences are shown: no sentence is read, and no sentence of a library is recorded."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import get_args

import pytest

from tests.test_repository import text, tracked
from worker.contract import sentences
from worker.contract.codes import DeferReason, FitCode, IgnoreCode, Lack, RejectCode, Rejection, Remedy, RemedyCode
from worker.contract.decisions import Cause, Ignored

# A code, with an example of the limit and the detail that it carries.
FIELDS = {
    "too_large": (1_000, "2000"),
    "format": (None, "0x67"),
    "unknown_field": (None, "txt"),
    "type": (None, "id"),
    "nesting": (64, "body"),
    "number": (None, "parameters"),
    "headers": (1_000, "2000"),
    "embedding_dimension": (3, "8"),
    "partition": (None, "5"),
    "embedding_ambiguous": (256, "512"),
    "embedding_of_another_model": (None, "e5"),
    "deadline_in_seconds": (None, "1760000000"),
}


@pytest.mark.parametrize("code", get_args(RejectCode))
def test_a_rejection_in_words(code: RejectCode) -> None:
    """Each code has a sentence, which tells the limit and the detail if the code carries them."""
    limit, detail = FIELDS.get(code, (None, ""))
    said = sentences.reason(Rejection(code, limit, detail))
    assert detail in said
    assert limit is None or str(limit) in said
    assert "{" not in said, "a field is not filled in"


@pytest.mark.parametrize("code", get_args(IgnoreCode))
def test_an_ignored_completion_in_words(code: IgnoreCode) -> None:
    """Each code has a sentence."""
    said = sentences.reason(Ignored(b"", Cause("completions", 0), 0, code, "0-0-1", "small"))
    assert said
    assert "{" not in said, "a field is not filled in"


def test_a_deferral_in_words() -> None:
    """Each reason and each remedy has words of its own."""
    reasons = {sentences.deferral(reason, Remedy("send_again")) for reason in get_args(DeferReason)}
    assert len(reasons) == len(get_args(DeferReason))
    remedies = {sentences.remedy(Remedy(code)) for code in get_args(RemedyCode)}
    assert len(remedies) == len(get_args(RemedyCode))
    own, company, tokens = Lack("large", "usd", 7), Lack("company", "usd", 9), Lack("day", "tokens", 12)
    told = sentences.remedy(Remedy("raise_budget", {"large": (own,), "small": (company, tokens)}))
    assert (
        told
        == "raise a budget: large lacks 7 micro-dollars, small lacks 9 micro-dollars of company and 12 tokens of day"
    )


def test_how_prices_were_found_in_words() -> None:
    """Each code of a fit has a sentence of its own."""
    assert len({sentences.fit(code) for code in get_args(FitCode)}) == len(get_args(FitCode))


def modules(*packages: str) -> Iterator[tuple[str, ast.Module]]:
    for path in tracked(*(f"worker/{package}/*.py" for package in packages)):
        yield path, ast.parse(text(path))


def imported(module: ast.Module) -> set[str]:
    """The modules that a module imports."""
    names: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_audit_and_no_decision_reads_prose() -> None:
    """`core` and `audit` use no regular expression."""
    assert [path for path, module in modules("core", "audit") if "re" in imported(module)] == []


def test_the_core_makes_no_sentence_but_for_people() -> None:
    """Only what is shown is made from codes: the text of a deferral, and the detail of an alarm."""
    users = [path for path, module in modules("core") if "worker.contract.sentences" in imported(module)]
    assert users == ["worker/core/alarms.py", "worker/core/outbox.py"]


def test_no_message_of_msgspec_is_recorded() -> None:
    """A code comes from what a value holds, so `codec` never looks at an error that msgspec raised."""
    (module,) = (module for path, module in modules("contract") if path.endswith("/codec.py"))
    handlers = [node for node in ast.walk(module) if isinstance(node, ast.ExceptHandler)]
    assert handlers, "codec catches errors"
    kept = [ast.unparse(node) for node in handlers if node.name is not None]
    assert kept == ["except _Reject as problem:\n    return problem.rejection"] * 2


def test_no_decision_depends_on_the_wording_of_an_error() -> None:
    """Outside of messages to people, no module looks into the text of an error."""
    looks = re.compile(r"in str\((error|problem|exc)\)|str\((error|problem|exc)\) ==")
    assert [path for path, _ in modules("contract", "core", "service", "audit") if looks.search(text(path))] == []
