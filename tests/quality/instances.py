"""Small made-up histories whose best routing is known in outline: what an LLM is good at depends on a query's topic."""

from __future__ import annotations

import numpy as np

from worker.estimation.history import History, normalised

LLMS = ("cheap", "coder", "writer", "best")
DOLLARS_PER_TOKEN = np.array([0.5, 1.0, 2.0, 12.0])
SKILLS = np.array([[0.35, 0.9, 0.3, 0.9], [0.4, 0.3, 0.85, 0.9], [0.8, 0.8, 0.8, 0.85], [0.1, 0.15, 0.1, 0.5]])


def history(rows: int, seed: int) -> History:
    """`rows` queries on four topics, scored 0 or 1 by chance, each costing its tokens times an LLM's price."""
    draw = np.random.default_rng(seed)
    topics = draw.integers(0, len(SKILLS), rows)
    centres = np.random.default_rng(0).normal(size=(len(SKILLS), 16))
    tokens = np.exp(draw.normal(5.0, 0.5, rows)).round()
    return History(
        ids=[f"{seed}-{row}" for row in range(rows)],
        llms=LLMS,
        embeddings=normalised((centres[topics] + draw.normal(scale=0.5, size=(rows, 16))).astype(np.float32)),
        quality=(draw.random((rows, len(LLMS))) < SKILLS[topics]).astype(np.float64),
        cost_micros=tokens[:, None] * DOLLARS_PER_TOKEN * np.exp(draw.normal(0.0, 0.1, (rows, len(LLMS)))),
        input_tokens=tokens,
        categories=[f"topic-{topic}" for topic in topics],
    )


def without_answers(history: History, llm: int, rows: int) -> History:
    """The same history, of which one LLM answered only the first `rows`."""
    quality, cost = history.quality.copy(), history.cost_micros.copy()
    quality[rows:, llm] = cost[rows:, llm] = np.nan
    return History(
        history.ids, history.llms, history.embeddings, quality, cost, history.input_tokens, history.categories
    )
