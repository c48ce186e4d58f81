"""Where the running demo of this user keeps its settings. `tollgate send` and other verbs find it there."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def demo_directory() -> Path:
    """The directory of this user's demo, if none is named."""
    return Path(tempfile.gettempdir()) / f"tollgate-demo-{os.getuid()}"


def is_own(directory: Path) -> bool:
    """Whether it is a directory of this user and not a link: any user can make files in the temporary directory."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
