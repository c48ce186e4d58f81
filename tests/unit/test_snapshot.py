"""Restoring: a router brought back from what it wrote goes on exactly as if it had never stopped."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.drive import LLMS, NOT_A_QUERY, PRIOR, CompletionChanges, Drive, completion, config, query, tick
from worker.contract.accounts import Account, Hold
from worker.contract.decisions import Checkpoint
from worker.contract.errors import FixSetting
from worker.contract.messages import FORMAT, AccountRow, Reservation
from worker.core.events import Effects, Event, Reconfigured, Refused
from worker.core.ledger import BrokenInvariant
from worker.core.router import Router
from worker.core.snapshot import LaneState, read_rows

ROWS = 40
reservation = msgspec.msgpack.Decoder(Reservation).decode
account = msgspec.msgpack.Decoder(AccountRow).decode
encode = msgspec.msgpack.encode


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Queries, right and wrong completions, refused records, expiries and new settings, in order of time."""
    events: list[Event] = []
    queries = completions = at_ms = 0
    for kind in draw(st.lists(st.sampled_from("qqqqccertb"), max_size=ROWS)):
        at_ms += draw(st.sampled_from([0, 50, 400, 4_000]))
        if kind == "q":
            repeated = draw(st.sampled_from([None, None, "again"]))
            deadline_ms = draw(st.sampled_from([None, at_ms, at_ms + 2_000]))
            events.append(query(queries, at_ms=at_ms, query_id=repeated, deadline_ms=deadline_ms))
            queries += 1
        elif kind in "ce":
            origin, llm = draw(st.integers(0, max(queries - 1, 0))), draw(st.sampled_from(LLMS))
            again = query(origin, at_ms=at_ms) if draw(st.booleans()) else None
            stated = draw(st.sampled_from([None, 10, 2_000]))
            fields: CompletionChanges = {"at_ms": at_ms, "ok": kind == "c", "retry": again, "stated_micros": stated}
            dispatch_id = f"0-{origin}-{draw(st.integers(1, 2))}"
            events.append(completion(completions, dispatch_id, llm, **fields))
            completions += 1
        elif kind == "r":
            events.append(Refused("queries", queries, at_ms, NOT_A_QUERY))
            queries += 1
        elif kind == "t":
            events.append(tick(at_ms))
        else:
            budgets = dict.fromkeys(LLMS, draw(st.integers(0, 9_000)))
            changed = config(budget_micros=budgets, window_queries=1 + at_ms % 40, checkpoint_every=1)
            events.append(Reconfigured(at_ms, changed))
    return events


def published(effects: Effects) -> tuple[object, ...]:
    """All that a transaction publishes, to the byte."""
    return effects.dispatches, effects.deferred, effects.refused, effects.ignored, effects.decisions, effects.rows


@settings(max_examples=60, print_blob=True)
@given(events=histories(), cut=st.integers(0, ROWS), policy=st.sampled_from(["priced", "port"]))
def test_a_restored_router_goes_on_as_the_original(events: list[Event], cut: int, policy: str) -> None:
    """Router.restored and the router that wrote the rows publish the same for whatever comes next."""
    drive = Drive(config(policy=policy)).run(events[:cut])
    restored = Router.restored(0, PRIOR, read_rows(drive.rows))
    assert [published(restored.handle([event])) for event in events[cut:]] == [
        published(drive.router.handle([event])) for event in events[cut:]
    ]


@settings(max_examples=60, print_blob=True)
@given(events=histories(), cut=st.integers(0, ROWS))
def test_a_checkpoint_is_enough_to_go_on(events: list[Event], cut: int) -> None:
    """From the last checkpoint in `decisions`, as replay begins: the same decisions as from then on."""
    drive = Drive(config(checkpoint_every=1)).run([events[:cut]])
    replayed = from_checkpoint(drive)
    assert [replayed.handle([event]).dispatches for event in events[cut:]] == [
        drive.router.handle([event]).dispatches for event in events[cut:]
    ]


def from_checkpoint(drive: Drive) -> Router:
    parts = [decision for decision in drive.decisions if isinstance(decision, Checkpoint)]
    first = max(number for number, part in enumerate(parts) if part.part == 0)
    row, settings = parts[first].row, parts[first].config
    assert row is not None
    assert settings is not None
    reservations = [held for part in parts[first:] for held in part.reservations]
    closed = [dispatch for part in parts[first:] for dispatch in part.closed]
    window = dict(enumerate(parts[first].window))
    state = LaneState(row, settings, parts[first].accounts, reservations, closed, window)
    return Router.restored(0, PRIOR, state)


def test_no_rows_are_a_fresh_router() -> None:
    """The first owner of a partition finds an empty ledger."""
    assert Router.restored(0, PRIOR, read_rows({})).view.config is None


def test_rows_of_another_format_are_refused() -> None:
    """A ledger that a later version wrote is not decided on."""
    rows = Drive().run([query(0)]).rows
    rows["account"] = encode(msgspec.structs.replace(account(rows["account"]), format=FORMAT + 1))
    with pytest.raises(FixSetting, match="format 2"):
        Router.restored(0, PRIOR, read_rows(rows))


def test_a_restored_router_shows_what_the_original_shows() -> None:
    """The account row of its view is that of the ledger, but for the digest of the last transaction."""
    drive = Drive().run([query(0), query(1)])
    restored = Router.restored(0, PRIOR, read_rows(drive.rows)).view
    row = account(drive.rows["account"])
    assert msgspec.structs.replace(restored.account_row(), digest=row.digest) == row
    assert restored.open == drive.router.view.open
    assert restored.config == drive.router.view.config


def without_a_reservation(rows: dict[str, bytes]) -> None:
    del rows["reservation/0-0-1"]


def with_another_amount(rows: dict[str, bytes]) -> None:
    held = reservation(rows["reservation/0-0-1"])
    more = tuple(msgspec.structs.replace(hold, amount=hold.amount + 1) for hold in held.holds)
    rows["reservation/0-0-1"] = encode(msgspec.structs.replace(held, holds=more))


def with_a_reservation_of_nobody(rows: dict[str, bytes]) -> None:
    held = reservation(rows["reservation/0-0-1"])
    holds = (Hold("nobody", 1),)
    rows["reservation/0-9-1"] = encode(msgspec.structs.replace(held, dispatch_id="0-9-1", holds=holds))


def with_money_from_nowhere(rows: dict[str, bytes]) -> None:
    large = msgspec.msgpack.decode(rows["budget/0/large"], type=Account)
    rows["budget/0/large"] = encode(msgspec.structs.replace(large, spent=10**9))


@pytest.mark.parametrize(
    "damage", [without_a_reservation, with_another_amount, with_a_reservation_of_nobody, with_money_from_nowhere]
)
def test_rows_that_do_not_add_up_are_refused(damage: object) -> None:
    """A ledger that lost or gained a row is never decided on."""
    drive = Drive().run([query(0)])
    assert callable(damage)
    damage(drive.rows)
    with pytest.raises(BrokenInvariant, match="do not add up"):
        Router.restored(0, PRIOR, read_rows(drive.rows))
