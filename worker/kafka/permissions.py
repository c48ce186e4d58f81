"""What the broker allows this user: asked before a worker needs it, so that the answer names what is forbidden.

docs/how-to/secure-kafka.md has the whole table of what each role needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient

from worker.contract.settings import Settings
from worker.kafka import answers, clients

TIMEOUT_SECONDS = 15.0
READ, WRITE = AclOperation.READ, AclOperation.WRITE


def needed(settings: Settings) -> dict[str, set[AclOperation]]:
    """What a worker does with each topic that it reads or writes."""
    topics = settings.topics
    needs = {topic: {WRITE} for topic in topics.written(settings.llms)}
    return needs | {topics.queries: {READ}, topics.completions: {READ}, topics.ledger: {READ, WRITE}}


def denied(settings: Settings) -> list[str]:
    """A sentence for each thing that a worker has to do and may not. Topics that do not exist are not named.

    Raises CheckBroker if the broker does not answer.
    """
    admin = clients.admin_client(settings)
    needs = needed(settings)
    found = []
    for topic, answer in _described(admin, needs).items():
        if isinstance(answer, KafkaError):
            if answer.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                found.append(str(answers.of_client(answer, topic)))
        elif lacking := needs[topic] - set(answer.authorized_operations or needs[topic]):
            found.append(f"{topic}: {answers.MAY_NOT}; {_acls(lacking)} for this topic")
    return found + _group_denied(admin, settings.kafka.group)


def forbidden(admin: AdminClient, topics: Iterable[str]) -> set[str]:
    """Those of the topics that this user may not see. They may exist or not: the broker does not say."""
    answered = _described(admin, topics).items()
    refused = KafkaError.TOPIC_AUTHORIZATION_FAILED
    return {topic for topic, answer in answered if isinstance(answer, KafkaError) and answer.code() == refused}


def _group_denied(admin: AdminClient, group: str) -> list[str]:
    future = admin.describe_consumer_groups(
        [group], include_authorized_operations=True, request_timeout=TIMEOUT_SECONDS
    )[group]
    answer = _answer(future)
    if isinstance(answer, KafkaError):
        return [str(answers.of_client(answer, f"kafka.group {group}"))] if answer.code() in answers.MEANINGS else []
    lacking = {READ} - set(answer.authorized_operations or {READ})
    return [f"kafka.group {group}: {answers.MAY_NOT}; {_acls(lacking)} for this group"] if lacking else []


def _described(admin: AdminClient, topics: Iterable[str]) -> dict[str, Any]:
    """The description of each topic, or the error that the broker answered with."""
    asked = TopicCollection([*topics])
    futures = admin.describe_topics(asked, include_authorized_operations=True, request_timeout=TIMEOUT_SECONDS)
    return {topic: _answer(future) for topic, future in futures.items()}


def _answer(future: Future[Any]) -> Any:
    try:
        return future.result()
    except KafkaException as error:
        return error.args[0]


def _acls(operations: Iterable[AclOperation]) -> str:
    return f"add the ACL {' and '.join(sorted(operation.name for operation in operations))}"
