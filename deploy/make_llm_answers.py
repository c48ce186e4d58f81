"""Makes the answers in worker/data/questions.csv anew: `python deploy/make_llm_answers.py`, after `make llm`.

Both LLMs of `tollgate demo --llm` are asked every question at temperature 0. It takes some two minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from worker.local import llm_demo, questions

TABLE = Path(__file__).parents[1] / "worker" / "data" / "questions.csv"


def main() -> None:
    """Serve the LLM, ask, and write."""
    asked, _ = questions.load()
    command = [sys.executable, "-m", "worker", "llm", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None, "its output is a pipe"
        try:
            address = server.stdout.readline().strip()
            replies = llm_demo.ask(address, asked, lambda stage: print(f"{stage.done} of {stage.total}", end="\r"))
        finally:
            server.terminate()
    questions.write(TABLE, asked, replies)


if __name__ == "__main__":
    main()
