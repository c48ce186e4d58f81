"""What a lane looks at before it calls a dispatch unanswered or lets a reservation expire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.drive import Drive, Input, config, query
from worker.contract.settings import Settings
from worker.core.events import Event, Ticked, Unanswered
from worker.kafka.memory import Log, MemoryReader
from worker.service import overdue
from worker.service.intake import Input as LaneInput
from worker.service.overdue import Overdue

QUERIES: list[Input] = [query(offset, at_ms=0, quality=[0.9, 0.0, 0.0]) for offset in range(3)]


class Topics(MemoryReader):
    """`completions` and `begun` of partition 0."""

    def __init__(self) -> None:
        self.log = Log()
        super().__init__(self.log)

    def completion(self, dispatch_id: str) -> None:
        """An answer arrives."""
        self.log.append(("completions", 0), None, msgspec.msgpack.encode({"dispatch_id": dispatch_id}), [], 0)

    def begun(self, dispatch_id: str, *, has_ended: bool = False) -> None:
        """A call has begun, or has ended."""
        value = None if has_ended else b"begun"
        self.log.append(("begun", 0), dispatch_id.encode(), value, [], 0)


class Intake:
    """An intake that brings no query back."""

    def __init__(self, topics: Topics) -> None:
        self.reader, self.settings = topics, Settings()

    def unanswered(self, partition: int, reservations: Sequence[Any], at_ms: int) -> list[LaneInput]:
        return [LaneInput(Unanswered(at_ms, one.offset, one.attempt)) for one in reservations]


class Bench:
    """A lane of three dispatches that are unanswered at 2,000 ms and expire at 10,000 ms."""

    def __init__(self) -> None:
        self.topics = Topics()
        self.drive = Drive(config(unanswered_ms=(2_000,) * 3)).run(QUERIES)
        intake: Any = Intake(self.topics)
        self.overdue = Overdue(0, intake)

    def look(self, now_ms: int) -> tuple[list[int], dict[str, bool]]:
        """The offsets that go on, and the reservations that expire: id and whether its call had begun."""
        events: list[Event] = [each.event for each in self.overdue.look(self.drive.router.view, now_ms)]
        self.drive.commit(events)
        expired = [one for event in events if isinstance(event, Ticked) for one in event.expired]
        return (
            [event.offset for event in events if isinstance(event, Unanswered)],
            {one.dispatch_id: one.begun for one in expired},
        )


def test_what_nobody_answers_goes_on_once_and_expires_at_its_deadline() -> None:
    """Before its time nothing is due; between, only new things are."""
    bench = Bench()
    looks = [bench.look(now_ms) for now_ms in (1_999, 2_000, 3_000, 10_000, 11_000)]
    none = dict.fromkeys(("0-0-1", "0-1-1", "0-2-1"), False)
    assert looks == [([], {}), ([0, 1, 2], {}), ([], {}), ([], none), ([], {})]


def test_an_answer_that_waits_in_the_topic_wins() -> None:
    """Its dispatch neither goes on nor expires, however late it is."""
    bench = Bench()
    bench.topics.completion("0-1-1")
    assert bench.look(10_000) == ([0, 2], {"0-0-1": False, "0-2-1": False})
    assert list(bench.drive.router.view.open) == ["0-1-1"]


def test_a_lane_far_behind_reads_its_completions_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes on and nothing expires."""
    monkeypatch.setattr(overdue, "MOST_UNREAD", 2)
    bench = Bench()
    for _ in range(3):
        bench.topics.completion("0-99-1")
    assert bench.look(10_000) == ([], {})


def test_a_call_that_had_begun_expires_as_reserved() -> None:
    """One that has ended without a completion cost nothing, but its completion may be on its way for a moment."""
    bench = Bench()
    bench.topics.begun("0-0-1")
    bench.topics.begun("0-1-1")
    bench.topics.begun("0-1-1", has_ended=True)
    assert bench.look(10_000) == ([0, 1, 2], {"0-0-1": True, "0-2-1": False})
    assert bench.look(11_000) == ([], {"0-1-1": False})


def test_no_query_is_dropped_because_many_are_silent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reservation expires only after its query has gone on."""
    monkeypatch.setattr(overdue, "UNANSWERED", 1)
    bench = Bench()
    assert [bench.look(10_000) for _ in range(3)] == [
        ([0], {"0-0-1": False}),
        ([1], {"0-1-1": False}),
        ([2], {"0-2-1": False}),
    ]


def test_a_mass_expiry_is_many_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no transaction outlasts its timeout."""
    monkeypatch.setattr(overdue, "EXPIRIES", 2)
    bench = Bench()
    assert [len(bench.look(10_000)[1]) for _ in range(3)] == [2, 1, 0]
