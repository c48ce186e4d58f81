"""A text has one embedding, whatever is embedded beside it."""

from __future__ import annotations

import numpy as np
import pytest

from worker.contract.errors import FixSetting
from worker.estimation.embedder import MOST_TOKENS, SUPPLIED, WordLlamaEmbedder, load_embedder


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
    """A text has the same embedding alone and in a batch, bit for bit: a retry embeds its text alone."""
    together, _ = embedder.embed(TEXTS)
    alone, _ = embedder.embed([TEXTS[row]])
    assert alone[0].tobytes() == together[row].tobytes()


def test_an_embedding_is_a_unit_vector_or_has_a_problem(embedder: WordLlamaEmbedder) -> None:
    """A row has 256 dimensions and length 1; a text that has a problem has a row of zeros."""
    rows, problems = embedder.embed(TEXTS)
    lengths = np.round(np.linalg.norm(rows.astype(np.float64), axis=1), 6)
    assert rows.shape == (len(TEXTS), 256)
    assert lengths.tolist() == [0.0 if problem else 1.0 for problem in problems]


def test_nothing_is_no_text(embedder: WordLlamaEmbedder) -> None:
    """An empty text has the problem `empty_text`, another text has no problem."""
    _, (problem, fine) = embedder.embed(["", "hello"])
    assert problem is not None
    assert problem.code == "empty_text"
    assert fine is None


def test_a_long_text_is_cut(embedder: WordLlamaEmbedder) -> None:
    """Tokens after the limit do not change the embedding."""
    long = "word " * MOST_TOKENS
    rows, _ = embedder.embed([long, long + "something else entirely"])
    assert rows[0].tobytes() == rows[1].tobytes()


def test_similar_texts_are_near(embedder: WordLlamaEmbedder) -> None:
    """A paraphrase is nearer than a text on another subject: the weights are those of the model."""
    rows, _ = embedder.embed(["How old is the universe?", "What is the age of the cosmos?", "Bake bread at home"])
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2


def test_names_of_embedders() -> None:
    """An index of supplied embeddings has no embedder; an unknown name is refused."""
    with pytest.raises(FixSetting, match="'bert' is neither 'wordllama' nor 'supplied'"):
        load_embedder("bert")
    assert load_embedder(SUPPLIED) is None


BLANKS = [" " * 25_000, "\n" * 900_000, "\t \r\n" * 10_000]


@pytest.mark.parametrize("blanks", BLANKS, ids=("25 kB of blanks", "900 kB of line ends", "all kinds"))
def test_blanks_do_not_change_the_embedding(embedder: WordLlamaEmbedder, blanks: str) -> None:
    """The question is embedded, wherever it stands among blanks."""
    rows, _ = embedder.embed(["Which city is it?", f"{blanks}Which city{blanks}is it?{blanks}"])
    assert rows[0].tobytes() == rows[1].tobytes()
