"""The command line `tollgate`. Verbs live in worker/commands; what they need is imported when they are called."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from worker.commands import (
    bench,
    broker,
    chaos,
    demo,
    evaluate,
    explain,
    index,
    infer,
    produce,
    replay,
    run,
    send,
    status,
    topics,
    verify,
    what_if,
)
from worker.contract.errors import TollgateError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Route LLM queries on Kafka under budgets. Begin with `tollgate demo`.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 usage, 3 broker unreachable or refused, 4 settings. "
    "With --debug, errors show where they came from.",
)
app.command("demo")(demo.command)
app.command("run")(run.command)
app.command("send")(send.command)
app.command("infer")(infer.command)
app.command("produce")(produce.command)
app.command("status")(status.command)
app.command("verify")(verify.command)
app.command("replay")(replay.command)
app.command("explain")(explain.command)
app.command("what-if")(what_if.command)
app.command("evaluate", help=evaluate.HELP)(evaluate.command)
app.command("bench")(bench.command)
app.command("chaos")(chaos.command)
app.add_typer(broker.app, name="broker")
app.add_typer(topics.app, name="topics")
app.add_typer(index.app, name="index")


def main() -> None:
    """Run the command line; an error becomes one message on standard error and an exit code."""
    # Before numpy and faiss are loaded: our threads and processes share the cores, and pools of their own would fight.
    for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(pool, "1")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="tollgate")
    except TollgateError as error:
        if len(arguments) < len(sys.argv) - 1:
            traceback.print_exc()
        print(f"tollgate: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
