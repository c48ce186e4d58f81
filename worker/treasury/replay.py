"""Executes the treasury's chain of decisions once more, from the records that it has read. Pure.

The chain says in which order the treasury took records of different partitions, and when its owner's clock had a say.
It also has every period that began, so a replay asks no calendar.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from worker.contract.calendar import Every, Period
from worker.contract.control import read_control
from worker.contract.leases import decode_report
from worker.contract.treasury_records import (
    AccountEnded,
    AgainSaid,
    ControlRejected,
    ControlTaken,
    LanesSilent,
    LateBooked,
    PeriodBegun,
    ReportTaken,
    SettingsTaken,
    decode_treasury_decision,
)
from worker.treasury.events import Controlled, Publish, Reported, SettingsRead, Silence, TreasuryEvent
from worker.treasury.treasury import Treasury

# The last decision of each event: those before it say what else came of the event.
EventDecision = ReportTaken | ControlTaken | ControlRejected | SettingsTaken | LanesSilent | AgainSaid


class Divergence(NamedTuple):
    """The first decision that comes out otherwise, by its place in the chain. None: there is no decision."""

    number: int
    recorded: bytes | None
    replayed: bytes | None


def replay(
    decisions: Iterable[bytes],
    report: Callable[[int, int], bytes],
    control: Callable[[int], bytes | None],
) -> Divergence | None:
    """Where the chain differs from what a treasury decides on the same records; None: nowhere.

    `decisions` is the whole chain. `report` gives the value at an offset of a lane's partition of `asks`, and `control`
    that at an offset of `control`. Raises msgspec.MsgspecError for a record that is not what its topic holds.
    """
    periods: deque[Period] = deque()
    treasury = Treasury(_recorded(periods))
    group: list[bytes] = []
    done = 0
    for value in decisions:
        group.append(value)
        decision = decode_treasury_decision(value)
        match decision:
            case PeriodBegun():
                periods += [Period(0, 0, 0)] * decision.skipped
                periods.append(decision.period)
            case AccountEnded() | LateBooked():
                pass
            case _:
                effects = treasury.handle([_event(decision, report, control)])
                found = _differs(done, group, [record for _, record in effects.decisions])
                if found is not None:
                    return found
                done += len(group)
                group = []
                periods.clear()
    return Divergence(done, group[0], None) if group else None


def _differs(done: int, recorded: list[bytes], replayed: list[bytes]) -> Divergence | None:
    for number in range(max(len(recorded), len(replayed))):
        one, other = (each[number] if number < len(each) else None for each in (recorded, replayed))
        if one != other:
            return Divergence(done + number, one, other)
    return None


def _event(
    decision: EventDecision, report: Callable[[int, int], bytes], control: Callable[[int], bytes | None]
) -> TreasuryEvent:
    """The event that a decision was made for. The treasury's time then is as good as the record's own."""
    match decision:
        case ReportTaken():
            told = decode_report(report(decision.lane, decision.offset))
            return Reported(decision.lane, decision.offset, decision.at_ms, told)
        case ControlTaken() | ControlRejected():
            return Controlled(decision.offset, decision.at_ms, read_control(control(decision.offset)))
        case SettingsTaken():
            return SettingsRead(decision.at_ms, decision.budgets)
        case LanesSilent():
            return Silence(decision.recall)
        case AgainSaid():
            return Publish()


def _recorded(periods: deque[Period]) -> Callable[[Every, str, int], Period]:
    """A calendar that knows the recorded periods of one event, in the order in which they are asked for."""

    def calendar(_every: Every, _time_zone: str, at_ms: int) -> Period:
        # A chain that was cut or forged may have none: such a period diverges from the record.
        return periods.popleft() if periods else Period(0, 0, 2 * at_ms + 1)

    return calendar
