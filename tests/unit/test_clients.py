"""One settings object feeds two clients: librdkafka and, through Faust, aiokafka. They must mean the same."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from worker.contract.errors import FixSetting
from worker.contract.settings import KafkaSettings, Settings
from worker.kafka import clients
from worker.service.app import credentials

# A certificate of nobody, whose key was never kept.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBijCCAS+gAwIBAgIUWo/9BUTB7jCQtKwKVpMhL6hcPVwwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOVG9sbGdhdGUgdGVzdHMwIBcNMjYxMTI0MDIxNDU4WhgPMjEy
NjEwMzEwMjE0NThaMBkxFzAVBgNVBAMMDlRvbGxnYXRlIHRlc3RzMFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEFFU/4FG+1OTWd7xE5qAZb/DFp19OvPXL3Poh/lr9
fo+b4FRZvi6mOKc8OGHnXWJhxuwnOCeRvoB5vBCYaGG9AaNTMFEwHQYDVR0OBBYE
FGKHKiPh+mkkEGRoWh+5yQVfsqd4MB8GA1UdIwQYMBaAFGKHKiPh+mkkEGRoWh+5
yQVfsqd4MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhAIEqNJEv
hpXcJbjmkIcazmj6+IwIDiPp79DI8TSItMThAiEAzT5/hRcQI3Kld+URk0YQp3C5
ogv/JhwUsXm3P9FTd0g=
-----END CERTIFICATE-----
"""

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def secured(protocol: str, **fields: Any) -> Settings:
    """Settings of one way to log in."""
    login = {"sasl_username": "ada", "sasl_password": "secret"} if protocol.startswith("SASL") else {}
    return Settings.model_validate({"kafka": {"security_protocol": protocol, **login, **fields}})


def as_librdkafka_means_it(settings: Settings) -> dict[str, Any]:
    """Protocol, login and whether names and certificates are checked."""
    config = clients.common_config(settings)
    verified = config.get("enable.ssl.certificate.verification")
    return {
        "protocol": config["security.protocol"],
        "login": tuple(config.get(f"sasl.{name}") for name in ("mechanism", "username", "password")),
        "verified": verified,
        "names": None if verified is None else config["ssl.endpoint.identification.algorithm"] == "https",
    }


def as_aiokafka_means_it(settings: Settings) -> dict[str, Any]:
    """The same of what Faust hands to aiokafka."""
    auth = credentials_to_aiokafka_auth(credentials(settings.kafka))
    context: ssl.SSLContext | None = auth.get("ssl_context")
    return {
        "protocol": auth["security_protocol"],
        "login": tuple(auth.get(f"sasl_{name}") for name in ("mechanism", "plain_username", "plain_password")),
        "verified": None if context is None else context.verify_mode is ssl.CERT_REQUIRED,
        "names": None if context is None else context.check_hostname,
    }


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_both_clients_mean_the_same(protocol: str, mechanism: str, verify: bool) -> None:
    """Neither falls back to a default of its own: protocol, mechanism, login, checks."""
    settings = secured(protocol, sasl_mechanism=mechanism, ssl_verify=verify)
    assert as_librdkafka_means_it(settings) == as_aiokafka_means_it(settings)


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_asked_for_is_what_is_done(verify: bool) -> None:
    """Agreement is not enough: the settings say what both do."""
    assert as_librdkafka_means_it(secured("SASL_SSL", sasl_mechanism="SCRAM-SHA-512", ssl_verify=verify)) == {
        "protocol": "SASL_SSL",
        "login": ("SCRAM-SHA-512", "ada", "secret"),
        "verified": verify,
        "names": verify,
    }


def test_the_authority_is_the_one_that_is_named(tmp_path: Path) -> None:
    """With a file of authorities, no other is trusted."""
    path = tmp_path / "ca.pem"
    path.write_text(CERTIFICATE)
    settings = secured("SSL", ssl_ca_file=path)
    context = clients.ssl_context(settings.kafka)
    assert context is not None
    subjects = [authority["subject"] for authority in context.get_ca_certs()]
    named = clients.common_config(settings)["ssl.ca.location"]
    assert (subjects, named) == ([((("commonName", "Tollgate tests"),),)], str(path))


FILES = [
    ("an authority", ("ssl_ca_file",)),
    ("a certificate", ("ssl_certificate_file",)),
    ("a certificate and a key", ("ssl_certificate_file", "ssl_key_file")),
]


@pytest.mark.parametrize("content", ["", "no certificate"])
@pytest.mark.parametrize("names", [c[1] for c in FILES], ids=[c[0] for c in FILES])
def test_a_file_that_holds_no_certificate(tmp_path: Path, names: tuple[str, ...], content: str) -> None:
    """Refused in one way, whichever client comes first."""
    path = tmp_path / "file.pem"
    path.write_text(content)
    settings = secured("SSL", **dict.fromkeys(names, path))
    for attempt in (clients.common_config, lambda settings: credentials(settings.kafka)):
        with pytest.raises(FixSetting, match="holds no usable certificate or key"):
            attempt(settings)


def test_a_certificate_without_its_key(tmp_path: Path) -> None:
    """The key may stand in the same file; where it does not, the start says so."""
    path = tmp_path / "certificate.pem"
    path.write_text(CERTIFICATE)
    with pytest.raises(FixSetting, match="holds no usable certificate or key"):
        clients.common_config(secured("SSL", ssl_certificate_file=path))


def test_plain_text_has_no_context() -> None:
    """And no credentials."""
    kafka = KafkaSettings()
    assert (clients.ssl_context(kafka), credentials(kafka)) == (None, None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_librdkafka_knows_every_name(protocol: str) -> None:
    """Its producers and consumers refuse a setting that they do not know; nothing is connected to."""
    settings = secured(protocol, bootstrap_servers="127.0.0.1:1")
    consumer = Consumer(clients.consumer_config(settings, "group"))
    consumer.close()
    assert isinstance(Producer(clients.transactional_config(settings, 3)), Producer)


def test_every_producer_has_javas_partitioner() -> None:
    """Without the setting, librdkafka takes CRC32, and a repeat of an id would not meet the first."""
    settings = Settings()
    configs = (clients.producer_config(settings), clients.transactional_config(settings, 0))
    assert [config["partitioner"] for config in configs] == ["murmur2_random"] * 2


def test_a_lane_writes_under_its_own_fixed_id() -> None:
    """A new owner of the partition fences the old one by this name, so it must never change. It is the ledger's: a
    worker of another group is fenced too."""
    config = clients.transactional_config(Settings(kafka=KafkaSettings(group="team", topic_prefix="eu.")), 7)
    assert (config["transactional.id"], config["enable.idempotence"]) == ("tollgate-eu.ledger-7", True)


def test_inputs_are_read_committed() -> None:
    """What a transaction aborted is never read."""
    assert clients.consumer_config(Settings(), "group")["isolation.level"] == "read_committed"
