"""The Faust application: two agents over the lanes, and the process around them.

Of Faust it uses the consumer group, the agents and the web server. Its tables, its transactions and its recovery are
not safe for money (docs/ARCHITECTURE.md says why); the lanes keep the ledger themselves.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import faust
import structlog
from faust.types import StreamT
from faust.web import Request, Response, View

from worker.contract.errors import CheckBroker, FixSetting, LeaveProcess
from worker.contract.settings import KafkaSettings, Settings
from worker.core.partition_config import configuration
from worker.core.router import Prior
from worker.estimation.embedder import load_embedder
from worker.estimation.estimator import Estimator
from worker.kafka import admin, clients, permissions
from worker.kafka.clock import SYSTEM_CLOCK, SystemClock
from worker.kafka.reader import KafkaReader
from worker.service import index_in_use
from worker.service.committer import Committer, Kafka, open_committer
from worker.service.consumer import LaneApp, LaneAssignor, LaneConsumer, create_no_topics
from worker.service.health import ASK_SECONDS, Health
from worker.service.home import opening_events
from worker.service.intake import Input, Intake
from worker.service.lanes import Lanes
from worker.service.leaving import leave
from worker.service.metrics import AlarmLog, Metrics
from worker.service.ports import listen
from worker.service.positions import Positions
from worker.service.prepare import Preparer
from worker.service.watch import Watch

log = structlog.get_logger()

# To leave the group in, after the last transaction; with the default settings all of it is within the 30 seconds that
# Kubernetes waits for.
LEAVE_SECONDS = 5.0
# How long the group waits for a worker that is alive to finish its transactions and the lanes it is opening; the
# heartbeats of a dead one are missed after the session timeout.
REBALANCE_SECONDS = 30.0
ALARM_SECONDS = 10.0
EXPOSITION_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class LaneWorker(faust.Worker):  # type: ignore[misc]
    """Faust's process without its terminal spinner, which writes control characters into logs."""

    def on_init_dependencies(self) -> Any:
        """Called before anything starts."""
        self.spinner = None
        return super().on_init_dependencies()

    def _install_signal_handlers_unix(self) -> None:
        # No others: Faust's own open a debugger, print all stacks, and write a line that is no event.
        for number in (signal.SIGINT, signal.SIGTERM):
            self.loop.add_signal_handler(number, self._schedule_shutdown, number)


