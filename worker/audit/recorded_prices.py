"""Prices solved for again in a replay, against those that were recorded. Pure.

The scores and choices of a replay are exact on any machine. Solving for prices is exact only where numpy and scipy give
the same bits, and needs the index that the lane had; a replay therefore goes on with the recorded prices, and says of
each solution whether it came out the same, nearly the same, or was not solved again.
"""

from __future__ import annotations

from worker.contract.decisions import Priced
from worker.contract.messages import Configuration, Fit
from worker.core.policy import Policy, PolicyAround, Solution, View, make_policy

# Two machines' libraries differ in the last bits, so the solver ends elsewhere near the optimum, where many prices are
# nearly as good. What prices are worth differs by less than this, as a share.
TOLERANCE = 1e-4
# The recorded objective is computed again from the recorded prices: no solver, so only the last bits differ.
SAME = 1e-9


class Solutions:
    """Counts of solutions compared: `exact`, `close` (other prices that are worth the same within TOLERANCE, with the
    objective that was recorded of them), and `taken` without solving.

    `index` is the hash of the index whose prior the replay has; None: no prices are solved again.
    """

    def __init__(self, index: str | None) -> None:
        self.index = index
        self.recorded: Priced | None = None
        self.exact = self.close = self.taken = 0

    def policy(self, config: Configuration, partition: int) -> Policy:
        """The policy of a configuration, whose solutions are compared."""
        return Compared(make_policy(config, partition), self, config.index == self.index)

    def judge(self, solution: Solution | None, view: View, policy: Policy) -> Solution:
        """The solution to go on with: the recorded one, unless the other is really another."""
        if self.recorded is None:
            return solution or Solution(view.prices, Fit("kept", 0.0, 1.0, 0, "not_recorded"))
        recorded = Solution(self.recorded.prices, self.recorded.fit)
        if solution is None:
            self.taken += 1
        elif solution == recorded:
            self.exact += 1
        elif _is_close(solution, recorded, view, policy):
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
        return self._solutions.judge(self.policy.solve(view) if self._solve else None, view, self.policy)


def _is_close(solved: Solution, recorded: Solution, view: View, policy: Policy) -> bool:
    if solved.fit.status != recorded.fit.status or len(solved.prices) != len(recorded.prices):
        return False
    if solved.fit.status == "kept":
        return solved.prices == recorded.prices
    told, best = recorded.fit.objective, solved.fit.objective
    is_true = abs(policy.objective(view, recorded.prices) - told) <= SAME * abs(told)
    return is_true and abs(told - best) <= TOLERANCE * abs(best)
