"""Whether LLMs answer as they are estimated to: running means of both, compared by LLM. Pure.

Answers come later than their dispatches and some never, but over hundreds of queries the means of both are of the same
queries; nothing has to be joined or kept. Only what settled a reservation is an answer: forged and repeated completions
say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from worker.contract.decisions import Closed
from worker.contract.messages import Dispatch
from worker.core.alarms import Alarm

# Means over so many answers; over fewer than half as many nothing is said.
RECENT = 200
# A price list that changed is off by more than half; means of 200 costs are not.
COST_FACTOR = 1.5
# Six standard deviations of the mean of 200 scores of 0 or 1.
QUALITY_STEP = 0.15
# More answers of unknown cost than this are not an exception, and make the books a guess.
UNUSABLE_SHARE = 0.02
FEWEST_ANSWERS = 20


@dataclass
class Mean:
    """An exponentially weighted mean of the newest RECENT values; plain while there are fewer."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """One more value."""
        self.count += 1
        self.value += (value - self.value) / min(self.count, RECENT)


@dataclass
class Means:
    """One LLM: what its dispatches were estimated at, and what its completions said."""

    estimated_cost: Mean = field(default_factory=Mean)
    cost: Mean = field(default_factory=Mean)
    estimated_quality: Mean = field(default_factory=Mean)
    quality: Mean = field(default_factory=Mean)
    unusable: Mean = field(default_factory=Mean)


class Drift:
    """The means of every LLM of a worker."""

    def __init__(self) -> None:
        self._means: dict[str, Means] = {}

    def see(self, dispatches: Iterable[Dispatch], closed: Iterable[Closed]) -> None:
        """One batch: what was dispatched, and which reservations closed."""
        for dispatch in dispatches:
            means = self._of(dispatch.llm)
            means.estimated_cost.add(dispatch.cost_micros)
            means.estimated_quality.add(dispatch.quality)
        for answer in closed:
            if answer.outcome == "settled":
                self._answered(answer)

    def alarms(self) -> list[Alarm]:
        """LLMs that cost or answer otherwise than they are estimated to, or whose costs are not known."""
        return [
            *self._drifted("cost_drift", _cost_drift),
            *self._drifted("quality_drift", _quality_drift),
            *self._drifted("answers_unusable", _unusable),
        ]

    def _answered(self, answer: Closed) -> None:
        means = self._of(answer.llm)
        means.unusable.add(float(answer.basis in ("reservation", "limit")))
        if answer.basis not in ("reservation", "limit"):
            means.cost.add(answer.spent_micros)
        if answer.quality is not None:
            means.quality.add(answer.quality)

    def _of(self, llm: str) -> Means:
        if llm not in self._means:
            self._means[llm] = Means()
        return self._means[llm]

    def _drifted(self, name: str, said: Says) -> Iterator[Alarm]:
        told = [f"{llm}: {what}" for llm, means in self._means.copy().items() if (what := said(means))]
        if told:
            yield Alarm(name, ", ".join(told))


Says = Callable[[Means], str | None]


def _cost_drift(means: Means) -> str | None:
    estimated, true = means.estimated_cost, means.cost
    ratio = true.value / max(estimated.value, 1.0)
    drifted = not 1 / COST_FACTOR <= ratio <= COST_FACTOR
    return f"{ratio:.1f} times the estimate" if drifted and _enough(estimated, true) else None


def _quality_drift(means: Means) -> str | None:
    estimated, true = means.estimated_quality, means.quality
    drifted = abs(true.value - estimated.value) > QUALITY_STEP
    return f"{true.value:.2f}, estimated {estimated.value:.2f}" if drifted and _enough(estimated, true) else None


def _unusable(means: Means) -> str | None:
    share = means.unusable.value
    return f"{share:.0%}" if share > UNUSABLE_SHARE and means.unusable.count >= FEWEST_ANSWERS else None


def _enough(*means: Mean) -> bool:
    return all(mean.count >= RECENT / 2 for mean in means)
