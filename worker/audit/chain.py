"""The hash chain of one partition's decision records, and the anchors that are kept of it outside of Kafka."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from worker.audit.mismatch import Mismatch
from worker.contract import codec
from worker.contract.decisions import Decision
from worker.contract.errors import FixSetting
from worker.contract.record import Record
from worker.core.journal import record_hash


class DecisionRecord(NamedTuple):
    """One record of `decisions`, decoded. `head` is the hash that the next record of the chain must carry.

    `appended_ms` is the time of the record in the topic: the broker's, if the topic has LogAppendTime.
    """

    offset: int
    key: bytes | None
    value: bytes
    head: bytes
    decision: Decision
    appended_ms: int = 0


def decoded(record: Record) -> DecisionRecord | Mismatch:
    """Decode a record of `decisions`."""
    value = record.value or b""
    try:
        decision = codec.decode_decision(value)
    except codec.UNREADABLE as error:
        return _at(record, f"is not a decision record: {error}")
    return DecisionRecord(record.offset, record.key, value, record_hash(value), decision, record.timestamp)


def linked(records: Iterable[Record], head: bytes | None = None) -> Iterator[DecisionRecord | Mismatch]:
    """Follow the chain: the records that belong to it in order, and a mismatch where a link is broken.

    `head` is the hash that the first record must carry as its `prev`; None accepts any. At a broken link one more
    record is read: if that one goes on from before the break, then the record between them was inserted.
    """
    rest = iter(records)
    last: Record | None = None
    record = next(rest, None)
    while record is not None:
        after, found = None, decoded(record)
        if isinstance(found, DecisionRecord):
            if head is not None and found.decision.prev != head:
                after = next(rest, None)
                if last is not None and after is not None and _follows(after, head):
                    yield _at(record, "does not belong here: it was inserted, or moved from its place")
                    record = after
                    continue
                yield _broken(last, record)
            last, head = record, found.head
        yield found
        record = after if after is not None else next(rest, None)


def _follows(record: Record, head: bytes) -> bool:
    found = decoded(record)
    return isinstance(found, DecisionRecord) and found.decision.prev == head


def _broken(last: Record | None, record: Record) -> Mismatch:
    if last is None:
        return _at(record, "does not begin the chain: the records before it were removed")
    return _at(last, f"was changed, or records between it and offset {record.offset} were removed or moved")


def _at(record: Record, what: str) -> Mismatch:
    return Mismatch(what).at(record.topic, record.partition, record.offset)


class Anchor(Struct, frozen=True):
    """The head of a partition's chain after so many decisions, in hexadecimal, kept outside of Kafka.

    `at_ms` is the lane's clock at the last of them; None in a file of an older version.
    """

    partition: int
    decisions: int
    head: str
    at_ms: int | None = None


def read_anchors(file: Path, create: bool = False) -> dict[int, Anchor]:
    """The anchors of a file by partition. With `create` there are none, and there must not be such a file.

    Raises FixSetting: a file that is missing would prove nothing, and look like a proof.
    """
    if create and file.exists():
        raise FixSetting(f"--anchor-create: {file} exists; without this option it is checked and written again")
    if create:
        return {}
    if not file.exists():
        raise FixSetting(f"--anchor {file}: there is no such file; the first time, add --anchor-create")
    try:
        anchors = msgspec.json.decode(file.read_bytes(), type=list[Anchor])
    except (OSError, msgspec.DecodeError) as error:
        raise FixSetting(f"--anchor {file}: is not an anchor file ({error}); name another file, or a new one") from None
    return {anchor.partition: anchor for anchor in anchors}


def write_anchors(file: Path, anchors: Iterable[Anchor]) -> None:
    """Replace a file's anchors with these, sorted by partition. A crash leaves either the old file or the new one."""
    lines = sorted(anchors, key=lambda anchor: anchor.partition)
    written = file.with_name(f"{file.name}.new")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(lines), indent=2) + b"\n")
    written.replace(file)
