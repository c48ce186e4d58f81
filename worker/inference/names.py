"""A name for each inference worker of a machine. It stays the same when the worker starts again, even after SIGKILL.

Kafka aborts what a worker left open when a worker of the same name starts. Two workers of one name would stop each
other.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")


@contextmanager
def claimed_name(group: str) -> Iterator[str]:
    """`<host>-<n>` with the first n that no running worker of this group has on this machine."""
    host = _ILLEGAL.sub("-", socket.gethostname())
    for number in count():
        path = Path(tempfile.gettempdir()) / f"tollgate-{os.getuid()}-{group}-{number}.lock"
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # The kernel gives the lock back when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        try:
            yield f"{host}-{number}"
        finally:
            os.close(file)
        return
