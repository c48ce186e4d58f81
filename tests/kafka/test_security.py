"""A broker that wants TLS and a password, as most do: both clients get the same options, and log in with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.kafka.commands import run
from tests.kafka.talk import Talk
from worker.audit import run_verify
from worker.contract.decisions import Routed
from worker.contract.settings import Settings
from worker.estimation.history import History
from worker.local.broker import Broker
from worker.local.load import query_of
from worker.local.system import System
from worker.service.ports import free_port

USER, PASSWORD = "tollgate", "correct horse"
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
        secure = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": identity,
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.secure.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.secure.plain.sasl.jaas.config": f'{PLAIN} required user_{USER}="{PASSWORD}";',
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
