"""The names of Tollgate's topics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from worker.contract.errors import FixSetting

MAX_LENGTH = 249
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class TopicNames:
    """All topics under one prefix. Characters of an LLM's name that Kafka does not allow become `-`."""

    prefix: str = ""

    @property
    def queries(self) -> str:
        return f"{self.prefix}queries"

    @property
    def completions(self) -> str:
        return f"{self.prefix}completions"

    @property
    def ledger(self) -> str:
        return f"{self.prefix}ledger"

    @property
    def decisions(self) -> str:
        return f"{self.prefix}decisions"

    @property
    def deferred(self) -> str:
        return f"{self.prefix}deferred"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}dead-letters"

    @property
    def answers(self) -> str:
        return f"{self.prefix}answers"

    @property
    def begun(self) -> str:
        return f"{self.prefix}begun"

    @property
    def judgements(self) -> str:
        return f"{self.prefix}judgements"

    def dispatch(self, llm: str) -> str:
        """The topic of one LLM."""
        return f"{self.prefix}dispatch.{_ILLEGAL.sub('-', llm)}"

    def all(self, llms: Iterable[str]) -> list[str]:
        """Every topic of a system with these LLMs."""
        return [self.queries, self.completions, self.answers, self.begun, self.judgements, *self.written(llms)]

    def written(self, llms: Iterable[str]) -> list[str]:
        """Every topic that lanes write to."""
        own = [self.ledger, self.decisions, self.deferred, self.dead_letters]
        return [*own, *(self.dispatch(llm) for llm in llms)]

    def check(self, llms: Iterable[str]) -> None:
        """Raise FixSetting if two LLMs would share a topic, or a name is too long for Kafka."""
        seen: dict[str, str] = {}
        for llm in llms:
            topic = self.dispatch(llm)
            if topic in seen:
                raise FixSetting(f"llms: {seen[topic]!r} and {llm!r} would share the topic {topic}; rename one")
            if len(topic) > MAX_LENGTH:
                raise FixSetting(f"llms: {llm!r} makes a topic name of {len(topic)} characters; {MAX_LENGTH} at most")
            seen[topic] = llm
