"""Records and states of extreme size, on a real broker: none of them stops a lane."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from confluent_kafka import Producer

from tests.drive import LLMS, PRIOR, ConfigurationChanges, config, query
from tests.kafka.commands import PATIENCE_SECONDS
from tests.kafka.talk import Talk, enlarge, produce_raw
from worker.audit import run_verify
from worker.contract import dead_letters
from worker.contract.decisions import Cause, Rejected, Routed
from worker.contract.settings import Settings
from worker.core.events import Expiry, Reconfigured, Ticked
from worker.estimation.history import History
from worker.kafka import admin, clients
from worker.kafka.reader import KafkaReader
from worker.local.broker import Broker
from worker.local.load import query_of
from worker.local.system import System
from worker.service.committer import Kafka, open_committer
from worker.service.intake import Input
from worker.service.metrics import Metrics
from worker.service.overdue import EXPIRIES

Prepare = Callable[..., Settings]
Rows = tuple[History, History]
pack = msgspec.msgpack.encode

# Two messages each, which is more than librdkafka's own limit of 100,000 that wait to be sent.
RESERVATIONS = 50_010


@pytest.fixture
def lane(broker: Broker) -> Settings:
    """Topics of one partition for the LLMs of `tests.drive`."""
    kafka = {"bootstrap_servers": broker.bootstrap_servers, "partitions": 1, "topic_prefix": "mass.", "group": "mass"}
    settings = Settings.model_validate({"kafka": kafka, "llms": {llm: {"budget_usd": 1} for llm in LLMS}})
    admin.create(settings)
    return settings


def test_a_mass_expiry(lane: Settings) -> None:
    """Reservations by the ten thousand that are due at once: all expire, and the next owner finds none, nor a cent
    reserved."""
    plenty = dict.fromkeys(LLMS, 10**12)
    committer = open_committer(0, lane, PRIOR, Metrics(), Kafka(KafkaReader(lane)))
    calm: ConfigurationChanges = {"resolve_every_queries": 10**6, "checkpoint_every": 20, "budget_micros": plenty}
    committer.commit([Input(Reconfigured(0, config(**calm)))])
    for first in range(0, RESERVATIONS, 3_000):
        offsets = range(first, min(first + 3_000, RESERVATIONS))
        committer.commit([Input(query(offset, at_ms=1)) for offset in offsets])
    opened = len(committer.view.open)
    while committer.view.open:
        due = tuple(Expiry(one.dispatch_id) for one in committer.view.expired(20_000, EXPIRIES))
        committer.commit([Input(Ticked(20_000, due))])
    restored = open_committer(0, lane, PRIOR, Metrics(), Kafka(KafkaReader(lane))).view
    reserved = {account.reserved for account in restored.accounts}
    assert opened == RESERVATIONS
    assert restored.open == {}
    assert reserved == {0}


ENORMOUS = [
    (None, [("h", b"x" * 4_000_000)], ("4000011", None, {"tollgate.dropped.headers": "1"})),
    (None, [(f"h{n}", b"x" * 400) for n in range(10_000)], ("4148890", None, {"tollgate.dropped.headers": "9882"})),
    (b"k" * 4_000_000, [("h", b"v")], ("4000012", 24_576, {"tollgate.truncated.key.bytes": "4000000"})),
]


def test_enormous_headers_and_keys(system: System, prepare: Prepare, rows: Rows) -> None:
    """They become dead letters that say what was cut; the queries around them, one with headers as large as may be,
    are routed."""
    settings = prepare()
    enlarge(settings)
    system.start_workers(1)
    talk, most = Talk(settings), settings.limits.max_header_bytes
    for number, (key, headers, _) in enumerate(ENORMOUS):
        talk.query(pack(query_of(rows[1], number)), headers=[("h", b"x" * (most - 11))])
        talk.query(pack(query_of(rows[1], number)), key=key, headers=headers)
    rejected = talk.wait_decisions(Rejected, len(ENORMOUS))
    talk.wait_decisions(Routed, len(ENORMOUS))
    assert [decision.cause for decision in rejected] == [Cause("queries", offset) for offset in (1, 3, 5)]
    assert {(decision.code, decision.limit) for decision in rejected} == {("headers", most)}
    letters = talk.letters()
    cut = [_cut(dead_letters.added_headers(letter)) for letter in letters]
    keys = [letter.key and len(letter.key) for letter in letters]
    said = list(zip([decision.detail for decision in rejected], keys, cut, strict=True))
    assert said == [expected for _, _, expected in ENORMOUS]
    assert run_verify.verify(settings).findings == []
    assert [worker.running for worker in system.workers] == [True]


def _cut(headers: dict[str, str]) -> dict[str, str]:
    """The headers that say what was cut."""
    return {name: said for name, said in headers.items() if name.startswith(("tollgate.truncated", "tollgate.dropped"))}


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_producers(system: System, prepare: Prepare, rows: Rows, codec: str) -> None:
    """Queries of every compression are routed; one beyond the limit that only compression got past the broker's is a
    dead letter."""
    settings = prepare()
    system.start_workers(1)
    producer = Producer(clients.producer_config(settings) | {"compression.type": codec})
    values = [pack(query_of(rows[1], 0)), pack({"text": "x" * 3_000_000}), pack(query_of(rows[1], 1))]
    for value in values:
        producer.produce(settings.topics.queries, value, partition=0)
    assert producer.flush(PATIENCE_SECONDS) == 0
    talk = Talk(settings)
    talk.wait_decisions(Rejected, 1)
    decisions = [d for d in talk.wait_decisions(Routed, 2) if isinstance(d, Routed)]
    [letter] = talk.letters()
    assert ([d.offset for d in decisions], len(letter.value or b"")) == (
        [0, 2],
        settings.limits.max_dead_letter_bytes,
    )


def test_several_brokers_are_named(system: System, broker: Broker, prepare: Prepare, rows: Rows) -> None:
    """One that does not answer is passed over, by both clients and with blanks between the names."""
    settings = prepare(kafka={"bootstrap_servers": f"127.0.0.1:1, {broker.bootstrap_servers}"})
    system.start_workers(1)
    talk = Talk(settings)
    talk.query(pack(query_of(rows[1], 0)))
    [routed] = talk.wait_decisions(Routed, 1)
    assert (routed.offset, [worker.running for worker in system.workers]) == (0, [True])


def test_header_names_that_are_not_utf8(system: System, prepare: Prepare, rows: Rows) -> None:
    """Their records become dead letters without headers; those before, after and in other partitions are routed, one
    time each, also after a restart."""
    settings = prepare()
    good = [pack(query_of(rows[1], number)) for number in range(8)]
    # Python specialises calls that are frequent, and these then leave out checks.
    produce_raw(settings, 0, [(good[0], False), *[(good[1], True)] * 40, (good[2], False)])
    talks = Talk(settings), Talk(settings, 1)
    talks[1].query(good[3])
    system.start_workers(1)
    talks[0].wait_decisions(Rejected, 40)
    produce_raw(settings, 0, [(good[4], True), (good[5], False), (good[6], True)])
    talks[1].query(good[7])
    talks[0].wait_decisions(Rejected, 42)
    routed = [[d.offset for d in talk.wait_decisions(Routed, count)] for talk, count in zip(talks, (3, 2), strict=True)]
    names = [set(dict(letter.headers)) for letter in talks[0].letters()]
    system.workers[0].kill()
    system.workers.clear()
    system.start_workers(1)
    talks[0].query(good[0])
    talks[0].wait_decisions(Routed, 4)
    rejected = [decision.cause.number for decision in talks[0].wait_decisions(Rejected, 42)]
    assert (rejected, routed) == ([*range(1, 41), 42, 44], [[0, 41, 43], [0, 1]])
    assert all("tollgate.unreadable.headers" in found and "good" not in found for found in names)
    assert run_verify.verify(settings).findings == []
