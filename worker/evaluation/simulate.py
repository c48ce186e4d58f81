"""Routes queries by a chooser or a policy under a charging rule. Pure.

The paper's rule: the true cost is known before a query is sent, and an LLM whose budget cannot pay it is not used.
Tollgate's rule: the estimated cost times its margin is reserved, and the true cost is charged later and may overrun the
budget. Under Tollgate's rule the worker's own router and ledger decide.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.contract.accounts import Hold
from worker.contract.completions import UsableCompletion
from worker.contract.messages import Configuration, Dispatch, Fit, Reservation
from worker.core.events import Arrived, Completed, Effects, Event, Reconfigured
from worker.core.forecast import Forecast
from worker.core.lane_view import LaneView
from worker.core.ledger import Ledger
from worker.core.policy import Policy, View, make_policy
from worker.core.router import Prior, Router
from worker.core.settlement import Charge
from worker.core.window import Sample
from worker.estimation.clusters import Clusters
from worker.estimation.estimator import Estimates
from worker.estimation.features import Float64
from worker.evaluation.baselines import Chooser
from worker.evaluation.scenario import Scenario

Rule = Literal["paper", "tollgate"]
RULES: tuple[Rule, ...] = ("paper", "tollgate")
BATCH_ROWS = 50

Look = Callable[[LaneView, Sequence[Event], Effects], None]

_nothing = msgspec.Raw(msgspec.msgpack.encode(None))


@dataclass(frozen=True)
class Simulated:
    """n queries after routing: the LLM that served each query (-1: none), its true quality and cost (0: not served).

    `overrun_micros` is the money spent beyond the budgets. `fits` are the price fits in order, `prices` their prices.
    """

    llm: NDArray[np.int64]
    quality: Float64
    cost_micros: Float64
    overrun_micros: int
    fits: tuple[Fit, ...] = ()
    prices: tuple[tuple[float, ...], ...] = ()

    @property
    def served(self) -> int:
        """The number of queries that an LLM served."""
        return int((self.llm >= 0).sum())


@dataclass
class Online:
    """A policy as a chooser, with one budget for each LLM: solves when it is due, on the estimates so far."""

    policy: Policy
    config: Configuration
    estimates: Estimates
    prior: Estimates
    prices: tuple[float, ...] = ()
    solved: list[tuple[tuple[float, ...], Fit]] = field(default_factory=list)
    _rows: tuple[list[list[float]], list[list[int]]] = field(init=False)
    _forecast: Forecast | None = field(init=False)
    _kinds: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self._rows = (self.estimates.quality.tolist(), self.estimates.cost_micros.tolist())
        kinds, cost_micros = self.config.kinds, self.estimates.cost_micros.astype(np.float64)
        prior = self.prior.quality, self.prior.cost_micros.astype(np.float64)
        self._forecast = None if kinds is None else Forecast(kinds, *prior)
        self._kinds = (
            np.zeros(len(cost_micros), np.int64)
            if kinds is None
            else Clusters(kinds).of(self.estimates.quality, cost_micros)
        )

    def ranking(self, number: int, balance_micros: Float64) -> list[int]:
        """The LLMs that the policy tries, best first."""
        if not self.prices or self.policy.due(number):
            solution = self.policy.solve(self._view(number, balance_micros))
            self.prices = solution.prices
            self.solved.append((solution.prices, solution.fit))
        charges = [price * cost for price, cost in zip(self.prices, self._rows[1][number], strict=True)]
        return self.policy.rank(number, self._rows[0][number], charges)

    def _view(self, number: int, balance_micros: Float64) -> View:
        newest = slice(max(0, number - self.config.window_queries), number)
        amount = np.array([budget.amount for budget in self.config.budgets], dtype=np.float64)
        forecast, horizon = self._forecast, self.config.horizon_queries
        if forecast is not None:
            counts = np.bincount(self._kinds[:number], minlength=len(forecast.seen.counts)).tolist()
            forecast.seen = msgspec.structs.replace(forecast.seen, counts=tuple(counts))
            forecast.seen = forecast.look(horizon)
        return View(
            seen=number,
            window=_sample(self.estimates.quality[newest], self.estimates.cost_micros[newest], self._kinds[newest]),
            prior=_sample(self.prior.quality, self.prior.cost_micros, None if forecast is None else forecast.rows),
            amount=amount,
            balance=balance_micros,
            prices=self.prices or (0.0,) * len(amount),
            to_come=None if forecast is None else forecast.shares(horizon),
        )


def _sample(quality: Float64, cost_micros: NDArray[np.int64] | Float64, kinds: NDArray[np.int64] | None) -> Sample:
    return Sample.untagged(quality, cost_micros.astype(np.float64), kinds)


def online(scenario: Scenario, policy: str, estimates: Estimates) -> Online:
    """The worker's own policy of this name, on these estimates."""
    config = scenario.configuration(policy)
    return Online(make_policy(config, 0), config, estimates, scenario.estimator.prior)