def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT. Raises FixSetting and CheckBroker at start; a failure later ends the process."""
    clients.give_way()
    estimator = index_in_use.load(settings)
    metrics = Metrics()
    metrics.describe(version("tollgate"), settings.routing.policy, estimator.manifest)
    lanes = make_lanes(settings, estimator, metrics)
    check_topics(settings)
    create_no_topics()
    with listen(settings.web) as listening:
        app = make_app(settings, lanes, metrics, listening)
        # What is loaded now stays: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        log.info("starting", web=f"http://{app.conf.web_host}:{app.conf.web_port}", index=estimator.manifest.index[:16])
        try:
            LaneWorker(app, override_logging=False, redirect_stdouts=False, quiet=True).execute_from_commandline()
        finally:
            log.info("stopped")


def check_topics(settings: Settings) -> None:
    """Raise FixSetting if a topic is not what the lanes need, and CheckBroker if a worker may not do what it has to.
    Warn of what may lose records."""
    if denied := permissions.denied(settings):
        raise CheckBroker("\n".join(denied))
    problems = admin.check(settings)
    if stopping := [str(problem) for problem in problems if problem.stops]:
        raise FixSetting("\n".join(stopping))
    for problem in problems:
        log.warning("topic_problem", topic=problem.topic, problem=problem.problem, remedy=problem.remedy)


def make_lanes(settings: Settings, estimator: Estimator, metrics: Metrics) -> Lanes:
    """The lanes of this process, none of them open yet. Raises FixSetting where index and settings differ."""
    prices = settings.price_lists(datetime.now(UTC))
    partitions = range(settings.kafka.partitions)
    configurations = [configuration(settings, estimator.manifest, partition, prices) for partition in partitions]
    prior = Prior(estimator.prior.quality, estimator.prior.cost_micros.astype(float))
    embedder = load_embedder(estimator.manifest.embedder)
    searching = threading.BoundedSemaphore(settings.index.search_threads)
    preparer = Preparer(settings, estimator, embedder, prices, searching)
    clock = SystemClock()
    reader = KafkaReader(settings)
    intake = Intake(settings, preparer, reader, metrics, clock)

    def open_lane(partition: int) -> Committer:
        committer = open_committer(partition, settings, prior, metrics, Kafka(reader), clock)
        events = opening_events(reader, settings, committer.view, configurations[partition], committer.clock.now_ms())
        if events:
            committer.commit([Input(event) for event in events])
        return committer

    # One thread more than may search: it decodes and estimates meanwhile.
    lanes = Lanes(intake, open_lane, leave, settings.index.search_threads + 1)
    metrics.watch(lambda: [lane.committer.view for lane in lanes.open])
    return lanes


def make_app(settings: Settings, lanes: Lanes, metrics: Metrics, listening: socket.socket) -> faust.App:
    """The application with its agents and pages; the web server takes the socket that is `listening`."""
    kafka = settings.kafka
    app = LaneApp(
        kafka.group,
        broker=[f"kafka://{server}" for server in kafka.bootstrap_servers.split(",")],
        broker_credentials=credentials(settings.kafka),
        store="memory://",
        # The lanes' topics are made by `tollgate topics create`; Faust makes none.
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=kafka.partitions,
        # 1 or more keeps Faust's co-partitioning assignor; 0 is round robin, which splits queries from completions.
        table_standby_replicas=1,
        PartitionAssignor=LaneAssignor,
        broker_session_timeout=kafka.session_timeout_ms / 1000,
        broker_heartbeat_interval=kafka.session_timeout_ms / 5000,
        broker_request_timeout=max(40.0, kafka.session_timeout_ms / 1000 + 10),
        broker_rebalance_timeout=max(REBALANCE_SECONDS, kafka.session_timeout_ms / 1000),
        # One record batch becomes one transaction; 1,000 queries are about a tenth of a second of searching.
        broker_max_poll_records=1_000,
        # A static member keeps its partitions while it restarts.
        consumer_group_instance_id=kafka.instance_id,
        stream_buffer_maxsize=64,
        # Lanes finish their own transactions before a rebalance; Faust would wait for batches that nobody will decide.
        stream_wait_empty=False,
        broker_commit_interval=1.0,
        web_host=settings.web.host,
        web_bind=settings.web.host,
        web_port=listening.getsockname()[1],
        debug=False,
    )
    app.listening = listening
    reader, positions, health = KafkaReader(settings), Positions(), Health(kafka, SYSTEM_CLOCK.monotonic)
    members = {
        "lanes": lanes,
        "positions": positions,
        "read": staticmethod(reader.read_partition),
        "refused": staticmethod(leave),
        "is_replaced": partial(clients.is_replaced, settings),
    }
    app.transport.Consumer = type("Consumer", (LaneConsumer,), members)
    _add_agents(app, settings, lanes, positions)
    _add_pages(app, lanes, metrics, health)
    _add_health(app, settings, reader, health)
    metrics.watch_service(health, lambda: lanes.quarantined)
    alarm_log = AlarmLog()
    committers = partial(_committers, lanes)
    watch = Watch(settings, KafkaReader(settings), metrics, committers, leave)

    @app.timer(interval=ALARM_SECONDS)  # type: ignore[untyped-decorator]
    async def log_alarms(*_: Any) -> None:
        alarm_log.update(metrics.alarms())

    _repeat(app, ALARM_SECONDS, lambda: asyncio.to_thread(watch.look))

    @app.on_before_shutdown.connect  # type: ignore[untyped-decorator]
    async def finish(*_: Any, **__: Any) -> None:
        _end_in_time(kafka.transaction_timeout_ms / 1000 + LEAVE_SECONDS)
        await lanes.stop()

    return app


def _committers(lanes: Lanes) -> list[Committer]:
    return [lane.committer for lane in lanes.open]


def _end_in_time(seconds: float) -> None:
    """Without a broker, Faust would try to leave the group for ever."""
    error = LeaveProcess(f"the broker does not answer: ended in {seconds:.0f} s without leaving the group")
    timer = threading.Timer(seconds, leave, [error])
    timer.daemon = True
    timer.start()


def _add_agents(app: faust.App, settings: Settings, lanes: Lanes, positions: Positions) -> None:
    async def hand_over(stream: StreamT[bytes]) -> None:
        async for event in stream.noack().events():
            batch = event.message.value
            if not positions.is_current(batch):
                continue
            try:
                await lanes.submit(event.message.partition, batch.records, batch.after, event.ack)
            except Exception as error:
                leave(error)

    for name in (settings.topics.queries, settings.topics.completions):
        topic = app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(topic, name=name, concurrency=1)(hand_over)


def _add_health(app: faust.App, settings: Settings, reader: KafkaReader, health: Health) -> None:
    inputs = (settings.topics.queries, settings.topics.completions)

    async def ask() -> None:
        settled = app.consumer.settled()
        # A worker that owns no lane asks too, or it would not know of the broker.
        places = settled.keys() or {(topic, 0) for topic in inputs}
        try:
            ends = await asyncio.to_thread(reader.ends, places)
        except CheckBroker as error:
            log.debug("broker_unanswered", error=str(error))
        else:
            health.answered(ends, settled)

    _repeat(app, ASK_SECONDS, ask)


def _repeat(app: faust.App, pause_seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do work again and again, with a pause between. Unlike a timer, it may take long: without a broker, it does."""

    @app.task  # type: ignore[untyped-decorator]
    async def repeat(*_: Any) -> None:
        while True:
            await asyncio.sleep(pause_seconds)
            await work()


def _add_pages(app: faust.App, lanes: Lanes, metrics: Metrics, health: Health) -> None:
    @app.page("/healthz")  # type: ignore[untyped-decorator]
    async def healthz(view: View, _: Request) -> Response:
        stalled = health.stalled()
        return view.text("".join(f"{line}\n" for line in stalled) or "ok\n", status=503 if stalled else 200)

    @app.page("/readyz")  # type: ignore[untyped-decorator]
    async def readyz(view: View, _: Request) -> Response:
        quarantined, answers = lanes.quarantined, health.broker_answers
        ready = lanes.ready.is_set() and answers and not quarantined
        state = {
            "ready": ready,
            "partitions": sorted(lane.partition for lane in lanes.open),
            "broker": "ok" if answers else health.absent,
            "quarantined": {str(partition): reason for partition, reason in sorted(quarantined.items())},
        }
        return view.json(state, status=200 if ready else 503)

    @app.page("/metrics")  # type: ignore[untyped-decorator]
    async def exposition(view: View, _: Request) -> Response:
        # As a header: the web driver refuses a content type with parameters.
        return view.bytes(metrics.exposition(), headers={"Content-Type": EXPOSITION_FORMAT})


def credentials(kafka: KafkaSettings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """What Faust's driver logs in with; None for PLAINTEXT. Raises FixSetting for TLS files that are none."""
    context = clients.ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.sasl_username, password=kafka.password(), mechanism=kafka.sasl_mechanism, ssl_context=context
        )
    return faust.SSLCredentials(context) if context is not None else None
