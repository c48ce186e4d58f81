"""Makes worker/data/mmlu_pro.npz: figures of 6,000 MMLU-Pro questions, without the questions' texts.

    python deploy/make_demo_data.py FOLDER

FOLDER holds data.parquet: one row per question with `query_id`, `prompt`, `source`, and for each LLM `<llm>` (score)
and `<llm>|total_cost` (USD). Kept are ids, categories, scores, costs in micro-dollars, approximate input tokens and
wordllama embeddings (float16).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pyarrow import parquet

from worker.contract.tokens import approximate_tokens
from worker.estimation.embedder import WordLlamaEmbedder

ROWS = 6_000
SEED = 20_26
COST = "|total_cost"


def main(folder: Path) -> None:
    """Draw the rows, embed their texts and write what is kept."""
    table = parquet.read_table(folder / "data.parquet")
    llms = [name.removesuffix(COST) for name in table.column_names if name.endswith(COST)]
    rows = np.sort(np.random.default_rng(SEED).permutation(len(table))[:ROWS])
    table = table.take(rows)
    texts = table["prompt"].to_pylist()
    embeddings, problems = WordLlamaEmbedder.load().embed(texts)
    assert not any(problems), "every question has an embedding"
    categories, category = np.unique(
        [source.split("/")[-1] for source in table["source"].to_pylist()], return_inverse=True
    )
    costs = np.stack([table[llm + COST].to_numpy() for llm in llms], axis=1) * 1e6
    np.savez_compressed(
        Path("worker/data/mmlu_pro.npz"),
        ids=np.array([int(query_id.rsplit("-", 1)[1]) for query_id in table["query_id"].to_pylist()], dtype=np.uint16),
        llms=np.array(llms),
        categories=categories,
        category=category.astype(np.uint8),
        score=np.packbits(np.stack([table[llm].to_numpy() for llm in llms], axis=1).astype(bool), axis=1),
        cost_micros=np.rint(costs).astype(np.uint32),
        input_tokens=np.array([approximate_tokens(text) for text in texts], dtype=np.uint16),
        embeddings=embeddings.astype(np.float16),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
