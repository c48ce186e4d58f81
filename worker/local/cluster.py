"""One or more Kafka brokers of a chaos run, each behind a link that can be cut and slowed down."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

from worker.local import broker as local_broker
from worker.local.broker import Broker
from worker.local.link import Link
from worker.service.ports import free_port

COMMAND_SECONDS = 120.0


class Cluster:
    """`count` brokers in `directory`. Whatever has replicas has as many as there are brokers, up to three.

    Clients and brokers reach a broker only through its link. Use it as a context manager.
    """

    def __init__(self, directory: Path, count: int) -> None:
        self.replicas = min(3, count)
        ports = [free_port() for _ in range(3 * count)]
        listeners, controllers, links = ports[:count], ports[count : 2 * count], ports[2 * count :]
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(controllers, 1))
        self.bootstrap_servers = ",".join(f"127.0.0.1:{link}" for link in links)
        self.links = [Link(link, listener) for link, listener in zip(links, listeners, strict=True)]
        self.brokers = [
            Broker(
                directory / f"kafka-{node}",
                listener,
                {
                    "node.id": f"{node}",
                    "controller.quorum.voters": voters,
                    "listeners": f"PLAINTEXT://127.0.0.1:{listener},CONTROLLER://127.0.0.1:{controller}",
                    "advertised.listeners": f"PLAINTEXT://127.0.0.1:{link}",
                    "offsets.topic.replication.factor": f"{self.replicas}",
                    "transaction.state.log.replication.factor": f"{self.replicas}",
                    "transaction.state.log.min.isr": f"{max(1, self.replicas - 1)}",
                    "min.insync.replicas": f"{max(1, self.replicas - 1)}",
                },
                java_options=local_broker.FAST_START,
                servers=self.bootstrap_servers,
            )
            for node, (listener, controller, link) in enumerate(zip(listeners, controllers, links, strict=True), 1)
        ]
        self._open = ExitStack()

    def __enter__(self) -> Cluster:
        with ExitStack() as opening:
            for link in self.links:
                opening.enter_context(link)
            for broker in self.brokers:
                opening.callback(broker.stop)
                broker.begin()
            for broker in self.brokers:
                broker.wait()
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def throttle(self, client_id: str, bytes_per_second: int | None) -> None:
        """How much a client may write in a second; None: as much as it likes."""
        quota = "producer_byte_rate"
        change = (
            ["--delete-config", quota] if bytes_per_second is None else ["--add-config", f"{quota}={bytes_per_second}"]
        )
        client = ["--alter", "--entity-type", "clients", "--entity-name", client_id, *change]
        command = [*local_broker.java(), "kafka.admin.ConfigCommand", "--bootstrap-server", self.bootstrap_servers]
        subprocess.run([*command, *client], check=True, capture_output=True, timeout=COMMAND_SECONDS)
