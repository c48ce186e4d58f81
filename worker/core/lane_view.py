"""What metrics, alarms, lanes and audits may read of a router. Pure.

No module but this one reads the attributes of a router.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.contract.accounts import Account
from worker.contract.messages import (
    AccountRow,
    Breaker,
    ClosedDispatch,
    Configuration,
    Fit,
    Offsets,
    Reservation,
    WindowBlock,
)
from worker.core.pricing import OBSERVING, Prior

if TYPE_CHECKING:
    from worker.core.router import Router


class Recent(NamedTuple):
    """Quality, cost in micro-dollars, and charges at the prices of now, [n, LLMs] each."""

    quality: NDArray[np.float64]
    cost_micros: NDArray[np.float64]
    charges: NDArray[np.float64]


class LaneView:
    """Reads a router and changes nothing. Other threads may read it too.

    `config` is None before the first event; what follows from a configuration is empty then.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    @property
    def partition(self) -> int:
        """The lane's partition."""
        return self._router.partition

    @property
    def config(self) -> Configuration | None:
        """The configuration in force."""
        return None if self._router._pricing is None else self._router._pricing.config

    @property
    def breakers(self) -> dict[str, Breaker]:
        """The LLMs that are taken out, and those that have failed."""
        return self._router._breakers.all()

    @property
    def offsets(self) -> Offsets:
        """The last applied offset of each input."""
        return self._router._offsets

    @property
    def decisions(self) -> int:
        """How many decisions the lane has recorded."""
        return self._router._journal.count

    @property
    def clock_ms(self) -> int:
        """The lane's time at its last decision."""
        return self._router._clock_ms

    @property
    def sequence(self) -> int:
        """How many transactions the lane has ended."""
        return self._router._sequence

    @property
    def accounts(self) -> list[Account]:
        """The accounts of all budgets, by name and period."""
        return self._router._ledger.all_accounts()

    @property
    def budgets(self) -> dict[str, Account]:
        """The account that each budget of the configuration reserves from now."""
        config, accounts = self.config, self._router._ledger.accounts.copy()
        return {} if config is None else {one.name: accounts[(one.name, 0)] for one in config.budgets}

    @property
    def open(self) -> Mapping[str, Reservation]:
        """The open reservations by dispatch id."""
        return MappingProxyType(self._router._ledger.open)

    @property
    def closed(self) -> list[ClosedDispatch]:
        """The closed dispatches that the lane keeps, in the order of closing."""
        return self._router._ledger.all_closed()

    @property
    def next_due_ms(self) -> int | None:
        """When the next dispatch is unanswered or expires."""
        return self._router._ledger.next_due_ms()

    def unanswered(self, now_ms: int, most: int) -> list[Reservation]:
        """The dispatches that are unanswered now and that their query waits for, the earliest first."""
        return self._router._ledger.unanswered(now_ms, most)

    def expired(self, now_ms: int, most: int) -> list[Reservation]:
        """The open reservations whose deadline has passed, the earliest first."""
        return self._router._ledger.expired(now_ms, most)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest open reservation was made."""
        return self._router._ledger.oldest_ms()

    @property
    def prices(self) -> tuple[float, ...]:
        """The prices in force, in the order of the configuration's budgets; empty before the first solution."""
        return () if self._router._pricing is None else self._router._pricing.prices

    @property
    def fit(self) -> Fit:
        """How the prices in force were found."""
        return OBSERVING if self._router._pricing is None else self._router._pricing.fit

    @property
    def seen(self) -> int:
        """How many queries were priced for the first time."""
        return 0 if self._router._pricing is None else self._router._pricing.seen

    @property
    def prior(self) -> Prior:
        """What prices are solved on before there are queries."""
        return self._router._in_force.prior

    @property
    def is_observing(self) -> bool:
        """Whether the next query is routed at random, to observe."""
        return self._router._in_force.reason() == "observing"

    def recent(self) -> Recent:
        """The estimates of the newest queries, oldest first, and what they would use of the budgets now."""
        pricing = self._router._in_force
        sample = pricing.window.newest(pricing.seen - pricing.window_from, pricing.seen)
        return Recent(sample.quality, sample.cost_micros, pricing.charges_of(sample))

    def window(self) -> dict[int, WindowBlock]:
        """The window as the ledger holds it: every block by number."""
        return self._router._in_force.window.all_blocks()

    def account_row(self) -> AccountRow:
        """The state but for accounts, open reservations, window and configuration, as of the last event."""
        return self._router._account_row()
