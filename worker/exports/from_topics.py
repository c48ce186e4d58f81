"""Makes history of what a running system decided, what it paid, and how its answers were judged.

One answer becomes one cell. Its prompt is in `queries`, its LLM and its cost in `decisions`. Its score is the mean of
what its judges say on `judgements`, else the quality that its completion brought. A cost that nobody told was booked
as reserved: here it is unknown. Where lanes explore, decisions say how likely each LLM was asked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from msgspec import Struct

from worker.contract import codec
from worker.contract.decisions import ChargedAgain, Closed, Decision, Routed
from worker.contract.dispatch_id import DispatchId
from worker.contract.judgements import Judgement, read_judgement
from worker.contract.messages import Query
from worker.contract.rejections import Limits, read_query
from worker.contract.requests import question
from worker.contract.settings import Settings
from worker.exports.convert import CostFrom, Result
from worker.exports.prompts import problem_of
from worker.exports.records import Answer, LeftOut, Reason
from worker.kafka.reader import Reader

MICROS_PER_USD = 1_000_000
KNOWN_COSTS = ("cost", "usage", "none")
UNNAMED = "(nobody)"


@dataclass
class Call:
    """A dispatch: what it is of, and how it ended. `left` says why it is no answer; `usd` None: nobody knows."""

    query_id: str
    offset: int
    llm: str
    at_ms: int
    probabilities: dict[str, float]
    left: Reason | None = "unfinished"
    usd: Decimal | None = None
    quality: float | None = None


class FromTopics(Struct, frozen=True):
    """Answers as rows of history, the dispatches and judgements that are left out, and the judgements of each judge."""

    results: list[Result]
    left: list[LeftOut]
    judges: dict[str, int]

    @property
    def judged(self) -> int:
        """Answers with a score."""
        return sum(one.score is not None for one in self.results)

    def reasons(self) -> dict[Reason, int]:
        """What is left out, by reason."""
        return dict(sorted(Counter(one.reason for one in self.left).items()))


class _Scores:
    """The newest score of each judge, by the dispatch or the query that it names."""

    def __init__(self) -> None:
        self.of_dispatch: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self.of_query: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self.judges: Counter[str] = Counter()
        self.used: set[str] = set()

    def add(self, judgement: Judgement) -> None:
        judge = judgement.by or UNNAMED
        self.judges[judge] += 1
        if judgement.dispatch_id is not None:
            self.of_dispatch[judgement.dispatch_id][judge] = judgement.quality
        elif judgement.query_id is not None:
            self.of_query[judgement.query_id][judge] = judgement.quality

    def of(self, dispatch_id: str, query_id: str, is_last: bool) -> Decimal | None:
        """The mean over the judges of an answer. What is said of a query is said of its last answer."""
        told = {**self.of_query.get(query_id, {})} if is_last else {}
        told |= self.of_dispatch.get(dispatch_id, {})
        self.used |= {dispatch_id} | ({query_id} if is_last else set())
        return Decimal(str(sum(told.values()) / len(told))) if told else None

    def unused(self) -> list[str]:
        """What was judged and is no answer."""
        return sorted((self.of_dispatch.keys() | self.of_query.keys()) - self.used)


def read_topics(settings: Settings, reader: Reader, has_judgements: bool = True, by: str | None = None) -> FromTopics:
    """Read the topics of a system. With `by`, only this judge's scores count. Raises CheckBroker."""
    scores, left = _Scores(), list[LeftOut]()
    if has_judgements:
        left += _judgements(settings, reader, scores, by)
    results: list[Result] = []
    for partition in range(settings.kafka.partitions):
        calls = _calls(settings, reader, partition)
        prompts = _prompts(settings, reader, partition, {one.offset for one in calls.values() if one.left is None})
        rows, others = _rows(calls, prompts, scores)
        results += rows
        left += others
    left += [LeftOut(id_, "judgement_without_row") for id_ in scores.unused()]
    return FromTopics(results, left, dict(scores.judges))


