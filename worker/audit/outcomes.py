"""What came of a partition's queries, counted from its decisions: who served, at what cost, how well. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from worker.contract.decisions import Closed, Decision, Routed
from worker.contract.dispatch_id import DispatchId


class Served(Struct, frozen=True):
    """One LLM, or all. `dispatched` counts attempts, `served` those that were answered without an error.

    `estimated_quality` is the sum over the served at their estimates, `true_quality` over the `judged` answers alone;
    `cost_micros` is what was charged, or would have been.
    """

    dispatched: int = 0
    served: int = 0
    cost_micros: int = 0
    estimated_quality: float = 0.0
    judged: int = 0
    true_quality: float = 0.0

    def plus(self, other: Served) -> Served:
        """The sum of two."""
        return Served(
            self.dispatched + other.dispatched,
            self.served + other.served,
            self.cost_micros + other.cost_micros,
            self.estimated_quality + other.estimated_quality,
            self.judged + other.judged,
            self.true_quality + other.true_quality,
        )


class Tally:
    """Sums by LLM, and deferrals by reason. What was dispatched before the first decision fed is left out."""

    def __init__(self) -> None:
        self.queries = 0
        self.deferred: Counter[str] = Counter()
        self.llms: dict[str, Served] = {}
        self._open: dict[str, float] = {}

    def add(self, caused: Sequence[Decision], llms: Sequence[str]) -> None:
        """Count what one event caused; `llms` is the order of the estimates."""
        for decision in caused:
            match decision:
                case Routed():
                    self._routed(decision, llms)
                case Closed():
                    self._closed(decision)

    def total(self) -> Served:
        """All LLMs together."""
        total = Served()
        for served in self.llms.values():
            total = total.plus(served)
        return total

    def _routed(self, routed: Routed, llms: Sequence[str]) -> None:
        self.queries += routed.attempt == 1
        if routed.llm is None:
            self.deferred[routed.reason] += 1
            return
        self._open[f"{routed.offset}-{routed.attempt}"] = routed.quality[llms.index(routed.llm)]
        self._plus(routed.llm, Served(dispatched=1))

    def _closed(self, closed: Closed) -> None:
        estimated = self._open.pop(_attempt(closed.dispatch_id), None)
        if estimated is None:
            return
        if closed.failed or closed.outcome != "settled":
            self._plus(closed.llm, Served(cost_micros=closed.spent_micros))
            return
        judged = closed.quality is not None
        self._plus(closed.llm, Served(0, 1, closed.spent_micros, estimated, judged, closed.quality or 0.0))

    def _plus(self, llm: str, served: Served) -> None:
        self.llms[llm] = self.llms.get(llm, Served()).plus(served)


def _attempt(dispatch_id: str) -> str:
    """The offset and the attempt of a dispatch: a tally is of one partition."""
    return dispatch_id.partition("-")[2]


def origin(dispatch_id: str) -> int:
    """The offset of a dispatch's query; -1 for an id that Tollgate cannot have written."""
    dispatch = DispatchId.parse(dispatch_id)
    return -1 if dispatch is None else dispatch.offset
