"""The journal: a chain of records that cannot be changed unseen."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from worker.contract.codec import decode_decision, encode
from worker.contract.decisions import Cause, Rejected
from worker.core.journal import Journal, record_hash
from worker.core.ledger import BrokenInvariant


def rejected(prev: bytes, offset: int) -> Rejected:
    """A record that says that the query at this offset is empty."""
    return Rejected(prev, Cause("queries", offset), 0, "empty")


def written(count: int, journal: Journal) -> list[bytes]:
    """The bytes of so many records, appended to the journal."""
    for offset in range(count):
        journal.append(f"key-{offset}", rejected(journal.head, offset))
    return [record for _, record in journal.take()]


def test_each_record_carries_the_hash_of_the_one_before() -> None:
    """The first record's `prev` is empty; the head is the hash of the last record."""
    journal = Journal()
    records = written(4, journal)
    assert [decode_decision(record).prev for record in records] == [b"", *map(record_hash, records[:-1])]
    assert (journal.head, journal.count) == (record_hash(records[-1]), 4)


def test_a_journal_goes_on_where_another_left_off() -> None:
    """Head and count are all that a restored journal needs: the records are the same as without the break."""
    whole, first = written(4, Journal()), Journal()
    before = written(2, first)
    second = Journal(first.head, first.count)
    second.append("key-2", rejected(second.head, 2))
    second.append("key-3", rejected(second.head, 3))
    assert ([*before, *(record for _, record in second.take())], second.count) == (whole, 4)


def test_records_are_taken_once_with_their_keys() -> None:
    """A second `take` has only what came after the first."""
    journal = Journal()
    journal.append("a", rejected(journal.head, 0))
    taken = [key for key, _ in journal.take()]
    journal.append("b", rejected(journal.head, 1))
    assert taken == ["a"]
    assert [key for key, _ in journal.take()] == ["b"]
    assert journal.take() == []


def test_a_record_that_does_not_follow_is_refused() -> None:
    """A wrong `prev` would break the chain for everyone who reads it: it is never written."""
    journal = Journal()
    written(1, journal)
    with pytest.raises(BrokenInvariant, match="does not follow"):
        journal.append("", rejected(b"", 1))


@pytest.mark.parametrize("position", range(3))
def test_a_changed_record_is_seen(position: int) -> None:
    """One changed record anywhere breaks the link to the record after it, or to the head."""
    journal = Journal()
    records = written(3, journal)
    changed = decode_decision(records[position])
    records[position] = encode(msgspec.structs.replace(changed, at_ms=1))
    links = [decode_decision(after).prev == record_hash(before) for before, after in pairwise(records)]
    assert [*links, journal.head == record_hash(records[-1])].index(False) == position
