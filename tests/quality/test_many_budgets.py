"""Many budgets on made-up queries: pricing all of them comes near the best in hindsight, filtering does not."""

from __future__ import annotations

import numpy as np

from worker.evaluation.many_budgets import company_of, hindsight, many_budgets
from worker.evaluation.scenario import Plan
from worker.evaluation.study import Study


def test_pricing_all_budgets_beats_filtering(made_up: Study) -> None:
    """All priced reaches nearly the linear program in hindsight, and more than what prices some or none."""
    finding = many_budgets(Study(made_up.history, Plan(test=300), seeds=1))
    shares = {row[0]: float(row[1].split(" ")[0]) for row in finding.rows}
    priced, some, none = shares.values()
    assert priced >= 0.95, shares
    assert priced > max(some, none), shares


def test_the_best_in_hindsight_keeps_every_budget(made_up: Study) -> None:
    """By the estimates that it was solved on, and but for the few queries that it splits."""
    company = company_of(made_up.scenario(made_up.all_seeds[0]))
    choice, sample, draws = hindsight(company), company.sample, company.draws
    spent = np.zeros(len(draws.budgets))
    for number, llm in enumerate(choice.tolist()):
        if llm >= 0:
            spent[list(draws.matching(sample.cells[number])[llm])] += sample.cost_micros[number, llm]
    amounts = np.array([budget.amount for budget in draws.budgets])
    dearest = sample.cost_micros.max()
    assert (spent <= amounts + 3 * dearest).all(), spent / amounts
    assert (choice >= 0).sum() > 0
