"""Reads the topics of a running or stopped system and proves its books (the rules are in `proof`).

Reading goes on while workers write: the last account row of each partition is the cut, and what belongs to later
decisions is told apart. A transaction becomes visible in one partition a moment before it does in another; what is
expected is therefore waited for a little before it is called missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from worker import clients
from worker.errors import CheckBroker
from worker.proof import Proof
from worker.record import StoredRecord
from worker.report import Report
from worker.settings import Settings
from worker.summary import summary

Progress = Callable[[str, int], None]
Place = tuple[str, int]
Take = Callable[[Proof, StoredRecord], None]

BLOCK_RECORDS = 2_000
# Commit markers reach all partitions within milliseconds; under load it may take a second.
PATIENCE_SECONDS = 5.0


def silent(what: str, records: int) -> None:
    """Progress that nobody watches."""


def verify(settings: Settings, progress: Progress = silent) -> Report:
    """Prove the books of every partition. `progress` hears what is being read and how many more records were.

    Raises CheckBroker if the broker does not answer or a topic is missing.
    """
    topics = settings.topics
    proofs = [Proof(partition, topics) for partition in range(settings.kafka.partitions)]
    with Reader(settings, progress) as reader:
        _feed(reader, proofs, [topics.ledger], Proof.ledger)
        _feed(reader, proofs, [topics.decisions], Proof.decision, until=lambda proof: proof.is_decided)
        published = [*(topics.dispatch(llm) for llm in _llms(settings, proofs)), topics.deferred, topics.dead_letters]
        _feed(reader, proofs, published, Proof.published, until=lambda proof: proof.is_published)
        _feed(reader, proofs, [topics.queries, topics.completions], Proof.input)
        later = [proof for proof in proofs if proof.unexplained]
        if later:
            _feed(reader, later, [topics.decisions], Proof.afterwards, until=lambda proof: not proof.unexplained)
    for proof in proofs:
        proof.finish()
    return summary(proofs)


def _llms(settings: Settings, proofs: Iterable[Proof]) -> list[str]:
    """All LLMs that are configured or ever were."""
    past = {llm for proof in proofs for llm in proof.books.accounts}
    return sorted(past | set(settings.llms))


def _feed(
    reader: Reader,
    proofs: Iterable[Proof],
    topics: Iterable[str],
    take: Take,
    until: Callable[[Proof], bool] = lambda _: True,
) -> None:
    by_partition = {proof.partition: proof for proof in proofs}
    starts: dict[Place, int] = {}
    for topic in topics:
        for partition, proof in by_partition.items():
            proof.oldest[topic] = reader.oldest(topic, partition)
            starts[topic, partition] = proof.cut_offset if take is Proof.afterwards else OFFSET_BEGINNING
    reader.read(
        starts,
        lambda record: take(by_partition[record.partition], record),
        lambda: all(until(proof) for proof in by_partition.values()),
    )


class Reader:
    """Reads many partitions to their ends with one read_committed consumer; a context manager that closes it."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress

    def __enter__(self) -> Reader:
        self._consumer = Consumer(clients.consumer_config(self._settings, f"{self._settings.kafka.group}-audit"))
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def oldest(self, topic: str, partition: int) -> int:
        """The first offset that a partition still has. Raises CheckBroker."""
        place = TopicPartition(topic, partition)
        try:
            return int(self._consumer.get_watermark_offsets(place, timeout=clients.TIMEOUT_SECONDS)[0])
        except KafkaException as error:
            raise CheckBroker(f"{topic}/{partition}: {error.args[0].str()}") from error

    def read(
        self,
        starts: Mapping[Place, int],
        take: Callable[[StoredRecord], None],
        done: Callable[[], bool] = lambda: True,
    ) -> None:
        """Hand every committed record from `starts` on to `take`, each partition in order, until all ends are reached.

        What is then not `done` is waited for, PATIENCE_SECONDS at most. Raises CheckBroker.
        """
        what = min(starts)[0].split(".")[0]
        left = set(starts)
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in starts.items()])
        heard = time.monotonic()
        while left:
            if self._poll(what, take, left):
                heard = time.monotonic()
            elif time.monotonic() - heard > clients.TIMEOUT_SECONDS:
                topic, partition = min(left)
                raise CheckBroker(f"{topic}/{partition}: no answer in {clients.TIMEOUT_SECONDS:.0f} s")
        patience = time.monotonic() + PATIENCE_SECONDS
        while not done() and time.monotonic() < patience:
            self._poll(what, take, left)

    def _poll(self, what: str, take: Callable[[StoredRecord], None], left: set[Place]) -> bool:
        """Take one block; ends that it reaches are dropped from `left`. Returns whether there was anything."""
        messages = self._consumer.consume(BLOCK_RECORDS, timeout=clients.READ_SECONDS)
        for message in messages:
            error = message.error()
            if error is None:
                take(clients.stored(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard((message.topic(), message.partition()))
            else:
                raise CheckBroker(f"{message.topic()}/{message.partition()}: {error.str()}")
        self._progress(what, len(messages))
        return bool(messages)
