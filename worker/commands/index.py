"""`tollgate index build|ensure|inspect`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from worker.commands.options import (
    ConfigOption,
    JsonOption,
    OutputOption,
    more_help,
    new_app,
    new_directory,
    settings_from,
)
from worker.commands.output import Steps, console, present, working
from worker.commands.tables import Figures
from worker.contract.errors import FixSetting
from worker.contract.settings import Settings
from worker.core.partition_config import check_llms
from worker.estimation import demo_data, index
from worker.estimation.embedder import embed_with
from worker.estimation.history import History, read_table
from worker.estimation.manifest import Manifest
from worker.service import index_in_use

DEMO = Path("demo")

TablePath = Annotated[
    Path,
    typer.Argument(
        metavar="TABLE",
        help="A table with one row per past query: Parquet, CSV, TSV, JSON lines or a JSON array, also gzipped; or a "
        "directory of such files; or `demo`: the package's data.",
    ),
]
NewDirectory = Annotated[
    Path, typer.Argument(metavar="DIRECTORY", help="The directory to create for the index.", callback=new_directory)
]
Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The index's directory.")]
Embedder = Annotated[
    Literal["wordllama", "supplied"],
    typer.Option(help="The embedder of query texts. supplied: each query brings its own embedding."),
]
Embeddings = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A .npy file with the table's embeddings, float [rows, d]. Without it: the embedder's, of the column "
        "`prompt`. With --embedder supplied: the column `embedding`, or embeddings*.npy in its directory.",
        show_default=False,
    ),
]
Neighbours = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Number of nearest past queries per estimate. Without it: the best on the table.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the samples and folds that calibrate the index.")]

app = new_app(no_args_is_help=True)


@app.callback(
    epilog=more_help("tollgate index build history.parquet ./index", "tollgate index inspect ./index", exit_3="")
)
def group() -> None:
    """Build the index of past queries, or inspect it.

    Workers estimate the quality and cost of each LLM's answer from this index.
    """


@app.command(
    epilog=more_help(
        "tollgate index build demo ./index",
        "tollgate index build history.parquet ./index",
        "tollgate index build history.csv ./index --embedder supplied --embeddings vectors.npy",
        exit_3="",
    )
)
def build(
    table: TablePath,
    directory: NewDirectory,
    embedder: Embedder = "wordllama",
    embeddings: Embeddings = None,
    neighbours: Neighbours = None,
    seed: Seed = 0,
    json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Build an index from a table of past queries.

    The table has for each LLM a column `<llm>` (the score of its answer, from 0 to 1) and a column `<llm>|total_cost`
    (US dollars). An empty cell is allowed. Optional columns: `prompt` (the text), `query_id`, `input_tokens`.

    The index is calibrated on the table itself: held-out rows show how well it estimates. The same table, embedder and
    seed give the same index. A warning names each LLM with few rows, and each whose estimates are worse than its mean.
    """
    if table == DEMO and embeddings is not None:
        raise FixSetting("--embeddings: the package's data has embeddings of its own; name a table, or omit the option")
    with working(f"reading {table}") as progress:
        steps = Steps(progress)
        steps("reading", 0, 1)
        # Without a name here: `build` drops what it needs no more of a large history.
        manifest = index.build(_read(table, embeddings, embedder, steps), directory, embedder, neighbours, seed, steps)
        steps.end()
    _tell(manifest, steps)
    present(manifest, json, output, lambda screen: show(screen, directory, manifest))


