"""Ends what a broker that died has left open, before a lane decides anything.

A broker that dies between writing down that a transaction ends and writing its end markers can come back without ever
writing the rest of them (docs/RELIABILITY.md). `committer` says why nothing of a lane may be open when it begins.
"""

from __future__ import annotations

import structlog

from worker.contract.errors import CheckBroker
from worker.contract.settings import Settings
from worker.kafka.clients import TransactionalProducer, produce
from worker.kafka.reader import Reader

logger = structlog.get_logger()


def end_hanging(producer: TransactionalProducer, reader: Reader, settings: Settings, partition: int) -> None:
    """End the transactions that hang in a lane's topics, if nothing was decided in them; name those that hide a
    decision.

    Raises CheckBroker if the ledger holds one that no producer will end.
    """
    topics, ledger = settings.topics.written(settings.llms), settings.topics.ledger
    seconds = settings.kafka.transaction_timeout_ms / 1000
    hanging = reader.open_transactions(topics, partition)
    if hanging >= {ledger, settings.topics.decisions}:
        producer.begin_transaction()
        for topic in topics:
            produce(producer, topic, None, "hanging", partition)
        # The abort marker ends what is open only where a record of ours arrived.
        producer.flush(seconds)
        producer.abort_transaction(seconds)
        logger.warning("hanging_transaction_aborted", partition=partition)
        hanging = reader.open_transactions(topics, partition)
    if ledger in hanging:
        raise CheckBroker(
            f"{ledger}/{partition}: holds a hanging transaction that no producer will end; "
            "find it with `kafka-transactions.sh find-hanging`, and end it with `kafka-transactions.sh abort`"
        )
    if hanging:
        remedy = "its readers wait until the next record there, which ends it; Kafka 4.1 does not lose end markers"
        logger.warning("hanging_transaction", partition=partition, topics=sorted(hanging), remedy=remedy)
