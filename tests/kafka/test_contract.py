"""What producers and inference teams rely on, with bytes that they would send."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec
from confluent_kafka import Producer

from tests.kafka.commands import PATIENCE_SECONDS
from tests.kafka.talk import Talk, enlarge
from tests.topics import value as value_of
from worker.audit import run_verify
from worker.contract.decisions import ChargedAgain, Closed, Ignored, Rejected, Routed
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.kafka import clients
from worker.local.load import query_of
from worker.local.processes import wait_for
from worker.local.system import System

Prepare = Callable[..., Settings]
Rows = tuple[History, History]

pack = msgspec.msgpack.encode
TRACE = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
CHAT = {"model": "any", "messages": [{"role": "user", "content": "Name three prime numbers."}], "temperature": 0}


def test_every_form_of_a_query(system: System, prepare: Prepare, rows: Rows) -> None:
    """MessagePack, JSON and Confluent frames; embeddings, texts and chat bodies: each is dispatched with its query and
    headers passed on."""
    settings = prepare()
    system.start_workers(1)
    talk, known = Talk(settings), query_of(rows[1], 0)
    forms = [
        pack(known),
        pack({"text": "What is the boiling point of water?", "parameters": {"user": "a"}}),
        json.dumps({"text": "What is the boiling point of water?"}).encode(),
        b"\x00\x00\x00\x00\x07" + json.dumps({"body": CHAT}).encode(),
        pack({"id": "chat", "body": CHAT, "input_tokens": 9, "max_output_tokens": 50}),
    ]
    for form in forms:
        talk.query(form, headers=[TRACE, ("content-type", b"x")])
    talk.wait_decisions(Routed, len(forms))
    dispatches = talk.dispatches()
    plain = [msgspec.msgpack.decode(dispatch.query) for dispatch in dispatches]
    assert [dispatch.query_id for dispatch in dispatches] == [known.id, "0-1", "0-2", "0-3", "chat"]
    assert [query.get("body") for query in plain] == [None, None, None, CHAT, CHAT]
    assert "embedding" not in plain[0], "an embedding is left out of the dispatch"
    record = talk.read(settings.topics.dispatch(dispatches[0].llm))[0]
    assert (record.key, record.headers) == (
        dispatches[0].id.encode(),
        [TRACE, ("content-type", b"application/vnd.msgpack")],
    )


def test_json_dispatches(system: System, prepare: Prepare, rows: Rows) -> None:
    """With kafka.dispatch_format = "json" a dispatch is a JSON object, its header says so, an inference worker reads
    it, and the books are right."""
    settings = prepare(kafka={"dispatch_format": "json"})
    system.start_inference(latency_ms=1)
    system.start_workers(1)
    talk, known = Talk(settings), query_of(rows[1], 0)
    talk.query(pack(known))
    talk.query(json.dumps({"id": "chat", "body": CHAT}).encode(), headers=[TRACE])
    talk.wait_decisions(Closed, 2)
    topics = [settings.topics.dispatch(llm) for llm in settings.llms]
    records = [record for topic in topics for record in talk.read(topic)]
    queries = {dispatch["query_id"]: dispatch["query"] for dispatch in (json.loads(value_of(one)) for one in records)}
    assert queries[known.id] == {"id": known.id, "input_tokens": known.input_tokens}
    assert queries["chat"] == {"id": "chat", "body": CHAT}
    assert {dict(record.headers)["content-type"] for record in records} == {b"application/json"}
    assert run_verify.verify(settings).findings == []


def test_completions(system: System, prepare: Prepare, rows: Rows) -> None:
    """A cost settles, usage is priced, absent usage settles at the reservation. An LLM spelled otherwise settles too.
    An error goes to the next best LLM. A second answer costs money. Only a forged answer is a dead letter."""
    price = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
    settings = prepare()
    llms = "".join(
        f'[llms."{llm}"]\nbudget_usd = 1\n' + "".join(f"{k} = {v}\n" for k, v in price.items()) for llm in settings.llms
    )
    system.config.write_text(system.config.read_text().split("[llms.", 1)[0] + llms)
    system.start_workers(1)
    talk = Talk(settings)
    for number in range(4):
        talk.query(pack(query_of(rows[1], number)))
    talk.wait_decisions(Routed, 4)
    first, second, third, fourth = talk.dispatches()

    def answer(dispatch_id: str, llm: str, **fields: object) -> None:
        talk.completion(None, dispatch_id=dispatch_id, llm=llm, **fields)

    answer(first.id, first.llm, status="ok", cost_micros=77, quality=1.0)
    answer(first.id, first.llm, status="ok", cost_micros=77, quality=1.0)
    answer(second.id, second.llm, status="ok", usage={"prompt_tokens": 10, "completion_tokens": 20})
    answer(third.id, third.llm, status="ok")
    answer("0-99-1", first.llm, status="ok", cost_micros=1)
    answer(fourth.id, f"{fourth.llm}-2025", status="error", error="overloaded")
    closed = talk.wait_decisions(Closed, 4)
    assert [(one.outcome, one.spent_micros, one.basis) for one in closed] == [
        ("settled", 77, "cost"),
        ("settled", 50, "usage"),
        ("settled", third.reserved_micros, "reservation"),
        ("released", 0, "none"),
    ]
    retried = talk.dispatches()[-1]
    assert retried.id == "0-3-2"
    assert retried.attempt == 2
    assert retried.llm != fourth.llm
    again = [one for one in talk.decisions() if isinstance(one, ChargedAgain)]
    assert [(one.dispatch_id, one.reason, one.spent_micros) for one in again] == [(first.id, "paid_twice", 77)]
    assert closed[-1].remarks == ("llm_spelled_otherwise",)
    assert len([one for one in talk.decisions() if isinstance(one, Ignored)]) == len(talk.letters()) == 1
    proof = run_verify.verify(settings)
    assert proof.findings == []
    assert sum(budget.paid_twice for budget in proof.budgets) == 77


def test_reservations_expire(system: System, prepare: Prepare, rows: Rows) -> None:
    """A dispatch that nobody answers gives its money back at its deadline. An answer after that is booked as late."""
    settings = prepare(routing={"reservation_seconds": 1, "max_attempts": 1})
    system.start_workers(1)
    talk = Talk(settings)
    talk.query(pack(query_of(rows[1], 0)))
    [closed] = talk.wait_decisions(Closed, 1)
    [dispatch] = talk.dispatches()
    talk.completion(None, dispatch_id=dispatch.id, llm=dispatch.llm, status="ok", cost_micros=5)
    talk.wait_decisions(ChargedAgain, 1)
    [account] = [one for one in run_verify.verify(settings).budgets if one.budget == dispatch.llm]
    assert closed.outcome == "expired"
    assert closed.spent_micros == 0
    assert (account.spent, account.late, account.reserved) == (5, 5, 0)


def test_an_open_query_is_not_routed_twice(system: System, prepare: Prepare, rows: Rows) -> None:
    """A repeated id is deferred as a duplicate while its dispatch is open, and routed again afterwards."""
    settings = prepare()
    system.start_workers(1)
    talk, value = Talk(settings), pack(query_of(rows[1], 0))
    talk.query(value)
    talk.query(value)
    talk.wait_decisions(Routed, 2)
    [dispatch] = talk.dispatches()
    talk.completion(None, dispatch_id=dispatch.id, llm=dispatch.llm, status="ok", cost_micros=5)
    talk.wait_decisions(Closed, 1)
    talk.query(value)
    reasons = [routed.reason for routed in talk.wait_decisions(Routed, 3)]
    assert reasons == ["best_score", "duplicate", "best_score"]


def test_aborted_queries_are_not_routed(system: System, prepare: Prepare, rows: Rows) -> None:
    """A query that its producer aborted is never seen; one that it committed is routed."""
    settings = prepare()
    system.start_workers(1)
    producer = Producer(clients.producer_config(settings) | {"transactional.id": "test-producer"})
    producer.init_transactions(PATIENCE_SECONDS)
    for number, commit in enumerate((False, True)):
        producer.begin_transaction()
        producer.produce(settings.topics.queries, pack(query_of(rows[1], number)), partition=0)
        producer.flush(PATIENCE_SECONDS)
        (producer.commit_transaction if commit else producer.abort_transaction)(PATIENCE_SECONDS)
    talk = Talk(settings)
    talk.query(pack(query_of(rows[1], 2)))
    routed = talk.wait_decisions(Routed, 2)
    assert [one.query_id for one in routed] == [rows[1].ids[1], rows[1].ids[2]]


BAD_QUERIES = [
    ("format", b"\xc1\xff\x00nonsense"),
    ("format", pack({"text": "cut off"})[:-4]),
    ("type", pack({"text": 5})),
    ("embedding_nan", pack({"embedding": [float("nan")] * 256})),
    ("embedding_zero", pack({"embedding": bytes(1024)})),
    ("embedding_ambiguous", pack({"embedding": bytes(512)})),
    ("embedding_dimension", pack({"embedding": bytes(100)})),
    ("no_text", pack({"id": "x"})),
    ("no_text", pack({"text": " "})),
    ("unknown_field", pack({"txet": "misspelt"})),
    ("nesting", pack({"text": "x", "parameters": {"a": msgspec.Raw(b"\x91" * 200 + b"\x01")}})),
    ("array", b"\xdd\xff\xff\xff\xff" * 10),
    ("too_large", pack({"text": "x" * 20_000_000})),
    ("empty", None),
]

BAD_COMPLETIONS = [
    ("format", b"\xc1"),
    ("dispatch_id", pack({"origin_partition": 0, "llm": "a", "status": "ok"})),
    ("dispatch_id", pack({"dispatch_id": "one", "origin_partition": 0, "llm": "a", "status": "ok"})),
    ("partition", pack({"dispatch_id": "1-0-1", "origin_partition": 1, "llm": "a", "status": "ok"})),
]


def headers_of(letter: StoredRecord) -> dict[str, str]:
    """The headers of a dead letter as text."""
    return {name: (content or b"").decode() for name, content in letter.headers}


def test_bad_input(system: System, prepare: Prepare, rows: Rows) -> None:
    """Whatever cannot be used becomes a dead letter as it came, with where it was and why, and the good records
    around it are routed; the worker goes on."""
    settings = prepare()
    enlarge(settings)
    system.start_workers(1)
    talk = Talk(settings)
    for number, (_, value) in enumerate(BAD_QUERIES):
        talk.query(value, key=b"k%d" % number, headers=[("h", b"v")])
        talk.query(pack(query_of(rows[1], number)))
    for _, value in BAD_COMPLETIONS:
        talk.completion(value)
    talk.wait_decisions(Rejected, len(BAD_QUERIES) + len(BAD_COMPLETIONS))
    talk.wait_decisions(Routed, len(BAD_QUERIES))
    letters = [(headers_of(letter), letter) for letter in talk.letters()]
    by_topic: dict[str, Sequence[tuple[str, bytes | None]]] = {"queries": BAD_QUERIES, "completions": BAD_COMPLETIONS}
    for topic, bad in by_topic.items():
        named = [(headers, one) for headers, one in letters if headers[ERROR + "topic"].endswith(topic)]
        assert [headers[ERROR + "exception.class.name"] for headers, _ in named] == [f"tollgate.{c}" for c, _ in bad]
        limit = settings.limits.max_dead_letter_bytes
        assert [one.value for _, one in named] == [value if value is None else value[:limit] for _, value in bad]
    first_headers, first = letters[0]
    assert first.key == b"k0"
    assert first_headers["h"] == "v"
    assert first_headers[ERROR + "offset"] == "0"
    assert first_headers[ERROR + "partition"] == "0"
    assert run_verify.verify(settings).findings == []
    assert [worker.running for worker in system.workers] == [True]


ERROR = "__connect.errors."


def test_pages(system: System, prepare: Prepare, rows: Rows) -> None:
    """/healthz and /readyz say so, and /metrics shows decisions, money and the build, in base units."""
    settings = prepare()
    system.start_workers(1)
    talk = Talk(settings)
    talk.query(pack(query_of(rows[1], 0)))
    talk.query(b"nonsense")
    talk.wait_decisions(Rejected, 1)
    [worker] = system.workers
    [dispatch] = talk.dispatches()
    _, text = system.page(worker, "metrics")
    labels = f'budget="{dispatch.llm}",partition="0",resource="usd"'
    wanted = [
        f'tollgate_decisions_total{{llm="{dispatch.llm}",outcome="dispatched"}} 1.0',
        'tollgate_dead_letters_total{reason="format",topic="queries"} 1.0',
        f"tollgate_budget_reserved{{{labels}}} {dispatch.reserved_micros / 1e6}",
        'tollgate_open_reservations{partition="0"} 1.0',
        "tollgate_oldest_reservation_age_seconds",
        "tollgate_build_info",
        "tollgate_restore_seconds",
        "tollgate_transaction_seconds_bucket",
        "tollgate_search_seconds_bucket",
        "tollgate_budget_price",
    ]
    assert [line for line in wanted if line not in text] == []
    assert (system.page(worker, "healthz")[0], system.partitions(worker)) == (200, [0, 1, 2, 3])


def test_send(system: System, prepare: Prepare) -> None:
    """`tollgate send` shows the decision on a typed text; its text is in no log."""
    from worker.local.processes import Child

    prepare()
    system.start_inference(latency_ms=1)
    system.start_workers(1)
    secret = "What do bees dream of?"
    child = Child("send", ["send", secret, "--json", "--config", str(system.config)], system.directory / "send.log")
    child.start()
    wait_for("send to end", lambda: not child.running, PATIENCE_SECONDS)
    said = child.log.read_text()
    reply = json.loads(said[said.index("{") :])
    logs = "".join(path.read_text() for path in system.directory.glob("*.log"))
    assert child.exit_code == 0
    assert reply["attempts"][0]["reason"] == "best_score"
    assert [one["outcome"] for one in reply["closed"]] == ["settled"]
    assert secret not in logs
