"""What the decisions of one partition must have published, compared with its output topics and its inputs. Pure.

Every dispatch, deferred query and dead letter must be in its topic exactly once, as its decision says. A deferral
carries its query as it came in. A dispatch carries it without the embedding. A dead letter holds the bytes and the key
of its record.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Raw

from worker.audit.decision_events import topic_of
from worker.audit.mismatch import Mismatch
from worker.contract import codec, dead_letters
from worker.contract.codes import Rejection, Remedy
from worker.contract.decisions import Decision, Ignored, Rejected, Routed
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Deferred, Dispatch, Offsets, Origin
from worker.contract.record import Record
from worker.contract.rejections import Limits, read_query
from worker.contract.topic_names import TopicNames
from worker.core.deferral import best, remedy

REASON = (dead_letters.LETTER_CODE, dead_letters.LETTER_LIMIT, dead_letters.LETTER_DETAIL)
# The query of a deferral whose query has left its topic.
NIL = b"\xc0"
# A deferral carries the whole query; a dispatch carries it without the embedding, in one of two formats.
Form = Literal["whole"] | codec.Format
FORMS: tuple[Form, ...] = ("whole", *codec.FORMATS)


class AttemptKey(NamedTuple):
    """What a dispatch or a deferral follows from: an attempt of the query at this offset."""

    offset: int
    attempt: int


class RecordKey(NamedTuple):
    """What a dead letter follows from: the record at this offset of `queries` or `completions`."""

    topic: str
    offset: int


Key = AttemptKey | RecordKey


class ExpectedRecords:
    """The records that must be in one partition of an output topic, crossed off as they are read.

    The content of a record is kept as its hash: an integer of 32 bytes in place of some 500 bytes of names and numbers,
    for each record that was ever published. `missing` counts the records that were not read yet.
    """

    def __init__(self) -> None:
        self.missing = 0
        self._content: dict[Key, int | None] = {}
        self._first_read: Key | None = None

    def expect(self, key: Key, content: Hashable) -> None:
        """A record with this key and content must be there."""
        self._content[key] = hash(content)
        self.missing += 1

    def expects(self, key: Key) -> bool:
        """Whether a record with this key must be there."""
        return key in self._content

    def read(self, key: Key, content: Hashable) -> str | None:
        """Cross off a record that is expected; returns what is wrong with it."""
        wanted = self._content[key]
        if wanted is None:
            return "is there twice"
        self._content[key] = None
        self.missing -= 1
        self._first_read = self._first_read or key
        return None if wanted == hash(content) else "does not say what its decision says"

    def unread(self, shortened: bool) -> tuple[int, list[Key]]:
        """How many records have left the topic by its retention, and the keys of those that should be there.

        `shortened`: the topic has lost its beginning, so what was expected before the first record read has left it.
        """
        gone, missing, leaving = 0, [], shortened
        for key, content in self._content.items():
            leaving = leaving and key != self._first_read
            if content is not None and leaving:
                gone += 1
            elif content is not None:
                missing.append(key)
        return gone, missing


class Outputs:
    """The output topics of one partition. `oldest` maps topics to their first offsets; set it before reading them.

    `gone` counts, by topic, records that have left it. `payloads` are the queries and dead letters that were read.
    """

    def __init__(self, partition: int, names: TopicNames) -> None:
        self.oldest: Mapping[str, int] = {}
        self.gone: dict[str, int] = {}
        self.payloads = Payloads()
        self._partition = partition
        self._names = names
        self._topics: dict[str, ExpectedRecords] = {}
        self._unexplained: dict[tuple[str, Key], int] = {}
        self._dispatch_topics: dict[str, str] = {}

    # From the decisions

    def expect(self, decision: Decision, llms: Sequence[str]) -> None:
        """What a decision publishes must be there; `llms` is the order of its estimates."""
        if (place := self._place(decision)) is not None:
            topic, key = place
            self._topics.setdefault(topic, ExpectedRecords()).expect(key, _content(decision, llms))

    def explain(self, decision: Decision) -> None:
        """A later decision explains what it published, which no decision before it did."""
        if (place := self._place(decision)) is not None:
            self._unexplained.pop(place, None)

    def _place(self, decision: Decision) -> tuple[str, Key] | None:
        """The topic and the key of what a decision publishes."""
        names = self._names
        match decision:
            case Routed(llm=str(llm)):
                return self._dispatch_topic(llm), AttemptKey(decision.offset, decision.attempt)
            case Routed():
                return names.deferred, AttemptKey(decision.offset, decision.attempt)
            case Rejected():
                return names.dead_letters, RecordKey(topic_of(decision), decision.cause.number)
            case Ignored():
                return names.dead_letters, RecordKey("completions", decision.cause.number)
        return None

    def _dispatch_topic(self, llm: str) -> str:
        if llm not in self._dispatch_topics:
            self._dispatch_topics[llm] = self._names.dispatch(llm)
        return self._dispatch_topics[llm]

    # From the topics

    @property
    def is_complete(self) -> bool:
        """Whether all that is expected was read, but for topics that have lost their beginning."""
        return all(topic.missing == 0 or self.oldest.get(name, 0) > 0 for name, topic in self._topics.items())

    @property
    def is_explained(self) -> bool:
        """Whether every record that was read follows from a decision."""
        return not self._unexplained

    def read(self, record: Record, base: Offsets) -> Mismatch | None:
        """Compare a record of one of the topics; returns what is wrong with it.

        What follows from input offsets up to `base` was decided before the audit begins.
        """
        try:
            key, content = self._decoded(record)
        except (*codec.UNREADABLE, ValueError) as error:
            return Mismatch(f"is not a record of this topic: {error}")
        topic = self._topics.setdefault(record.topic, ExpectedRecords())
        if not topic.expects(key):
            if key.offset > _base(key, base):
                self._unexplained[record.topic, key] = record.offset
            return None
        problem = topic.read(key, content)
        return None if problem is None else Mismatch(f"{self._name(record.topic, key)} {problem}")

    def end(self) -> Iterator[Mismatch]:
        """After the last record: what is missing, and what no decision explains."""
        for name, topic in self._topics.items():
            self.gone[name], missing = topic.unread(self.oldest.get(name, 0) > 0)
            for key in missing:
                yield Mismatch(f"{self._name(name, key)} is missing").at(name, self._partition, None)
        for (name, key), offset in self._unexplained.items():
            yield Mismatch(f"{self._name(name, key)} follows from no decision").at(name, self._partition, offset)

    def _name(self, topic: str, key: Key) -> str:
        if isinstance(key, RecordKey):
            return f"the dead letter of {key.topic} offset {key.offset}"
        kind = "deferral" if topic == self._names.deferred else "dispatch"
        return f"{kind} {DispatchId(self._partition, key.offset, key.attempt)}"

    # Decoding raises ValueError for records that no lane publishes.

    def _decoded(self, record: Record) -> tuple[Key, Hashable]:
        value = record.value or b""
        if record.topic == self._names.dead_letters:
            return self._letter(record)
        if record.topic == self._names.deferred:
            return self._deferred(record, codec.decode_deferred(value))
        return self._dispatch(record, codec.decode_dispatch(value), codec.format_of(value))

    def _deferred(self, record: Record, deferred: Deferred) -> tuple[Key, Hashable]:
        self._check_query(record, deferred.query_id, deferred.origin, deferred.query, "whole")
        said = (deferred.query_id, deferred.reason, _remedy(deferred.remedy), deferred.best_llm, deferred.best_score)
        return AttemptKey(deferred.origin.offset, deferred.attempt), said

    def _dispatch(self, record: Record, dispatch: Dispatch, form: Form) -> tuple[Key, Hashable]:
        self._check_query(record, dispatch.id, dispatch.origin, dispatch.query, form)
        offset, attempt = dispatch.origin.offset, dispatch.attempt
        if dispatch.id != str(DispatchId(self._partition, offset, attempt)):
            raise ValueError(f"the id {dispatch.id} is not of this origin and attempt")
        money = (dispatch.query_id, dispatch.llm, dispatch.reserved_micros, dispatch.deadline_ms)
        said = (*money, dispatch.quality, dispatch.cost_micros, dispatch.charge, *dispatch.tags.items())
        return AttemptKey(offset, attempt), said

    def _letter(self, record: Record) -> tuple[Key, Hashable]:
        headers = dead_letters.added_headers(record)
        if missing := [name for name in dead_letters.REQUIRED if name not in headers]:
            raise ValueError(f"it has no header {missing[0]}")
        self._check_partition(int(headers[dead_letters.LETTER_PARTITION]))
        topic = "completions" if headers[dead_letters.LETTER_TOPIC] == self._names.completions else "queries"
        key = RecordKey(topic, int(headers[dead_letters.LETTER_OFFSET]))
        self.payloads.letter(key, record, headers)
        return key, _reason(headers)

    def _check_query(self, record: Record, key: str, origin: Origin, query: Raw, form: Form) -> None:
        self._check_partition(origin.partition)
        if record.key != key.encode():
            raise ValueError(f"its key is not {key}")
        if not self.payloads.query(origin.offset, query, form):
            raise ValueError("it carries another query than an earlier one of this origin")

    def _check_partition(self, partition: int) -> None:
        if partition != self._partition:
            raise ValueError(f"it comes from partition {partition}")


def _reason(headers: Mapping[str, str]) -> Hashable:
    """The headers of a dead letter that say why in codes."""
    return tuple(headers.get(name) for name in REASON)


def _remedy(what: Remedy) -> Hashable:
    return what.code, *what.lacking.items(), *what.excluded.items()


def _base(key: Key, base: Offsets) -> int:
    return base.completions if isinstance(key, RecordKey) and key.topic == "completions" else base.queries


def _content(decision: Decision, llms: Sequence[str]) -> Hashable:
    """What the record that follows from a decision must say."""
    match decision:
        case Routed(llm=str(llm)):
            i = llms.index(llm) if llm in llms else len(llms)
            money = (decision.query_id, llm, decision.reserved_micros, decision.deadline_ms)
            chosen = slice(i, i + 1)
            terms = (*decision.quality[chosen], *decision.cost_micros[chosen], *decision.charges[chosen])
            return (*money, *terms, *decision.tags.items())
        case Routed():
            return decision.query_id, decision.reason, _remedy(remedy(decision)), *best(decision, llms)
        case Rejected() | Ignored():
            return _reason(dead_letters.reason_headers(decision))
    return None


class Payloads:
    """What was passed on of each input record, kept as hashes until the input is read."""

    def __init__(self) -> None:
        self._queries: dict[tuple[int, Form], int] = {}
        self._letters: dict[RecordKey, _Letter] = {}

    def query(self, offset: int, query: Raw, form: Form) -> bool:
        """A dispatch or a deferral carries this query; False if another of the same offset carries another query."""
        payload = bytes(query)
        return payload == NIL or self._queries.setdefault((offset, form), hash(payload)) == hash(payload)

    def letter(self, origin: RecordKey, letter: Record, headers: Mapping[str, str]) -> None:
        """The dead letter of an input record, with the headers that were added to it."""
        key_bytes = len(letter.key or b"") if dead_letters.CUT_KEY in headers else None
        value_bytes = len(letter.value or b"") if dead_letters.CUT_VALUE in headers else None
        content = hash((letter.key, letter.value))
        self._letters.setdefault(origin, _Letter(content, key_bytes, value_bytes))

    def differences(self, topic: str, record: Record) -> Iterator[Mismatch]:
        """Compare a record of `queries` or `completions` with what was passed on of it."""
        for form in FORMS if topic == "queries" else ():
            payload = self._queries.pop((record.offset, form), None)
            if payload is not None and payload != _payload(record, form):
                yield Mismatch("its dispatch or deferral carries another query")
        letter = self._letters.pop(RecordKey(topic, record.offset), None)
        if letter is not None and not letter.holds(record):
            yield Mismatch("its dead letter holds other bytes, or another key")


class _Letter(NamedTuple):
    """The hash of a dead letter's key and value, and to how many bytes each was cut (None: it was not cut)."""

    content: int
    key_bytes: int | None
    value_bytes: int | None

    def holds(self, record: Record) -> bool:
        """Whether it is the letter of this record."""
        return self.content == hash((_cut(record.key, self.key_bytes), _cut(record.value, self.value_bytes)))


def _cut(content: bytes | None, length: int | None) -> bytes | None:
    return content if length is None or content is None else content[:length]


def _payload(record: Record, form: Form) -> int | None:
    """The hash of the query that is passed on in this form; None if the record is not a query."""
    query = read_query(record, Limits())
    if isinstance(query, Rejection):
        return None
    whole = codec.query_payload(record.value, query)
    return hash(bytes(whole if form == "whole" else codec.dispatched_query(whole, form)))
