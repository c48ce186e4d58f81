"""The simulated log keeps Kafka's rules: what a read_committed reader sees, who is fenced, what compaction keeps."""

from __future__ import annotations

import pytest

from worker.kafka.memory import FencedError, Log

PLACE = ("ledger", 0)


def seen(log: Log, start: int = 0) -> list[tuple[int, bytes | None]]:
    """What a read_committed reader sees: offsets and values."""
    return [(record.offset, record.value) for record in log.read(PLACE, start)]


def write(log: Log, epoch: int, *values: bytes | None, key: bytes = b"k", now_ms: int = 0) -> None:
    """Write values in the open transaction of "t"."""
    for value in values:
        log.append(PLACE, key, value, (), now_ms, log.transaction("t", epoch, now_ms))


def test_a_reader_stops_before_the_first_open_transaction() -> None:
    """Even what others wrote after it stays unseen until it ends; its marker takes an offset."""
    log = Log()
    epoch = log.begin_epoch("t")
    log.append(PLACE, None, b"before", (), 0)
    write(log, epoch, b"inside")
    log.append(PLACE, None, b"after", (), 0)
    open_view = seen(log)
    log.end("t", epoch)
    assert open_view == [(0, b"before")]
    assert seen(log) == [(0, b"before"), (1, b"inside"), (2, b"after")]
    assert log.ends[PLACE] == 4


def test_a_new_epoch_aborts_and_fences() -> None:
    """The successor's init_transactions ends the predecessor's transaction; its later requests are refused."""
    log = Log()
    old = log.begin_epoch("t")
    write(log, old, b"lost")
    new = log.begin_epoch("t")
    with pytest.raises(FencedError):
        log.end("t", old)
    with pytest.raises(FencedError):
        log.transaction("t", old, 0)
    write(log, new, b"kept")
    log.end("t", new)
    assert [value for _, value in seen(log)] == [b"kept"]


def test_a_transaction_that_takes_too_long_is_aborted() -> None:
    """Its producer is fenced with it."""
    log = Log()
    epoch = log.begin_epoch("t")
    write(log, epoch, b"slow", now_ms=10)
    log.time_out(before_ms=11)
    with pytest.raises(FencedError):
        log.end("t", epoch)
    assert seen(log) == []


def test_a_late_end_commits_whatever_is_open() -> None:
    """As brokers did before KIP-890: the request of an earlier transaction of the same epoch ends the next one."""
    log = Log()
    epoch = log.begin_epoch("t")
    write(log, epoch, b"first")
    log.end("t", epoch)
    write(log, epoch, b"half of the second")
    log.end("t", epoch)
    assert [value for _, value in seen(log)] == [b"first", b"half of the second"]


def test_compaction_keeps_the_last_of_each_key() -> None:
    """Old tombstones go too, offsets stay; what lies at or after an open transaction is not touched."""
    log = Log()
    epoch = log.begin_epoch("t")
    write(log, epoch, b"a1", b"a2", key=b"a")
    write(log, epoch, b"b1", None, key=b"b")
    log.end("t", epoch)
    write(log, epoch, b"a3", key=b"a")
    log.compact(PLACE, tombstones_before_ms=1)
    compacted = seen(log)
    log.end("t", epoch)
    assert (compacted, seen(log)) == ([(1, b"a2")], [(1, b"a2"), (5, b"a3")])
