"""The inference worker: it takes dispatches, has them answered, and publishes how each call ended.

One asyncio loop holds all state. Threads only wait: one polls, one publishes, one writes `begun` records. So a call of
ten minutes holds up no answer after it, no poll and no rebalance.

1. Poll. A partition is paused while its LLM has as many open calls as it may have, or too many bytes are in flight.
2. A dispatch that is closed, answered or lost according to `restore` is not called.
3. Write a `begun` record, and call the LLM only when the broker has it. (A topic of its own, compacted: lanes read one
   record a query less, and whoever has to know reads only the calls that are open.)
4. Publish completion, answer, the end of the `begun` record and the position in one transaction (`publisher`).
5. A partition that goes to another worker is given GRACE_SECONDS for its open calls. Then they are cut, and completed
   as `unreachable` with an unknown cost.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from confluent_kafka import TopicPartition

from worker.contract import codec
from worker.contract.answers import Begun, Unavailable
from worker.contract.codes import ErrorClass
from worker.contract.errors import FixSetting
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.inference import outcomes, restore
from worker.inference.answerers import Answerer, completion_of
from worker.inference.consumer import DispatchConsumer, Polled
from worker.inference.failures import Failures
from worker.inference.outcomes import Outcome
from worker.inference.published import Answered, Outgoing, begun_record, records_of
from worker.inference.publisher import Publisher
from worker.inference.reply_topics import ReplyTopics
from worker.inference.taken import End, Share, Taken, moved_positions
from worker.inference.threads import Threads
from worker.inference.watch import Watch
from worker.kafka.reader import KafkaReader, Place

POLL_SECONDS = 0.1
PUBLISH_ENDS = 500
PUBLISH_BYTES = 8_000_000
# Positions without an answer are committed this often.
COMMIT_SECONDS = 1.0
# A transaction with positions takes two requests more. `restore` needs no newer ones.
POSITIONS_SECONDS = 0.2
GRACE_SECONDS = 5.0

logger = structlog.get_logger()


class InferenceWorker:
    """Takes the dispatches of some LLMs. `name` is this worker's own, and stays the same when it starts again."""

    def __init__(self, settings: Settings, llms: Sequence[str], answerer: Answerer, name: str) -> None:
        self._settings = settings
        self._name = name
        self._answerer = answerer
        self._llm_of = {settings.topics.dispatch(llm): llm for llm in llms}
        self._shares: dict[Place, Share] = {}
        self._waiting: dict[str, deque[Taken]] = {llm: deque() for llm in llms}
        self._called: dict[str, set[Taken]] = {llm: set() for llm in llms}
        self._ends: deque[End] = deque()
        self._publishing: list[End] = []
        self._wake = asyncio.Event()
        self._published = asyncio.Event()
        self._paused: set[Place] = set()
        self._positions_at = 0.0
        self._failures = Failures()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: BaseException | None = None

    async def run(self, stopping: Callable[[], bool], leave: Callable[[BaseException], None]) -> None:
        """Work until `stopping` is true. `leave` ends the process at once: a thread may be unable to end.

        Raises CheckBroker, LeaveProcess, or FixSetting if no LLM takes its key.
        """
        self._loop = asyncio.get_running_loop()
        self._reader = KafkaReader(self._settings)
        self._consumer = DispatchConsumer(self._settings, self._loop, self._assigned, self._leave, self._lost)
        self._reply_topics = ReplyTopics(self._settings, self._consumer.topics)
        self._publisher = Publisher(self._settings, self._name, self._consumer.group_metadata)
        with Threads(poll=1, publish=1, begin=1, restore=2) as self._threads:
            watch = Watch(self._threads, self._consumer, lambda: len(self._shares), leave)
            async with self._answerer:
                publishing = asyncio.create_task(self._publish())
                looking = [asyncio.create_task(each) for each in (self._failures.run(), watch.run())]
                try:
                    logger.info("inference_started", topics=len(self._llm_of), name=self._name)
                    await self._threads.run("poll", self._consumer.subscribe, list(self._llm_of))
                    await self._poll(stopping)
                    await self._leave([share.place for share in self._shares.values()])
                except BaseException as error:
                    # Nothing is published any more, so nothing waits for it.
                    self._stop(error)
                    raise
                finally:
                    for taken in [one for called in self._called.values() for one in called]:
                        if taken.task is not None:
                            taken.task.cancel()
                    publishing.cancel()
                    # Without a broker, reading for the other partitions would take minutes.
                    self._threads.drop("restore")
                    await self._threads.run("poll", self._consumer.close)
                    for task in looking:
                        task.cancel()
                if self._stopped is not None:
                    raise self._stopped

    # Polling and partitions

    async def _poll(self, stopping: Callable[[], bool]) -> None:
        while not stopping() and self._stopped is None:
            pause, resume = self._to_pause()
            self._take(await self._threads.run("poll", self._consumer.poll, pause, resume))
            self._start_waiting()

    def _to_pause(self) -> tuple[list[Place], list[Place]]:
        """The partitions to pause and to resume."""
        is_full = self._held_bytes() >= self._settings.inference.max_open_bytes
        wanted = {
            place
            for place, share in self._shares.items()
            if is_full or share.restored is None or share.llm not in self._waiting or self._waiting[share.llm]
        }
        pause, resume = list(wanted - self._paused), [one for one in self._paused - wanted if one in self._shares]
        self._paused = wanted
        return pause, resume

    def _held_bytes(self) -> int:
        taken = [*self._waiting.values(), *self._called.values()]
        held = sum(one.size for several in taken for one in several) + sum(end.size for end in self._ends)
        return held + self._answerer.held_bytes

    async def _assigned(self, places: list[Place]) -> None:
        by_partition: defaultdict[int, list[Share]] = defaultdict(list)
        for place in places:
            self._shares[place] = Share(self._llm_of[place[0]], place)
            self._paused.add(place)
            by_partition[place[1]].append(self._shares[place])
        if places:
            logger.info("partitions_assigned", partitions=len(places))
        for partition, shares in by_partition.items():
            self._background(self._restore(partition, shares))

    async def _restore(self, partition: int, shares: list[Share]) -> None:
        topics = [share.place[0] for share in shares]
        # The open calls of the other partitions cost money: the worker does not end for this one at once.
        work = restore.restore, self._settings, self._reader, partition, topics
        found = await self._threads.run_patiently("restore", *work)
        for share in shares:
            share.restored = found

    async def _leave(self, places: list[Place]) -> None:
        """Give partitions up: wait a while for their open calls, cut the others, and publish how all ended."""
        leaving = {self._shares[place] for place in places if place in self._shares}
        for share in leaving:
            share.is_leaving = True
        for waiting in self._waiting.values():
            for taken in [one for one in waiting if one.share in leaving]:
                waiting.remove(taken)
        until = time.monotonic() + GRACE_SECONDS
        while (called := self._called_of(leaving)) and time.monotonic() < until and self._stopped is None:
            tasks = [one.task for one in called if one.task is not None]
            await (asyncio.wait(tasks, timeout=POLL_SECONDS) if tasks else asyncio.sleep(POLL_SECONDS))
        for taken in self._called_of(leaving):
            taken.is_cut = True
            if taken.task is not None:
                taken.task.cancel()
        while self._stopped is None and (self._called_of(leaving) or self._unpublished(leaving)):
            await self._publish_now()
        if moved_positions(leaving, True):
            # Once: a group that rebalances takes none.
            await self._publish_now()
        self._forget(places)

    async def _lost(self, places: list[Place]) -> None:
        """Partitions that another worker has already: nothing more is published for them."""
        logger.warning("partitions_lost", partitions=len(places))
        gone = {self._shares[place] for place in places if place in self._shares}
        self._forget(places)
        for taken in self._called_of(gone):
            if taken.task is not None:
                taken.task.cancel()

    def _forget(self, places: list[Place]) -> None:
        for place in places:
            if (share := self._shares.pop(place, None)) is not None:
                share.is_gone = True
        self._paused -= set(places)
        for waiting in self._waiting.values():
            for taken in [one for one in waiting if one.share.is_gone]:
                waiting.remove(taken)

    def _called_of(self, shares: set[Share]) -> list[Taken]:
        return [one for called in self._called.values() for one in called if one.share in shares]

    def _unpublished(self, shares: set[Share]) -> bool:
        return any(end.share in shares for end in (*self._ends, *self._publishing))

    # Taking and calling

    def _take(self, polled: Polled) -> None:
        for record in polled.records:
            if (share := self._share((record.topic, record.partition))) is not None:
                self._take_one(share, record)
        for place, offset in polled.ends.items():
            if (share := self._share(place)) is not None:
                share.positions.reached(offset)

    def _share(self, place: Place) -> Share | None:
        share = self._shares.get(place)
        # The records of an LLM that this worker has left are another's.
        return share if share is not None and share.llm in self._waiting else None

    def _take_one(self, share: Share, record: StoredRecord) -> None:
        share.positions.take(record.offset)
        try:
            dispatch = codec.decode_dispatch(record.value or b"")
        except codec.UNREADABLE as problem:
            place = record.topic, record.partition, record.offset
            logger.warning("dispatch_skipped", place=place, error=str(problem), remedy="only lanes may write here")
            share.positions.done(record.offset)
            return
        assert share.restored is not None, "a partition is paused until it is restored"
        state = share.restored.state(record.topic, record.offset, dispatch.id)
        if state == "open":
            self._waiting[share.llm].append(Taken(share, record, dispatch))
        elif state == "lost":
            self._complete_lost(Taken(share, record, dispatch))
        else:
            share.positions.done(record.offset)

    def _complete_lost(self, taken: Taken) -> None:
        """A call that had begun when its worker died: nobody knows what it cost, and nobody calls again."""
        outcome = outcomes.broken(True, "unreachable", "the worker of the call is gone", "worker_lost")
        assert taken.share.restored is not None, "what was lost is known from a restore"
        row = taken.share.restored.lost_row(taken.dispatch, self._name, int(time.time() * 1000))
        self._end(taken, self._answered(taken, outcome), begun_record(taken.dispatch, row, self._settings))

    def _start_waiting(self) -> None:
        """Begin as many waiting dispatches as there is room for."""
        starting = []
        for llm, waiting in self._waiting.items():
            while waiting and len(self._called[llm]) < self._answerer.max_open(llm):
                taken = waiting.popleft()
                self._called[llm].add(taken)
                starting.append(taken)
        if starting:
            self._background(self._begin(starting))

    async def _begin(self, starting: list[Taken]) -> None:
        if self._answerer.costs_money:
            now_ms = int(time.time() * 1000)
            rows = [Begun(one.dispatch.id, one.dispatch.llm, self._name, now_ms) for one in starting]
            records = [begun_record(one.dispatch, row, self._settings) for one, row in zip(starting, rows, strict=True)]
            await self._threads.run("begin", self._publisher.begin, records)
        for taken in starting:
            taken.has_begun = self._answerer.costs_money
            if taken.is_cut:
                # It was cut before anything was sent.
                cut = outcomes.broken(False, "unreachable", "cut", "worker_stopped")
                self._ended(taken, self._answered(taken, cut))
            else:
                taken.task = asyncio.create_task(self._call(taken))

    async def _call(self, taken: Taken) -> None:
        """Have one dispatch answered. Whatever happens, it ends in a completion, unless its partition is gone."""
        try:
            asked = restore.has_killed, self._settings, self._reader, taken.dispatch
            poison = taken.dispatch.attempt > restore.MOST_DEATHS and await self._threads.run("restore", *asked)
            answered = (
                self._answered(taken, Outcome("refused_request", "unknown", remarks=("killed_workers",)))
                if poison
                else await self._answerer.answer(taken.dispatch)
            )
        except asyncio.CancelledError:
            if not taken.is_cut:
                self._called[taken.share.llm].discard(taken)
                raise
            answered = self._answered(taken, outcomes.broken(True, "unreachable", "cut", "worker_stopped"))
        except Exception as error:  # No answer kills the worker.
            logger.exception("call_failed", llm=taken.dispatch.llm, error=type(error).__name__)
            answered = self._answered(taken, outcomes.unusable(type(error).__name__))
        self._ended(taken, answered)

    def _ended(self, taken: Taken, answered: Answered) -> None:
        self._called[taken.share.llm].discard(taken)
        if answered.leaves is not None:
            self._leave_llm(taken, answered.leaves)
            return
        if answered.completion.error_class is not None:
            self._failures.count(taken.share.llm, answered.completion.error_class)
        ended = [begun_record(taken.dispatch, None, self._settings)] if taken.has_begun else []
        self._end(taken, answered, *ended)
        self._start_waiting()

    def _answered(self, taken: Taken, outcome: Outcome) -> Answered:
        return Answered(completion_of(taken.dispatch, outcome), None, 0)

    def _end(self, taken: Taken, answered: Answered, *more: Outgoing) -> None:
        if taken.share.is_gone:
            return
        existing = self._reply_topics.names
        at_ms = int(time.time() * 1000)
        records = records_of(taken.dispatch, taken.record, answered, self._settings, existing, at_ms)
        self._ends.append(End(taken.share, taken.record.offset, [*records, *more]))
        self._wake.set()

    def _leave_llm(self, taken: Taken, error_class: ErrorClass) -> None:
        """Leave an LLM to other workers: its provider refuses the key. The dispatch and its position stay open."""
        llm = taken.share.llm
        if taken.has_begun and not taken.share.is_gone:
            self._ends.append(End(taken.share, None, [begun_record(taken.dispatch, None, self._settings)]))
        if self._waiting.pop(llm, None) is not None:
            logger.error("llm_left", llm=llm, error_class=error_class, remedy=f"correct the key of llms.{llm}")
            value = codec.encode(Unavailable(llm, error_class, self._name))
            completions = self._settings.topics.completions
            for share in [one for one in self._shares.values() if one.llm == llm]:
                record = Outgoing(completions, share.place[1], llm, value, codec.CONTENT_TYPE)
                self._ends.append(End(share, None, [record]))
            self._llm_of = {topic: one for topic, one in self._llm_of.items() if one != llm}
            topics = list(self._llm_of)
            leaving = self._threads.run("poll", self._consumer.subscribe, topics)
            self._background(leaving if topics else self._stop_without_llms(llm))
        self._wake.set()

    async def _stop_without_llms(self, llm: str) -> None:
        while self._ends or self._publishing or any(self._called.values()):
            await asyncio.sleep(POLL_SECONDS)
        self._stop(FixSetting(f"llms.{llm}: the provider refuses the key, and this worker has no other LLM"))

    # Publishing

    async def _publish(self) -> None:
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), COMMIT_SECONDS)
                self._wake.clear()
                if self._reply_topics.is_due():
                    await self._threads.run("restore", self._reply_topics.refresh)
                while await self._publish_some():
                    pass
        except Exception as error:
            self._stop(error)

    async def _publish_some(self) -> bool:
        """Publish what has ended, in one transaction. True if more may be waiting."""
        size = 0
        self._publishing = []
        while self._ends and len(self._publishing) < PUBLISH_ENDS and size < PUBLISH_BYTES:
            end = self._ends.popleft()
            if end.share.is_gone:
                continue
            if end.offset is not None:
                end.share.positions.done(end.offset)
            self._publishing.append(end)
            size += end.size
        now = time.monotonic()
        moved = moved_positions(self._shares.values(), now - self._positions_at >= POSITIONS_SECONDS)
        if not self._publishing and not moved:
            return False
        positions = [TopicPartition(*share.place, at) for share, at in moved.items()]
        records = [end.records for end in self._publishing]
        if await self._threads.run("publish", self._publisher.publish, records, positions):
            self._positions_at = now
            for share, at in moved.items():
                share.committed = at
        self._publishing = []
        self._published.set()
        return bool(self._ends)

    async def _publish_now(self) -> None:
        self._published.clear()
        self._wake.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._published.wait(), POLL_SECONDS)

    def _background(self, work: Any) -> None:
        """Run until done; an error stops the worker."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._stop(error)

        task.add_done_callback(ended)

    def _stop(self, error: BaseException) -> None:
        self._stopped = self._stopped or error
        self._published.set()
