"""Prometheus metrics of one worker process: `tollgate_*`, in base units (seconds, US dollars).

Counters and histograms are moved by the lanes; gauges are read from the lanes when somebody scrapes.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import get_args

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.contract.accounts import Account
from worker.contract.codes import DeferReason
from worker.contract.decisions import ChargedAgain, Closed, Missed
from worker.contract.sentences import REMARKS
from worker.core import alarms
from worker.core.drift import Drift
from worker.core.events import Effects
from worker.core.lane_view import LaneView
from worker.estimation.manifest import Manifest
from worker.service.health import Health

log = structlog.get_logger()

MICROS_PER_USD = 1_000_000
# Each name of a tag is a time series for as long as the process runs.
MOST_TAG_NAMES = 50
OTHER_TAGS = "(others)"
BUDGET = ["budget", "resource", "partition"]
AMOUNTS = (
    ("amount", "The amount of a budget: dollars, tokens, requests or open dispatches"),
    ("reserved", "Held by open reservations"),
    ("spent", "Settled"),
    ("late", "Spent on answers after their expiry"),
    ("paid_twice", "Spent on answers after another answer"),
    ("overrun", "Spent or reserved beyond the amount"),
)
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Manifest.similarity_quantiles: the 5 % one, below which a query lies outside history; averaged over so many queries.
OUTSIDE_QUANTILE, RECENT_QUERIES = 2, 1_000
ALARM = ("name", "partition")
RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """One registry for one process; nothing global."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.outside_share = 0.0
        self._drift = Drift()
        self._warned: set[tuple[str, str]] = set()
        self._manifest: Manifest | None = None
        self._lanes: Callable[[], Sequence[LaneView]] = tuple
        self._health: Health | None = None
        self._quarantined: Callable[[], Mapping[int, str]] = dict
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._decisions = counter("tollgate_decisions", "Decisions by LLM and outcome", ["llm", "outcome"])
        self._deferrals = counter("tollgate_deferrals", "Queries not served now, by reason", ["reason"])
        self._unanswered = counter("tollgate_unanswered", "Dispatches that were not answered in time", ["llm"])
        self._odd = counter("tollgate_odd_answers", "Answers with something odd, by what it is", ["llm", "remark"])
        self._dead = counter("tollgate_dead_letters", "Records that could not be used", ["topic", "reason"])
        self._lost = counter("tollgate_lost_records", "Records that left an input unread, at most", ["topic"])
        self._unknown_tags = counter("tollgate_unknown_tags", "Queries with a tag that no budget asks for", ["name"])
        self._tags: set[str] = set()
        self._noticed: dict[str, str] = {}
        self._lost_records: Tally[str] = Tally()
        self._clock_drift = gauge("tollgate_clock_drift_seconds", "How far this machine is ahead of a broker")
        self._batch = histogram("tollgate_batch_records", "Records per transaction", buckets=RECORDS)
        self._transaction = histogram("tollgate_transaction_seconds", "Decide and commit", buckets=SECONDS)
        self._search = histogram("tollgate_search_seconds", "Decode, embed and search", buckets=SECONDS)
        self._outside = gauge("tollgate_outside_history_ratio", "Of recent queries, those unlike any in history")
        self._restore = gauge("tollgate_restore_seconds", "Last restore of the ledger", ["partition"])
        self._build = gauge("tollgate_build_info", "What runs here", ["version", "policy", "index"])

    def describe(self, version: str, policy: str, manifest: Manifest) -> None:
        """Say what runs here, and show every reason from the start, at 0."""
        self._build.labels(version, policy, manifest.index).set(1)
        self._manifest = manifest
        for reason in get_args(DeferReason):
            self._deferrals.labels(reason)
        for topic in ("queries", "completions"):
            self._lost.labels(topic)

    def watch(self, lanes: Callable[[], Sequence[LaneView]]) -> None:
        """Read the gauges of these lanes at every scrape."""
        self._lanes = lanes
        self.registry.register(_Ledgers(lanes, self.alarms))

    def watch_service(self, health: Health, quarantined: Callable[[], Mapping[int, str]]) -> None:
        """Raise the alarms of a broker that does not answer, of inputs that stand still, and of quarantined lanes."""
        self._health, self._quarantined = health, quarantined

    def alarms(self) -> dict[tuple[str, str], str]:
        """What is wrong now: (name, partition) -> detail; the partition is empty for what concerns the whole worker."""
        found = {(name, ""): detail for name, detail in alarms.of_queries(self.outside_share) + self._drift.alarms()}
        if self._manifest is not None:
            found |= {(name, ""): detail for name, detail in alarms.of_index(self._manifest)}
        found |= {(name, ""): detail for name, detail in self._noticed.copy().items()}
        for lane in self._lanes():
            found |= {(name, str(lane.partition)): detail for name, detail in alarms.of_lane(lane)}
        found |= {("quarantined", str(partition)): reason for partition, reason in self._quarantined().items()}
        if self._health is not None:
            if (absent := self._health.absent) is not None:
                found["no_broker", ""] = absent
            if stalled := self._health.stalled():
                found["stalled", ""] = "; ".join(stalled)
        return found

    def notice(self, name: str, detail: str) -> None:
        """Put an alarm of the whole worker into force, or end it if there is no detail."""
        if detail:
            self._noticed[name] = detail
        else:
            self._noticed.pop(name, None)

    def drifted(self, drift_ms: int) -> None:
        """This machine's clock is so far ahead of that of a broker."""
        self._clock_drift.set(drift_ms / 1000)

    def similar(self, similarity: NDArray[np.float32]) -> None:
        """Queries came whose nearest rows of history are so similar to them."""
        if self._manifest is not None:
            outside = float((similarity < self._manifest.similarity_quantiles[OUTSIDE_QUANTILE]).mean())
            fresh = 1.0 - (1.0 - 1.0 / RECENT_QUERIES) ** len(similarity)
            self.outside_share += fresh * (outside - self.outside_share)
            self._outside.set(self.outside_share)

    def searched(self, seconds: float) -> None:
        """One batch went through the search stage."""
        self._search.observe(seconds)

    def restored(self, partition: int, seconds: float) -> None:
        """A lane's ledger was restored."""
        self._restore.labels(partition).set(seconds)

    def committed(self, effects: Effects, inputs: int, seconds: float) -> None:
        """One transaction was committed."""
        self._batch.observe(inputs)
        self._transaction.observe(seconds)
        self._drift.see(effects.dispatches, effects.closed)
        self._answered([*effects.closed, *effects.charged_again])
        self._missed(effects.missed)
        for llm, count in Tally(dispatch.llm for dispatch in effects.dispatches).items():
            self._decisions.labels(llm, "dispatched").inc(count)
        for deferred in effects.deferred:
            self._decisions.labels("", "deferred").inc()
            self._deferrals.labels(deferred.reason).inc()
        for reservation in effects.unanswered:
            self._unanswered.labels(reservation.llm).inc()
        for switched in effects.switched:
            told = {"llm": switched.llm, "error_class": switched.error_class, "worker": switched.worker}
            log.warning(f"llm_{switched.state}", **told)
        self._tagged(effects.unknown_tags)
        for refused in effects.refused:
            self._dead.labels(refused.topic, refused.rejection.code).inc()
        for ignored in effects.ignored:
            self._dead.labels("completions", ignored.code).inc()

    def _tagged(self, names: Iterable[str]) -> None:
        """Count the tags that no budget asks for, and warn of each name once. Names come from outside."""
        for name in names:
            if name not in self._tags and len(self._tags) < MOST_TAG_NAMES:
                self._tags.add(name)
                log.warning("unknown_tag", name=name, meaning="no budget asks for this tag with the value of a query")
            self._unknown_tags.labels(name if name in self._tags else OTHER_TAGS).inc()

    def _missed(self, records: Iterable[Missed]) -> None:
        for missed in records:
            self._lost.labels(missed.cause.kind).inc(missed.offsets)
            self._lost_records[missed.cause.kind] += missed.offsets
        lost = ", ".join(f"up to {count} {topic}" for topic, count in self._lost_records.items())
        self.notice("records_lost", lost)

    def _answered(self, answers: Iterable[Closed | ChargedAgain]) -> None:
        """Count what is odd about answers, and warn of each oddity of an LLM once."""
        for answer in answers:
            for remark in answer.remarks:
                self._odd.labels(answer.llm, remark).inc()
                if (answer.llm, remark) not in self._warned:
                    self._warned.add((answer.llm, remark))
                    log.warning("odd_answer", llm=answer.llm, remark=remark, meaning=REMARKS[remark])

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Ledgers(Collector):
    def __init__(
        self, lanes: Callable[[], Sequence[LaneView]], alarms_now: Callable[[], Mapping[tuple[str, str], str]]
    ) -> None:
        self._lanes = lanes
        self._alarms_now = alarms_now

    def collect(self) -> Iterable[Metric]:
        lanes = [lane for lane in self._lanes() if lane.config is not None]
        by_llm = ["llm", "partition"]
        amounts = {name: GaugeMetricFamily(f"tollgate_budget_{name}", what, labels=BUDGET) for name, what in AMOUNTS}
        price = GaugeMetricFamily("tollgate_budget_price", "Quality that one unit must buy", labels=BUDGET)
        opened = GaugeMetricFamily("tollgate_open_reservations", "Dispatches not answered", labels=["partition"])
        out = GaugeMetricFamily("tollgate_llm_out", "1: the LLM gets no queries but probes", labels=by_llm)
        age = GaugeMetricFamily("tollgate_oldest_reservation_age_seconds", "Oldest of them", labels=["partition"])
        for lane in lanes:
            partition = str(lane.partition)
            for account in lane.accounts:
                labels, unit = [account.budget, account.resource, partition], _units_of(account)
                for name, family in amounts.items():
                    family.add_metric(labels, getattr(account, name) / unit)
            for account, value in zip(lane.budgets.values(), lane.prices, strict=False):
                price.add_metric([account.budget, account.resource, partition], value * _units_of(account))
            llms = () if lane.config is None else lane.config.llms
            breakers = lane.breakers
            for llm in llms:
                out.add_metric([llm, partition], float(llm in breakers and breakers[llm].is_open))
            opened.add_metric([partition], len(lane.open))
            oldest_ms = lane.oldest_ms
            age.add_metric([partition], 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000))
        return [*amounts.values(), price, opened, age, out, self._alarms(lanes)]

    def _alarms(self, lanes: Sequence[LaneView]) -> Metric:
        family = GaugeMetricFamily("tollgate_alarm", "1: in force; docs/reference/alarms.md", labels=ALARM)
        now, partitions = self._alarms_now(), [str(lane.partition) for lane in lanes]
        shown = {
            (name, partition)
            for name in alarms.MEANINGS
            for partition in (partitions if name in alarms.LANE_ALARMS else [""])
        }
        for name, partition in sorted(shown | now.keys()):
            family.add_metric([name, partition], float((name, partition) in now))
        return family


def _units_of(account: Account) -> int:
    """How many units of the account one dollar, token, request or dispatch is."""
    return MICROS_PER_USD if account.resource == "usd" else 1


class AlarmLog:
    """Logs each alarm once when it comes into force, and once when it is over."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def update(self, alarms_now: Mapping[tuple[str, str], str]) -> None:
        """Log the changes since the last call. `alarms_now` are the alarms in force: (name, partition) -> detail."""
        for name, partition in alarms_now.keys() - self._logged:
            detail = alarms_now[name, partition]
            log.warning("alarm", name=name, partition=partition, detail=detail, meaning=alarms.MEANINGS[name])
        for name, partition in self._logged - alarms_now.keys():
            log.info("alarm_over", name=name, partition=partition)
        self._logged = set(alarms_now)
