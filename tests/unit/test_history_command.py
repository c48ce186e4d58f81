"""`tollgate history convert` writes what an index is built from, tells what it did, and asks what it cannot know."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from worker.commands import main
from worker.contract.errors import FixSetting
from worker.estimation.history import read_table

CASES = Path(__file__).parents[1] / "cases" / "exports"
LANGFUSE = [str(CASES / "langfuse" / name) for name in ("observations.csv", "scores.csv")]
NAMES = ["--aliases", str(CASES / "aliases.csv")]
PICKLE = CASES / "routereval" / "router_dataset"


def run(*arguments: str) -> Result:
    """The command, as it is called from a shell."""
    return CliRunner().invoke(main.app, ["history", "convert", *arguments])


def report(place: Path, *arguments: str) -> dict[str, Any]:
    """What the command tells as JSON."""
    done = run(*arguments, "--to", str(place / "history.csv"), "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """An embedder that needs texts."""
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


@pytest.mark.parametrize("name", ["history.csv", "history.parquet"])
def test_the_table_is_one_that_an_index_is_built_from(name: str, tmp_path: Path) -> None:
    """`read_table` takes it: ids, LLMs, scores and costs are those of the export, and what is unknown is empty."""
    assert run(*LANGFUSE, "--score", "helpful", *NAMES, "--to", str(tmp_path / name)).exit_code == 0
    history = read_table(tmp_path / name, embed=embed)
    row, llm = history.ids.index("4bf20f876ffc474c"), history.llms.index("gpt-4o")
    assert (history.quality[row, llm], history.cost_micros[row, llm], history.input_tokens[row]) == (0.5, 5925.0, 418.0)
    assert int(np.isfinite(history.quality).sum()) == 13


def test_the_report_counts_rows_and_reasons(tmp_path: Path) -> None:
    """Rows that are read are rows that are written and rows that are left out."""
    told = report(tmp_path, *LANGFUSE, "--score", "helpful", *NAMES)
    assert (told["rows_read"], told["answers"], told["usable"]) == (32, 25, 13)
    assert told["left_out"] == {
        "error": 1,
        "no_prompt": 1,
        "not_chat": 1,
        "not_llm": 2,
        "parent_span": 1,
        "redacted": 1,
    }
    assert told["scores"] == {"helpful": "0..1"}
    assert (told["first_at"], told["last_at"]) == ("2026-10-08T08:04:23.606Z", "2026-10-08T11:19:59.114Z")


def test_the_report_names_the_setting_that_keeps_prompts(tmp_path: Path) -> None:
    """The setting is the source's."""
    warnings = report(tmp_path, str(CASES / "litellm-spendlogs" / "spend_logs.csv"))["warnings"]
    assert any("store_prompts_in_spend_logs" in warning for warning in warnings)


def test_names_that_are_alike_are_listed_and_not_joined(tmp_path: Path) -> None:
    """Two dated versions are two LLMs until the user says otherwise."""
    told = report(tmp_path, str(CASES / "litellm-spendlogs" / "spend_logs.csv"))
    assert told["alike"] == [["anthropic/claude-3-5-haiku-20241022", "claude-3-5-haiku-20241022"]]
    assert {one["llm"] for one in told["llms"]} >= {"azure/prod-gpt4o", "gpt-4o-2024-08-06"}


def test_several_scores_are_asked_about(tmp_path: Path) -> None:
    """The message names them and the option, and no table is written."""
    done = run(*LANGFUSE, "--to", str(tmp_path / "history.csv"))
    assert isinstance(done.exception, FixSetting)
    assert str(done.exception) == "the export has several scores: helpful (15), tone (1); choose one: --score helpful"
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_is_refused_with_a_line_that_converts_it(tmp_path: Path) -> None:
    """Nothing is unpickled here. The line, run by somebody who trusts the file, makes a table that is read."""
    told = run(str(PICKLE), "--to", str(tmp_path / "history.csv"), "--json")
    recipe = json.loads(told.stdout)["warnings"][0].partition('python -c "')[2].removesuffix('"')
    (tmp_path / "lamps_router_dataset.pkl").write_bytes((PICKLE / "lamps_router_dataset.pkl").read_bytes())
    subprocess.run([sys.executable, "-c", recipe], cwd=tmp_path, check=True)
    assert (told.exit_code, (tmp_path / "history.csv").exists()) == (1, False)
    assert report(tmp_path, str(tmp_path / "lamps_router_dataset.csv"))["answers"] == 60


