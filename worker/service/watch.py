"""Looks now and then at what is around a worker: its topics, the settings of the other lanes, and the clocks.

A topic that is made anew ends the process: its offsets mean something else than those in the ledger. All else is an
alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.contract import codec
from worker.contract.errors import CheckBroker, FixSetting
from worker.contract.messages import AccountRow
from worker.contract.settings import Settings
from worker.core.outbox import ACCOUNT_KEY
from worker.kafka.admin import wanted
from worker.kafka.reader import TAIL_RECORDS, Reader
from worker.service.committer import Committer
from worker.service.home import differences, find_home
from worker.service.metrics import Metrics

# Reading the end of other lanes' ledgers costs more than asking for topics: it is done at every sixth look.
SETTINGS_EVERY = 6
# What the way of a record cannot explain, beyond what clocks differ by that are kept right.
DRIFT_MS = 1_000


class Watch:
    """Call `look` now and then, in a thread. `lanes` are the lanes that are open; `fail` ends the process."""

    def __init__(
        self,
        settings: Settings,
        reader: Reader,
        metrics: Metrics,
        lanes: Callable[[], Sequence[Committer]],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._settings, self._topics = settings, settings.topics
        self._reader = reader
        self._metrics = metrics
        self._lanes = lanes
        self._fail = fail
        self._looks = 0

    def look(self) -> None:
        """Look once. If the broker does not answer, nothing is said: others say that."""
        lanes = self._lanes()
        self._look_at_clocks(lanes)
        try:
            self._look_at_topics(lanes)
            if self._looks % SETTINGS_EVERY == 0:
                self._look_at_settings(lanes)
            self._looks += 1
        except CheckBroker:
            return

    def _look_at_clocks(self, lanes: Sequence[Committer]) -> None:
        drifts = {lane.partition: lane.clock.drift_ms for lane in lanes}
        worst = max(drifts, key=lambda partition: abs(drifts[partition]), default=None)
        drift_ms = 0 if worst is None else drifts[worst]
        self._metrics.drifted(drift_ms)
        side = "ahead of" if drift_ms > 0 else "behind"
        said = f"this machine is {abs(drift_ms)} ms {side} the broker of {self._topics.ledger}/{worst}"
        self._metrics.notice("clock_drift", said if abs(drift_ms) > DRIFT_MS else "")

    def _look_at_topics(self, lanes: Sequence[Committer]) -> None:
        number = self._settings.kafka.partitions
        partitions = self._reader.partitions(self._topics.all(self._settings.llms))
        changed = [
            f"{topic} has {found} partitions, not {number}" for topic, found in partitions.items() if found != number
        ]
        changed += [f"{topic} is gone" for topic in wanted(self._settings) if topic not in partitions]
        self._metrics.notice("topics_changed", ", ".join(changed))
        self._check_home(lanes)

    def _check_home(self, lanes: Sequence[Committer]) -> None:
        try:
            now = find_home(self._reader, self._settings)
        except FixSetting:
            # A topic that is missing for a moment is no other topic.
            return
        for lane in lanes:
            home = None if lane.view.config is None else lane.view.config.home
            if home is not None and (problems := [*differences(lane.partition, self._topics, home, now)]):
                self._fail(FixSetting("\n".join(problems)))

    def _look_at_settings(self, lanes: Sequence[Committer]) -> None:
        mine = {lane.partition: lane.view.config.settings for lane in lanes if lane.view.config is not None}
        others = [partition for partition in range(self._settings.kafka.partitions) if partition not in mine]
        theirs = {partition: row.settings for partition, row in self._last_rows(others).items()}
        other = sorted(partition for partition, said in theirs.items() if said and said not in mine.values())
        said = f"partitions {', '.join(map(str, other))} decide by other settings than this worker"
        self._metrics.notice("two_settings", said if other and mine else "")

    def _last_rows(self, partitions: Sequence[int]) -> dict[int, AccountRow]:
        """The newest account rows of other lanes, as far as they are among the last records."""
        if not partitions:
            return {}
        places = [(self._topics.ledger, partition) for partition in partitions]
        oldest, ends = self._reader.oldest(places), self._reader.ends(places)
        starts = {place: max(oldest[place], ends[place] - TAIL_RECORDS) for place in places if ends[place]}
        rows: dict[int, AccountRow] = {}
        for record in self._reader.read(starts) if starts else ():
            if record.key == ACCOUNT_KEY.encode() and record.value is not None:
                rows[record.partition] = codec.decode_account(record.value)
        return rows
