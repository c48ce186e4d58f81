"""Exploring: a share of the queries goes to an LLM that is drawn, and the log says how likely each LLM was."""

from __future__ import annotations

from collections import Counter
from math import sqrt
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.drive import CRASH, LLMS, PRIOR, Drive, config, failure, query
from tests.topics import NAMES, Recorded
from tests.unit.test_from_topics import System
from tests.unit.test_router import story
from worker.audit.recorded_prices import Solutions
from worker.audit.replay import Replay, replay
from worker.contract.asks import Asks
from worker.contract.decisions import Routed
from worker.contract.messages import Configuration
from worker.core.events import Arrived, Withdrawn
from worker.core.exploration import draw
from worker.estimation.history import read_table
from worker.exports.write import write_table

EXPLORING = config(exploration_share=0.3)
RICH = {"large": 10**9, "medium": 10**9, "small": 10**9}
QUERIES = 2_000


def routed(settings: Configuration, queries: int = 40) -> list[Routed]:
    """What a lane decides about its first queries."""
    return Drive(settings).run([query(offset) for offset in range(queries)]).decided(Routed)


@pytest.mark.parametrize("cut", range(0, 90, 7))
def test_a_crash_changes_no_draw(cut: int) -> None:
    """The lane that is restored draws what the dead one would have drawn."""
    events = story()
    whole = Drive(EXPLORING).run(events).outcome()
    assert Drive(EXPLORING).run([*events[:cut], CRASH, *events[cut:]]).outcome() == whole


def test_a_replay_draws_the_same() -> None:
    """Every record comes out again bit for bit, those that explore among them."""
    drive = Recorded(EXPLORING).run(story())
    found = replay(Replay(0, NAMES.decisions), drive.topics()[NAMES.decisions], PRIOR, Solutions(EXPLORING.index))
    assert (found.mismatch, found.compared) == (None, len(drive.decisions))
    assert any(one.reason == "exploring" for one in drive.decided(Routed))


def test_no_share_draws_nothing() -> None:
    """Without the setting a decision has no probabilities, not even an empty field, and none explores."""
    decided = routed(config())
    assert {one.reason for one in decided if one.llm} == {"best_score"}
    assert not any(b"probabilities" in msgspec.msgpack.encode(one) for one in decided)


def test_draws_are_as_frequent_as_recorded() -> None:
    """Over many queries each LLM is drawn as often as its probability says, within four standard errors."""
    settings = config(exploration_share=0.2)
    drawn = Counter(draw(settings, 0, offset, usual=1, able=[0, 1, 2]).llm for offset in range(20_000))
    likely = draw(settings, 0, 0, usual=1, able=[0, 1, 2]).probabilities
    assert likely == pytest.approx({"large": 0.2 / 3, "medium": 0.8 + 0.2 / 3, "small": 0.2 / 3})
    for number, llm in enumerate(LLMS):
        error = sqrt(likely[llm] * (1 - likely[llm]) / 20_000)
        assert abs(drawn[number] / 20_000 - likely[llm]) < 4 * error, llm


def test_seed_and_partition_draw_anew() -> None:
    """Two lanes, or two seeds, do not draw for the same queries."""

    def draws(settings: Configuration, partition: int) -> list[int]:
        return [draw(settings, partition, offset, usual=0, able=[0, 1, 2]).llm for offset in range(500)]

    first = draws(config(exploration_share=0.5), 0)
    assert first == draws(config(exploration_share=0.5), 0)
    assert first != draws(config(exploration_share=0.5), 1)
    assert first != draws(config(exploration_share=0.5, seed=2), 0)


ABLE: list[tuple[str, Configuration, Asks, set[str]]] = [
    ("all", config(exploration_share=0.5, unknown_model="ignore", budget_micros=RICH), Asks(), set(LLMS)),
    (
        "one is denied",
        config(exploration_share=0.5, unknown_model="ignore", budget_micros=RICH),
        Asks(deny=("large",)),
        {"medium", "small"},
    ),
    (
        "one lacks money",
        config(exploration_share=0.5, unknown_model="ignore", budget_micros=RICH | {"large": 10}),
        Asks(),
        {"medium", "small"},
    ),
]


