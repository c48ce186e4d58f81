"""What happens in the golden log: workers under changing settings, and every kind of query and completion."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.golden import files
from tests.golden.history import COST_MICROS, text, vector
from tests.kafka.talk import Talk, produce_raw
from worker.contract import codec
from worker.contract.accounts import Account
from worker.contract.messages import AccountRow, Dispatch, Offsets
from worker.contract.settings import Settings
from worker.core.outbox import ACCOUNT_KEY, RESERVATION_PREFIX, account_key
from worker.kafka import admin, clients
from worker.kafka.reader import KafkaReader
from worker.local.processes import wait_for
from worker.local.system import System, write_settings

pack = msgspec.msgpack.encode
NESTED = msgspec.Raw(b"\x91" * 200 + b"\x01")
SECONDS = 60.0
# The year 2100.
FAR_MS = 4_102_444_800_000
# A time in 1973.
EARLY_MS = 100_000_000_001

# What can be wrong with a query, whatever the index.
BAD_QUERIES: list[bytes | None] = [
    None,
    b"\xc1\xff\x00nonsense",
    pack({"text": "cut off"})[:-4],
    b'{"text": "cut off',
    pack({"text": 5}),
    pack({"deadline_ms": -1, "text": "x"}),
    pack({"txet": "misspelt"}),
    pack({"text": "x", "parameters": {"a": NESTED}}),
    b'{"text": "x", "parameters": {"a": 123456789012345678901234567890}}',
    pack({"text": "x" * 5_000}),
    '{"text": "x"}'.encode("utf-16"),
    gzip.compress(b'{"text": "x"}', mtime=0),
    b'[{"text": "x"}]',
    b'"{}"',
    b"\x00\x00\x00\x00\x07\x0aAvro?",
    b'{"text": "\\ud800"}',
    pack({"schema": {}, "payload": {"text": "x"}}),
    pack({"text": "x", "deadline_ms": 1_760_000_000}),
]
# The index of texts has embeddings of 256 numbers.
BAD_FOR_TEXTS: list[bytes | None] = [
    pack({"embedding": [float("nan")] * 256}),
    pack({"embedding": bytes(1024)}),
    pack({"embedding": bytes(512)}),
    pack({"embedding": (b"\x3f" + bytes(3)) * 256}),
    pack({"embedding": [0.5] * 256, "embedder": "another"}),
    pack({"embedding": bytes(100)}),
    pack({"embedding": [0.5] * 3}),
    pack({"id": "nothing"}),
    pack({"text": " "}),
    pack({"text": "\u200b"}),
]
BAD_FOR_VECTORS: list[bytes | None] = [pack({"text": "no embedding"}), pack({"embedding": [1.0, 2.0]})]
ANSWER = {"dispatch_id": "0-0-1", "origin_partition": 0, "llm": "large", "status": "ok"}
BAD_COMPLETIONS: list[bytes | None] = [
    None,
    b"\xc1",
    pack({**ANSWER, "cost_micros": -1}),
    pack({**ANSWER, "cost_micros": 2**60}),
    pack({**ANSWER, "status": "well"}),
    pack({**ANSWER, "origin_partition": 1, "dispatch_id": "1-0-1"}),
    pack({**ANSWER, "dispatch_id": "none"}),
    pack({**ANSWER, "dispatch_id": "0-999999-1", "cost_micros": 5}),
    pack({**ANSWER, "surprise": 1}),
    pack({name: value for name, value in ANSWER.items() if name != "llm"}),
    pack({**ANSWER, "usage": {"a": NESTED}}),
    pack({**ANSWER, "error": "x" * 5_000}),
    pack({**ANSWER, "usage": {"prompt_tokens": -1, "completion_tokens": 2}}),
    pack({**ANSWER, "usage": {"prompt_tokens": 1, "completion_tokens": "two"}}),
    pack({**ANSWER, "usage": {"input_tokens": 99_000_000, "output_tokens": 99_000_000}}),
    pack(
        {
            **ANSWER,
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}},
        }
    ),
]


class Script:
    """Drives one system. `texts` and `vectors` are indexes."""

    def __init__(self, system: System, texts: Path, vectors: Path) -> None:
        self._system = system
        self._texts, self._vectors = texts, vectors
        self._talks: list[Talk] = []
        self._last = {(topic, n): -1 for topic in ("queries", "completions") for n in range(files.PARTITIONS)}
        self._answered: set[str] = set()
        self._numbers, self._turns = itertools.count(), itertools.count()
        self._answers = itertools.cycle(ANSWERS)

    def run(self) -> Settings:
        """Everything, in order; returns the last settings."""
        self._observe_on_vectors()
        self._serve_on_texts()
        self._lower_the_budgets()
        self._let_reservations_expire()
        self._stay_silent()
        return self._fail_after_retention()

    # The parts

    def _observe_on_vectors(self) -> None:
        """The policy `port` draws at random, on an index whose embeddings queries bring."""
        small = {**files.LIMITS, "max_query_bytes": 2_000}
        self._start(self._vectors, 0.02, small, policy="port", horizon_queries=60, observe_share=0.5)
        self._query(pack({"text": "x" * 3_000}))
        for value in BAD_FOR_VECTORS:
            self._query(value)
        for _ in range(40):
            number = next(self._numbers)
            self._query(pack({"id": f"v{number}", "embedding": vector(number)}))
        self._answer_all()

    def _serve_on_texts(self) -> None:
        """The policy `priced`: queries of all forms, all that can be wrong with them, and all kinds of answers."""
        self._start(self._texts, 0.04, resolve_every_queries=20)
        for number in range(60):
            self._query(self._form(number))
            if number < len(bad := [*BAD_QUERIES, *BAD_FOR_TEXTS]):
                self._query(bad[number], key=b"k%d" % number)
        self._query(pack({"id": "large headers", "text": text(1)}), headers=[("h", b"x" * 3_000)])
        produce_raw(self._settings, 0, [(pack({"text": "a header whose name is not UTF-8"}), True)])
        self._last["queries", 0] += 1
        self._query(pack({"id": "late", "text": text(2), "deadline_ms": EARLY_MS}))
        for _ in range(2):
            self._query(pack({"id": "twice", "text": text(3)}), partition=0)
        for value in BAD_COMPLETIONS:
            self._completion(value)
        self._answer_all()

    def _lower_the_budgets(self) -> None:
        """Budgets below what is spent, so that queries are priced out. Then budgets for three queries each, and prices
        that count on one query: the others find no LLM that can reserve."""
        self._start(self._texts, 0.01, resolve_every_queries=20)
        self._queries(10)
        budgets = {llm: files.PARTITIONS * (self._spent(llm) + 3 * COST_MICROS[llm]) / 1e6 for llm in files.LLMS}
        self._start(self._texts, budgets, horizon_queries=0, horizon_floor_queries=1, resolve_every_queries=1_000)
        self._queries(40)
        self._answer_all()

    def _let_reservations_expire(self) -> None:
        """Nobody answers in time; the answers come later and are booked as late. The worker is killed in between."""
        self._start(self._texts, 0.5, reservation_seconds=1, resolve_every_queries=20)
        self._queries(20)
        waiting = self._unanswered()
        wait_for("reservations to expire", lambda: not self._is_open(waiting), SECONDS, every_seconds=0.3)
        self._system.workers[-1].kill()
        self._system.workers.clear()
        self._system.start_workers(1)
        for talk, dispatch in waiting:
            self._answer(talk, dispatch, status="ok", cost_micros=1)
        self._settle()

    def _stay_silent(self) -> None:
        """Queries go on without the answers of their dispatches, or are deferred. The calls of some had begun. Some are
        answered twice, some after the expiry, some never."""
        # Beyond the answers that cost the limit: each LLM can be asked again.
        self._start(self._texts, 100_000.0, reservation_seconds=30, unanswered_seconds=3, resolve_every_queries=20)
        before = {dispatch.id for _, dispatch in self._unanswered()}
        self._queries(12)

        def made(attempt: int) -> list[tuple[Talk, Dispatch]]:
            return [one for one in self._unanswered() if one[1].id not in before and one[1].attempt == attempt]

        for talk, dispatch in (first := made(1))[::2]:
            talk.begun(dispatch)
        wait_for("the queries to go on", lambda: len(made(2)) >= 3, SECONDS, every_seconds=0.3)
        for talk, dispatch in [*made(2)[:3], *first[:6]]:
            self._answer(talk, dispatch, status="ok", cost_micros=40)
        self._settle()
        wait_for("reservations to expire", lambda: not self._is_open(first), SECONDS, every_seconds=0.3)
        for talk, dispatch in first[6:9]:
            self._answer(talk, dispatch, status="ok", cost_micros=50)
        self._settle()

    def _fail_after_retention(self) -> Settings:
        """Errors until no attempt is left, also of queries that have left their topic; then open reservations."""
        self._start(self._texts, 1.0, max_attempts=3, resolve_every_queries=20)
        self._queries(12)
        for talk, dispatch in self._unanswered()[:4]:
            self._answer(talk, dispatch, status="error", error="overloaded")
        self._settle()
        self._forget_queries(partition=1)
        while failing := [one for one in self._unanswered() if one[1].attempt < 3 and one[1].origin.offset % 2]:
            for talk, dispatch in failing:
                self._answer(talk, dispatch, status="error", error="overloaded", cost_micros=3)
            self._settle()
        for talk, dispatch in self._unanswered()[:8]:
            self._answer(talk, dispatch, status="error", error="broken")
        self._queries(30)
        return self._settings

    # Workers

    def _start(
        self,
        index: Path,
        budget_usd: float | Mapping[str, float],
        limits: Mapping[str, int] = files.LIMITS,
        **routing: object,
    ) -> None:
        """Replace the worker by one with these settings. The budget is of each LLM."""
        budgets = budget_usd if isinstance(budget_usd, Mapping) else dict.fromkeys(files.LLMS, budget_usd)
        for worker in self._system.workers:
            worker.stop()
        self._system.workers.clear()
        sections: dict[str, Mapping[str, object]] = {
            "kafka": {
                "bootstrap_servers": self._system.broker.bootstrap_servers,
                "partitions": files.PARTITIONS,
                "session_timeout_ms": 3_000,
            },
            "index": {"directory": str(index)},
            "routing": {"checkpoint_every": 12, "window_queries": 40, "horizon_queries": 300, **routing},
            "limits": limits,
            **{f'llms."{llm}"': {"budget_usd": budgets[llm], **files.PRICE_LISTS.get(llm, {})} for llm in files.LLMS},
        }
        self._settings = write_settings(self._system.config, sections, {})
        admin.create(self._settings)
        self._talks = [Talk(self._settings, partition) for partition in range(files.PARTITIONS)]
        self._system.start_workers(1)

    def _settle(self) -> None:
        """Wait until everything that was produced is decided."""
        wait_for("all inputs to be decided", self._is_settled, SECONDS, every_seconds=0.3)

    def _row(self, partition: int) -> AccountRow | None:
        """The last account row of a partition."""
        value = KafkaReader(self._settings).last_value(self._settings.topics.ledger, partition, ACCOUNT_KEY.encode())
        return None if value is None else codec.decode_account(value)

    def _spent(self, llm: str) -> int:
        """What an LLM has cost and holds, in micro-dollars, in the partition where that is most."""
        key = account_key((llm, 0)).encode()
        reader, ledger = KafkaReader(self._settings), self._settings.topics.ledger
        rows = [reader.last_value(ledger, partition, key) for partition in range(files.PARTITIONS)]
        accounts = [msgspec.msgpack.decode(row, type=Account) for row in rows if row is not None]
        return max(account.spent + account.reserved for account in accounts)

    def _is_settled(self) -> bool:
        for partition in range(files.PARTITIONS):
            row = self._row(partition)
            applied = Offsets() if row is None else row.offsets
            if applied.queries < self._last["queries", partition]:
                return False
            if applied.completions < self._last["completions", partition]:
                return False
        return True

    # Queries

    def _query(self, value: bytes | None, partition: int | None = None, **fields: Any) -> None:
        if partition is None:
            partition = next(self._turns) % files.PARTITIONS
        self._last["queries", partition] = self._talks[partition].query(value, **fields).offset

    def _queries(self, count: int) -> None:
        for _ in range(count):
            number = next(self._numbers)
            self._query(pack({"id": f"t{number}", "text": text(number)}))
        self._settle()

    def _form(self, number: int) -> bytes:
        """One of the forms that a good query may have."""
        name, said = f"t{next(self._numbers)}", text(number)
        chat = {"model": "any", "messages": [{"role": "user", "content": said}]}
        match number % 5:
            case 0:
                return json.dumps({"id": name, "text": said}).encode()
            case 1:
                return b"\x00\x00\x00\x00\x07" + pack({"id": name, "text": said, "parameters": {"user": "a"}})
            case 2:
                return pack({"body": chat, "input_tokens": 9, "max_output_tokens": 50})
            case 3:
                return pack({"id": name, "text": said, "deadline_ms": FAR_MS})
        return pack({"text": said})

    def _forget_queries(self, partition: int) -> None:
        """Remove the queries of a partition that are decided, as retention does."""
        client = AdminClient(clients.common_config(self._settings))
        end = self._last["queries", partition] + 1
        place = TopicPartition(self._settings.topics.queries, partition, end)
        client.delete_records([place])[place].result(SECONDS)

    # Completions

    def _completion(self, value: bytes | None) -> None:
        self._last["completions", 0] = self._talks[0].raw_completion(value).offset

    def _answer(self, talk: Talk, dispatch: Dispatch, **fields: object) -> None:
        self._answered.add(dispatch.id)
        sent = talk.completion(None, **{"dispatch_id": dispatch.id, "llm": dispatch.llm, **fields})
        self._last["completions", sent.partition] = sent.offset

    def _answer_all(self) -> None:
        """Answer every open dispatch, each in another way, until none is open."""
        self._settle()
        while waiting := self._unanswered():
            for number, (talk, dispatch) in enumerate(waiting):
                fields = next(self._answers)(dispatch)
                for _ in range(2 if number % 9 == 0 else 1):
                    self._answer(talk, dispatch, **fields)
            self._settle()

    def _unanswered(self) -> list[tuple[Talk, Dispatch]]:
        """The dispatches that nobody has answered."""
        found = ((talk, dispatch) for talk in self._talks for dispatch in talk.dispatches())
        return [(talk, dispatch) for talk, dispatch in found if dispatch.id not in self._answered]

    def _is_open(self, waiting: list[tuple[Talk, Dispatch]]) -> bool:
        """Whether the ledger still holds a reservation for one of these dispatches."""
        return any(
            KafkaReader(self._settings).last_value(
                self._settings.topics.ledger, talk.partition, f"{RESERVATION_PREFIX}{dispatch.id}".encode()
            )
            is not None
            for talk, dispatch in waiting
        )


def ok(**fields: object) -> Callable[[Dispatch], dict[str, object]]:
    """A good answer with these fields."""
    return lambda _: {"status": "ok", **fields}


# In turn, the answers to dispatches.
ANSWERS: list[Callable[[Dispatch], dict[str, object]]] = [
    ok(cost_micros=100, quality=1.0),
    ok(usage={"prompt_tokens": 12, "completion_tokens": 30}, quality=0.0),
    ok(),
    lambda _: {"status": "error", "error": "overloaded"},
    ok(usage={"input_tokens": 12, "output_tokens": 9, "cache_read_input_tokens": 5}),
    lambda dispatch: {"status": "ok", "cost_micros": dispatch.reserved_micros + 500},
    ok(usage={"promptTokenCount": 12, "candidatesTokenCount": 5}, quality=0.5),
    lambda _: {"status": "error", "error": "cut off", "cost_micros": 7},
    ok(usage={"words": 5}),
    ok(cost_micros=0),
    ok(cost_micros=0, cost="known"),
    ok(cost_micros=10**12),
    ok(usage={"prompt_tokens": 5.0, "completion_tokens": "7"}, quality=85, surprise=1),
    lambda _: {"status": "error", "error": "rate_limited", "error_class": "rate_limited", "cost": "zero"},
    lambda dispatch: {"llm": "another", "status": "ok", "cost_micros": 1},
]
