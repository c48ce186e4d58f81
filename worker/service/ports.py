"""Free ports of this machine, and the socket of a worker's web server."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

from worker.contract.errors import FixSetting
from worker.contract.settings import WebSettings

PORTS = (15_000, 32_000)


def listen(web: WebSettings) -> socket.socket:
    """The socket of a worker's web server. It listens from now on, so no other process can take its port.

    It has the port of the settings, or a free one if that is 0, or if it is the default and another process has it.
    Raises FixSetting if another process has the port that the user has set, or if this one may not listen.
    """
    if web.port and (found := _listening(web.host, web.port)) is not None:
        return found
    if web.port and "port" in web.model_fields_set:
        raise FixSetting(f"web.port: {web.port} of {web.host} is in use: set another port, or 0 for a free one")
    while (found := _listening(web.host, free_port())) is None:
        # Another process has taken it since.
        continue
    return found


def _listening(host: str, port: int) -> socket.socket | None:
    """None if another process listens here."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise FixSetting(f"web.host, web.port: cannot listen on {host}:{port}: {error.strerror or error}") from error


def free_port() -> int:
    """A port of 127.0.0.1 that no process has. Clients do not connect from it by chance: it lies below their ports."""
    return next(filter(_is_free, _ports()))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@cache
def _ports() -> Iterator[int]:
    # One sequence in a process, so that no port is given twice; each process begins at another port.
    begin = random.SystemRandom().randrange(*PORTS)
    return cycle([*range(begin, PORTS[1]), *range(PORTS[0], begin)])
