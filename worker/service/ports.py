"""Free ports of this machine's loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

PORTS = (15_000, 32_000)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now, nor gets by chance: it lies below those that clients connect from."""
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
    # One row for the process, so that two who ask one after the other never get the same; another one for the next.
    begin = random.SystemRandom().randrange(*PORTS)
    return cycle([*range(begin, PORTS[1]), *range(PORTS[0], begin)])
