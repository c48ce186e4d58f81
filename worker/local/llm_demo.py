"""The demo with a real LLM: questions in, answers out, on a real Kafka with `tollgate infer`, and the proof.

Two LLMs are made of one small model: it answers with a system message and without, at two prices. History is what
both answered to other questions. Nothing leaves this machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import Producer
from msgspec import Struct

from worker.audit import run_verify
from worker.audit.report import Report
from worker.contract import codec
from worker.contract.errors import CheckFailed
from worker.contract.messages import Query
from worker.contract.settings import LlmSettings, Settings
from worker.contract.token_costs import Cost, cost_of
from worker.estimation import index
from worker.estimation.embedder import WORDLLAMA, embed_with
from worker.estimation.history import MICROS_PER_USD, read_table
from worker.inference.calls import Caller
from worker.inference.replies import answer_text
from worker.kafka import clients
from worker.kafka.reader import KafkaReader
from worker.local import llm_server, questions
from worker.local.broker import FAST_START, Broker
from worker.local.demo import Show, Stage
from worker.local.follower import DecisionFollower
from worker.local.processes import Child, address_of
from worker.local.questions import Question, Replies, Reply
from worker.local.system import System

# The model made two LLMs: the one with a system message is right more often, and costs more.
LLMS: Mapping[str, Mapping[str, object]] = {
    "smollm2": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 5},
    "smollm2-brief": {
        "input_usd_per_mtok": 3,
        "output_usd_per_mtok": 15,
        "system": "Answer in English, in one short sentence.",
    },
}
MOST_TOKENS = 48
# Of what each LLM would cost for all questions, its budget has this share.
BUDGET_SHARE = 0.6
PARTITIONS, SLOTS = 2, 4
SERVER_SECONDS, ANSWER_SECONDS = 60.0, 300.0
CALL_SECONDS = 120


class Asked(Struct, frozen=True):
    """A question and what came of it. `llm`, `answer` and `cost_micros` are None for a deferred query."""

    question: str
    llm: str | None
    answer: str | None
    is_right: bool
    cost_micros: int | None


class LlmDemoResult(Struct, frozen=True):
    """`history` is by LLM how many of `past` questions it answered rightly in history.

    `first_answer_seconds` is the time from the start of the demo to its first answer.
    """

    past: int
    history: dict[str, int]
    asked: list[Asked]
    first_answer_seconds: float
    report: Report


class LlmDemo:
    """The demo's parts in their order. Use it as a context manager: it ends everything that it started.

    `fresh`: ask both LLMs the questions of history, instead of taking what they once answered.
    """

    def __init__(self, directory: Path, fresh: bool, show: Show) -> None:
        self._model = llm_server.own_model()
        self._fresh = fresh
        self._show = show
        self._started = time.monotonic()
        self.broker = Broker(directory / "kafka", java_options=FAST_START)
        self.system = System(directory, self.broker)
        everything, replies = questions.load()
        self._past, self._live = questions.split(everything)
        self._replies: Replies = {llm: questions.split(told)[0] for llm, told in replies.items()}

    def __enter__(self) -> LlmDemo:
        return self

    def __exit__(self, *_: object) -> None:
        self.system.processes.__exit__(None, None, None)
        self.broker.stop()

    def run(self) -> LlmDemoResult:
        """Start everything, ask the questions, and prove the books. Raises CheckFailed where a part ends early."""
        settings = self._start()
        asked, first_answer_seconds = self._route(settings)
        return self._result(settings, asked, first_answer_seconds)

    def _start(self) -> Settings:
        """Start Kafka and the LLM, build the index, create the topics, start a worker and an inference worker."""
        steps = iter(range(1, 5))

        def step(name: str) -> None:
            self._show(Stage(name, next(steps), 4, steps=True))

        step(f"starting Kafka and the LLM, building the index of {len(self._past)} past questions")
        # A child ends with the thread that started it, so the main thread starts both.
        address = self._start_llm()
        with ThreadPoolExecutor(1) as beside:
            building = beside.submit(self._build_index, address)
            self.broker.start(lambda doing: self._show(Stage(doing, 1, 4, steps=True)))
            building.result()
        step("creating topics")
        settings = self._prepare(address)
        step("starting a worker and an inference worker")
        self.system.start_calling()
        self.system.start_workers(1)
        step("ready")
        return settings

    def _start_llm(self) -> str:
        child = Child("llm", ["llm", "serve", "--port", "0", "--slots", str(SLOTS)], self.system.directory / "llm.log")
        self.system.processes.start(child)
        return address_of(child, SERVER_SECONDS)

    def _build_index(self, address: str) -> None:
        if self._fresh:
            self._replies = ask(address, self._past, self._show)
        table = self.system.directory / "history.csv"
        questions.write(table, self._past, self._replies)
        self._history = read_table(table, embed=embed_with(WORDLLAMA))
        index.build(self._history, self.system.directory / "index", WORDLLAMA)

    def _prepare(self, address: str) -> Settings:
        each = {llm: sum(one.cost_micros for one in told) / len(told) for llm, told in self._replies.items()}
        return self.system.prepare(
            self._history,
            {llm: micros * len(self._live) * BUDGET_SHARE / MICROS_PER_USD for llm, micros in each.items()},
            WORDLLAMA,
            calls={llm: called(llm, address) for llm in LLMS},
            kafka={"partitions": PARTITIONS, "group": "tollgate-demo"},
            routing={"horizon_queries": len(self._live), "horizon_floor_queries": 10},
            log={"format": "json"},
        )

    def _route(self, settings: Settings) -> tuple[list[Asked], float]:
        """Ask the live questions, as many at a time as the LLM takes.

        Returns what came of each, and the seconds from the start of the demo to the first answer.
        """
        follower, producer = DecisionFollower(settings), Producer(clients.producer_config(settings))
        waiting = deque(self._live)
        first: list[float] = []

        def each() -> None:
            ended = len(follower.decided) - follower.open
            while waiting and len(self._live) - len(waiting) - ended < SLOTS:
                _produce(producer, settings, waiting.popleft())
            if follower.settled and not first:
                first.append(time.monotonic() - self._started)
            self._show(Stage("questions answered or deferred", ended, len(self._live)))

        def is_done() -> bool:
            return len(follower.decided) == len(self._live) and follower.open == 0

        follower.wait("every question to be answered", is_done, ANSWER_SECONDS, each)
        follower.close()
        return self._asked(settings), round(first[0] if first else time.monotonic() - self._started, 1)

    def _asked(self, settings: Settings) -> list[Asked]:
        reader = KafkaReader(settings)
        records = [one for p in range(PARTITIONS) for one in reader.read_partition(settings.topics.answers, p)]
        answers = {answer.query_id: answer for answer in (codec.decode_answer(one.value or b"") for one in records)}
        asked = []
        for question in self._live:
            if (answer := answers.get(question.id)) is None:
                asked.append(Asked(question.text, None, None, False, None))
                continue
            text = answer_text(answer.response)
            asked.append(Asked(question.text, answer.llm, text, question.is_right(text), answer.cost_micros))
        return asked

    def _result(self, settings: Settings, asked: list[Asked], first_answer_seconds: float) -> LlmDemoResult:
        """Read the topics back and prove the books."""
        right = {
            llm: sum(question.is_right(reply.text) for question, reply in zip(self._past, told, strict=True))
            for llm, told in self._replies.items()
        }
        report = run_verify.verify(settings)
        return LlmDemoResult(len(self._past), right, asked, first_answer_seconds, report)


def _produce(producer: Producer, settings: Settings, question: Question) -> None:
    topic, value = settings.topics.queries, codec.encode(_query(question))
    clients.produce(producer, topic, value, question.id, headers=codec.CONTENT_TYPE)
    producer.poll(0)


def _query(question: Question) -> Query:
    return Query(id=question.id, text=question.text, max_output_tokens=MOST_TOKENS, parameters={"temperature": 0})


def called(llm: str, address: str) -> dict[str, object]:
    """The settings of an LLM of the demo, without its budget."""
    return {"base_url": address, "model": llm_server.ALIAS, "timeout_seconds": CALL_SECONDS, **LLMS[llm]}


def ask(address: str, asked: Sequence[Question], show: Callable[[Stage], None]) -> Replies:
    """Ask every LLM of the demo each question. Raises CheckFailed where one is not answered."""
    settings = {llm: LlmSettings.model_validate({"budget_usd": 1, **called(llm, address)}) for llm in LLMS}
    return asyncio.run(_ask(settings, asked, show))


async def _ask(
    llms: Mapping[str, LlmSettings], asked: Sequence[Question], show: Callable[[Stage], None]
) -> dict[str, list[Reply]]:
    slots, done = asyncio.Semaphore(SLOTS), 0

    async def one(caller: Caller, llm: str, question: Question) -> Reply:
        nonlocal done
        async with slots:
            until_ms = int((time.time() + 2 * CALL_SECONDS) * 1000)
            outcome = (await caller.call(llm, _query(question), f"{llm}-{question.id}", until_ms)).outcome
        prices = llms[llm].prices(datetime.now(UTC))
        cost = None if prices is None or outcome.usage is None else cost_of(outcome.usage, prices)
        if outcome.answer is None or not isinstance(cost, Cost):
            raise CheckFailed(f"{llm} did not answer {question.text!r}: {outcome.error_class}, {outcome.error}")
        done += 1
        show(Stage("questions of history answered", done, len(asked) * len(llms)))
        return Reply(answer_text(outcome.answer), cost.micros)

    async with Caller(llms) as caller:
        return {llm: list(await asyncio.gather(*(one(caller, llm, each) for each in asked))) for llm in llms}
