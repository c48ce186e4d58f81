"""What came of a partition's queries, counted from its decisions: who served, at what cost, how well. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from worker.messages import Closed, Decision, Routed


class Served(Struct, frozen=True):
    """One LLM, or all. `estimated_quality` is the sum over dispatches at their estimates.

    `true_quality` is the sum over the `judged` answers alone; `cost_micros` is what was charged, or would have been.
    """

    dispatched: int = 0
    cost_micros: int = 0
    estimated_quality: float = 0.0
    judged: int = 0
    true_quality: float = 0.0

    def plus(self, other: Served) -> Served:
        """The sum of two."""
        return Served(
            self.dispatched + other.dispatched,
            self.cost_micros + other.cost_micros,
            self.estimated_quality + other.estimated_quality,
            self.judged + other.judged,
            self.true_quality + other.true_quality,
        )


class Tally:
    """Sums by LLM, and deferrals by reason."""

    def __init__(self) -> None:
        self.queries = 0
        self.deferred: Counter[str] = Counter()
        self.llms: dict[str, Served] = {}

    def add(self, decision: Decision, llms: Sequence[str]) -> None:
        """Count a decision: a dispatch with its estimates, a deferral, or what a reservation really closed with."""
        match decision:
            case Routed(llm=None):
                self.queries += decision.attempt == 1
                self.deferred[decision.reason] += 1
            case Routed(llm=str(llm)):
                self.queries += decision.attempt == 1
                self._plus(llm, Served(1, estimated_quality=decision.quality[llms.index(llm)]))
            case Closed():
                judged = decision.quality is not None
                self._plus(decision.llm, Served(0, decision.spent_micros, 0.0, judged, decision.quality or 0.0))

    def total(self) -> Served:
        """All LLMs together."""
        total = Served()
        for served in self.llms.values():
            total = total.plus(served)
        return total

    def _plus(self, llm: str, served: Served) -> None:
        self.llms[llm] = self.llms.get(llm, Served()).plus(served)
