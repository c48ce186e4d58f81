"""What queries ask and whose they are is proven like the money: by `verify`, by a replay, and by `explain`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.drive import LLMS, PRIOR, completion, config, failure, query
from tests.topics import NAMES, Log, PartitionLog, Recorded, decided, record, value
from worker.audit.explain import Search
from worker.audit.ledger_view import LedgerView
from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Checks, Replay, replay
from worker.audit.verify import verify
from worker.contract import codec
from worker.contract.asks import Asks
from worker.contract.decisions import Routed
from worker.contract.messages import TagTotal
from worker.core import tags as tags_module

SETTINGS = config(
    unknown_model="ignore", features={"small": ()}, context_tokens={"medium": 50}, checkpoint_every=3, max_attempts=3
)
TEAM = {"team": "search"}
NEEDY = Asks(features=("tools",), context_tokens=60)


def told() -> Recorded:
    """Queries with tags and needs: served, failed and tried again, paid twice, without a candidate, and remarked."""
    again = query(0, asks=NEEDY, tags=TEAM)
    return Recorded(SETTINGS).run(
        [
            again,
            query(1, asks=Asks(deny=("large",)), tags=TEAM | {"env": "prod"}),
            query(2, asks=Asks(allow=()), tags=TEAM),
            query(3, asks=Asks(wish=("gpt-9",))),
            failure(0, "0-0-1", "large", retry=again),
            completion(1, "0-1-1", "medium"),
            completion(2, "0-1-1", "medium"),
            query(4, asks=Asks(wish=("gpt-9", "small"), dialects=("chat",)), tags={"user": "4"}),
        ]
    )


def proven(log: Log) -> list[str]:
    """What `verify` finds wrong."""
    return [finding.text for finding in verify(0, NAMES, LLMS, PartitionLog(log, 1_000, {})).findings]


def diverging(log: Log) -> str | None:
    """Where a replay, from the beginning or from a checkpoint, comes out differently."""
    ledger = LedgerView()
    for row in log[NAMES.ledger]:
        ledger.add(row)
    checks = Checks(read_ledger=lambda: ledger)
    result = replay(Replay(0, NAMES.decisions), log[NAMES.decisions], PRIOR, Solutions(SETTINGS.index), checks)
    return None if result.mismatch is None else result.mismatch.text


def test_it_is_proven() -> None:
    """Tags, needs and candidates come out again bit for bit, and their totals are those of the ledger."""
    log = told().topics()
    assert proven(log) == []
    assert diverging(log) is None


def test_it_is_proven_from_a_checkpoint() -> None:
    """A checkpoint holds the totals: a proof can begin there."""
    drive = told()
    log = drive.topics()
    kept = [kind for kind in log[NAMES.decisions] if b"checkpoint" in value(kind)]
    assert kept, "the story has a checkpoint"
    log[NAMES.decisions] = [one for one in log[NAMES.decisions] if one.offset >= kept[-1].offset]
    assert diverging(log) is None


@pytest.mark.parametrize("most", [1, 2])
def test_tags_that_share_a_total_are_proven(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Whoever adds up has the same tags in `(others)`."""
    monkeypatch.setattr(tags_module, "MOST_TAGS", most)
    monkeypatch.setattr("worker.audit.books.MOST_TAGS", most)
    drive = told()
    assert tags_module.OTHERS in drive.router.view.account_row().tags
    assert proven(drive.topics()) == []


def a_total(log: Log) -> None:
    last = log[NAMES.ledger][-1]
    row = codec.decode_account(value(last))
    changed = msgspec.structs.replace(row, tags=row.tags | {"team=search": TagTotal(3, 1)})
    log[NAMES.ledger][-1] = record(NAMES.ledger, last.offset, "account", codec.encode(changed))


def a_dispatch(log: Log) -> None:
    topic = NAMES.dispatch("medium")
    first = log[topic][0]
    dispatch = msgspec.structs.replace(codec.decode_dispatch(value(first)), tags={"team": "another"})
    log[topic][0] = record(topic, first.offset, dispatch.id, codec.encode(dispatch), codec.CONTENT_TYPE)


def a_deferral(log: Log) -> None:
    first = log[NAMES.deferred][0]
    deferred = codec.decode_deferred(value(first))
    remedy = msgspec.structs.replace(deferred.remedy, excluded={})
    changed = msgspec.structs.replace(deferred, remedy=remedy)
    log[NAMES.deferred][0] = record(NAMES.deferred, first.offset, deferred.query_id, codec.encode(changed))


@pytest.mark.parametrize("tamper", [a_total, a_dispatch, a_deferral])
def test_what_was_tampered_with_is_found(tamper: Callable[[Log], None]) -> None:
    """A changed total, a changed tag of a dispatch and a changed reason of a deferral are findings."""
    log = {topic: list(records) for topic, records in told().topics().items()}
    tamper(log)
    assert proven(log)


def test_explain_says_who_was_no_candidate() -> None:
    """Each LLM has its verdict, and a name that is no LLM is a note."""
    drive = told()
    verdicts = {}
    notes = {}
    for name in ("q0", "q2", "q3"):
        search = Search(name, 0)
        for one in decided(drive.decisions):
            search.feed(one)
        attempt = search.found()[0].attempts[0]
        verdicts[name] = {candidate.llm: candidate.verdict for candidate in attempt.candidates}
        notes[name] = attempt.note
    assert verdicts["q0"]["small"] == "it has no tools"
    assert verdicts["q0"]["medium"] == "the request is longer than its context_tokens"
    assert set(verdicts["q2"].values()) == {"the query does not allow it"}
    assert notes["q3"] == "the query names what is no LLM of the settings: gpt-9"


def test_only_what_decides_is_recorded() -> None:
    """A query that rules nobody out costs no byte more in its decision."""
    plain = Recorded(SETTINGS).run([query(0, asks=Asks(dialects=("chat",), context_tokens=5))])
    routed = plain.decided(Routed)[0]
    assert (routed.asks, routed.excluded, routed.remarks, routed.tags) == (None, {}, (), {})