@pytest.mark.parametrize(("settings", "asks", "wanted"), [c[1:] for c in ABLE], ids=[c[0] for c in ABLE])
def test_only_who_could_take_the_query_is_drawn(settings: Configuration, asks: Asks, wanted: set[str]) -> None:
    """The probabilities name these LLMs, are 1 in sum, and the one that was chosen is among them."""
    queries = [query(offset, asks=asks, quality=[0.9, 0.9, 0.9]) for offset in range(60)]
    decided = [one for one in Drive(settings).run(queries).decided(Routed) if one.llm is not None]
    assert {frozenset(one.probabilities) for one in decided} == {frozenset(wanted)}
    assert {one.llm for one in decided} == wanted
    assert all(abs(sum(one.probabilities.values()) - 1) < 1e-12 for one in decided)


def test_an_llm_that_is_out_is_not_drawn() -> None:
    """A worker that calls it no more has taken it out."""
    settings = config(exploration_share=0.5, first_probe_ms=10**9, probe_ms=10**9, budget_micros=RICH)
    queries = [query(offset, at_ms=10 + offset) for offset in range(60)]
    decided = Drive(settings).run([Withdrawn(0, 5, "small", "auth", "w"), *queries]).decided(Routed)
    assert {llm for one in decided for llm in one.probabilities} == {"large", "medium"}


def test_a_query_that_nobody_is_worth_its_price_for_is_not_explored() -> None:
    """It is deferred as without exploring."""
    dear = [query(offset, quality=[0.0, 0.0, 0.0]) for offset in range(60)]
    decided = Drive(config(exploration_share=0.5)).run(dear).decided(Routed)
    assert {(one.llm, one.reason, len(one.probabilities)) for one in decided} == {(None, "priced_out", 0)}


def test_the_next_attempt_does_not_explore() -> None:
    """What follows an error is the policy's choice, and has no probabilities."""
    first = [query(offset) for offset in range(30)]
    drive = Drive(config(exploration_share=0.5, budget_micros=RICH)).run(first)
    failures = [
        failure(number, one.id, one.llm, at_ms=4_000, retry=query(one.origin.offset, at_ms=4_000))
        for number, one in enumerate(list(drive.dispatches))
    ]
    decided = [one for one in drive.run(failures).decided(Routed) if one.attempt == 2]
    assert len(decided) == 30
    assert {(one.reason == "exploring", bool(one.probabilities)) for one in decided} == {(False, False)}


def test_port_explores_only_after_it_has_observed() -> None:
    """While it observes, it draws by itself."""
    decided = routed(config(policy="port", exploration_share=0.5, budget_micros=RICH, horizon_queries=300))
    observing = {bool(one.probabilities) for one in decided if one.reason == "observing"}
    later = {bool(one.probabilities) for one in decided if one.reason in ("best_score", "exploring")}
    assert (observing, later) == ({False}, {True})


def _truth(arrived: Arrived, llm: str) -> float:
    """How good an LLM is at a query: `small` is bad where the policy avoids it."""
    return arrived.quality[LLMS.index(llm)]


def test_what_is_learnt_is_honest() -> None:
    """Answers weighed by the recorded probabilities tell what all queries to `small` would be worth; the mean of its
    answers does not, because the policy asks it about what it can do."""
    settings = config(exploration_share=0.2, budget_micros=RICH, horizon_queries=0)
    queries = {offset: query(offset) for offset in range(QUERIES)}
    decided = Drive(settings).run(queries.values()).decided(Routed)
    truth = float(np.mean([_truth(one, "small") for one in queries.values()]))
    asked = [(_truth(queries[one.offset], "small"), one) for one in decided if one.llm == "small"]
    weighed = np.zeros(QUERIES)
    for quality, one in asked:
        weighed[one.offset] = quality / one.probabilities["small"]
    error = float(weighed.std() / sqrt(QUERIES))
    assert abs(weighed.mean() - truth) < 3 * error
    assert 0 < error < 0.05


def test_history_has_the_probabilities(tmp_path: Path) -> None:
    """They come from the decisions into the table, and from there into `evaluate`. A decision without them was sure."""
    system = System()
    for number, (llm, likely) in enumerate(
        [("big", {"big": 0.9, "small": 0.1}), ("small", {"big": 0.9, "small": 0.1}), ("big", {})]
    ):
        offset = system.ask(f"Question {number}?")
        system.route(offset, llm, f"q{number}", probabilities=likely)
        system.close(offset, quality=0.5)
    table = tmp_path / "history.csv"
    write_table(table, system.read().results, is_long=False)
    history = read_table(table, embed=lambda texts: np.ones((len(texts), 2), dtype=np.float32))
    assert history.likely is not None
    assert dict(zip(history.llms, history.likely.T.round(6).tolist(), strict=True)) == {
        "big": [0.9, 0.9, 1.0],
        "small": [0.1, 0.1, 0.0],
    }
