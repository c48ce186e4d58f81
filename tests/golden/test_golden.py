"""The log of an earlier version is verified and replayed by this one, and no proof depends on a sentence."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_type_hints

import msgspec
import pytest

from tests.golden import files
from worker.audit import run_replay, run_verify
from worker.audit.run_replay import Replayed, Task
from worker.contract import codec, sentences
from worker.contract.codes import DeferReason, FitCode, IgnoreCode, RejectCode, Rejection, Remedy, RemedyCode
from worker.contract.decisions import (
    Cause,
    ChargedAgain,
    Closed,
    Configured,
    Decision,
    Ignored,
    Missed,
    Rejected,
    Routed,
)
from worker.contract.messages import Deferred
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka.memory import MemoryBroker

BYTES_TRIED = 20
MOST_BYTES = 300_000
LETTER = re.compile(r"\{[^}]*\}|([A-Za-z])")
# The embedder of the package makes an embedding of every text that is not blank.
# No broker refused a record of the run, and it has no control records.
UNMET = {
    "empty_text",
    "beside_request",
    "batch_url",
    "embeddings",
    "header_value",
    "unknown_header",
    "tags",
    "unknown_model",
    "unpublishable",
    "unknown_budget",
    "budget_exists",
    "another_resource",
    "too_many_budgets",
}
# All its queries can be answered by some LLM, and no provider filters them.
UNMET_KINDS: set[object] = {Missed}
UNMET_REASONS = {"filtered", "no_candidate"}
UNMET_REMEDIES, UNMET_IGNORED = {"allow_next_llm", "change_request"}, {"unknown_llm"}


@cache
def golden() -> tuple[StoredRecord, ...]:
    return tuple(files.read())


def opened(records: Sequence[StoredRecord]) -> MemoryBroker:
    """A broker that holds these records, in topics with the ids that they had."""
    broker = MemoryBroker()
    broker.log.load(records)
    homes = [one.config.home for one in decisions() if isinstance(one, Configured)]
    assert homes[-1] is not None, "a lane records its home"
    broker.log.ids.update(homes[-1].topic_ids)
    return broker


def replayed(
    records: Sequence[StoredRecord],
    estimates: Literal["recorded", "index"] = "recorded",
    settings: Settings | None = None,
) -> list[Replayed]:
    """As `tollgate replay`."""
    task = Task(estimates=estimates)
    return list(run_replay.replay(settings or files.settings(), task, open_reader=opened(records).reader))


def check(records: Sequence[StoredRecord]) -> None:
    """The functions that the commands call find nothing wrong."""
    report = run_verify.verify(files.settings(), open_reader=opened(records).reader)
    assert report.findings == [], str(report.findings[0])
    for result in replayed(records):
        assert result.divergence is None, str(result.divergence)


@cache
def decisions() -> tuple[Decision, ...]:
    return tuple(codec.decode_decision(record.value or b"") for record in golden() if record.topic == "decisions")


def test_the_golden_log_is_proven() -> None:
    """`verify` finds nothing, and counts every query once."""
    report = run_verify.verify(files.settings(), open_reader=opened(golden()).reader)
    counts = report.counts
    assert report.findings == [], str(report.findings[0])
    assert counts.queries == counts.dispatched + counts.deferred + counts.dead_letters


@pytest.mark.parametrize("estimates", ["recorded", "index"])
def test_the_golden_log_is_decided_again(estimates: Literal["recorded", "index"]) -> None:
    """`replay` makes every record again, with the recorded estimates and with those of the index."""
    results = replayed(golden(), estimates)
    assert [str(result.divergence) for result in results if result.divergence is not None] == []
    assert sum(result.compared for result in results) == len(decisions())
    assert all(result.whole for result in results), "a partition does not begin with its chain"
    again = sum(result.estimates_exact + result.estimates_close for result in results)
    assert (again > 0) == (estimates == "index"), f"{again} queries were estimated again"


def test_prices_are_solved_again() -> None:
    """The index is checked in with the log."""
    assert sum(result.prices_exact + result.prices_close for result in replayed(golden())) >= 10


def test_the_log_is_small() -> None:
    """It stays easy to clone."""
    size = sum(path.stat().st_size for path in files.PLACE.rglob("*") if path.suffix not in (".py", ".pyc"))
    assert size <= MOST_BYTES


# It holds every kind of record


def test_every_kind_of_decision_is_there() -> None:
    """And every cause, every end of a dispatch, and every basis of a cost."""
    # A run whose topics keep their records misses none.
    assert {type(decision) for decision in decisions()} == {*get_args(Decision)} - UNMET_KINDS
    assert {decision.cause.kind for decision in decisions()} == set(get_args(get_type_hints(Cause)["kind"]))
    closed = [decision for decision in decisions() if isinstance(decision, Closed)]
    assert {decision.outcome for decision in closed} == set(get_args(get_type_hints(Closed)["outcome"]))
    assert {decision.basis for decision in closed} == set(get_args(get_type_hints(Closed)["basis"]))
    again = [decision for decision in decisions() if isinstance(decision, ChargedAgain)]
    assert {decision.reason for decision in again} == set(get_args(get_type_hints(ChargedAgain)["reason"]))


def test_every_reason_is_there() -> None:
    """Queries are deferred for each reason and with each remedy, and records rejected and ignored with each code."""
    deferred = [codec.decode_deferred(record.value or b"") for record in golden() if record.topic == "deferred"]
    assert {one.reason for one in deferred} == set(get_args(DeferReason)) - UNMET_REASONS
    assert {one.remedy.code for one in deferred} == set(get_args(RemedyCode)) - UNMET_REMEDIES
    assert {one.code for one in decisions() if isinstance(one, Ignored)} == set(get_args(IgnoreCode)) - UNMET_IGNORED
    assert {one.code for one in decisions() if isinstance(one, Rejected)} == set(get_args(RejectCode)) - UNMET
    routed = {one.reason for one in decisions() if isinstance(one, Routed)}
    assert routed >= {"observing", "best_score"}


# Nothing depends on a sentence


class Reworded(ast.NodeTransformer):
    """Changes one letter in each text of several words, but for docstrings. `changed` counts them."""

    changed = 0

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if not isinstance(node.value, str) or " " not in node.value or not LETTER.search(node.value):
            return node
        self.changed += 1
        return ast.copy_location(ast.Constant(reworded(node.value)), node)


def reworded(said: str) -> str:
    """The text with its first letter outside of braces changed."""
    for match in LETTER.finditer(said):
        if match[1] is not None:
            other = "x" if match[1] != "x" else "y"
            return said[: match.start()] + other + said[match.end() :]
    raise LookupError(said)


def reworded_sentences() -> ModuleType:
    """The module `sentences` with one letter changed in each sentence."""
    place = Path(sentences.__file__)
    change = Reworded()
    tree = ast.fix_missing_locations(change.visit(ast.parse(place.read_text(encoding="utf-8"))))
    assert change.changed > 40, f"only {change.changed} sentences were found"
    module = ModuleType("reworded")
    exec(compile(tree, str(place), "exec"), module.__dict__)
    return module


def everything_said() -> Iterator[str]:
    """What `sentences` says of every code."""
    yield from (sentences.reason(Rejection(code)) for code in get_args(RejectCode))
    cause = Cause("completions", 0)
    yield from (sentences.reason(Ignored(b"", cause, 0, code, "0-0-1", "small")) for code in get_args(IgnoreCode))
    yield from (sentences.deferral(reason, Remedy("send_again")) for reason in get_args(DeferReason))
    yield from (sentences.remedy(Remedy(code)) for code in get_args(RemedyCode))
    yield from (sentences.fit(code) for code in get_args(FitCode))


def test_no_proof_depends_on_the_sentences_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one letter changed in each sentence that is made from codes, `verify` and `replay` find nothing."""
    before, module = list(everything_said()), reworded_sentences()
    for name in ("REASONS", "DIMENSION", "FITS", "reason", "deferral", "remedy", "fit"):
        monkeypatch.setattr(sentences, name, getattr(module, name))
    same = [said for said, after in zip(before, everything_said(), strict=True) if said == after]
    assert same == [], "these sentences were not changed"
    check(golden())


