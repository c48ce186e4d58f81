"""A router brought back from what it wrote: the compacted rows of its ledger, or a checkpoint in `decisions`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from worker.contract.messages import AccountRow, Configuration, Reservation, WindowBlock
from worker.core.journal import Journal
from worker.core.ledger import Ledger
from worker.core.outbox import ACCOUNT_KEY, CONFIGURATION_KEY, RESERVATION_PREFIX, WINDOW_PREFIX
from worker.core.policy import Policy, make_policy
from worker.core.pricing import Policies, Pricing, Prior
from worker.core.router import Router

_account = msgspec.msgpack.Decoder(AccountRow).decode
_configuration = msgspec.msgpack.Decoder(Configuration).decode
_reservation = msgspec.msgpack.Decoder(Reservation).decode
_block = msgspec.msgpack.Decoder(WindowBlock).decode


def restore(partition: int, prior: Prior, rows: Mapping[str, bytes]) -> Router:
    """The router whose ledger partition holds `rows` (the last value of each key, tombstones left out).

    No rows give a fresh router. Raises BrokenInvariant if the rows do not add up.
    """
    if ACCOUNT_KEY not in rows:
        return Router(partition, prior)
    reservations = (_reservation(row) for key, row in rows.items() if key.startswith(RESERVATION_PREFIX))
    window = {
        int(key.removeprefix(WINDOW_PREFIX)): _block(row) for key, row in rows.items() if key.startswith(WINDOW_PREFIX)
    }
    config = _configuration(rows[CONFIGURATION_KEY])
    return assemble(partition, prior, _account(rows[ACCOUNT_KEY]), config, reservations, window.items())


def assemble(
    partition: int,
    prior: Prior,
    row: AccountRow,
    config: Configuration,
    reservations: Iterable[Reservation],
    window: Iterable[tuple[int, WindowBlock]],
    policies: Policies = make_policy,
) -> Router:
    """The router in the state that these parts describe. Raises BrokenInvariant if they do not add up."""
    router = Router(partition, prior, policies)
    router.ledger = Ledger(row.accounts, reservations)
    router.journal = Journal(row.head, row.decisions)
    router.offsets, router.clock_ms = row.offsets, row.clock_ms
    router.sequence, router.dispatches = row.sequence, row.dispatches
    router.pricing = _pricing(policies(config, partition), prior, row, config, window)
    return router


def _pricing(
    policy: Policy, prior: Prior, row: AccountRow, config: Configuration, window: Iterable[tuple[int, WindowBlock]]
) -> Pricing:
    pricing = Pricing(policy, config, prior, row.seen)
    pricing.window_from = row.window_from
    pricing.prices, pricing.fit = tuple(row.prices.values()), row.fit
    for block, content in window:
        pricing.window.restore(block, content)
    return pricing
