"""The real routing data in the package: figures of 6,000 MMLU-Pro questions on 17 LLMs, without the texts.

Made by deploy/make_demo_data.py; sources and licence are in NOTICE.
"""

from __future__ import annotations

from importlib.resources import as_file, files

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
