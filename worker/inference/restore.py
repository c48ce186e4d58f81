"""What the new owner of a partition has to know, so that it calls no LLM for a dispatch that is closed or was begun.

Partition p of four topics says it. `ledger`: which dispatches are open, and up to which completion that is known.
`completions` from there on: which are answered and not yet applied. `begun`: which calls had begun. So an answer above
the committed position, a new consumer group and lost offsets lead to no second call.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from worker.contract import codec
from worker.contract.answers import Begun
from worker.contract.messages import Dispatch
from worker.contract.settings import Settings
from worker.core.outbox import ACCOUNT_KEY
from worker.kafka.reader import Place, Reader

RESERVATION = b"reservation/"
JSON_OBJECT = b"{"
# A query whose calls died with their worker so often is not called again. Where more calls of a lane died together,
# none of them is blamed: the call of a busy worker that is killed has nothing to do with its death.
MOST_DEATHS, MOST_SUSPECTS = 3, 10

State = Literal["open", "closed", "answered", "lost"]


class Restored(Struct, frozen=True):
    """The dispatches of one lane as its topics told at one moment; `ends` are the ends of its LLMs' topics before.
    `suspects` is how many calls were open when their worker died."""

    ends: dict[str, int]
    open: set[str]
    answered: set[str]
    begun: dict[str, Begun]
    suspects: int = 0

    def state(self, topic: str, offset: int, dispatch_id: str) -> State:
        """What is to be done with a dispatch: only one that is open is called. A later dispatch is open."""
        if offset >= self.ends.get(topic, 0):
            return "open"
        if dispatch_id not in self.open:
            return "closed"
        if dispatch_id in self.answered:
            return "answered"
        return "lost" if dispatch_id in self.begun else "open"

    def lost_row(self, dispatch: Dispatch, worker: str, at_ms: int) -> Begun | None:
        """The row of a call that died with its worker; None where so many died that none is blamed."""
        is_suspect = self.suspects <= MOST_SUSPECTS
        return Begun(dispatch.id, dispatch.llm, worker, at_ms, lost=True) if is_suspect else None


def restore(settings: Settings, reader: Reader, partition: int, topics: list[str]) -> Restored:
    """Read what is known of the dispatches in `partition` of the `topics` of LLMs. Raises CheckBroker."""
    names = settings.topics
    # First the ends: what is dispatched later has its reservation in the ledger that is read then.
    places: list[Place] = [(topic, partition) for topic in topics]
    ends = {place[0]: end for place, end in reader.ends(places).items()}
    begun = read_begun(settings, reader, partition)
    opened, applied = set[str](), -1
    for record in reader.read_partition(names.ledger, partition):
        key = record.key or b""
        if key == ACCOUNT_KEY.encode() and record.value is not None:
            applied = codec.decode_account(record.value).offsets.completions
        elif key.startswith(RESERVATION):
            dispatch_id = key.removeprefix(RESERVATION).decode()
            (opened.add if record.value is not None else opened.discard)(dispatch_id)
    answered = {
        named
        for record in reader.read_partition(names.completions, partition, applied + 1)
        if (named := _dispatch_id(record.value)) is not None
    }
    lost = opened - answered
    return Restored(ends, opened, answered, begun, sum(name in lost and not one.lost for name, one in begun.items()))


def read_begun(settings: Settings, reader: Reader, partition: int) -> dict[str, Begun]:
    """The calls that have begun and were not published as ended, and those that were lost, by dispatch."""
    begun: dict[str, Begun] = {}
    for record in reader.read_partition(settings.topics.begun, partition):
        name = (record.key or b"").decode("utf-8", "replace")
        if record.value is None:
            begun.pop(name, None)
            continue
        try:
            begun[name] = decode_begun(record.value)
        except codec.UNREADABLE:
            continue
    return begun


def has_killed(settings: Settings, reader: Reader, dispatch: Dispatch) -> bool:
    """Whether calls of a dispatch's query died with their worker too often. Raises CheckBroker."""
    partition, offset = dispatch.origin.partition, dispatch.origin.offset
    return deaths(read_begun(settings, reader, partition), partition, offset) >= MOST_DEATHS


def deaths(begun: dict[str, Begun], partition: int, offset: int) -> int:
    """How many calls of the query at this place were lost with their worker, in all its dispatches."""
    prefix = f"{partition}-{offset}-"
    return sum(one.lost for name, one in begun.items() if name.startswith(prefix))


decode_begun = msgspec.msgpack.Decoder(Begun).decode


def _dispatch_id(value: bytes | None) -> str | None:
    """The dispatch that a completion names; None for bytes that name none."""
    try:
        fields: Any = (msgspec.json if (value or b"").startswith(JSON_OBJECT) else msgspec.msgpack).decode(value or b"")
    except codec.UNREADABLE:
        return None
    named = fields.get("dispatch_id") if isinstance(fields, dict) else None
    return named if isinstance(named, str) else None
