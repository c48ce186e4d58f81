"""Turns a query's text into an embedding, where the query brings none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.contract import sentences
from worker.contract.codes import Rejection
from worker.contract.errors import FixSetting
from worker.contract.rejections import EMPTY_TEXT
from worker.estimation.manifest import Step, silent

WORDLLAMA = "wordllama"
SUPPLIED = "supplied"
DIMENSIONS = {WORDLLAMA: 256}
# A mean of token vectors changes little after this. The limit bounds the time that one query takes.
MOST_TOKENS = 4_096
# A token has fewer characters than this: longer texts are cut before they are made tokens.
MOST_CHARACTERS = MOST_TOKENS * 16
# So many texts are embedded between two reports of the progress.
BLOCK_TEXTS = 1_000
_BLANKS = re.compile(r"\s+")


class Embedder(Protocol):
    """Embeds texts; row i belongs to text i, whatever else is in the batch."""

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[Rejection | None]]:
        """Embeddings float32 [n, d], L2-normalised, and what is wrong with each text (its row is zeros)."""


def load_embedder(name: str) -> Embedder | None:
    """The embedder an index was built with; None where embeddings are supplied. Raises FixSetting."""
    if name == SUPPLIED:
        return None
    if name == WORDLLAMA:
        return WordLlamaEmbedder.load()
    raise FixSetting(f"index.embedder: {name!r} is neither {WORDLLAMA!r} nor {SUPPLIED!r}")


def embed_with(embedder: str, step: Step = silent) -> Callable[[Sequence[str]], NDArray[np.float32]] | None:
    """A function from texts to embeddings [n, d], by the embedder of this name; None where they are supplied."""
    loaded = None if embedder == SUPPLIED else load_embedder(embedder)
    if loaded is None:
        return None

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        blocks = []
        for start in range(0, len(texts), BLOCK_TEXTS):
            step("embedding", start, len(texts))
            vectors, problems = loaded.embed(texts[start : start + BLOCK_TEXTS])
            for row, problem in enumerate(problems, start=start):
                if problem is not None:
                    raise FixSetting(f"history: row {row + 1}: {sentences.reason(problem)}")
            blocks.append(vectors)
        return np.concatenate(blocks)

    return embed


def collapsed(text: str) -> str:
    """The text with one space for each run of blanks, and none at its ends: blanks say nothing, and would fill the
    tokens that are embedded."""
    return _BLANKS.sub(" ", text).strip()


class WordLlamaEmbedder:
    """The 256 dimensions of wordllama's l2_supercat, from the weights in its package: nothing is downloaded."""

    def __init__(self, model: Any) -> None:
        self._model = model
        model.tokenizer.enable_truncation(MOST_TOKENS)

    @classmethod
    def load(cls) -> WordLlamaEmbedder:
        """Read the weights; takes about a second."""
        import wordllama

        folder = Path(wordllama.__file__).parent
        return cls(wordllama.WordLlama.load(cache_dir=folder, disable_download=True))

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[Rejection | None]]:
        """Embed the first MOST_TOKENS tokens of each text. Each text is embedded alone: in a batch, padding changes
        the last bits."""
        rows = np.zeros((len(texts), DIMENSIONS[WORDLLAMA]), dtype=np.float32)
        problems: list[Rejection | None] = [None] * len(texts)
        for row, text in enumerate(texts):
            embedding = self._model.embed([collapsed(text)[:MOST_CHARACTERS]], norm=False)[0]
            length = float(np.linalg.norm(embedding))
            if length > 0 and np.isfinite(length):
                rows[row] = embedding / length
            else:
                problems[row] = EMPTY_TEXT
        return rows, problems
