"""Prices solved for again in a replay, against those that were recorded. Pure.

The scores and choices of a replay are exact on any machine. Solving for prices is exact only where numpy and scipy give
the same bits, and needs the index that the lane had; a replay therefore goes on with the recorded prices, and says of
each solution whether it came out the same, nearly the same, or was not solved again.
"""

from __future__ import annotations

from worker.contract.decisions import Priced
from worker.contract.messages import Configuration, Fit
from worker.core.policy import Policy, PolicyAround, Solution, View, make_policy

# Two machines' libraries differ in the last bits, and the solver stops within its tolerance of the optimum.
TOLERANCE = 1e-6


class Solutions:
    """Counts of solutions compared: `exact`, `close` (within TOLERANCE), and `taken` without solving.

    `index` is the hash of the index whose prior the replay has; None: no prices are solved again.
    """

    def __init__(self, index: str | None) -> None:
        self.index = index
        self.recorded: Priced | None = None
        self.exact = self.close = self.taken = 0

    def policy(self, config: Configuration, partition: int) -> Policy:
        """The policy of a configuration, whose solutions are compared."""
        return Compared(make_policy(config, partition), self, config.index == self.index)

    def judge(self, solution: Solution | None, view: View) -> Solution:
        """The solution to go on with: the recorded one, unless the other is really another."""
        if self.recorded is None:
            return solution or Solution(view.prices, Fit("kept", 0.0, 1.0, 0, "not_recorded"))
        recorded = Solution(self.recorded.prices, self.recorded.fit)
        if solution is None:
            self.taken += 1
        elif solution == recorded:
            self.exact += 1
        elif _is_close(solution, recorded):
            self.close += 1
        else:
            return solution
        return recorded


class Compared(PolicyAround):
    """Decides as `policy` does. Each new solution for prices is compared with the recorded one."""

    def __init__(self, policy: Policy, solutions: Solutions, solve: bool) -> None:
        super().__init__(policy)
        self._solutions = solutions
        self._solve = solve

    def due(self, seen: int) -> bool:
        return self.policy.due(seen)

    def solve(self, view: View) -> Solution:
        return self._solutions.judge(self.policy.solve(view) if self._solve else None, view)


def _is_close(one: Solution, other: Solution) -> bool:
    if one.fit.status != other.fit.status or len(one.prices) != len(other.prices):
        return False
    pairs = zip(one.prices, other.prices, strict=True)
    return all(abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) for a, b in pairs)
