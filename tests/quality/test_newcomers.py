"""LLMs without history: they start as another LLM of the index, at their own prices."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quality.instances import LLMS, history
from worker.audit import in_force
from worker.contract.errors import FixSetting
from worker.contract.settings import Settings
from worker.core import alarms
from worker.core.partition_config import configuration
from worker.estimation import index
from worker.estimation.estimator import Estimator
from worker.estimation.newcomers import Like, with_newcomers
from worker.service import index_in_use

NOW = datetime(2026, 11, 25, tzinfo=UTC)
QUERIES = history(60, seed=2)
DEAR = {"input_usd_per_mtok": 10, "output_usd_per_mtok": 30}
CHEAP = {"input_usd_per_mtok": 2, "output_usd_per_mtok": 3}
FREE = {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}


def settings(directory: Path, new: dict[str, Any], coder: dict[str, Any] | None = None) -> Settings:
    """Settings of the made-up LLMs, and of one called `new`."""
    llms: dict[str, Any] = {llm: {"budget_usd": 1} for llm in LLMS}
    llms["coder"] |= coder or {}
    return Settings.model_validate(
        {"index": {"directory": str(directory)}, "llms": llms | {"new": {"budget_usd": 2} | new}}
    )


@pytest.fixture(scope="module")
def known(directory: Path) -> Estimator:
    """The index without newcomers."""
    return index.load(directory)


def test_a_newcomer_is_estimated_as_the_llm_that_it_is_like(known: Estimator) -> None:
    """The same quality, the cost times its factor, for queries and for the prior; the other LLMs are as before."""
    found = with_newcomers(known, {"new": Like("coder", 0.5)})
    estimates = found.estimate(QUERIES.embeddings, QUERIES.input_tokens)
    before = known.estimate(QUERIES.embeddings, QUERIES.input_tokens)
    assert np.array_equal(estimates.quality[:, :4], before.quality)
    assert np.array_equal(estimates.cost_micros[:, :4], before.cost_micros)
    assert np.array_equal(estimates.quality[:, 4], before.quality[:, 1])
    assert estimates.cost_micros[:, 4] == pytest.approx(before.cost_micros[:, 1] / 2, abs=0.001)
    assert found.prior.cost_micros[:, 4] == pytest.approx(known.prior.cost_micros[:, 1] / 2, abs=0.001)


def test_the_manifest_knows_its_newcomers(known: Estimator) -> None:
    """They come last, by name, with no rows and the margin of the other. The hash covers whom they are like."""
    found = with_newcomers(known, {"new": Like("coder", 0.5), "also": Like("best", 1.0)}).manifest
    assert found.llms == (*LLMS, "also", "new")
    assert found.llm_rows[4:] == (0, 0)
    assert found.margins[4:] == (known.manifest.margins[3], known.manifest.margins[1])
    others = [with_newcomers(known, {"new": Like(*like)}) for like in (("coder", 0.5), ("coder", 1.0), ("best", 0.5))]
    assert len({known.manifest.index, found.index, *(other.manifest.index for other in others)}) == 5


def test_without_newcomers_nothing_changes(known: Estimator) -> None:
    """An index without newcomers is the very same."""
    assert with_newcomers(known, {}) is known


def test_lanes_are_configured_with_the_newcomer(directory: Path) -> None:
    """Its budget and margin are those of the settings and the index, and an alarm says that history lacks it."""
    given = settings(directory, {"like": "coder"})
    manifest = index_in_use.load(given).manifest
    config = configuration(given, manifest, 0, {})
    assert config.llms == (*LLMS, "new")
    assert {budget.name: budget.amount for budget in config.budgets}["new"] == 2_000_000 // given.kafka.partitions
    assert [alarm.detail for alarm in alarms.of_index(manifest) if alarm.name == "new_llm"] == ["new: 0 rows"]


def test_a_running_newcomer_is_no_change(directory: Path) -> None:
    """`status` compares with the index as the workers use it."""
    given = settings(directory, {"like": "coder"})
    running = configuration(given, index_in_use.load(given).manifest, 0, {})
    assert in_force.changed(given, in_force.manifest_of(given), {}, [running]) == {}
    other = settings(directory, {"like": "best"})
    assert in_force.changed(other, in_force.manifest_of(other), {}, [running]).keys() >= {"index.directory"}


@pytest.mark.parametrize(
    ("new", "coder", "factor"),
    [
        ({"like": "coder"}, {}, 1.0),
        ({"like": "coder"} | CHEAP, DEAR, 0.2),
        ({"like": "coder"} | DEAR, CHEAP, 10.0),
        ({"like": "coder"} | FREE, CHEAP, 0.0),
        ({"like": "coder"} | FREE, FREE, 1.0),
    ],
    ids=["no prices", "cheaper", "dearer", "free", "both free"],
)
def test_costs_differ_as_prices_do(new: dict[str, Any], coder: dict[str, Any], factor: float) -> None:
    """The dearer of input and output decides, so that a reservation is not too small."""
    given = settings(Path("index"), new, coder)
    assert index_in_use.likes(given, LLMS, NOW) == {"new": Like("coder", factor)}


@pytest.mark.parametrize(
    ("new", "coder", "message"),
    [
        ({"like": "stranger"}, {}, r"llms\.new\.like: stranger is not an LLM of the index \(it has cheap, coder"),
        ({"like": "new"}, {}, r"llms\.new\.like: new is not an LLM of the index"),
        ({"like": "coder"} | CHEAP, {}, r"llms\.new\.like: coder has no prices"),
        ({"like": "coder"}, CHEAP, r"llms\.new\.like: new has no prices"),
        ({"like": "coder"} | CHEAP, FREE, r"llms\.new\.like: coder is free and new is not"),
    ],
    ids=["unknown", "itself", "the other has no prices", "no prices of its own", "the other is free"],
)
def test_a_likeness_that_says_nothing_is_refused(new: dict[str, Any], coder: dict[str, Any], message: str) -> None:
    """The error names the setting and the remedy."""
    with pytest.raises(FixSetting, match=message):
        index_in_use.likes(settings(Path("index"), new, coder), LLMS, NOW)


def test_an_llm_that_the_index_knows_is_like_nobody() -> None:
    """When a new index has learned the LLM, the setting may stay."""
    given = settings(Path("index"), {"like": "coder"})
    assert index_in_use.likes(given, (*LLMS, "new"), NOW) == {}


def test_an_llm_without_history_and_likeness_is_refused(directory: Path) -> None:
    """The error names the way out."""
    given = settings(directory, {})
    with pytest.raises(FixSetting, match="an LLM without history starts with `like`"):
        configuration(given, index_in_use.load(given).manifest, 0, {})
