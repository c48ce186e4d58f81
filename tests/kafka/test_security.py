"""A broker that wants TLS and a password, as most do: both clients get the same options, and log in with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import trustme
from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives import serialization

from tests.kafka.commands import PATIENCE_SECONDS, run
from tests.kafka.talk import Talk
from tests.kafka.test_topics import delete, make_anew
from worker.audit import run_verify
from worker.contract.decisions import Closed, Routed
from worker.contract.errors import CheckFailed
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.kafka import clients
from worker.local.broker import Broker
from worker.local.load import query_of
from worker.local.processes import Child, wait_for
from worker.local.system import System
from worker.service.ports import free_port

USER, PASSWORD = "tollgate", "correct horse"
# Those of the table in docs/how-to/secure-kafka.md. USER may do everything.
ROLES = ("worker", "inference", "auditor", "operator", "batch", "judge", "mender")
# A line of a batch.
BODY = {"messages": [{"role": "user", "content": "Name a river."}]}
REQUEST = json.dumps({"custom_id": "q-1", "method": "POST", "url": "/v1/chat/completions", "body": BODY})
ACL_FIELDS = ("restype", "name", "resource_pattern_type", "principal", "host", "operation", "permission_type")
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def pem(issued: trustme.LeafCert) -> bytes:
    """Key and certificates as Kafka reads them: the key in PKCS #8."""
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return b"".join([key.private_bytes(*form), *(blob.bytes() for blob in issued.cert_chain_pems)])


class SecureBroker(Broker):
    """A broker with a SASL_SSL listener beside the usual one; `secured` is where it listens."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.secured = free_port()
        self.authority = trustme.CA()

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.secured}" if (self.directory / "broker.pid").exists() else super().bootstrap_servers

    def _write_properties(self) -> Path:
        path = super()._write_properties()
        identity = self.directory / "identity.pem"
        identity.write_bytes(pem(self.authority.issue_cert("127.0.0.1")))
        text = path.read_text().replace(
            "listeners=PLAINTEXT:", f"listeners=SECURE://127.0.0.1:{self.secured},PLAINTEXT:"
        )
        text = text.replace("security.protocol.map=", "security.protocol.map=SECURE:SASL_SSL,")
        users = " ".join(f'user_{name}="{PASSWORD}"' for name in (USER, *ROLES))
        secure = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER}",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": identity,
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.secure.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.secure.plain.sasl.jaas.config": f"{PLAIN} required {users};",
        }
        path.write_text(text + "".join(f"{key}={value}\n" for key, value in secure.items()))
        return path


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A broker that wants TLS and a password."""
    running = SecureBroker(tmp_path_factory.mktemp("secure"))
    with running:
        yield running


@pytest.fixture
def login(broker: SecureBroker, tmp_path: Path) -> dict[str, object]:
    """The settings that get in."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    broker.authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return {
        "security_protocol": "SASL_SSL",
        "sasl_username": USER,
        "sasl_password_file": tmp_path / "password",
        "ssl_ca_file": tmp_path / "authority.pem",
    }


def test_a_worker_logs_in_with_both_clients(
    system: System, prepare: Callable[..., Settings], login: dict[str, object], rows: tuple[History, History]
) -> None:
    """A query that came over TLS is dispatched over TLS, the books add up, and no log holds the password."""
    settings = prepare(kafka=login)
    system.start_workers(1)
    talk = Talk(settings)
    talk.query(msgspec.msgpack.encode(query_of(rows[1], 0)))
    talk.wait_decisions(Routed, 1)
    report = run_verify.verify(settings)
    assert len(talk.dispatches()) == 1
    assert report.wrong == 0
    assert PASSWORD not in system.workers[0].tail(1_000)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sasl_username": "somebody"}, "Authentication failed"),
        ({"ssl_ca_file": None}, "certificate verify failed"),
    ],
    ids=["another user", "an unknown authority"],
)
def test_a_login_that_fails_ends_the_start(
    system: System, prepare: Callable[..., Settings], login: dict[str, object], change: dict[str, object], says: str
) -> None:
    """Exit code 3 with the broker's or the certificate's reason, not a worker that tries for ever."""
    prepare(kafka=login)
    lines = [line for line in system.config.read_text().splitlines() if line.split(" = ")[0] not in change]
    extra = [f'{name} = "{value}"' for name, value in change.items() if value is not None]
    kafka = lines.index("[kafka]") + 1
    system.config.write_text("\n".join([*lines[:kafka], *extra, *lines[kafka:]]))
    code, said = run(system, "run")
    assert code == 3, said
    assert says in said, said
    assert PASSWORD not in said, said


# Users with the least: the table of docs/how-to/secure-kafka.md


READ = AclOperation.READ
TABLE = Path(__file__).parents[2] / "docs/how-to/secure-kafka.md"
RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}
REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


class Allowed(NamedTuple):
    """What a row of the table allows; a name that ends with * is a prefix."""

    role: str
    resource: str
    name: str
    operation: AclOperation

    def covers(self, role: str, resource: str, name: str, operation: AclOperation) -> bool:
        """Whether it allows an attempt."""
        fits = name.startswith(self.name[:-1]) if self.name.endswith("*") else name == self.name
        return fits and (self.role, self.resource, self.operation) == (role, resource, operation)

    @property
    def names_topic(self) -> bool:
        """Whether it is about one topic, and not about those that begin with a name."""
        return self.resource == "topic" and not self.name.endswith("*")

    def binding(self) -> AclBinding:
        """The ACL that gives it."""
        pattern = ResourcePatternType.PREFIXED if self.name.endswith("*") else ResourcePatternType.LITERAL
        principal, allow = f"User:{self.role}", AclPermissionType.ALLOW
        name = self.name.removesuffix("*")
        return AclBinding(RESOURCES[self.resource], name, pattern, principal, "*", self.operation, allow)


def table(settings: Settings) -> list[Allowed]:
    """The rows of the table, with the names of these settings."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith(tuple(f"| {role} |" for role in ROLES))]
    kafka, allowed = settings.kafka, []
    for line in lines:
        role, resource, names, operations = (cell.strip() for cell in line.strip("|").split("|"))
        for name in names.replace("`", "").split(", "):
            named = name.replace("<prefix>", kafka.topic_prefix).replace("<group>", kafka.group)
            allowed += [Allowed(role, resource, named, AclOperation[one]) for one in operations.split(", ")]
    return allowed


