"""A whole Tollgate on this machine, in child processes under one directory: for demos, tests and benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType

from worker.contract.errors import CheckFailed
from worker.contract.settings import Settings, load_settings
from worker.estimation import index
from worker.estimation.history import History
from worker.kafka import admin
from worker.local.broker import Broker
from worker.local.processes import Child, ProcessGroup, wait_for
from worker.service.ports import free_port

START_SECONDS = 180.0
SETTINGS_FILE = "tollgate.toml"

# Takes one line about the progress of a long run.
Notify = Callable[[str], None]


def write_settings(
    path: Path,
    sections: Mapping[str, Mapping[str, object]],
    budgets: Mapping[str, float],
    calls: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """Write a settings file of these sections and one [llms] table for each budget, and load it.

    `calls` are more settings of LLMs: how each is called.
    """
    lines = [line for name, section in sections.items() for line in (f"[{name}]", *map(_line, section.items()), "")]
    for llm, budget_usd in budgets.items():
        lines += [f"[llms.{json.dumps(llm)}]", f"budget_usd = {budget_usd:.6f}"]
        lines += [*map(_line, (calls or {}).get(llm, {}).items()), ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return load_settings(path)


def _line(setting: tuple[str, object]) -> str:
    # JSON's strings, numbers and booleans are TOML's too.
    return f"{setting[0]} = {json.dumps(setting[1], default=str)}"


class System:
    """Settings, topics and index in `directory`; workers and inference workers as children that are ended with it.

    `broker` must be running. Use it as a context manager around `prepare`, `start_workers` and so on.
    """

    def __init__(self, directory: Path, broker: Broker) -> None:
        self.directory = directory
        self.broker = broker
        self.processes = ProcessGroup()
        self.workers: list[Child] = []
        self.inference: list[Child] = []
        self._ports: dict[str, int] = {}

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.directory / SETTINGS_FILE

    def prepare(
        self,
        past: History,
        budgets: Mapping[str, float],
        embedder: str,
        calls: Mapping[str, Mapping[str, object]] | None = None,
        **sections: Mapping[str, object],
    ) -> Settings:
        """Write the settings, build the index from `past` if it is not there, and create the topics."""
        kafka: dict[str, object] = {"bootstrap_servers": self.broker.bootstrap_servers, **sections.pop("kafka", {})}
        place = self.directory / "index"
        if not place.exists():
            index.build(past, place, embedder)
        everything: dict[str, Mapping[str, object]] = {"kafka": kafka, "index": {"directory": str(place)}, **sections}
        settings = write_settings(self.config, everything, budgets, calls)
        admin.create(settings)
        return settings

    def start_workers(self, count: int) -> None:
        """Start workers and return when each has its partitions."""
        for _ in range(count):
            self.start_worker()
        wait_for("the workers to be ready", lambda: all(map(self.is_ready, self.workers)), START_SECONDS)

    def start_worker(self) -> Child:
        """Start a worker."""
        name = f"worker-{len(self.workers) + 1}"
        self._ports[name] = free_port()
        self.workers.append(self.processes.start(self._child(name, ["run", "--web-port", str(self._ports[name])])))
        return self.workers[-1]

    def start_inference(self, latency_ms: float, error_rate: float = 0.0, options: Sequence[str] = ()) -> Child:
        """Start an inference worker for all LLMs."""
        return self.start_calling("--latency-ms", str(latency_ms), "--error-rate", str(error_rate), *options)

    def start_calling(self, *options: str) -> Child:
        """Start an inference worker that calls the LLMs of the settings."""
        name = f"inference-{len(self.inference) + 1}"
        self.inference.append(self.processes.start(self._child(name, ["infer", *options])))
        return self.inference[-1]

    def is_ready(self, worker: Child) -> bool:
        """Whether /readyz of a worker says so. Raises CheckFailed if it has ended."""
        if not worker.running:
            raise CheckFailed(f"{worker.name} ended with {worker.exit_code}:\n{worker.tail()}")
        try:
            return self.page(worker, "readyz")[0] == HTTPStatus.OK
        except OSError:
            return False

    def partitions(self, worker: Child) -> list[int]:
        """The partitions that a worker owns now, by its /readyz; none while it does not answer."""
        try:
            owned: list[int] = json.loads(self.page(worker, "readyz")[1])["partitions"]
        except (OSError, ValueError):
            return []
        return owned

    def page(self, worker: Child, name: str) -> tuple[int, str]:
        """Status and text of a page of a worker's web server. Raises OSError while it does not listen."""
        with closing(HTTPConnection("127.0.0.1", self._ports[worker.name], timeout=2)) as connection:
            connection.request("GET", f"/{name}")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def __enter__(self) -> System:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.__exit__(kind, error, trace)

    def _child(self, name: str, arguments: Sequence[str]) -> Child:
        return Child(name, [*arguments, "--config", str(self.config)], self.directory / f"{name}.log")
