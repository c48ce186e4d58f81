"""What an explanation needs beside the decisions: the query as it came in, and its nearest neighbours in history."""

from __future__ import annotations

from worker import clients, index, wire
from worker.embedder import load_embedder
from worker.errors import CheckFailed, FixSetting
from worker.explanation import Explanation, Search
from worker.messages import Checkpoint
from worker.reader import Progress, Reader
from worker.record import StoredRecord
from worker.settings import Settings

Neighbours = list[tuple[str, float]]


def find(settings: Settings, query_id: str, progress: Progress) -> list[Explanation]:
    """What every partition decided about a query id. Reads all decisions. Raises CheckBroker, and CheckFailed
    for a record that is no decision."""
    searches = [Search(query_id, partition) for partition in range(settings.kafka.partitions)]

    def take(record: StoredRecord) -> None:
        try:
            decision = wire.decode_decision(record.value or b"")
        except wire.UNREADABLE as error:
            raise CheckFailed(f"{record.topic}/{record.partition} offset {record.offset}: {error}") from None
        search = searches[record.partition]
        if isinstance(decision, Checkpoint):
            search.adopt(decision.config)
        search.feed(record.offset, decision)

    with Reader(settings, progress) as reader:
        reader.read(reader.oldest((settings.topics.decisions, search.partition) for search in searches), take)
    return [found for search in searches if (found := search.found()) is not None]


def neighbours(settings: Settings, explanation: Explanation, count: int) -> Neighbours | str:
    """The nearest rows of history, (id, similarity); or why they cannot be told. Raises CheckBroker."""
    try:
        estimator = index.load(settings.index.directory)
    except FixSetting as error:
        return str(error)
    if estimator.manifest.index != explanation.index:
        return f"the index in {settings.index.directory} is not the one that was asked then ({explanation.index[:12]})"
    offset = explanation.attempts[0].decision.offset
    records = clients.read_partition(settings, settings.topics.queries, explanation.partition, offset, offset + 1)
    record = next((record for record in records if record.offset == offset), None)
    if record is None:
        return "the query has left its topic"
    limits = settings.limits
    query = wire.decode_query(record.value, limits.max_query_bytes, limits.max_nesting)
    embeddings, problems = wire.embedding_rows([query], estimator.manifest.dimension)
    if query.embedding is None:
        embedder = load_embedder(estimator.manifest.embedder)
        if embedder is None:
            return "the query has no embedding"
        embeddings, problems = embedder.embed([wire.query_text(query) or ""])
    return str(problems[0]) if problems[0] is not None else estimator.neighbours(embeddings[0], count)
