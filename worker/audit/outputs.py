"""What the decisions of one partition must have published, against what its other topics hold. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

from msgspec import Raw

from worker.audit.expected import Expected, Met
from worker.audit.passed import Passed
from worker.contract import codec
from worker.contract.messages import Decision, Deferred, Dispatch, Ignored, Origin, Rejected, Routed
from worker.contract.record import Record
from worker.contract.topic_names import TopicNames
from worker.core.deferral import best, remedy

ATTEMPTS = 256
LETTER_HEADERS = "__connect.errors."


class Publications:
    """Dispatches, deferred queries and dead letters: each must be in its topic once, as its decision says.

    Records are told apart by integers: query offset and attempt, or for dead letters input offset and topic.
    """

    def __init__(self, partition: int, topics: TopicNames) -> None:
        self.partition = partition
        self.topics = topics
        self.gone: dict[str, int] = {}
        self.passed = Passed()
        self._expected: dict[str, Expected] = {}
        self._unexplained: dict[tuple[str, int], int] = {}
        self._names: dict[str, str] = {}

    def expect(self, decision: Decision, llms: Sequence[str]) -> None:
        """A decision up to the cut; `llms` is the order of its estimates."""
        place = self._place(decision)
        if place is not None:
            self._expected.setdefault(place[0], Expected()).expect(place[1], _content(decision, llms))

    def read(self, record: Record, base: tuple[int, int]) -> str | None:
        """A record of one of the topics; returns what is wrong with it.

        What follows from query and completion offsets up to `base` was decided before the audit begins.
        """
        try:
            key, content = self._read(record)
        except (*codec.UNREADABLE, ValueError, KeyError) as error:
            return f"is not what this topic holds: {error}"
        met = self._expected.setdefault(record.topic, Expected()).meet(key, content)
        if met is Met.UNKNOWN:
            self._unknown(record, key, base)
        elif met is not Met.EXPECTED:
            return f"{self._name(record.topic, key)} {met.value}"
        return None

    def is_met(self, oldest: Mapping[str, int]) -> bool:
        """Whether all that is expected was read, but for topics that have lost their beginning."""
        return all(expected.unmet == 0 or oldest.get(topic, 0) > 0 for topic, expected in self._expected.items())

    @property
    def unexplained(self) -> bool:
        """Whether there are records that no decision up to the cut made: those after it must explain them."""
        return bool(self._unexplained)

    def explain(self, decision: Decision) -> None:
        """A decision after the cut: it explains what followed from it."""
        place = self._place(decision)
        if place is not None:
            self._unexplained.pop(place, None)

    def end(self, oldest: Mapping[str, int]) -> Iterator[tuple[str, int | None, str]]:
        """After the last record: yields (topic, offset, what is wrong). `oldest` are the topics' first offsets."""
        for topic, expected in self._expected.items():
            self.gone[topic], missing = expected.missing(oldest.get(topic, 0) > 0)
            for key in missing:
                yield topic, None, f"{self._name(topic, key)} is missing"
        for (topic, key), offset in self._unexplained.items():
            yield topic, offset, f"{self._name(topic, key)} {Met.UNKNOWN.value}"

    def _place(self, decision: Decision) -> tuple[str, int] | None:
        """The topic and the key of what a decision publishes."""
        match decision:
            case Routed(llm=str(llm)):
                return self._dispatch_topic(llm), decision.offset * ATTEMPTS + decision.attempt
            case Routed():
                return self.topics.deferred, decision.offset * ATTEMPTS + decision.attempt
            case Rejected():
                return self.topics.dead_letters, 2 * decision.offset + (decision.topic == "completions")
            case Ignored():
                return self.topics.dead_letters, 2 * decision.offset + 1
        return None

    def _read(self, record: Record) -> tuple[int, Hashable]:
        value = record.value or b""
        if record.topic == self.topics.dead_letters:
            return self._letter(record)
        if record.topic == self.topics.deferred:
            return self._deferred(record, codec.decode_deferred(value))
        return self._dispatch(record, codec.decode_dispatch(value))

    def _deferred(self, record: Record, deferred: Deferred) -> tuple[int, Hashable]:
        offset, said = deferred.origin.offset, (deferred.query_id, deferred.reason, deferred.remedy)
        self._check_passed(record, deferred.query_id, deferred.origin, deferred.query)
        return offset * ATTEMPTS + deferred.attempt, (*said, deferred.best_llm, deferred.best_score)

    def _dispatch(self, record: Record, dispatch: Dispatch) -> tuple[int, Hashable]:
        self._check_passed(record, dispatch.id, dispatch.origin, dispatch.query)
        offset, attempt = dispatch.origin.offset, dispatch.attempt
        if dispatch.id != f"{self.partition}-{offset}-{attempt}":
            raise ValueError(f"the id {dispatch.id} is not of this origin and attempt")
        money = (dispatch.query_id, dispatch.llm, dispatch.reserved_micros, dispatch.deadline_ms)
        return offset * ATTEMPTS + attempt, (*money, dispatch.quality, dispatch.cost_micros, dispatch.price)

    def _letter(self, record: Record) -> tuple[int, Hashable]:
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        self._check_origin(int(headers[f"{LETTER_HEADERS}partition"]))
        completion = headers[f"{LETTER_HEADERS}topic"] == self.topics.completions
        offset = int(headers[f"{LETTER_HEADERS}offset"])
        self.passed.letter(completion, offset, record)
        return 2 * offset + completion, headers[f"{LETTER_HEADERS}exception.message"]

    def _check_passed(self, record: Record, key: str, origin: Origin, query: Raw) -> None:
        self._check_origin(origin.partition)
        if record.key != key.encode():
            raise ValueError(f"its key is not {key}")
        if not self.passed.query(origin.offset, query):
            raise ValueError("it carries another query than an earlier one of this origin")

    def _check_origin(self, partition: int) -> None:
        if partition != self.partition:
            raise ValueError(f"it comes from partition {partition}")

    def _unknown(self, record: Record, key: int, base: tuple[int, int]) -> None:
        letter = record.topic == self.topics.dead_letters
        offset, applied = (key // 2, base[key % 2]) if letter else (key // ATTEMPTS, base[0])
        if offset > applied:
            self._unexplained[record.topic, key] = record.offset

    def _dispatch_topic(self, llm: str) -> str:
        if llm not in self._names:
            self._names[llm] = self.topics.dispatch(llm)
        return self._names[llm]

    def _name(self, topic: str, key: int) -> str:
        if topic == self.topics.dead_letters:
            return f"the dead letter of {'completions' if key % 2 else 'queries'} offset {key // 2}"
        kind = "deferral" if topic == self.topics.deferred else "dispatch"
        return f"{kind} {self.partition}-{key // ATTEMPTS}-{key % ATTEMPTS}"


def _content(decision: Decision, llms: Sequence[str]) -> Hashable:
    """What the record that follows from a decision must say."""
    match decision:
        case Routed(llm=str(llm)):
            i = llms.index(llm) if llm in llms else len(llms)
            money = (decision.query_id, llm, decision.reserved_micros, decision.deadline_ms)
            chosen = slice(i, i + 1)
            return (*money, *decision.quality[chosen], *decision.cost_micros[chosen], *decision.prices[chosen])
        case Routed():
            return decision.query_id, decision.reason, remedy(decision), *best(decision, llms)
        case Rejected() | Ignored():
            return decision.reason
    return None
