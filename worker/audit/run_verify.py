"""Reads the topics of a running or stopped system and proves its books (the rules are in `proof`).

Reading goes on while workers write: the last account row of each partition is the cut, and what belongs to later
decisions is told apart. A transaction becomes visible in one partition a moment before it does in another; what is
expected is therefore waited for a little before it is called missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from worker.audit.report import Report
from worker.audit.summary import summary
from worker.audit.verify import Proof
from worker.contract import codec
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.core.outbox import ACCOUNT_KEY
from worker.kafka.reader import PATIENCE_SECONDS, KafkaReader, OpenReader, Progress, Reader, silent

Take = Callable[[Proof, StoredRecord], None]


def verify(settings: Settings, progress: Progress = silent, open_reader: OpenReader = KafkaReader) -> Report:
    """Prove the books of every partition. `progress` hears what is being read and how many more records were.

    Raises CheckBroker if the broker does not answer or a topic is missing.
    """
    topics = settings.topics
    proofs = [Proof(partition, topics) for partition in range(settings.kafka.partitions)]
    with open_reader(settings, progress) as reader:
        _feed(reader, proofs, [topics.ledger], Proof.ledger, until=lambda proof: proof.witness.is_whole)
        _feed(reader, proofs, [topics.decisions], Proof.decision, until=lambda proof: proof.is_decided)
        published = [*(topics.dispatch(llm) for llm in _llms(settings, proofs)), topics.deferred, topics.dead_letters]
        _feed(reader, proofs, published, Proof.published, until=lambda proof: proof.is_published)
        _feed(reader, proofs, [topics.queries, topics.completions], Proof.input)
        later = [proof for proof in proofs if proof.unexplained]
        if later:
            _feed(reader, later, [topics.decisions], Proof.afterwards, until=lambda proof: not proof.unexplained)
        for proof in proofs:
            _name(settings, reader, proof)
            proof.finish()
    return summary(proofs)


def _name(settings: Settings, reader: Reader, proof: Proof) -> None:
    """Show the proof newer account rows until one names the decisions after the cut, for PATIENCE_SECONDS at most."""
    end = time.monotonic() + PATIENCE_SECONDS
    while proof.is_unnamed and time.monotonic() < end:
        row = reader.last_value(settings.topics.ledger, proof.partition, ACCOUNT_KEY.encode())
        if row is not None:
            proof.named(codec.decode_account(row))


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
    oldest = reader.oldest((topic, partition) for topic in topics for partition in by_partition)
    for (topic, partition), offset in oldest.items():
        by_partition[partition].oldest[topic] = offset
    starts = dict(oldest)
    if take is Proof.afterwards:
        starts = {place: by_partition[place[1]].cut_offset for place in oldest}
    for record in reader.read(starts, lambda: all(until(proof) for proof in by_partition.values())):
        take(by_partition[record.partition], record)