@app.command(epilog=more_help("tollgate index ensure", "tollgate index ensure --config tollgate.toml", exit_3=""))
def ensure(config: ConfigOption = None, embedder: Embedder = "wordllama") -> None:
    """Build the index that the settings name, unless it is there.

    The table is index.history, the directory is index.directory. An index that is there is kept, also if the table has
    changed since: to use another table, name another directory. The LLMs of the table must be those of the settings;
    this is checked before the work.
    """
    settings = settings_from(config)
    place = settings.index.directory
    if place.exists():
        manifest = index_in_use.inspect(settings)
        check_llms(settings, manifest.llms, "the index")
        typer.echo(f"{place}: is there, of {manifest.rows:,} rows and {len(manifest.llms)} LLMs")
        return
    with working(f"building {place}") as progress:
        steps = Steps(progress)
        steps("reading", 0, 1)
        manifest = index.build(_configured(settings, embedder, steps), place, embedder, step=steps)
        steps.end()
    _tell(manifest, steps)
    show(console(), place, manifest)


def _configured(settings: Settings, embedder: str, steps: Steps) -> History:
    """The history of the settings. Raises FixSetting if none is named, or if it has other LLMs than the settings."""
    table = settings.index.history
    if table is None:
        raise FixSetting(
            f"index.history: is not set, and there is no index in {settings.index.directory}; name a table of past "
            "queries"
        )
    history = _read(table, None, embedder, steps)
    newcomers = index_in_use.likes(settings, history.llms, datetime.now(UTC))
    check_llms(settings, (*history.llms, *newcomers), "the table")
    return history


def _tell(manifest: Manifest, steps: Steps) -> None:
    """What to know of a new index, and what it took."""
    for doubt in index.doubts(manifest):
        typer.echo(f"warning: {doubt}", err=True)
    spent = ", ".join(f"{step} {seconds:.1f}" for step, seconds in steps.cpu_seconds.items())
    typer.echo(f"CPU seconds: {spent}", err=True)


def _read(table: Path, embeddings: Path | None, embedder: str, steps: Steps) -> History:
    if table == DEMO:
        return demo_data.split(demo_data.load())[0]
    return read_table(table, embeddings, embed_with(embedder, steps))


@app.command(epilog=more_help("tollgate index inspect ./index", "tollgate index inspect ./index --json", exit_3=""))
def inspect(directory: Directory, json: JsonOption = False, output: OutputOption = None) -> None:
    """Check each file of an index, and show how well it estimates.

    Every file is compared with its hash in the manifest. The errors are those on rows that were held out.
    """
    with working(f"checking {directory}"):
        manifest = index.load(directory).manifest
    present(manifest, json, output, lambda screen: show(screen, directory, manifest))


def show(screen: Console, directory: Path, manifest: Manifest) -> None:
    """What an index is made of, and its errors by LLM."""
    parameters, errors = manifest.parameters, manifest.errors
    screen.print(
        f"{directory}: {manifest.rows:,} rows, {len(manifest.llms)} LLMs; "
        f"embeddings of {manifest.dimension} dimensions ({manifest.embedder})",
        style="bold",
    )
    screen.print(f"hash {manifest.index}")
    screen.print(
        f"{parameters.neighbours} neighbours, temperature {parameters.temperature}, recall {errors.recall:.1%}; "
        f"{parameters.landmarks} landmarks, kernel width {parameters.kernel_width}"
    )
    rows = [
        ("estimates", f"{errors.quality:.4f}", f"{errors.log_cost:.4f}"),
        ("neighbours alone", f"{errors.quality_neighbours:.4f}", f"{errors.log_cost_neighbours:.4f}"),
        ("means alone", f"{errors.quality_mean:.4f}", f"{errors.log_cost_mean:.4f}"),
    ]
    screen.print(Figures(("error on held-out rows", "quality", "log cost"), rows))
    screen.print(_by_llm(manifest))


def _by_llm(manifest: Manifest) -> Figures:
    figures = zip(manifest.llms, manifest.llm_rows, manifest.errors.by_llm, manifest.margins, strict=True)
    rows = [
        (llm, f"{seen:,}", f"{quality:.4f}", f"{cost:.4f}", f"{margin:.3f}")
        for llm, seen, (quality, cost), margin in figures
    ]
    return Figures(("LLM", "rows", "quality error", "log cost error", "margin"), rows)