def _judgements(settings: Settings, reader: Reader, scores: _Scores, by: str | None) -> Iterator[LeftOut]:
    topic = settings.topics.judgements
    records = [
        record
        for partition in range(settings.kafka.partitions)
        for record in reader.read_partition(topic, partition)
        if record.value is not None
    ]
    # A judge may use several partitions.
    for record in sorted(records, key=lambda one: one.timestamp):
        judgement = read_judgement(record.value, settings.limits.max_completion_bytes)
        if judgement is None:
            yield LeftOut(f"{topic}/{record.partition}/{record.offset}", "unreadable")
        elif by is None or judgement.by == by:
            scores.add(judgement)


def _calls(settings: Settings, reader: Reader, partition: int) -> dict[str, Call]:
    """Every dispatch of a partition by its id, in the order of the decisions."""
    calls: dict[str, Call] = {}
    for record in reader.read_partition(settings.topics.decisions, partition):
        if record.value is not None:
            _decided(calls, partition, codec.decode_decision(record.value))
    return calls


def _decided(calls: dict[str, Call], partition: int, decision: Decision) -> None:
    if isinstance(decision, Routed) and decision.llm is not None:
        id_ = str(DispatchId(partition, decision.offset, decision.attempt))
        likely = decision.probabilities
        calls[id_] = Call(decision.query_id, decision.offset, decision.llm, decision.at_ms, likely)
    elif isinstance(decision, Closed | ChargedAgain) and (call := calls.get(decision.dispatch_id)) is not None:
        is_answer = isinstance(decision, ChargedAgain) or decision.outcome == "settled"
        failed = decision.error is not None or not is_answer
        if call.left is None and isinstance(decision, ChargedAgain):
            # A further answer to what was answered: the first is the row.
            return
        call.left = "error" if failed else None
        call.quality = decision.quality
        call.usd = Decimal(decision.spent_micros) / MICROS_PER_USD if decision.basis in KNOWN_COSTS else None


def _prompts(settings: Settings, reader: Reader, partition: int, wanted: set[int]) -> dict[int, str]:
    """The texts of these queries by their offsets, as far as `queries` still has them."""
    limits = Limits.of_queries(settings.limits)
    texts: dict[int, str] = {}
    for record in reader.read_partition(settings.topics.queries, partition, min(wanted)) if wanted else ():
        query = read_query(record, limits) if record.offset in wanted else None
        text = question(query) if isinstance(query, Query) else None
        if text is not None:
            texts[record.offset] = text
    return texts


def _known(usd: Decimal | None) -> CostFrom:
    return "unknown" if usd is None else "stated"


def _rows(calls: Mapping[str, Call], prompts: Mapping[int, str], scores: _Scores) -> tuple[list[Result], list[LeftOut]]:
    """The answers of a partition. Of answers of one LLM to one query, the newest is the row."""
    left = [LeftOut(id_, call.left) for id_, call in calls.items() if call.left is not None]
    last = {call.query_id: id_ for id_, call in calls.items() if call.left is None}
    rows: dict[tuple[str, str], tuple[str, Result]] = {}
    for id_, call in calls.items():
        if call.left is not None:
            continue
        prompt = prompts.get(call.offset)
        if (problem := problem_of(prompt)) is not None:
            left.append(LeftOut(id_, problem))
            continue
        score = scores.of(id_, call.query_id, last[call.query_id] == id_)
        if score is None and call.quality is not None:
            score = Decimal(str(call.quality))
        answer = Answer(id_, call.query_id, call.llm, prompt, call.usd, at_ms=call.at_ms)
        if (old := rows.pop((call.query_id, call.llm), None)) is not None:
            left.append(LeftOut(old[0], "duplicate"))
        result = Result(answer, call.llm, score, call.usd, _known(call.usd), call.probabilities)
        rows[call.query_id, call.llm] = id_, result
    return [result for _, result in rows.values()], left
