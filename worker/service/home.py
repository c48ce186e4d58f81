"""Whether a lane is where its books belong, and whether all records that it has not read are still there.

The ledger knows offsets, and an offset means something only in the topic that it was an offset of. So the ledger keeps
its home: the ids of its topics, the number of partitions and the consumer group (`contract.messages.Home`). A lane that
finds another home does not open: new records would be taken for old ones, budgets would be split twice, or two groups
would fence each other. `tollgate ledger accept` and `tollgate ledger rebuild` write a new home.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from worker.contract.errors import FixSetting
from worker.contract.messages import Configuration, Home, Offsets
from worker.contract.settings import Settings
from worker.contract.topic_names import TopicNames
from worker.core.events import Event, Reconfigured, Removed
from worker.core.lane_view import LaneView
from worker.kafka.reader import Reader
from worker.service.rows import read_configuration

LOST = "docs/how-to/lost-topics.md"
REBUILD = f"bring its topic back, or make it from the decisions with `tollgate ledger rebuild` ({LOST})"
REMEDIES = {
    "queries": f"bring the topic back, or go on in the new one with `tollgate ledger accept queries` ({LOST})",
    "completions": f"bring the topic back, or go on in the new one with `tollgate ledger accept completions` ({LOST})",
    "decisions": f"bring the topic back, or go on in the new one with `tollgate ledger accept decisions` ({LOST})",
    "ledger": REBUILD,
}


def topics_of_home(topics: TopicNames) -> dict[str, str]:
    """The topics that a lane's books belong to: their names in the home, and in Kafka."""
    return {
        "queries": topics.queries,
        "completions": topics.completions,
        "ledger": topics.ledger,
        "decisions": topics.decisions,
    }


def find_home(reader: Reader, settings: Settings) -> Home:
    """Where these settings are at home now. Raises FixSetting if a topic is missing, and CheckBroker."""
    names = topics_of_home(settings.topics)
    ids = reader.topic_ids(names.values())
    if missing := sorted(name for name in names.values() if name not in ids):
        raise FixSetting(f"{', '.join(missing)}: missing; see {LOST}, or create it with `tollgate topics create`")
    return Home(settings.kafka.group, settings.kafka.partitions, {name: ids[topic] for name, topic in names.items()})


def opening_events(
    reader: Reader, settings: Settings, view: LaneView, configuration: Configuration, now_ms: int
) -> list[Event]:
    """The first events of a lane that was just restored: what has left its inputs unread, and another configuration.

    Raises FixSetting if its books belong elsewhere, are lost, or do not fit its inputs; and CheckBroker.
    """
    configured = replace(configuration, home=check_books(reader, settings, view))
    events: list[Event] = [*removed(reader, settings.topics, view, now_ms)]
    return events if view.config == configured else [*events, Reconfigured(now_ms, configured)]


def check_books(reader: Reader, settings: Settings, view: LaneView) -> Home:
    """Where a lane that was just restored is at home. Raises FixSetting if its books belong elsewhere, are lost, or do
    not fit its inputs; and CheckBroker."""
    partition, topics, now = view.partition, settings.topics, find_home(reader, settings)
    if view.config is None:
        check_first_start(reader, settings, partition, now)
    else:
        check_home(partition, topics, view.config, now)
    check_inputs(reader, topics, partition, view.offsets)
    return now


def check_home(partition: int, topics: TopicNames, config: Configuration, now: Home) -> None:
    """Raise FixSetting with each way in which the books of a lane belong elsewhere.

    Books that an older version wrote have no home: they take the one they are in.
    """
    if config.home is not None and (problems := [*differences(partition, topics, config.home, now)]):
        raise FixSetting("\n".join(problems))


def differences(partition: int, topics: TopicNames, home: Home, now: Home) -> Iterator[str]:
    """What is not as in the home, each with its remedy."""
    if home.group != now.group:
        yield wrong_group(partition, topics.ledger, home.group, now.group)
    if home.partitions != now.partitions:
        yield (
            f"kafka.partitions: is {now.partitions}, but {topics.ledger}/{partition} has a share of budgets that are "
            f"split over {home.partitions}, so more than the budgets would be spent; set kafka.partitions = "
            f"{home.partitions}. If `queries` has more partitions now, {LOST} says how to go back"
        )
    for name, topic in topics_of_home(topics).items():
        if home.topic_ids[name] != now.topic_ids[name]:
            yield (
                f"{topic}/{partition}: was made anew: its topic id is {now.topic_ids[name]}, but the ledger belongs to "
                f"{home.topic_ids[name]}; {REMEDIES[name]}"
            )


def wrong_group(partition: int, ledger: str, theirs: str, ours: str) -> str:
    """Two groups would each own every lane of one ledger, and fence each other for ever."""
    return (
        f"kafka.group: is {ours}, but {ledger}/{partition} belongs to the group {theirs}; set kafka.group = {theirs}, "
        "or another kafka.topic_prefix for another system. To rename the group, stop all workers and run "
        "`tollgate ledger accept group`"
    )


def check_first_start(reader: Reader, settings: Settings, partition: int, now: Home) -> None:
    """Raise FixSetting if a lane without books is not a new one: its ledger was lost, or it was added to others."""
    topics, ledger = settings.topics, settings.topics.ledger
    written = [(topic, partition) for topic in topics.written(settings.llms)]
    oldest, ends = reader.oldest(written), reader.ends(written)
    for place in written:
        # Offsets alone say nothing: an aborted transaction takes some too.
        if oldest[place] < ends[place] and any(True for _ in reader.read_partition(*place)):
            raise FixSetting(
                f"{ledger}/{partition}: is empty, but {place[0]}/{partition} has records, so this is no first start: "
                f"the ledger was lost; {REBUILD}"
            )
    places = [(ledger, other) for other in range(settings.kafka.partitions) if other != partition]
    used = [place for place, end in reader.ends(places).items() if end > 0]
    for place in used:
        if (config := read_configuration(reader, *place)) is not None:
            check_home(place[1], topics, config, now)
            return


def check_inputs(reader: Reader, topics: TopicNames, partition: int, applied: Offsets) -> None:
    """Raise FixSetting if an input ends before what the ledger has applied: new records would be taken for old ones."""
    inputs = {(topics.queries, partition): applied.queries, (topics.completions, partition): applied.completions}
    ends = reader.ends(inputs)
    for (topic, _), offset in inputs.items():
        if (end := ends[topic, partition]) <= offset:
            raise FixSetting(
                f"{topic}/{partition}: ends at offset {end}, but the ledger has applied {offset}: the topic lost its "
                f"end; {REMEDIES['queries' if topic == topics.queries else 'completions']}"
            )


def removed(reader: Reader, topics: TopicNames, view: LaneView, at_ms: int) -> list[Removed]:
    """What has left the inputs of a lane before the lane had read it."""
    if view.config is None:
        # A new lane begins with what is there.
        return []
    partition, applied = view.partition, view.offsets
    oldest = reader.oldest([(topics.queries, partition), (topics.completions, partition)])
    queries, completions = oldest[topics.queries, partition], oldest[topics.completions, partition]
    found = []
    if queries > applied.queries + 1:
        found.append(Removed("queries", queries, at_ms))
    if completions > applied.completions + 1:
        found.append(Removed("completions", completions, at_ms))
    return found
