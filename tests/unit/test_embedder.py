"""A text has one embedding, whatever is embedded beside it."""

from __future__ import annotations

import numpy as np
import pytest

from worker.contract.errors import FixSetting
from worker.estimation.embedder import MAX_CHARACTERS, SUPPLIED, WordLlamaEmbedder, load_embedder


@pytest.fixture(scope="module")
def embedder() -> WordLlamaEmbedder:
    """The weights in the package; nothing is downloaded."""
    return WordLlamaEmbedder.load()


TEXTS = [
    "Which planet has the shortest day?",
    "x",
    "",
    " \n\t",
    "Qué hora es? 現在幾點 \U0001f600",
    "a word " * 5_000,
    "\x00",
    "What is the derivative of x squared?",
]


@pytest.mark.parametrize("row", range(len(TEXTS)))
def test_a_text_alone_is_as_in_a_batch(embedder: WordLlamaEmbedder, row: int) -> None:
    """Bit for bit: a retry estimates the same text alone."""
    together, _ = embedder.embed(TEXTS)
    alone, _ = embedder.embed([TEXTS[row]])
    assert alone[0].tobytes() == together[row].tobytes()


def test_an_embedding_is_a_unit_vector_or_has_a_problem(embedder: WordLlamaEmbedder) -> None:
    """256 dimensions of length 1, or zeros and the reason."""
    rows, problems = embedder.embed(TEXTS)
    lengths = np.round(np.linalg.norm(rows.astype(np.float64), axis=1), 6)
    codes = [problem and problem.code for problem in problems]
    assert (rows.shape, lengths.tolist()) == ((len(TEXTS), 256), [0.0 if code else 1.0 for code in codes])


def test_nothing_is_no_text(embedder: WordLlamaEmbedder) -> None:
    """An empty text has no embedding, and says so."""
    _, (problem, fine) = embedder.embed(["", "hello"])
    assert (problem and problem.code, fine) == ("no_text", None)


def test_a_long_text_is_cut(embedder: WordLlamaEmbedder) -> None:
    """What lies behind the limit changes nothing, and costs no time."""
    long = "abcd " * (MAX_CHARACTERS // 5)
    rows, _ = embedder.embed([long, long + "something else entirely"])
    assert rows[0].tobytes() == rows[1].tobytes()


def test_similar_texts_are_near(embedder: WordLlamaEmbedder) -> None:
    """The weights are those of the model: a paraphrase is nearer than another subject."""
    rows, _ = embedder.embed(["How old is the universe?", "What is the age of the cosmos?", "Bake bread at home"])
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2


def test_names_of_embedders() -> None:
    """An index of supplied embeddings has none; a name that is not known is refused."""
    with pytest.raises(FixSetting, match="'bert' is neither 'wordllama' nor 'supplied'"):
        load_embedder("bert")
    assert load_embedder(SUPPLIED) is None
