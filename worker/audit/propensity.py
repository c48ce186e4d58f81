"""True quality under another configuration, from what a policy drew at random (inverse propensity). Pure.

A policy that observes draws each of M LLMs alike, whatever the query. So the other configuration's choice was drawn for
every M-th query, by chance alone, and an answer to it stands for M: no estimate is needed.
"""

from __future__ import annotations

from msgspec import Struct

from worker.audit.books import UNPRICED
from worker.contract.decisions import Closed, Routed
from worker.contract.dispatch_id import DispatchId
from worker.contract.messages import Configuration
from worker.core.policy import Policy, make_policy


class Explored(Struct, frozen=True):
    """Queries whose LLM was `drawn` at random and could reserve, the answers of them that somebody `judged`, and draws
    that were `unaffordable`.

    `weighted_quality` is the true quality of judged answers to the very LLM that the other side chose, times M.
    `shared` queries the other side would have drawn for too, by the same dice: they tell nothing, and count nowhere.
    """

    drawn: int = 0
    judged: int = 0
    unaffordable: int = 0
    shared: int = 0
    weighted_quality: float = 0.0

    @property
    def quality(self) -> float | None:
        """The other side's true quality per query; None where nothing was judged.

        A draw that could not reserve keeps its place among M, without an answer: where the other side could have
        afforded more than the real one, this is too low.
        """
        if not self.judged:
            return None
        return self.weighted_quality / self.judged * self.drawn / (self.drawn + self.unaffordable)

    def plus(self, other: Explored) -> Explored:
        """The sum of two."""
        return Explored(
            self.drawn + other.drawn,
            self.judged + other.judged,
            self.unaffordable + other.unaffordable,
            self.shared + other.shared,
            self.weighted_quality + other.weighted_quality,
        )


class Exploration:
    """Collects `explored` from one partition's real decisions, fed in order, each with what the other side chose."""

    def __init__(self, partition: int) -> None:
        self.explored = Explored()
        self._partition = partition
        self._policy: Policy | None = None
        self._llms = self._seen = 0
        # By the dispatch: how many times its answer counts.
        self._open: dict[str, int] = {}

    def configured(self, config: Configuration, seen: int | None = None) -> None:
        """The real configuration from here on; `seen` queries were priced before, if it is not for this to count."""
        self._policy = make_policy(config, self._partition)
        self._llms = len(config.llms)
        self._seen = self._seen if seen is None else seen

    def routed(self, real: Routed, other_llm: str | None, other_draws: bool) -> None:
        """The first decision about a query; `other_draws` says whether the other side drew at random for it."""
        draws = self._policy is not None and self._policy.reason(self._seen) == "observing"
        self._seen += real.reason not in UNPRICED
        if draws and other_draws:
            self._count(Explored(shared=1))
        elif draws and real.reason == "exhausted":
            self._count(Explored(unaffordable=1))
        elif draws and real.llm is not None:
            self._count(Explored(drawn=1))
            self._open[str(DispatchId(self._partition, real.offset, real.attempt))] = (
                self._llms if real.llm == other_llm else 0
            )

    def closed(self, closed: Closed) -> None:
        """A reservation closed: the answer to a draw is known, if somebody judged it."""
        weight = self._open.pop(closed.dispatch_id, None)
        if weight is not None and closed.quality is not None:
            self._count(Explored(judged=1, weighted_quality=weight * closed.quality))

    def _count(self, explored: Explored) -> None:
        self.explored = self.explored.plus(explored)
