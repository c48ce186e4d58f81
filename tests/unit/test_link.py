"""A network that can be cut and slowed down."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from worker.local.link import Link
from worker.service.ports import free_port

SECONDS = 60.0


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it is sent."""

    def handle(self) -> None:
        with suppress(OSError):
            while data := self.request.recv(100):
                self.request.sendall(data)


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to a server that sends everything back."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        with Link(free_port(), server.server_address[1]) as made:
            yield made
        server.shutdown()
        serving.join(SECONDS)


def sent_back(link: Link, connection: socket.socket | None = None) -> bytes:
    """What comes back over the link; nothing if it is cut."""
    try:
        with closing(connection or socket.create_connection(("127.0.0.1", link.port), SECONDS)) as open_connection:
            open_connection.settimeout(SECONDS)
            open_connection.sendall(b"hello")
            return open_connection.recv(100)
    except OSError:
        return b""


def test_a_link_passes_on(link: Link) -> None:
    """Both ways."""
    assert sent_back(link) == b"hello"


def test_a_link_that_is_cut(link: Link) -> None:
    """It ends what is open, takes nothing new, and works again when it is mended."""
    open_before = socket.create_connection(("127.0.0.1", link.port), SECONDS)
    assert sent_back(link) == b"hello"
    link.cut()
    assert sent_back(link, open_before) == b""
    assert sent_back(link) == b""
    link.mend()
    assert sent_back(link) == b"hello"


def test_a_slow_link(link: Link) -> None:
    """What is sent takes at least the delay, there and back."""
    link.slow(0.1)
    began = time.monotonic()
    assert sent_back(link) == b"hello"
    assert time.monotonic() - began >= 0.2
