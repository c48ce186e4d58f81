"""The topics' limits: whatever the settings accept from outside, the topics take when it goes out again."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic

from worker.contract import codec, dead_letters, sentences
from worker.contract.codes import Lack, Rejection, Remedy
from worker.contract.errors import CheckBroker
from worker.contract.messages import Deferred, Dispatch, Origin, Query
from worker.contract.record import Headers, StoredRecord, header_bytes
from worker.contract.settings import MAX_JSON_QUERY_BYTES, KafkaSettings, LimitSettings, RoutingSettings, Settings
from worker.kafka import admin, clients, demands
from worker.kafka.clients import MAX_MESSAGE_BYTES

BATCH_OVERHEAD_BYTES = 100
SETTINGS = Settings.model_validate({"llms": {"a": {"budget_usd": 1}}})
LEAST = {"max_query_bytes": 1_000, "max_completion_bytes": 1_000, "max_dead_letter_bytes": 1_000}
LIMITS = [
    ("the defaults", {}),
    ("the least", LEAST),
    ("large headers", {**LEAST, "max_header_bytes": 1_000_000}),
    ("large queries", {"max_query_bytes": 2_000_000, "max_dead_letter_bytes": 2_000_000}),
]


def size(key: bytes | str | None, value: bytes | None, headers: Headers) -> int:
    """What a record takes up, at most."""
    own = sum(map(header_bytes, headers))
    return BATCH_OVERHEAD_BYTES + len(key or b"") + len(value or b"") + own


def growing(limits: LimitSettings) -> StoredRecord:
    """A query of the largest size, in JSON that grows most as MessagePack, and headers as large as may be."""
    start, end = b'{"id":"' + b"i" * 256 + b'","body":{"a":[1e1', b"]}}"
    numbers = (limits.max_query_bytes - len(start) - len(end)) // 4
    headers = [("h", b"x" * (limits.max_header_bytes - 11))]
    return StoredRecord("queries", 0, 10**12, 0, None, start + b",1e1" * numbers + end, headers)


@pytest.mark.parametrize("changes", [c[1] for c in LIMITS], ids=[c[0] for c in LIMITS])
def test_what_is_accepted_can_be_published(changes: dict[str, int]) -> None:
    """Topics take the largest query as a dispatch and as a deferred query, and a record of any size as a dead
    letter."""
    settings = Settings(llms=SETTINGS.llms, limits=LimitSettings.model_validate(changes))
    limits, names, wanted = settings.limits, settings.topics, admin.wanted(settings)
    record = growing(limits)
    codec.check_headers(record, limits.max_header_bytes)
    query = codec.decode_query(record.value, limits.max_query_bytes, limits.max_nesting)
    assert isinstance(query, Query), query
    raw, name, origin = codec.query_payload(record.value, query), query.id or "", Origin(1_000, 10**12)
    dispatch = codec.encode(Dispatch("1000-9-9", name, "a" * 249, origin, 9, 2**60, 0.1, 2**60, 0.1, 2**60, raw))
    lacking = Remedy("raise_budget", {f"{number}{name}": (Lack(name, "requests", 2**60),) for number in range(5)})
    text = sentences.deferral("exhausted", lacking)
    deferred = codec.encode(Deferred(name, origin, 9, "exhausted", lacking, "a" * 249, 0.1, text, raw))
    huge = StoredRecord("q" * 249, 0, 0, 0, b"k" * 10**7, b"v" * 10**7, [("h", b"x" * 100)] * 50_000)
    letter = dead_letters.dead_letter(
        huge, Rejection("unknown_field", 2**60, "𝛌" * 100), limits.max_dead_letter_bytes, limits.max_header_bytes
    )
    passed = codec.outgoing_headers(record.headers)
    sizes = {
        names.dispatch("a"): size("1000-9-9", dispatch, passed),
        names.deferred: size(name, deferred, passed),
        names.dead_letters: size(letter.key, letter.value, letter.headers),
    }
    limit = {topic: int(config.get("max.message.bytes", 0)) for topic, config in wanted.items()}
    too_large = {topic: length for topic, length in sizes.items() if length > limit[topic]}
    assert too_large == {}, f"limits {limit}"
    too_small = {topic: limit[topic] for topic in names.written(settings.llms) if limit[topic] < admin.BATCH_BYTES}
    assert too_small == {}, f"a batch has {admin.BATCH_BYTES} bytes"


GROWING_AS_JSON: list[tuple[str, bytes]] = [
    ("false", b"\xc2"),
    ("control characters", b"\xa1\x00"),
    ("a short number", b"\xca\x00\x80\x00\x01"),
    ("nulls with an empty name", b"\x81\xa0\xc0"),
]


@pytest.mark.parametrize("element", [c[1] for c in GROWING_AS_JSON], ids=[c[0] for c in GROWING_AS_JSON])
@pytest.mark.parametrize("largest", [1_000_000, pytest.param(MAX_JSON_QUERY_BYTES, marks=pytest.mark.long)])
def test_a_dispatch_in_json_can_be_published(element: bytes, largest: int) -> None:
    """Also where JSON needs most for one byte of MessagePack, and at the highest limit that is accepted."""
    limits = LimitSettings(max_query_bytes=largest, max_dead_letter_bytes=largest)
    kafka = KafkaSettings(dispatch_format="json")
    settings = Settings(llms=SETTINGS.llms, limits=limits, kafka=kafka)
    count = (largest - 1_000) // len(element)
    body = b"\x81\xa4body\x81\xa1a\xdd" + count.to_bytes(4, "big") + element * count
    decoded = codec.decode_query(body, largest, 64)
    assert isinstance(decoded, Query), f"{decoded}"
    query = codec.query_payload(body, decoded)
    value = codec.encode_dispatch(
        Dispatch("1000-9-9", "q" * 256, "a" * 249, Origin(1_000, 10**12), 9, 2**60, 0.1, 2**60, 0.1, 2**60, query),
        "json",
    )
    limit = int(admin.wanted(settings)[settings.topics.dispatch("a")]["max.message.bytes"])
    record_bytes = size("1000-9-9", value, [("h", b"x" * (limits.max_header_bytes - 11))])
    assert record_bytes <= limit, f"{largest} bytes grew to {record_bytes}"
    assert limit <= MAX_MESSAGE_BYTES, "the producer refuses it"


def test_a_limit_that_json_does_not_fit_is_refused() -> None:
    """A larger query could not be published, and would stop its lane."""
    limits = LimitSettings(max_query_bytes=MAX_JSON_QUERY_BYTES + 1, max_dead_letter_bytes=MAX_JSON_QUERY_BYTES + 1)
    with pytest.raises(ValueError, match="dispatch_format"):
        Settings(llms=SETTINGS.llms, limits=limits, kafka=KafkaSettings(dispatch_format="json"))


def test_the_producers_limit_is_above_every_topics() -> None:
    """The producer takes what the topics take, also when every limit is set as high as it may be."""
    most = {
        name: next(bound.le for bound in field.metadata if hasattr(bound, "le"))
        for name, field in LimitSettings.model_fields.items()
        if name.startswith("max_") and name.endswith("_bytes")
    }
    wanted = admin.wanted(Settings(llms=SETTINGS.llms, limits=LimitSettings.model_validate(most)))
    assert max(int(config.get("max.message.bytes", 0)) for config in wanted.values()) <= MAX_MESSAGE_BYTES


GOOD = {
    "cleanup.policy": "delete",
    "max.message.bytes": "1048576",
    "message.timestamp.type": "CreateTime",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "min.insync.replicas": "1",
}
WANT = {"cleanup.policy": "delete"}
WRONG: list[tuple[str, dict[str, str], dict[str, str], bool]] = [
    ("cleanup.policy is compact", WANT, {"cleanup.policy": "compact"}, True),
    ("max.message.bytes is 1048576", {**WANT, "max.message.bytes": "2000000"}, {}, True),
    ("message.timestamp.type is CreateTime", {**WANT, "message.timestamp.type": "LogAppendTime"}, {}, True),
    ("retention.ms is 60000", WANT, {"retention.ms": "60000"}, False),
    ("retention.bytes is 100", WANT, {"retention.bytes": "100"}, False),
]


@pytest.mark.parametrize(("said", "want", "changes", "stops"), WRONG, ids=[case[0] for case in WRONG])
def test_a_setting_of_a_topic_that_loses_tears_or_refuses(
    said: str, want: dict[str, str], changes: dict[str, str], stops: bool
) -> None:
    """It is named with its value; only what would stop or tear decisions keeps a worker from starting."""
    [problem] = demands.problems("queries", want, 3_600_000, GOOD | changes)
    assert said in str(problem)
    assert problem.stops == stops


def test_settings_that_keep_what_is_needed_are_no_problem() -> None:
    """Also where nothing has to be kept, and where everything is kept."""
    assert [*demands.problems("queries", WANT, 604_800_000, GOOD)] == []
    assert [*demands.problems("dead-letters", WANT, 0, GOOD | {"retention.ms": "1", "retention.bytes": "1"})] == []
    assert [*demands.problems("queries", WANT, 10**12, GOOD | {"retention.ms": "-1"})] == []


REPLICAS: list[tuple[int, int, str, bool]] = [
    (1, 1, "", False),
    (2, 1, "", False),
    (3, 2, "", False),
    (1, 2, "nothing can be written", True),
    (3, 1, "lost with it", False),
    (3, 3, "while a broker is down", False),
]


@pytest.mark.parametrize(("replicas", "in_sync", "said", "stops"), REPLICAS)
def test_replicas(replicas: int, in_sync: int, said: str, stops: bool) -> None:
    """Two of three must have a record; one more than there are can never have it."""
    found = [*demands.replication("ledger", replicas, {"min.insync.replicas": str(in_sync)})]
    assert [(said in str(problem), problem.stops) for problem in found] == ([(True, stops)] if said else [])


def test_three_replicas_are_made_so_that_two_have_each_record() -> None:
    """`topics create` sets what `topics check` asks for."""
    settings = Settings(llms=SETTINGS.llms, kafka=KafkaSettings(replication_factor=3))
    assert {config["min.insync.replicas"] for config in admin.wanted(settings).values()} == {"2"}


def test_inputs_are_kept_for_every_attempt() -> None:
    """A query is read again when its dispatch fails, up to the last attempt's time."""
    routing = RoutingSettings(max_attempts=3, reservation_seconds=600)
    kept = admin.kept_ms(Settings(llms=SETTINGS.llms, routing=routing))
    assert (kept["queries"], kept["completions"], kept["dispatch.a"]) == (1_800_000, 1_800_000, 600_000)


class Racing:
    """An admin client to which another's topics are not visible yet."""

    def __init__(self, code: int) -> None:
        self._code = code

    def list_topics(self, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(topics={})

    def create_topics(self, new: list[NewTopic], request_timeout: float) -> dict[str, Future[None]]:
        futures = {topic.topic: Future[None]() for topic in new}
        for name, future in futures.items():
            if name == "ledger":
                future.set_exception(KafkaException(KafkaError(self._code)))
            else:
                future.set_result(None)
        return futures


def test_a_topic_that_another_made_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that create the topics at the same time both succeed; each returns the topics that it made
    itself."""
    monkeypatch.setattr(clients, "admin_client", lambda _: Racing(KafkaError.TOPIC_ALREADY_EXISTS))
    made = admin.create(SETTINGS)
    assert set(admin.wanted(SETTINGS)) - set(made) == {"ledger"}


def test_a_topic_that_the_broker_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other refusal raises CheckBroker."""
    monkeypatch.setattr(clients, "admin_client", lambda _: Racing(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(CheckBroker, match="could not be created"):
        admin.create(SETTINGS)
