"""Reads the ledger of one partition: compacted rows, the last value of each key."""

from __future__ import annotations

from worker.contract import codec
from worker.contract.errors import CheckFailed
from worker.contract.messages import AccountRow, Configuration
from worker.core import snapshot
from worker.core.ledger import BrokenInvariant
from worker.core.outbox import ACCOUNT_KEY, CONFIGURATION_KEY
from worker.core.router import Prior, Router
from worker.kafka.reader import Reader

REMEDY = "only lanes may write there: find who else did, and see what is left with `tollgate verify`"


def read_rows(reader: Reader, ledger: str, partition: int) -> dict[str, bytes]:
    """The compacted rows of one ledger partition: the last value of each key, without tombstones."""
    rows: dict[str, bytes] = {}
    for record in reader.read_partition(ledger, partition):
        key = record.key.decode() if record.key else ""
        # A row that is written again moves to the end, as compaction would move it.
        rows.pop(key, None)
        if record.value is not None:
            rows[key] = record.value
    return rows


def read_configuration(reader: Reader, ledger: str, partition: int) -> Configuration | None:
    """The configuration of a lane; None if its ledger is empty."""
    row = read_rows(reader, ledger, partition).get(CONFIGURATION_KEY)
    return None if row is None else codec.decode_configuration(row)


def last_account(reader: Reader, ledger: str, partition: int) -> AccountRow | None:
    """The newest account row of a lane, read from the end of its ledger; None if the ledger is empty."""
    row = reader.last_value(ledger, partition, ACCOUNT_KEY.encode())
    return None if row is None else codec.decode_account(row)


def restored(reader: Reader, ledger: str, partition: int, prior: Prior) -> tuple[Router, bytes | None]:
    """A router as its ledger says, and the ledger's account row; None if the ledger is empty.

    Raises CheckFailed with the offset and the key of a row that no lane has written, or if the rows do not add up.
    """
    rows, place = read_rows(reader, ledger, partition), f"{ledger}/{partition}"
    try:
        return Router.restored(partition, prior, snapshot.read_rows(rows)), rows.get(ACCOUNT_KEY)
    except snapshot.ForeignRow as error:
        records = reader.read_partition(ledger, partition)
        at = max((record.offset for record in records if record.key == error.key.encode()), default=None)
        raise CheckFailed(f"{place}{'' if at is None else f' at offset {at}'}: {error}; {REMEDY}") from error
    except BrokenInvariant as error:
        raise CheckFailed(f"{place}: {error}; {REMEDY}") from error