@pytest.fixture
def least(broker: SecureBroker, prepare: Callable[..., Settings], login: dict[str, object]) -> Settings:
    """A system whose users have what the table gives them, and nothing else."""
    settings = prepare(kafka=login)
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.port}"})
    for future in admin.create_acls([one.binding() for one in table(settings)]).values():
        future.result(PATIENCE_SECONDS)
    readable = {
        role: [one.name for one in table(settings) if one.role == role and one.operation is READ and one.names_topic]
        for role in ROLES
    }
    # The broker applies them a moment later.
    wait_for(
        "the ACLs",
        lambda: (
            not any(refused for role, names in readable.items() for refused in reads(settings, role, names).values())
        ),
        PATIENCE_SECONDS,
    )
    return settings


def as_role(settings: Settings, role: str) -> dict[str, Any]:
    """How a client logs in as one of the roles."""
    return clients.common_config(settings) | {"sasl.username": role}


def code_of(action: Callable[[], object]) -> int | None:
    """The code with which the broker refused an action; None if it did not."""
    try:
        action()
    except KafkaException as error:
        return int(error.args[0].code())
    return None


def writes(settings: Settings, role: str, topics: Sequence[str]) -> dict[str, int | None]:
    """Write a record to each topic."""
    codes: dict[str, int | None] = {}
    producer = Producer(as_role(settings, role))
    for topic in topics:
        producer.produce(
            topic,
            b"",
            on_delivery=lambda error, _, topic=topic: codes.update({topic: None if error is None else error.code()}),  # type: ignore[misc]
        )
    producer.flush(PATIENCE_SECONDS)
    return codes


def reads(settings: Settings, role: str, topics: Sequence[str]) -> dict[str, bool]:
    """Whether the broker would refuse to let a role read each topic, as the broker says itself. (A consumer that is
    refused waits without a word.)"""
    admin = AdminClient(as_role(settings, role))
    asked = TopicCollection([*topics])
    answers = admin.describe_topics(asked, include_authorized_operations=True, request_timeout=30)
    refused: dict[str, bool] = {}
    for topic, future in answers.items():
        if code_of(future.result) in REFUSED:
            refused[topic] = True
        else:
            refused[topic] = AclOperation.READ not in (future.result().authorized_operations or ())
    return refused


def test_each_role_may_do_what_the_table_says_and_nothing_else(broker: SecureBroker, least: Settings) -> None:
    """Reading, writing, deleting and making topics, and transactions of lanes, inference workers and batches: each is
    tried by each role, and refused or not as the table says; more than 40 are refused. (Who may delete records may
    delete topics. That is not tried.)"""
    allowed = table(least)
    topics = [name for name in least.topics.all(least.llms) if not name.startswith(least.topics.dispatch("")[:-1])]
    topics.append(least.topics.dispatch(next(iter(least.llms))))
    ids = {
        "a lane": str(clients.transactional_config(least, 0)["transactional.id"]),
        "an inference worker": f"{least.kafka.group}-inference-x",
        "a batch": str(clients.batch_config(least, "x")["transactional.id"]),
    }
    tried: dict[tuple[str, str, str, AclOperation], bool] = {}
    for role in ROLES:
        admin = AdminClient(as_role(least, role))
        for topic, code in writes(least, role, topics).items():
            tried[role, "topic", topic, AclOperation.WRITE] = code in REFUSED
        for topic, refused in reads(least, role, topics).items():
            tried[role, "topic", topic, AclOperation.READ] = refused
        deletable = {one.name for one in allowed if (one.role, one.operation) == (role, AclOperation.DELETE)}
        for topic, future in admin.delete_topics([*{*topics} - deletable], request_timeout=30).items():
            tried[role, "topic", topic, AclOperation.DELETE] = code_of(future.result) in REFUSED
        new = f"{least.kafka.topic_prefix}by-{role}"
        code = code_of(admin.create_topics([NewTopic(new, 1, 1)])[new].result)
        tried[role, "topic", new, AclOperation.CREATE] = code in REFUSED
        for name in ids.values():
            producer = Producer(as_role(least, role) | {"transactional.id": name})
            code = code_of(partial(producer.init_transactions, PATIENCE_SECONDS))
            tried[role, "transactional id", name, AclOperation.WRITE] = code in REFUSED
    wrong = {what: refused for what, refused in tried.items() if refused == any(one.covers(*what) for one in allowed)}
    assert wrong == {}, "True: refused, though the table allows it"
    assert sum(tried.values()) >= 40


