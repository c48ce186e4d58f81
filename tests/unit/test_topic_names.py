"""Topics have names that Kafka allows, all under one prefix, one for each LLM."""

from __future__ import annotations

import pytest

from worker.contract.errors import FixSetting
from worker.contract.topic_names import TopicNames

DISPATCH = [
    ("plain", "", "gpt-4o", "dispatch.gpt-4o"),
    ("with a prefix", "team.", "gpt-4o", "team.dispatch.gpt-4o"),
    ("a path", "", "meta-llama/Llama-3-8B", "dispatch.meta-llama-Llama-3-8B"),
    ("a tag", "", "qwen2:7b", "dispatch.qwen2-7b"),
    ("beyond ASCII", "", "grün 1", "dispatch.gr-n-1"),
]


@pytest.mark.parametrize(("prefix", "llm", "topic"), [c[1:] for c in DISPATCH], ids=[c[0] for c in DISPATCH])
def test_the_topic_of_an_llm(prefix: str, llm: str, topic: str) -> None:
    """Whatever Kafka does not allow becomes a dash."""
    assert TopicNames(prefix).dispatch(llm) == topic


def test_all_topics() -> None:
    """Every topic carries the prefix."""
    assert TopicNames("p-").all(["a", "b/c"]) == [
        "p-queries",
        "p-completions",
        "p-answers",
        "p-begun",
        "p-judgements",
        "p-ledger",
        "p-decisions",
        "p-deferred",
        "p-dead-letters",
        "p-dispatch.a",
        "p-dispatch.b-c",
    ]


REFUSED = [
    ("two that become one", ["a/b", "c", "a:b"], "'a/b' and 'a:b' would share the topic dispatch.a-b; rename one"),
    ("too long for Kafka", ["x" * 241], "makes a topic name of 250 characters; 249 at most"),
]


@pytest.mark.parametrize(("llms", "reason"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_names_that_cannot_be(llms: list[str], reason: str) -> None:
    """Refused at start, and not when the first query is dispatched."""
    with pytest.raises(FixSetting, match=reason):
        TopicNames().check(llms)


def test_the_longest_name() -> None:
    """249 characters are what Kafka takes."""
    llm = "x" * 240
    TopicNames().check([llm])
    assert len(TopicNames().dispatch(llm)) == 249
