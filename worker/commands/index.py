"""`tollgate index build|inspect`: makes the index of history that queries are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from worker.estimation.manifest import Manifest

DEMO = Path("demo")

app = typer.Typer(help="Build and inspect the index of history.", no_args_is_help=True)

TablePath = Annotated[
    Path, typer.Argument(metavar="TABLE", help="Parquet, CSV or JSONL: one row per past query; or `demo`.")
]
Directory = Annotated[Path, typer.Argument(help="The index's directory.")]
Embedder = Annotated[str, typer.Option(help="What embeds a text: wordllama, or supplied (every query brings its own).")]
Embeddings = Annotated[Path | None, typer.Option(help="The table's embeddings, .npy [rows, d]; else it is embedded.")]
Neighbours = Annotated[int | None, typer.Option(min=1, help="Neighbours asked; without it, leave-one-out chooses.")]
Seed = Annotated[int, typer.Option(help="Seed of the samples and folds of the calibration.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")]


@app.command()
def build(
    table: TablePath,
    directory: Directory,
    embedder: Embedder = "wordllama",
    embeddings: Embeddings = None,
    neighbours: Neighbours = None,
    seed: Seed = 0,
) -> None:
    """Build an index from a table of past queries, calibrated on it. `demo` is the data in the package."""
    from rich.console import Console

    from worker.contract.errors import FixSetting
    from worker.estimation import demo_data, index
    from worker.estimation.embedder import embed_with
    from worker.estimation.history import read_table

    if table == DEMO and embeddings is not None:
        raise FixSetting("--embeddings: the data in the package has its own; name a table, or leave it out")
    console = Console()
    with console.status(f"reading {table}") as status:
        if table == DEMO:
            history, _ = demo_data.split(demo_data.load())
        else:
            history = read_table(table, embeddings, embed_with(embedder))
        status.update(f"calibrating on {len(history.ids):,} rows of {len(history.llms)} LLMs")
        manifest = index.build(history, directory, embedder, neighbours, seed)
    _show(console, directory, manifest)


@app.command()
def inspect(directory: Directory, as_json: AsJson = False) -> None:
    """Check every hash of an index and show what it is made of and how well it estimates."""
    from rich.console import Console

    from worker.estimation import index
    from worker.estimation.manifest import encode

    manifest = index.load(directory).manifest
    if as_json:
        typer.echo(encode(manifest).decode())
    else:
        _show(Console(), directory, manifest)


def _show(console: Console, directory: Path, manifest: Manifest) -> None:
    parameters, errors = manifest.parameters, manifest.errors
    console.print(f"{directory}: {manifest.rows:,} rows, {len(manifest.llms)} LLMs, {manifest.embedder}", style="bold")
    console.print(f"hash {manifest.index}")
    console.print(
        f"{parameters.neighbours} neighbours, temperature {parameters.temperature}, recall {errors.recall:.1%}; "
        f"{parameters.landmarks} landmarks, kernel width {parameters.kernel_width}"
    )
    console.print(
        f"held-out error of quality {errors.quality:.4f} (neighbours alone {errors.quality_neighbours:.4f}, "
        f"means {errors.quality_mean:.4f}); of log cost {errors.log_cost:.4f} "
        f"({errors.log_cost_neighbours:.4f}, {errors.log_cost_mean:.4f})"
    )
    console.print(_by_llm(manifest))


def _by_llm(manifest: Manifest) -> Table:
    from rich.table import Table

    table = Table("LLM", "rows", "quality error", "log cost error", "margin")
    rows = zip(manifest.llms, manifest.llm_rows, manifest.errors.by_llm, manifest.margins, strict=True)
    for llm, seen, (quality, cost), margin in rows:
        table.add_row(llm, f"{seen:,}", f"{quality:.4f}", f"{cost:.4f}", f"{margin:.3f}")
    return table
