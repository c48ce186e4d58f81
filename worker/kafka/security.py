"""Whether a listener speaks TLS: clients only say that they were disconnected."""

from __future__ import annotations

import socket
import ssl

from worker.contract.settings import KafkaSettings

PROBE_SECONDS = 3.0


def mismatch(kafka: KafkaSettings) -> str | None:
    """What about `security_protocol` does not fit the first broker that listens; None if it fits, or if none does."""
    wanted = kafka.security_protocol.endswith("SSL")
    for server in kafka.bootstrap_servers.split(","):
        spoken = speaks_tls(server)
        if spoken is None:
            continue
        if spoken == wanted:
            return None
        if spoken:
            return (
                f"{kafka.security_protocol}, but {server} speaks TLS; set SSL or SASL_SSL, or the address of another "
                "listener"
            )
        return (
            f"{kafka.security_protocol}, but {server} does not speak TLS; set PLAINTEXT or SASL_PLAINTEXT, or the "
            "address of another listener"
        )
    return None


def speaks_tls(server: str) -> bool | None:
    """Whether `host:port` answers a TLS handshake, with whatever certificate; None if nobody listens there."""
    host, _, port = server.rpartition(":")
    context = ssl.create_default_context()
    # Nothing is sent but the handshake, so it does not matter who answers.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS)
    except OSError:
        return None
    with connection:
        try:
            context.wrap_socket(connection, server_hostname=host.strip("[]")).close()
        except ssl.SSLError as error:
            # An alert is TLS too: the broker asks for a certificate, or for another version.
            return error.reason is not None and "ALERT" in error.reason
        except TimeoutError:
            return None
        except OSError:
            return False
    return True