def test_more_rows_left_out_than_kept_is_a_failure(tmp_path: Path) -> None:
    """Exit code 1; the table of the rest is written."""
    rows = [
        {"id": str(number), "prompt": "Why?" if number == 0 else "", "model": "x", "score": 1} for number in range(3)
    ]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    done = run(
        str(tmp_path / "t.json"), "--to", str(tmp_path / "history.csv"), "--left-out", str(tmp_path / "left.csv")
    )
    assert (done.exit_code, (tmp_path / "left.csv").read_text()) == (1, "id,reason\n1,no_prompt\n2,no_prompt\n")


def table(**columns: Sequence[Any]) -> list[dict[str, Any]]:
    """A table of a team's own, with a cost, a score and tokens that are right."""
    size = max((len(cells) for cells in columns.values()), default=20)
    row = {
        "prompt": "Why?",
        "model": "gpt-4o",
        "score": 0.5,
        "cost": 0.002,
        "prompt_tokens": 1000,
        "output_tokens": 500,
    }
    given = [row | {"id": str(number), "at": 1791533085 + number} for number in range(size)]
    return [one | {name: cells[number] for name, cells in columns.items()} for number, one in enumerate(given)]


DAY = 86_400
# What a table has, and a part of the warning that it gets; None: no warning.
WARNED: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "nothing odd": (table(), None),
    "all scores are 0": (table(score=[0] * 20), "scores are 0"),
    "no score is 0 and some are empty": (table(score=[1] * 15 + [""] * 5), "0 as an empty cell"),
    "costs that are 20 % too high": (table(cost=[0.0024] * 20), "20 % from its tokens times its prices"),
    "costs that are 4 % too high": (table(cost=[0.00208] * 20), None),
    "no costs": (table(cost=[""] * 20, prompt_tokens=[""] * 20, output_tokens=[""] * 20), "--cost LLM=USD"),
    "a label that nobody knows": (table(score=["pass", "odd"]), "--labels odd=1"),
    "a round number of rows": (table(score=[0.5] * 500), "exactly 500 rows"),
    "days without answers": (table(at=[1791533085 + DAY * day for day in (0, 1, 2, 3, 9, 10)]), "no answer is of"),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_looks_odd_is_told(name: str, tmp_path: Path) -> None:
    """And nothing else is."""
    rows, expected = WARNED[name]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "prices.csv").write_text("llm,input_usd_per_mtok,output_usd_per_mtok\ngpt-4o,1,2\n")
    warnings = report(tmp_path, str(tmp_path / "t.json"), "--prices", str(tmp_path / "prices.csv"))["warnings"]
    assert [expected is not None and expected in warning for warning in warnings] == [True] * (expected is not None)


def test_published_prices_are_those_of_the_models_provider(tmp_path: Path) -> None:
    """A name with or without its provider is found; another has no price."""
    rows = table(cost=["", "", ""], model=["gpt-4o-mini", "anthropic/claude-3-5-haiku-20241022", "my-finetune-7"])
    (tmp_path / "t.json").write_text(json.dumps(rows))
    told = report(tmp_path, str(tmp_path / "t.json"), "--prices", "published")
    assert [round(one["cost_usd"], 8) for one in told["llms"]] == [0.00045, 0.0028, 0.0]


def test_what_an_answer_costs_can_be_given(tmp_path: Path) -> None:
    """Where neither a cost nor tokens were kept."""
    told = report(tmp_path, str(CASES / "embedllm" / "train.csv"), "--cost", "Qwen-14B=0.002")
    assert told["costs"] == {"stated": 0, "computed": 0, "given": 12, "unknown": 24}
