"""Gives lanes a home again: a ledger made from the decisions, or topics that were made anew.

Both fence the lanes, change nothing that was decided, and record the new home in the chain, in one transaction for each
partition. Both may be run again after a failure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from msgspec import Struct
from msgspec.structs import replace

from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Replay, replay
from worker.contract import codec
from worker.contract.errors import CheckFailed
from worker.contract.messages import Configuration, Home
from worker.contract.record import Record, StoredRecord
from worker.contract.settings import Settings
from worker.core.events import Reconfigured
from worker.core.outbox import CLOSED_PREFIX, CONFIGURATION_KEY, RESERVATION_PREFIX, WINDOW_PREFIX, account_key
from worker.core.router import Prior, Router
from worker.core.snapshot import LaneState
from worker.kafka.reader import Place, Reader
from worker.kafka.refill import COPIED_FROM, FILLER, Refill
from worker.service.committer import Committer, Kafka
from worker.service.home import check_home, find_home, topics_of_home
from worker.service.metrics import Metrics
from worker.service.rows import last_account, read_configuration

# From the end of `decisions`, so many records are looked through for a checkpoint first.
TAIL_RECORDS, TAIL_GROWTH = 20_000, 10


class Rehomed(Struct, frozen=True):
    """What was done with one partition. `what` is `rebuilt`, `accepted`, or why there was nothing to do: `has_rows`,
    `no_decisions`, `at_home`. `copied` counts records of the inputs that were appended again."""

    partition: int
    what: str
    decisions: int = 0
    copied: int = 0


def rebuild(settings: Settings, prior: Prior, kafka: Kafka, refill: Refill) -> Iterator[Rehomed]:
    """Write the rows of each ledger partition that has none, as the decisions make them.

    Raises CheckFailed if a chain is broken, FixSetting, and CheckBroker.
    """
    refill.create([settings.topics.ledger])
    home = find_home(kafka.reader, settings)
    for partition in range(settings.kafka.partitions):
        yield _rebuild(partition, settings, prior, kafka, home)


def _rebuild(partition: int, settings: Settings, prior: Prior, kafka: Kafka, home: Home) -> Rehomed:
    if last_account(kafka.reader, settings.topics.ledger, partition) is not None:
        return Rehomed(partition, "has_rows")
    committer = Committer(partition, settings, Router(partition, prior), Metrics(), kafka)
    committer.fence()
    state = restored(kafka.reader, settings, partition, prior)
    if state is None:
        return Rehomed(partition, "no_decisions")
    moved = replace(state.config.home or home, topic_ids={**home.topic_ids})
    check_home(partition, settings.topics, replace(state.config, home=moved), home)
    router = Router.restored(partition, prior, state)
    configured = replace(state.config, home=home)
    committer.rewrite(router, rows_of(state), [Reconfigured(committer.clock.now_ms(), configured)])
    return Rehomed(partition, "rebuilt", state.row.decisions)


def restored(reader: Reader, settings: Settings, partition: int, prior: Prior) -> LaneState | None:
    """The state of a lane after its last decision; None if there is none. Raises CheckFailed if it cannot be known."""
    place = settings.topics.decisions, partition
    oldest, end = reader.oldest([place])[place], reader.ends([place])[place]
    count, result = TAIL_RECORDS, Replay(partition, place[0])
    while True:
        start = max(oldest, end - count)
        replay(result, reader.read_partition(*place, start), prior, Solutions(None))
        if result.start is not None or start <= oldest:
            break
        count, result = count * TAIL_GROWTH, Replay(partition, place[0])
    if result.mismatch is not None:
        raise CheckFailed(f"the ledger cannot be made from the decisions: {result.mismatch}")
    if result.router is None or result.start is None:
        if result.skipped:
            raise CheckFailed(f"{place[0]}/{partition}: has neither the beginning of the chain nor a whole checkpoint")
        return None
    return _state(result.router, 0 if result.start.row is None else result.start.row.sequence, result.compared)


def _state(router: Router, sequence: int, compared: int) -> LaneState:
    view = router.view
    assert view.config is not None, "a chain begins with a configuration"
    # How many transactions wrote the records is not known: not more than there are records.
    row = replace(view.account_row(), sequence=sequence + compared, digest=b"")
    return LaneState(row, view.config, view.accounts, list(view.open.values()), view.closed, view.window())


def rows_of(state: LaneState) -> dict[str, bytes]:
    """The rows of a ledger but for its account row, which ends the transaction."""
    rows = {CONFIGURATION_KEY: codec.encode(state.config)}
    rows |= {account_key(account.key): codec.encode(account) for account in state.accounts}
    rows |= {RESERVATION_PREFIX + one.dispatch_id: codec.encode(one) for one in state.reservations}
    rows |= {CLOSED_PREFIX + one.dispatch_id: codec.encode(one) for one in state.closed}
    return rows | {f"{WINDOW_PREFIX}{number}": codec.encode(block) for number, block in state.window.items()}


def accept(
    settings: Settings, prior: Prior, kafka: Kafka, refill: Refill, accepted: Collection[str]
) -> Iterator[Rehomed]:
    """Let the lanes go on in the home of these settings, if only the parts that are `accepted` are others.

    Raises FixSetting with what else is another, and CheckBroker.
    """
    names = topics_of_home(settings.topics)
    refill.create([names[name] for name in accepted if name in names])
    home = find_home(kafka.reader, settings)
    configs = {
        partition: config
        for partition in range(settings.kafka.partitions)
        if (config := read_configuration(kafka.reader, settings.topics.ledger, partition)) is not None
    }
    for partition, config in configs.items():
        taken = config if config.home is None else replace(config, home=_taken(config.home, home, accepted))
        check_home(partition, settings.topics, taken, home)
    for partition, config in configs.items():
        yield _accept(partition, settings, prior, kafka, refill, config, home)


def _taken(old: Home, new: Home, accepted: Collection[str]) -> Home:
    """The old home with the accepted parts of the new one."""
    ids = {name: new.topic_ids[name] if name in accepted else topic_id for name, topic_id in old.topic_ids.items()}
    return Home(new.group if "group" in accepted else old.group, old.partitions, ids)


def _accept(
    partition: int,
    settings: Settings,
    prior: Prior,
    kafka: Kafka,
    refill: Refill,
    config: Configuration,
    home: Home,
) -> Rehomed:
    if config.home == home:
        return Rehomed(partition, "at_home")
    old, topics = config.home, settings.topics
    committer = Committer(partition, settings, Router(partition, prior), Metrics(), kafka)
    committer.fence()
    committer.restore(prior)
    offsets, copied = committer.view.offsets, 0
    moved = {name for name, topic_id in home.topic_ids.items() if old is None or old.topic_ids[name] != topic_id}
    if "queries" in moved:
        copied += _go_on_behind(kafka.reader, refill, (topics.queries, partition), offsets.queries)
    if "completions" in moved:
        copied += _go_on_behind(kafka.reader, refill, (topics.completions, partition), offsets.completions)
    if "decisions" in moved:
        # A chain that begins at offset 0 is the whole chain. This one is not.
        _go_on_behind(kafka.reader, refill, (topics.decisions, partition), 0)
    events = [Reconfigured(committer.clock.now_ms(), replace(config, home=home))]
    committer.rewrite(committer.router, {}, events, with_checkpoint="decisions" in moved)
    return Rehomed(partition, "accepted", committer.view.decisions, copied)


def _go_on_behind(reader: Reader, refill: Refill, place: Place, applied: int) -> int:
    """Let a topic that was made anew begin behind the offset that was applied. What it held before is appended again.

    Returns how many records that were.
    """
    records = [*reader.read_partition(*place)]
    early = [record for record in records if record.offset <= applied and record.key != FILLER]
    copied = {_copied_from(record) for record in records}
    end = reader.ends([place])[place]
    refill.fill(place, max(0, applied + 1 - end))
    again = [record for record in early if record.offset not in copied]
    refill.append(place, again)
    refill.drop_before(place, applied + 1)
    return len(again)


def _copied_from(record: Record | StoredRecord) -> int | None:
    values = [value for name, value in record.headers if name == COPIED_FROM]
    return int(values[-1]) if values and values[-1] is not None and values[-1].isdigit() else None
