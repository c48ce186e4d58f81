"""What follows the failure of a call by its class, and which LLMs are taken out and come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, get_args

import pytest
from msgspec.structs import replace

from tests.drive import CRASH, ConfigurationChanges, Drive, Input, completion, config, failure, query, tick
from tests.topics import Recorded
from tests.unit.test_replay import ledger_of, replayed
from tests.unit.test_verify import prove
from tests.unit.test_what_if import play
from worker.audit.what_if import Change
from worker.contract.codes import ErrorClass
from worker.contract.completions import read_unavailable
from worker.contract.decisions import Ignored, Routed, Switched
from worker.contract.messages import Configuration
from worker.core.breakers import FAILURES, MOST_OUT_MS
from worker.core.events import Arrived, Unanswered, Withdrawn

UNANSWERED_MS = (2_000, 2_000, 2_000)


def acting(**changes: Unpack[ConfigurationChanges]) -> Configuration:
    """A configuration under which LLMs are taken out."""
    return replace(config(**changes), first_probe_ms=1_000, probe_ms=4_000)


SETTINGS = acting(unanswered_ms=UNANSWERED_MS, max_attempts=3, checkpoint_every=2)


def asked(offset: int, at_ms: int = 0) -> Arrived:
    """A query for which large is best, then medium, then small."""
    return query(offset, at_ms=at_ms, quality=[0.9, 0.8, 0.7], cost_micros=[10.0, 10.0, 10.0])


def only_large(offset: int, at_ms: int = 0) -> Arrived:
    """A query that only large is worth."""
    return query(offset, at_ms=at_ms, quality=[0.9, 0.0, 0.0], cost_micros=[10.0, 10.0, 10.0])


def failed(offset: int, error_class: ErrorClass | None, at_ms: int = 100, **changes: Any) -> Input:
    """The first attempt of this query at large has failed."""
    changes = {"error_class": error_class, "at_ms": at_ms, "retry": asked(offset, at_ms), **changes}
    return failure(offset, f"0-{offset}-1", "large", **changes)


def sent(drive: Drive) -> list[str]:
    """The LLMs of the dispatches, in order."""
    return [dispatch.llm for dispatch in drive.dispatches]


def switches(drive: Drive) -> list[tuple[str, str, str | None]]:
    return [(one.llm, one.state, one.error_class) for one in drive.decided(Switched)]


# What follows


NEXT: list[tuple[ErrorClass, str | None, str | None]] = [
    ("rate_limited", "medium", None),
    ("overloaded", "medium", None),
    ("timeout", "medium", None),
    ("unreachable", "medium", None),
    ("context_length", "medium", None),
    ("content_filter", None, "filtered"),
    ("refused_request", "medium", None),
    ("quota", "medium", None),
    ("auth", "medium", None),
    ("misconfigured", "medium", None),
    ("bad_answer", "medium", None),
]


@pytest.mark.parametrize(("error_class", "llm", "deferred"), NEXT)
def test_what_follows_each_class(error_class: ErrorClass, llm: str | None, deferred: str | None) -> None:
    """The next LLM, or a deferral with its reason."""
    drive = Drive(acting(max_attempts=3, defers_filtered=True)).run([asked(0), failed(0, error_class)])
    assert sent(drive)[1:] == ([llm] if llm else [])
    assert [one.reason for one in drive.deferred] == ([deferred] if deferred else [])


def test_every_class_is_in_the_table() -> None:
    """A new class needs a row."""
    assert {row[0] for row in NEXT} == set(get_args(ErrorClass))


def test_a_filtered_request_goes_on_if_the_settings_say_so() -> None:
    """`routing.after_content_filter = "next_llm"`."""
    drive = Drive(acting(defers_filtered=False)).run([asked(0), failed(0, "content_filter")])
    assert sent(drive) == ["large", "medium"]


CONTEXTS = [
    ("more is known", {"large": 8_000, "medium": 4_000, "small": 32_000}, ["large", "small"]),
    ("as much is not more", {"large": 8_000, "medium": 8_000, "small": 8_001}, ["large", "small"]),
    ("what is not known may be more", {"large": 8_000}, ["large", "medium"]),
    ("nothing is known", {}, ["large", "medium"]),
    ("nobody has more", {"large": 8_000, "medium": 4_000, "small": 8_000}, ["large"]),
]


@pytest.mark.parametrize(("known", "llms"), [case[1:] for case in CONTEXTS], ids=[case[0] for case in CONTEXTS])
def test_a_request_that_is_too_long_goes_to_more_context(known: dict[str, int], llms: list[str]) -> None:
    """Without one it is deferred as failed."""
    drive = Drive(acting(context_tokens=known)).run([asked(0), failed(0, "context_length")])
    assert sent(drive) == llms
    assert [one.reason for one in drive.deferred] == (["failed"] if len(llms) == 1 else [])


def test_a_later_attempt_remembers_that_the_request_is_long() -> None:
    """Another failure does not bring back the LLMs with less context."""
    known = {"large": 8_000, "medium": 32_000, "small": 4_000}
    drive = Drive(acting(context_tokens=known, max_attempts=3)).run([asked(0), failed(0, "context_length"), CRASH])
    again = failure(1, "0-0-2", "medium", error_class="refused_request", at_ms=200, retry=asked(0, 200))
    drive.run([again])
    assert sent(drive) == ["large", "medium"]
    assert [one.reason for one in drive.deferred] == ["failed"]


ONCE_MORE: list[tuple[ErrorClass | None, bool]] = [
    ("timeout", True),
    ("unreachable", True),
    ("overloaded", True),
    ("refused_request", False),
    ("bad_answer", False),
    ("quota", False),
    (None, False),
]


@pytest.mark.parametrize(("error_class", "again"), ONCE_MORE)
def test_the_only_llm_is_asked_once_more(error_class: ErrorClass | None, again: bool) -> None:
    """Where the same call may succeed, with a reservation of its own, up to max_attempts."""
    drive = Drive(acting(max_attempts=2)).run([only_large(0)])
    drive.run([failed(0, error_class, retry=only_large(0, 100))])
    assert sent(drive) == ["large"] * (1 + again)


def test_an_llm_without_time_for_a_call_is_not_asked_once_more() -> None:
    """The deadline leaves it even less time then."""
    drive = Drive(acting(max_attempts=2)).run([only_large(0)])
    drive.run([failed(0, "timeout", remarks=("deadline",), retry=only_large(0, 100))])
    assert sent(drive) == ["large"]


# Who is taken out


OUT: list[tuple[str, Sequence[Input], list[tuple[str, str, str | None]]]] = [
    ("no money is left", [asked(0), failed(0, "quota")], [("large", "out", "quota")]),
    ("the key is refused", [asked(0), failed(0, "auth")], [("large", "out", "auth")]),
    ("the address is wrong", [asked(0), failed(0, "misconfigured")], [("large", "out", "misconfigured")]),
    (
        "the provider names a time to wait",
        [asked(0), failed(0, "rate_limited", retry_after_ms=5_000)],
        [("large", "out", "rate_limited")],
    ),
    (
        "its server loads its model",
        [asked(0), failed(0, "overloaded", remarks=("loading",))],
        [("large", "out", "overloaded")],
    ),
    (
        "failure after failure",
        [*(asked(n) for n in range(FAILURES)), *(failed(n, "timeout") for n in range(FAILURES))],
        [("large", "out", "timeout")],
    ),
    ("one failure less", [*(asked(n) for n in range(9)), *(failed(n, "timeout") for n in range(FAILURES - 1))], []),
    (
        "an answer between the failures",
        [
            *(asked(n) for n in range(9)),
            *(failed(n, "timeout") for n in range(4)),
            completion(4, "0-4-1", "large", at_ms=100),
            *(failed(n, "timeout") for n in range(5, 9)),
        ],
        [],
    ),
    (
        "requests that it does not take",
        [*(asked(n) for n in range(9)), *(failed(n, "context_length") for n in range(9))],
        [],
    ),
    (
        "limits that were reached",
        [*(asked(n) for n in range(9)), *(failed(n, "bad_answer", remarks=("limit_reached",)) for n in range(9))],
        [],
    ),
    (
        "calls of a worker that was killed",
        [*(asked(n) for n in range(9)), *(failed(n, "unreachable", remarks=("worker_lost",)) for n in range(9))],
        [],
    ),
    (
        "deadlines that leave no time for a call",
        [*(asked(n) for n in range(9)), *(failed(n, "timeout", remarks=("deadline",)) for n in range(9))],
        [],
    ),
    ("nobody answers", [asked(0), Unanswered(2_000, 0, 1, asked(0, 2_000))], [("large", "out", None)]),
    ("its worker leaves it", [asked(0), Withdrawn(0, 100, "large", "auth", "w-1")], [("large", "out", "auth")]),
]


@pytest.mark.parametrize(("events", "expected"), [case[1:] for case in OUT], ids=[case[0] for case in OUT])
def test_who_is_taken_out(events: Sequence[Input], expected: list[tuple[str, str, str | None]]) -> None:
    """The next query goes to another LLM. The record says who was out."""
    drive = Drive(SETTINGS).run([*events, CRASH, asked(50, 1_000)])
    assert switches(drive) == expected
    routed = drive.decided(Routed)[-1]
    assert (routed.llm, routed.out) == (("medium", ("large",)) if expected else ("large", ()))


def test_a_query_in_a_hurry_takes_nobody_out() -> None:
    """Half of a short deadline says little about an LLM: it counts as one failure."""
    hurried = query(0, at_ms=0, quality=[0.9, 0.8, 0.7], cost_micros=[10.0] * 3, deadline_ms=1_000)
    drive = Drive(SETTINGS).run([hurried, Unanswered(500, 0, 1, hurried)])
    assert switches(drive) == []
    assert drive.router.view.breakers["large"].failures == 1


def test_without_an_llm_in_use_the_query_is_deferred() -> None:
    """As `unavailable`; it may be sent again."""
    drive = Drive(SETTINGS).run([only_large(0), failed(0, "quota", retry=only_large(0, 100)), only_large(1, 200)])
    assert [(one.reason, one.remedy.code) for one in drive.deferred][-1] == ("unavailable", "send_again")


# Probes


def test_one_query_at_a_time_is_the_probe_and_an_answer_closes_the_breaker() -> None:
    """The first after first_probe_ms, then one in probe_ms, and ever more seldom."""
    drive = Drive(SETTINGS).run([asked(0), failed(0, "quota")])
    times = (1_099, 1_100, 1_200, 5_099, 5_100, 13_099, 13_100)
    for number, at_ms in enumerate(times, start=1):
        drive.run([asked(number, at_ms), CRASH])
    probed = [dispatch.origin.offset for dispatch in drive.dispatches if dispatch.llm == "large"]
    assert probed == [0, 2, 5, 7]
    drive.run([completion(9, "0-7-1", "large", at_ms=13_200), asked(20, 13_300)])
    assert switches(drive)[-1] == ("large", "back", None)
    assert sent(drive)[-1] == "large"


def test_a_probe_that_fails_leaves_the_llm_out() -> None:
    """And the query of the probe goes on to another LLM."""
    drive = Drive(SETTINGS).run([asked(0), failed(0, "quota"), asked(1, 1_100), failed(1, "quota", at_ms=1_200)])
    assert switches(drive) == [("large", "out", "quota"), ("large", "probed", "quota")]
    assert sent(drive) == ["large", "medium", "large", "medium"]


def test_a_time_that_a_provider_names_is_kept_up_to_a_limit() -> None:
    """A day is not waited for."""
    for retry_after_ms, wait_ms in ((5_000, 5_000), (0, 1_000), (86_400_000, MOST_OUT_MS)):
        drive = Drive(SETTINGS).run([asked(0), failed(0, "rate_limited", retry_after_ms=retry_after_ms)])
        assert drive.router.view.breakers["large"].until_ms == 100 + wait_ms


BEFORE: list[tuple[str, Input, bool]] = [
    ("nobody had answered", Unanswered(2_000, 0, 1, asked(0, 2_000)), True),
    ("the key was refused", Withdrawn(0, 2_000, "large", "auth", "w"), False),
]


@pytest.mark.parametrize(("out", "back"), [case[1:] for case in BEFORE], ids=[case[0] for case in BEFORE])
def test_an_answer_to_a_dispatch_of_before(out: Input, back: bool) -> None:
    """It proves that somebody answers again, but not that a key is taken again."""
    drive = Drive(SETTINGS).run([asked(0), asked(1), out, completion(7, "0-1-1", "large", at_ms=2_100)])
    assert (("large", "back", None) in switches(drive)) == back


# Messages of inference workers


def test_an_llm_that_is_not_configured_is_a_dead_letter() -> None:
    """It is recorded as ignored, and nobody is taken out."""
    drive = Drive(SETTINGS).run([Withdrawn(0, 100, "nobody", "auth", "w")])
    assert [(one.code, one.llm) for one in drive.decided(Ignored)] == [("unknown_llm", "nobody")]
    assert switches(drive) == []


UNAVAILABLE = [
    ({"unavailable": "large", "error_class": "auth", "worker": "w-1"}, ("large", "auth", "w-1")),
    ({"unavailable": "large", "error_class": "nonsense", "worker": 7}, ("large", "misconfigured", "")),
    ({"unavailable": "large"}, ("large", "misconfigured", "")),
    ({"unavailable": "", "error_class": "auth"}, None),
    ({"unavailable": 5}, None),
    ({"unavailable": "large", "dispatch_id": "0-0-1"}, None),
]


@pytest.mark.parametrize(("fields", "expected"), UNAVAILABLE)
def test_how_a_message_of_a_worker_is_read(fields: dict[str, object], expected: tuple[str, str, str] | None) -> None:
    """Only the LLM has to be named."""
    read = read_unavailable(fields)
    assert (None if read is None else (read.unavailable, read.error_class, read.worker)) == expected


# The proof


def story() -> list[Input]:
    """Failures of every class, a worker that leaves its LLM, silence, probes that fail and one that is answered."""
    classes = get_args(ErrorClass)
    events: list[Input] = [asked(n, n) for n in range(len(classes))]
    events += [failed(n, one, at_ms=200 + n) for n, one in enumerate(classes)]
    events += [Withdrawn(20, 400, "medium", "auth", "w-1"), Withdrawn(21, 401, "nobody", "auth", "w-1")]
    events += [asked(n, 300 * n) for n in range(20, 60)]
    made = Drive(SETTINGS).run(events).dispatches
    late = [one for one in made if one.origin.offset >= 20]
    events += [
        Unanswered(20_000, one.origin.offset, one.attempt, asked(one.origin.offset, 20_000)) for one in late[::5]
    ]
    events += [completion(30 + n, one.id, one.llm, at_ms=20_100 + n) for n, one in enumerate(late[1::3])]
    return [*events, *(asked(n, 400 * n) for n in range(60, 70)), tick(90_000)]


def test_it_is_verified_and_replayed() -> None:
    """By a lane that crashed at every step, from its beginning and from a checkpoint."""
    drive = Recorded(SETTINGS).run(item for event in story() for item in (event, CRASH))
    records = drive.topics()["decisions"]
    assert {one.state for one in drive.decided(Switched)} == {"out", "probed", "back"}
    assert prove(drive.topics()).findings == []
    for start in (0, len(records) // 2):
        found = replayed(records[start:], ledger=ledger_of(drive.log))
        assert found.mismatch is None
        assert found.compared > 0
    assert Drive(SETTINGS).run([story()]).outcome() == Drive(SETTINGS).run(story()).outcome()  # type: ignore[list-item]


def test_what_if_nothing_were_changed_is_what_happened() -> None:
    """The other side takes out and takes back the same LLMs."""
    played = play(Drive(SETTINGS).run(story()), Change())
    assert played.other.deferred == played.real.deferred
    assert played.other.llms == played.real.llms


def test_a_version_that_took_nobody_out_is_replayed_as_it_was() -> None:
    """Without the settings of probes, nobody is taken out."""
    drive = Drive(config(max_attempts=3)).run(event for event in story() if not isinstance(event, Withdrawn))
    assert drive.decided(Switched) == []