def play_paper(scenario: Scenario, chooser: Chooser) -> Simulated:
    """The paper's rule: the first LLM of the ranking whose balance covers the true cost serves the query."""
    cost, balance = scenario.live.cost_micros, scenario.budget_micros.astype(np.float64)
    chosen = np.full(scenario.queries, -1)
    for number in range(scenario.queries):
        for llm in chooser.ranking(number, balance):
            if cost[number, llm] <= balance[llm]:
                balance[llm] -= cost[number, llm]
                chosen[number] = llm
                break
    outcome = served(scenario, chosen)
    if isinstance(chooser, Online):
        prices, fits = zip(*chooser.solved, strict=True)
        return replace(outcome, fits=fits, prices=prices)
    return outcome


def served(scenario: Scenario, chosen: NDArray[np.int64]) -> Simulated:
    """The queries served by these LLMs [n], -1 for none."""
    rows, none = np.arange(scenario.queries), chosen < 0
    quality = np.where(none, 0.0, scenario.live.quality[rows, chosen])
    cost = np.where(none, 0.0, scenario.live.cost_micros[rows, chosen])
    spent = np.bincount(chosen[~none], cost[~none], len(scenario.budget_micros))
    return Simulated(chosen, quality, cost, round(np.maximum(spent - scenario.budget_micros, 0).sum()))


def play_ledger(scenario: Scenario, chooser: Chooser) -> Simulated:
    """Tollgate's rule for a chooser: the real ledger, settled `settle_lag` queries later."""
    ledger = Ledger()
    ledger.budget(scenario.of_llms)
    chosen = np.full(scenario.queries, -1)
    waiting: deque[tuple[int, Reservation]] = deque()
    for number in range(scenario.queries):
        while waiting and waiting[0][0] <= number - scenario.plan.settle_lag:
            _settle(scenario, ledger, *waiting.popleft())
        balance = np.array([account.available for account in ledger.accounts.values()], dtype=np.float64)
        for llm in chooser.ranking(number, balance):
            held = _reservation(scenario, number, llm)
            if not ledger.reserve(held):
                chosen[number] = llm
                waiting.append((number, held))
                break
    for late in waiting:
        _settle(scenario, ledger, *late)
    return served(scenario, chosen)


def _reservation(scenario: Scenario, number: int, llm: int) -> Reservation:
    micros = int(np.ceil(scenario.estimates.cost_micros[number, llm] * scenario.estimator.manifest.margins[llm]))
    return Reservation(
        dispatch_id=str(number),
        query_id=str(number),
        llm=scenario.live.llms[llm],
        offset=number,
        attempt=1,
        reserved_micros=micros,
        at_ms=0,
        deadline_ms=1,
        tried=(),
        holds=(Hold(scenario.live.llms[llm], micros),),
    )


def _settle(scenario: Scenario, ledger: Ledger, number: int, held: Reservation) -> None:
    spent_micros = true_micros(scenario, number, scenario.live.llms.index(held.llm))
    ledger.close(held, Charge("settled", spent_micros, "cost"), number)


def true_micros(scenario: Scenario, number: int, llm: int) -> int:
    """The true cost of one query, in whole micro-dollars."""
    return round(float(scenario.live.cost_micros[number, llm]))


def play_router(scenario: Scenario, policy: str, estimates: Estimates, look: Look = lambda *_: None) -> Simulated:
    """Tollgate's rule for a policy: the worker's own router, completions `settle_lag` queries late.

    `look` sees the lane after every batch, its events and its effects.
    """
    prior = scenario.estimator.prior
    router = Router(0, Prior(prior.quality, prior.cost_micros.astype(np.float64)))
    router.handle([Reconfigured(0, scenario.configuration(policy))])
    chosen = np.full(scenario.queries, -1)
    fits: list[Fit] = []
    waiting: deque[Dispatch] = deque()
    for batch in _arrivals(estimates, scenario.queries):
        ripe = batch[0].offset - scenario.plan.settle_lag
        done = [waiting.popleft() for _ in range(sum(dispatch.origin.offset < ripe for dispatch in waiting))]
        completions = [_completed(scenario, dispatch) for dispatch in done]
        events = [*completions, *batch]
        effects = router.handle(events)
        fits.append(router.view.fit)
        look(router.view, events, effects)
        for dispatch in effects.dispatches:
            chosen[dispatch.origin.offset] = scenario.live.llms.index(dispatch.llm)
            waiting.append(dispatch)
    router.handle([_completed(scenario, dispatch) for dispatch in waiting])
    return replace(served(scenario, chosen), fits=tuple(fits))


def _arrivals(estimates: Estimates, queries: int) -> Iterator[list[Arrived]]:
    quality, cost = estimates.quality.tolist(), estimates.cost_micros.tolist()
    for start in range(0, queries, BATCH_ROWS):
        rows = range(start, min(start + BATCH_ROWS, queries))
        yield [Arrived(row, row, str(row), quality[row], cost[row], None, _nothing) for row in rows]


def _completed(scenario: Scenario, dispatch: Dispatch) -> Event:
    llm = scenario.live.llms.index(dispatch.llm)
    answer = UsableCompletion(
        dispatch_id=dispatch.id,
        stated_micros=true_micros(scenario, dispatch.origin.offset, llm),
        cost="known",
        quality=float(scenario.live.quality[dispatch.origin.offset, llm]),
    )
    return Completed(dispatch.origin.offset, dispatch.origin.offset, answer)