def test_a_system_works_with_the_least(
    system: System, broker: SecureBroker, least: Settings, rows: tuple[History, History]
) -> None:
    """A worker, an inference worker, a batch, an auditor, an operator, and who mends a lost topic, each with its own
    user, do their work."""
    talk = Talk(least)

    def done(role: str, *arguments: str) -> None:
        code, said = run(system, *arguments, env={"TOLLGATE_KAFKA__SASL_USERNAME": role})
        assert code == 0, said

    def started(role: str, *arguments: str) -> Child:
        env = {"TOLLGATE_KAFKA__SASL_USERNAME": role}
        name = f"{role}-{arguments[0]}"
        child = Child(name, [*arguments, "--config", str(system.config)], system.directory / f"{name}.log", env)
        return system.processes.start(child)

    children = [started("worker", "run", "--web-port", "0"), started("inference", "infer", "--latency-ms", "1")]
    talk.query(msgspec.msgpack.encode(query_of(rows[1], 0)))
    try:
        talk.wait_decisions(Closed, 1)
    except CheckFailed as error:
        raise AssertionError("\n".join(child.tail(20) for child in children)) from error
    (file := system.directory / "requests.jsonl").write_text(REQUEST)
    done("batch", "batch", str(file), str(system.directory / "results.jsonl"), "--json")
    for arguments in (["verify"], ["status"]):
        done("auditor", *arguments)
    done("operator", "topics", "check")

    for child in children:
        assert child.stop() == 0, child.tail(20)
    make_anew(least, least.topics.queries)
    done("mender", "ledger", "accept", "queries")
    delete(least, least.topics.ledger)
    done("mender", "ledger", "rebuild")
    done("auditor", "verify")


LACKING = [
    ("the group", ("group", AclOperation.READ), "kafka.group"),
    ("a topic", ("topic", AclOperation.WRITE), "deferred: "),
]


@pytest.mark.parametrize(("lacking", "says"), [case[1:] for case in LACKING], ids=[case[0] for case in LACKING])
def test_what_is_forbidden_is_named_at_the_start(
    system: System, broker: SecureBroker, least: Settings, lacking: tuple[str, AclOperation], says: str
) -> None:
    """Exit code 3 with the group or the topic, and the ACL. Before, a worker without its group was never ready and
    never ended, without a line."""
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.port}"})
    resource, operation = lacking
    gone = [
        one.binding()
        for one in table(least)
        if (one.role, one.resource, one.operation) == ("worker", resource, operation) and "ledger" not in one.name
    ]
    filters = [AclBindingFilter(*(getattr(one, field) for field in ACL_FIELDS)) for one in gone]
    for future in admin.delete_acls(filters).values():
        future.result(PATIENCE_SECONDS)
    code, said = run(system, "run", "--web-port", "0", env={"TOLLGATE_KAFKA__SASL_USERNAME": "worker"})
    assert code == 3, said
    assert says in said, said
    assert f"ACL {operation.name}" in said, said


@pytest.mark.parametrize(
    ("protocol", "says"),
    [("SASL_PLAINTEXT", "speaks TLS; set SSL or SASL_SSL"), ("SSL", "does not speak TLS; set PLAINTEXT")],
    ids=["TLS without our knowing", "no TLS though we want it"],
)
def test_a_listener_of_another_protocol_is_named(
    system: System,
    broker: SecureBroker,
    prepare: Callable[..., Settings],
    login: dict[str, object],
    protocol: str,
    says: str,
) -> None:
    """Exit code 4 with the setting, the address and the remedy, and not only that the broker has disconnected."""
    prepare(kafka=login)
    plain = f"127.0.0.1:{broker.port}"
    env = {"TOLLGATE_KAFKA__SECURITY_PROTOCOL": protocol}
    if protocol == "SSL":
        env["TOLLGATE_KAFKA__BOOTSTRAP_SERVERS"] = plain
    code, said = run(system, "topics", "check", env=env)
    assert code == 4, said
    assert "kafka.security_protocol" in said, said
    assert says in said, said
