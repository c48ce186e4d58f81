"""Dumps the golden log: runs a scripted system on a real Kafka, and writes all its topics and its index.

README.md says when it may be run again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.golden import files, history
from tests.golden.script import Script
from worker.contract import codec, dead_letters
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.estimation import index
from worker.kafka.reader import KafkaReader
from worker.local.broker import Broker
from worker.local.system import System


def main() -> None:
    """Ask for the word that replaces the log, because the log is there to stay."""
    parser = argparse.ArgumentParser("python -m tests.golden", description=__doc__)
    parser.add_argument("replace", choices=["replace"], help="replace the log that is checked in (some three minutes)")
    parser.parse_args()
    replace()


def replace() -> None:
    """Build the indexes, run the script, and write the topics that it left."""
    with tempfile.TemporaryDirectory() as place, Broker(Path(place) / "kafka") as broker:
        texts, vectors = Path(place) / "texts", Path(place) / "vectors"
        index.build(history.of_texts(), texts, "wordllama", neighbours=8)
        index.build(history.of_vectors(), vectors, "supplied", neighbours=8)
        with System(Path(place) / "system", broker) as system:
            settings = Script(system, texts, vectors).run()
        topics = {name: list(records(settings, name)) for name in settings.topics.all(files.LLMS)}
        shutil.rmtree(files.INDEX, ignore_errors=True)
        shutil.copytree(texts, files.INDEX)
    count = files.write(topics)
    for name, held in {**counted(topics), "records": count}.items():
        print(f"{name:40} {held:6,}")


def records(settings: Settings, topic: str) -> Iterator[StoredRecord]:
    """All committed records of a topic."""
    reader = KafkaReader(settings)
    for partition in range(files.PARTITIONS):
        yield from reader.read_partition(topic, partition)


def counted(topics: Mapping[str, Iterable[StoredRecord]]) -> dict[str, int]:
    """How many records there are of each kind of decision, and of each code of a dead letter."""
    kinds = Counter(type(codec.decode_decision(record.value or b"")).__name__ for record in topics["decisions"])
    codes = Counter(dead_letters.added_headers(letter)[dead_letters.LETTER_CODE] for letter in topics["dead-letters"])
    return {**dict(sorted(kinds.items())), **dict(sorted(codes.items()))}


if __name__ == "__main__":
    main()
