"""Made-up past queries: sums, capitals and proofs, of which the larger LLMs answer more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.golden.files import LLMS
from worker.estimation.embedder import WORDLLAMA, embed_with
from worker.estimation.history import History, normalised

ROWS = 60
TOPICS = ("the sum of {n} and {m}", "the capital of country number {n}", "a proof of lemma {n} from lemma {m}")
ABLE = {"large": (1.0, 0.9, 0.8), "medium": (0.9, 0.7, 0.4), "small": (0.8, 0.4, 0.1)}
COST_MICROS = {"large": 900.0, "medium": 120.0, "small": 15.0}


def text(number: int) -> str:
    """The text of a made-up query."""
    return f"Tell me {TOPICS[number % 3].format(n=number, m=number * 7 % 31)}."


def history(embeddings: np.ndarray) -> History:
    """ROWS past queries with these embeddings [ROWS, d]; the same on every machine."""
    dice = np.random.default_rng(7)
    able = np.array([[ABLE[llm][number % 3] for llm in LLMS] for number in range(ROWS)])
    costs = np.array([COST_MICROS[llm] for llm in LLMS])
    return History(
        ids=[f"past-{number}" for number in range(ROWS)],
        llms=LLMS,
        embeddings=embeddings,
        quality=(dice.random(able.shape) < able).astype(float),
        cost_micros=costs * dice.uniform(0.5, 1.5, able.shape),
        input_tokens=np.full(ROWS, 12.0),
        categories=[("sums", "capitals", "proofs")[number % 3] for number in range(ROWS)],
    )


def of_texts() -> History:
    """With the package's own embeddings."""
    embed = embed_with(WORDLLAMA)
    assert embed is not None, "wordllama makes embeddings"
    return history(embed([text(number) for number in range(ROWS)]))


def of_vectors() -> History:
    """With embeddings of 8 numbers that queries must bring."""
    return history(np.array([vector(number) for number in range(ROWS)], dtype=np.float32))


def vector(number: int) -> Sequence[float]:
    """The embedding of a made-up query."""
    raw = np.random.default_rng(number).normal(size=(1, 8)) + 2 * np.eye(3, 8)[number % 3]
    return [float(value) for value in normalised(raw.astype(np.float32))[0]]
