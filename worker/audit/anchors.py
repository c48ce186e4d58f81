"""The anchor file: the heads of the decision chains, kept outside of Kafka, so that nothing before them can change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from worker.audit.evidence import Anchor
from worker.contract.errors import FixSetting


def read(file: Path) -> dict[int, Anchor]:
    """The anchors of a file by partition; none if there is no such file. Raises FixSetting."""
    if not file.exists():
        return {}
    try:
        anchors = msgspec.json.decode(file.read_bytes(), type=list[Anchor])
    except (OSError, msgspec.DecodeError) as error:
        raise FixSetting(f"--anchor {file}: is no anchor file ({error}); name another, or a new one") from None
    return {anchor.partition: anchor for anchor in anchors}


def write(file: Path, anchors: Iterable[Anchor]) -> None:
    """Put the heads, sorted, in place of what was there: all of them or, whatever happens meanwhile, none."""
    lines = sorted(anchors, key=lambda anchor: anchor.partition)
    written = file.with_name(f"{file.name}.new")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(lines), indent=2) + b"\n")
    written.replace(file)
