"""What exploring is for: the log of a lane that explores says what other choices would have been worth."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tests.drive import decode
from tests.quality.instances import history
from worker.contract.decisions import Routed
from worker.core.events import Arrived, Reconfigured
from worker.core.router import Prior, Router
from worker.evaluation.coverage import LANDMARKS, PENALTIES
from worker.evaluation.off_policy import Log, quality_scores, read_log, support
from worker.evaluation.old_policies import answered_by
from worker.evaluation.scenario import Plan, Scenario, divide, make_scenario

QUERIES, SHARE = 2_400, 0.2
NIL = msgspec.Raw(msgspec.msgpack.encode(None))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """Queries that budgets can pay for with any LLM."""
    past, live = divide(history(3_000, seed=11), QUERIES, 0)
    return make_scenario(past, live, Plan(budget=100.0), 0, neighbours=8)


def log_of(scenario: Scenario, share: float) -> tuple[Log, Scenario]:
    """The log that a lane leaves, as `history from-topics` reads it, and the queries that were dispatched."""
    prior = scenario.estimator.prior
    router = Router(0, Prior(prior.quality, prior.cost_micros.astype(np.float64)))
    config = msgspec.structs.replace(scenario.configuration("priced"), exploration_share=share)
    quality, cost = scenario.estimates.quality.tolist(), scenario.estimates.cost_micros.tolist()
    events = [Arrived(row, row, str(row), quality[row], cost[row], None, NIL) for row in range(QUERIES)]
    decisions = [decode(record) for _, record in router.handle([Reconfigured(0, config), *events]).decisions]
    routed = [one for one in decisions if isinstance(one, Routed) and one.llm is not None]
    llms = scenario.live.llms
    likely = [[one.probabilities.get(llm, float(llm == one.llm)) for llm in llms] for one in routed]
    sent = scenario.rows(np.array([one.offset for one in routed]))
    answered = answered_by(sent.live, np.array([llms.index(str(one.llm)) for one in routed]))
    return read_log(replace(answered, likely=np.array(likely)), 0, PENALTIES, LANDMARKS), sent


def test_a_log_that_explores_judges_every_llm(scenario: Scenario) -> None:
    """Figures are told of all queries to any one LLM, and the true quality is within the interval."""
    log, sent = log_of(scenario, SHARE)
    assert len(log.llm) > QUERIES / 2
    for number, llm in enumerate(log.llms):
        choice = np.full(len(log.llm), number)
        found, says = quality_scores(log, choice).mean, support(log, choice)
        assert says.untold is None, llm
        assert found.covers(float(sent.live.quality[:, number].mean())), llm
        assert found.half_width < 0.1, llm


def test_a_log_without_exploring_judges_none(scenario: Scenario) -> None:
    """A policy that always takes the best score has no overlap with another choice."""
    log, _ = log_of(scenario, 0.0)
    untold = {support(log, np.full(len(log.llm), number)).untold for number in range(len(log.llms))}
    assert untold == {"no_overlap"}
