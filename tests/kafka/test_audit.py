"""What an auditor runs, as commands on a system that routed real queries and still runs.

Most commands run in this process. Of `verify`, `replay`, `explain` and `status` one run is a process of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.kafka.commands import PATIENCE_SECONDS, run, run_here
from tests.kafka.load import problems, under_load
from tests.topics import value as value_of
from worker.contract import codec
from worker.contract.decisions import Checkpoint
from worker.contract.settings import Settings
from worker.core.journal import record_hash
from worker.estimation.history import History
from worker.kafka import clients
from worker.kafka.reader import KafkaReader
from worker.local.broker import Broker
from worker.local.system import System

pytestmark = pytest.mark.long

QUERIES = 600
PARTITIONS = 2


@pytest.fixture(scope="module")
def audited(
    broker: Broker, rows: tuple[History, History], index_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A system that has routed QUERIES queries and whose worker still runs."""
    place = tmp_path_factory.mktemp("audit")
    (place / "index").symlink_to(index_directory)
    with System(place, broker) as system:
        settings = prepared(system, rows[0], "audit.")
        assert problems(under_load(system, settings, rows[1], QUERIES, rate=400)) == []
        yield system


def prepared(system: System, past: History, prefix: str) -> Settings:
    """Settings, topics, a worker and an inference worker of a system; budgets that some queries are deferred for."""
    kafka = {"partitions": PARTITIONS, "topic_prefix": prefix, "group": prefix.strip("."), "session_timeout_ms": 3_000}
    routing = {"horizon_queries": QUERIES, "checkpoint_every": 5}
    settings = system.prepare(past, dict.fromkeys(past.llms, 0.005), "wordllama", kafka=kafka, routing=routing)
    system.start_inference(latency_ms=5, error_rate=0.02)
    system.start_workers(1)
    return settings


def told(system: System, *arguments: str) -> tuple[int, str, Any]:
    """Exit code, output and what was written as JSON by a command."""
    file = system.directory / f"{time.monotonic_ns()}.json"
    code, said = run_here(system, *arguments, "--output", str(file))
    return code, said, json.loads(file.read_bytes()) if file.exists() else None


def ends(settings: Settings) -> dict[tuple[str, int], int]:
    """Where every topic ends now."""
    topics = [settings.topics.queries, settings.topics.completions, *settings.topics.written(settings.llms)]
    with KafkaReader(settings) as reader:
        return reader.ends([(topic, partition) for topic in topics for partition in range(PARTITIONS)])


def settings_of(system: System) -> Settings:
    """What the system's commands read."""
    from worker.contract.settings import load_settings

    return load_settings(system.config)


def test_the_books_are_proven(audited: System) -> None:
    """verify exits with 0, and its figures add up: queries in = dispatched + deferred + dead letters."""
    code, said, report = told(audited, "verify")
    counts = report["counts"]
    out = counts["dispatched"] + counts["deferred"] + counts["dead_letters"]
    assert code == 0, said
    assert counts["queries"] == QUERIES, said
    assert out == QUERIES, said


@pytest.mark.parametrize("estimates", ["recorded", "index"])
def test_everything_is_decided_again(audited: System, estimates: str) -> None:
    """replay exits with 0 and compares every record, on recorded estimates and on those of the index anew."""
    settings = settings_of(audited)
    before = ends(settings)
    code, said, results = told(audited, "replay", "--estimates", estimates)
    estimated = sum(one["estimates_exact"] for one in results)
    assert code == 0, said
    assert [one["divergence"] for one in results] == [None, None], said
    assert estimated == (QUERIES if estimates == "index" else 0), said
    assert ends(settings) == before


