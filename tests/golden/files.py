"""Reads and writes the golden log: the records of all topics, and the settings that the audits of it take."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from worker.contract.record import StoredRecord
from worker.contract.settings import Settings

PLACE = Path(__file__).parent
TOPICS, INDEX = PLACE / "topics.msgpack.gz", PLACE / "index"
PARTITIONS = 2
LLMS = ("large", "medium", "small")
PRICE_LISTS = {
    "large": {"input_usd_per_mtok": 5.0, "output_usd_per_mtok": 15.0, "cached_input_usd_per_mtok": 2.5},
    "medium": {"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 1.5},
}

LIMITS = {"max_query_bytes": 4_000, "max_completion_bytes": 4_000, "max_header_bytes": 2_000}


def settings(index: Path = INDEX) -> Settings:
    """The settings of the last worker, as far as audits read them."""
    llms = {llm: {"budget_usd": 1.0, **PRICE_LISTS.get(llm, {})} for llm in LLMS}
    kafka = {"partitions": PARTITIONS}
    return Settings.model_validate({"kafka": kafka, "index": {"directory": index}, "limits": LIMITS, "llms": llms})


def read() -> list[StoredRecord]:
    """All committed records, each partition in order."""
    records = msgspec.msgpack.decode(gzip.decompress(TOPICS.read_bytes()), type=list[StoredRecord])
    return [record._replace(headers=tuple(record.headers)) for record in records]


def write(topics: Mapping[str, Iterable[StoredRecord]]) -> int:
    """Write the records of all topics; returns how many there are."""
    records = [record for name in sorted(topics) for record in topics[name]]
    # Without a time in its header, the same records give the same file.
    TOPICS.write_bytes(gzip.compress(msgspec.msgpack.encode(records), mtime=0))
    return len(records)