def with_other_words(record: StoredRecord) -> StoredRecord:
    """The record with one letter changed in each sentence that it shows."""
    if record.topic == "deferred":
        deferred: Deferred = codec.decode_deferred(record.value or b"")
        return record._replace(value=codec.encode(msgspec.structs.replace(deferred, text=reworded(deferred.text))))
    headers = [
        (name, reworded(value.decode()).encode() if name.endswith(".exception.message") and value else value)
        for name, value in record.headers
    ]
    return record._replace(headers=tuple(headers))


def test_no_proof_depends_on_the_sentences_of_the_log() -> None:
    """With one letter changed in each sentence of the log, as if an older version had had other words."""
    changed = [with_other_words(record) for record in golden()]
    count = sum(before != after for before, after in zip(golden(), changed, strict=True))
    shown = sum(record.topic in ("deferred", "dead-letters") for record in golden())
    assert count == shown, "a deferral or a dead letter shows no sentence"
    check(changed)


# A change is found


def with_a_byte_changed(seed: int) -> tuple[StoredRecord, list[StoredRecord]]:
    """The log in which one byte of one decision is another, and that decision."""
    dice = random.Random(seed)
    records = list(golden())
    number = dice.choice([n for n, record in enumerate(records) if record.topic == "decisions"])
    value = bytearray(records[number].value or b"")
    value[dice.randrange(len(value))] ^= dice.randrange(1, 256)
    records[number] = records[number]._replace(value=bytes(value))
    return records[number], records


@pytest.mark.parametrize("seed", range(BYTES_TRIED))
def test_a_byte_changed_anywhere_is_found(seed: int) -> None:
    """By `verify` and by `replay`, in whatever decision and at whatever place of it."""
    changed, records = with_a_byte_changed(seed)
    place = f"decisions/{changed.partition} offset {changed.offset}"
    report = run_verify.verify(files.settings(), open_reader=opened(records).reader)
    assert not report.ok, f"verify finds nothing at {place}"
    diverged = [result for result in replayed(records) if result.divergence is not None]
    assert diverged, f"replay finds nothing at {place}"