def test_a_replay_begins_at_a_checkpoint(audited: System) -> None:
    """From an offset or a time on: the first checkpoint there, and what lies before it is counted."""
    settings = settings_of(audited)
    records = list(KafkaReader(settings).read_partition(settings.topics.decisions, 0))
    half = len(records) // 2
    moment_ms = records[half].timestamp
    of_moment = next(n for n, record in enumerate(records) if record.timestamp >= moment_ms)
    checkpoints = [isinstance(codec.decode_decision(value_of(record)), Checkpoint) for record in records]
    for start, first in ((str(records[half].offset), half), (f"@{moment_ms}", of_moment)):
        code, said, [result] = told(audited, "replay", "-p", "0", "--from", start)
        found = (code, result["skipped"], 0 < result["compared"] < len(records))
        assert found == (0, checkpoints[first:].index(True), True), said


def test_a_replay_ends_where_it_is_told_to(audited: System) -> None:
    """Before an offset or a time: every record there is compared, and the head is that of the last one."""
    settings = settings_of(audited)
    records = list(KafkaReader(settings).read_partition(settings.topics.decisions, 0))
    middle = records[len(records) // 2]
    for end in (str(middle.offset), f"@{middle.timestamp}"):
        code, said, [result] = told(audited, "replay", "-p", "0", "--to", end)
        last = records[result["compared"] - 1]
        assert code == 0, said
        assert 0 < result["compared"] < len(records), said
        assert result["head"]["head"] == record_hash(last.value or b"").hex(), said


def test_anchors_prove_that_nothing_before_them_changed(audited: System, tmp_path: Path) -> None:
    """A second replay passes the heads that the first wrote; with a head that is not in the chain it fails."""
    file = tmp_path / "heads.json"
    first = run_here(audited, "replay", "--anchor", str(file), "--anchor-create")[0]
    second = run_here(audited, "replay", "--anchor", str(file))[0]
    heads = json.loads(file.read_text())
    file.write_text(json.dumps([{**head, "head": heads[0]["head"]} for head in heads]))
    third, said = run_here(audited, "replay", "--anchor", str(file))
    assert first == 0, said
    assert second == 0, said
    assert third == 1, said
    assert "anchor" in said, said


def test_one_query_is_explained(audited: System) -> None:
    """Its neighbours, every LLM with estimate, price and score, why it went where it went, and what it cost; a query
    that nobody decided is an error."""
    settings = settings_of(audited)
    decisions = [
        codec.decode_decision(value_of(r)) for r in KafkaReader(settings).read_partition(settings.topics.decisions, 0)
    ]
    closed = next(d for d in decisions if type(d).__name__ == "Closed" and d.outcome == "settled")
    code, said = run(audited, "explain", closed.query_id)
    shown = [word in said for word in ("nearest past queries", closed.llm, "score", "verdict", "settled at $")]
    assert code == 0, said
    assert shown == [True] * 5, said
    assert run_here(audited, "explain", "nobody")[0] == 1, said


CHANGES: list[tuple[str, ...]] = [
    ("--budget-factor", "0.5"),
    ("--policy", "port"),
    ("--without", "Yi-6B-Chat"),
    ("--price", "Yi-6B-Chat=100"),
]


@pytest.mark.parametrize("change", CHANGES, ids=" ".join)
def test_what_if_writes_to_no_topic(audited: System, change: tuple[str, ...]) -> None:
    """Both sides and the caveat are printed, and every topic ends where it ended."""
    settings = settings_of(audited)
    before = ends(settings)
    code, said, comparison = told(audited, "what-if", *change)
    assert comparison is not None, said
    real, other = comparison["real"], comparison["other"]
    assert code == 0, said
    assert comparison["queries"] == QUERIES, said
    assert real != other, said
    assert "note" in said, said
    assert ends(settings) == before, said


def test_what_if_by_another_index(audited: System, index_directory: Path) -> None:
    """The same index named as another estimates every query as it was: both sides agree."""
    code, said, comparison = told(audited, "what-if", "--index", str(index_directory))
    assert (code, comparison["real"]["total"]) == (0, comparison["other"]["total"]), said


def test_status_shows_the_accounts(audited: System) -> None:
    """The sums of the ledger are those of the audit."""
    _, _, report = told(audited, "verify")
    code, said = run(audited, "status")
    assert code == 0, said
    assert all(llm in said for llm in settings_of(audited).llms), said
    assert bool(report), said


def delete_before(settings: Settings, topic: str, partition: int, offset: int) -> None:
    """What retention does."""
    admin, place = AdminClient(clients.common_config(settings)), TopicPartition(topic, partition, offset)
    admin.delete_records([place])[place].result(PATIENCE_SECONDS)


def test_queries_that_left_their_topic(audited: System) -> None:
    """Retention may take inputs: the replay goes on from the decisions, and says how many inputs it could not see."""
    settings = settings_of(audited)
    delete_before(settings, settings.topics.queries, 0, 100)
    code, said, results = told(audited, "replay", "-p", "0")
    assert code == 0, said
    assert results[0]["divergence"] is None, said
    assert results[0]["gone_queries"] == 100, said


def test_decisions_that_lost_their_beginning(audited: System, tmp_path: Path) -> None:
    """By retention: replay and verify begin at the first checkpoint that is left and say so. An anchor before it is
    not proven (exit 1) and stays in its file, one after it is. A log that ends before its anchor fails."""
    settings = settings_of(audited)
    records = list(KafkaReader(settings).read_partition(settings.topics.decisions, 1))
    early, late, cut = tmp_path / "early.json", tmp_path / "late.json", tmp_path / "cut.json"
    end = str(records[2].offset)
    anchored = run_here(audited, "replay", "-p", "1", "--to", end, "--anchor", str(early), "--anchor-create")
    assert anchored[0] == 0
    assert run_here(audited, "replay", "-p", "1", "--anchor", str(late), "--anchor-create")[0] == 0
    head = json.loads(late.read_text())[0]
    cut.write_text(json.dumps([{**head, "decisions": head["decisions"] + 1_000}]))
    delete_before(settings, settings.topics.decisions, 1, records[10].offset)
    kept = early.read_bytes()
    code, said, [result] = told(audited, "replay", "-p", "1")
    assert code == 0, said
    assert not result["whole"], said
    assert result["divergence"] is None, said
    assert "began at the checkpoint" in said, said
    codes = [run_here(audited, "replay", "-p", "1", "--anchor", str(file)) for file in (late, early, cut)]
    assert ([code for code, _ in codes], early.read_bytes() == kept) == ([0, 1, 1], True), codes
    says = "not proven" in codes[1][1], "the anchor says" in codes[2][1]
    verified, verify_said = run_here(audited, "verify")
    assert says == (True, True), (
        codes,
        verify_said,
    )
    assert verified == 0, (
        codes,
        verify_said,
    )
    assert "the proof begins at the checkpoint" in verify_said, (
        codes,
        verify_said,
    )


def forge(settings: Settings, partition: int, follows: bool) -> None:
    """Append the last decision again, as a stranger would; linked to the one before if it `follows`."""
    last = list(KafkaReader(settings).read_partition(settings.topics.decisions, partition))[-1]
    decision = codec.decode_decision(value_of(last))
    if follows:
        decision = msgspec.structs.replace(decision, prev=record_hash(last.value or b""))
    producer = Producer(clients.producer_config(settings))
    producer.produce(settings.topics.decisions, codec.encode(decision), last.key, partition)
    producer.flush(PATIENCE_SECONDS)


def test_a_forged_record_is_found(audited: System) -> None:
    """A decision that a stranger appends is named by verify and replay, with its topic, partition and offset: one that
    does not follow in the chain, and then one that does. The last test here: it spoils the system."""
    settings = settings_of(audited)
    for partition, follows in ((1, False), (0, True)):
        forge(settings, partition, follows)
    (verified, verify_said), (replayed, replay_said) = run(audited, "verify"), run(audited, "replay")
    places = [f"decisions/{partition}" in said for said in (verify_said, replay_said) for partition in (0, 1)]
    assert verified == 1, (verify_said, replay_said)
    assert replayed == 1, (verify_said, replay_said)
    assert places == [True] * 4, (verify_said, replay_said)
