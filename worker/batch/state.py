"""The state file beside the results: where the topics stood when the batch began. Whoever resumes reads from there.

What was sent and answered is not in it: the topics and the output files say that.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from worker.contract.errors import FixSetting

SUFFIX = ".state"
FORMAT = 1


class BatchState(Struct, frozen=True):
    """Offsets of each partition when the batch began, and the cluster and prefix whose topics are meant."""

    format: int
    cluster: str
    topic_prefix: str
    began_ms: int
    queries: list[int]
    decisions: list[int]
    answers: list[int]


def state_path(results: Path) -> Path:
    """The state file of a batch."""
    return results.with_name(results.name + SUFFIX)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """No other process of this machine runs the same batch. Raises FixSetting if one does."""
    lock = path.with_name(path.name + ".lock")
    file = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            # The kernel gives the lock back when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FixSetting(f"{lock}: another process runs this batch; wait for it, or end it") from None
        yield
        lock.unlink(missing_ok=True)
    finally:
        os.close(file)


def load(path: Path) -> BatchState | None:
    """The state of an earlier run; None if there is none. Raises FixSetting."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        state = msgspec.json.decode(raw, type=BatchState)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FixSetting(
            f"{path}: not the state of a batch ({error}); delete it, or name another output file"
        ) from None
    if state.format != FORMAT:
        raise FixSetting(f"{path}: another version of Tollgate wrote it; finish the batch with that version")
    return state


def save(path: Path, state: BatchState) -> None:
    """Write the state, whole or not at all."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
