"""The real routing data in the package: figures of 6,000 MMLU-Pro questions on 17 LLMs, without the texts.

Made by deploy/make_demo_data.py; sources and licence are in NOTICE.
"""

from __future__ import annotations

import os
import stat
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from worker.estimation.history import History, normalised

LIVE_ROWS = 2_000


def load() -> History:
    """All rows, in the order of the source."""
    with as_file(files("worker") / "data" / "mmlu_pro.npz") as path, np.load(path, allow_pickle=False) as data:
        llms = tuple(str(llm) for llm in data["llms"])
        names = [str(name) for name in data["categories"]]
        return History(
            ids=[f"mmlupro-{number}" for number in data["ids"]],
            llms=llms,
            embeddings=normalised(data["embeddings"].astype(np.float32)),
            quality=np.unpackbits(data["score"], axis=1, count=len(llms)).astype(np.float64),
            cost_micros=data["cost_micros"].astype(np.float64),
            input_tokens=data["input_tokens"].astype(np.float64),
            categories=[names[category] for category in data["category"]],
        )


def split(history: History, live: int = LIVE_ROWS, seed: int = 0) -> tuple[History, History]:
    """Rows to build an index from, and `live` rows to route, drawn by `seed`."""
    order = np.random.default_rng(seed).permutation(len(history.ids))
    return history.rows(order[live:]), history.rows(order[:live])


def demo_directory() -> Path:
    """Where the running demo of this user keeps its settings, for `tollgate send` and the like."""
    return Path(tempfile.gettempdir()) / f"tollgate-demo-{os.getuid()}"


def is_own(directory: Path) -> bool:
    """Whether it is a directory, no link to one, that belongs to this user: anybody may make one in /tmp."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
