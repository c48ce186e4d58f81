"""How long a new owner needs to restore a partition from its ledger."""

from __future__ import annotations

import time

import msgspec
from confluent_kafka import Producer

from worker.contract import codec
from worker.contract.accounts import Account, Hold
from worker.contract.messages import Reservation
from worker.contract.settings import Settings
from worker.core import snapshot
from worker.core.events import Reconfigured
from worker.core.outbox import ACCOUNT_KEY, RESERVATION_PREFIX, account_key
from worker.core.partition_config import configuration
from worker.core.pricing import Prior
from worker.core.router import Router
from worker.estimation.estimator import Estimator
from worker.kafka import clients
from worker.kafka.reader import KafkaReader
from worker.service.rows import read_rows

OPEN = 10_000


def restored(settings: Settings, estimator: Estimator) -> tuple[Router, float]:
    """Partition 0 as a new owner restores it, and the seconds that took."""
    started = time.perf_counter()
    rows = read_rows(KafkaReader(settings), settings.topics.ledger, 0)
    router = Router.restored(0, _prior(estimator), snapshot.read_rows(rows))
    return router, time.perf_counter() - started


def bare_read(settings: Settings) -> tuple[int, float]:
    """Its records, only consumed and counted, and the seconds that took."""
    started = time.perf_counter()
    records = sum(1 for _ in KafkaReader(settings).read_partition(settings.topics.ledger, 0))
    return records, time.perf_counter() - started


def _prior(estimator: Estimator) -> Prior:
    return Prior(estimator.prior.quality, estimator.prior.cost_micros.astype(float))


def fill_ledger(settings: Settings, estimator: Estimator, records: int) -> None:
    """Write a ledger partition: a configuration, and `records` rows of reservations made and closed, up to OPEN of
    them still open."""
    config = configuration(settings, estimator.manifest, 0, {})
    rows = Router(0, _prior(estimator)).handle([Reconfigured(1, config)]).rows
    producer = Producer(clients.producer_config(settings))
    own = Account(config.budgets[0].name, config.budgets[0].resource, config.budgets[0].amount)

    def held(number: int) -> Reservation:
        name, holds = f"0-{number}-1", (Hold(own.budget, 1),)
        return Reservation(name, f"q{number}", config.llms[0], number, 1, 1, number, 2**50, (), holds=holds)

    def put(key: str, value: bytes | None) -> None:
        clients.produce(producer, settings.topics.ledger, value, key, 0)

    for key, value in rows.items():
        put(key, value)
    for number in range(records // 2):
        key = f"{RESERVATION_PREFIX}0-{number}-1"
        put(key, codec.encode(held(number)))
        if number < records // 2 - OPEN:
            put(key, None)
    put(account_key(own.key), codec.encode(msgspec.structs.replace(own, reserved=OPEN)))
    put(ACCOUNT_KEY, rows[ACCOUNT_KEY])
    producer.flush()
