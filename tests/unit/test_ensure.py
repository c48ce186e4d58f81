"""`tollgate index ensure`: the index that the settings name is there afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from worker.commands import main
from worker.contract.errors import FixSetting

ROWS = "prompt,a,a|total_cost,b,b|total_cost\n" + "".join(
    f"What is {number} and {number}?,{number % 2},0.001,{number % 3 / 2},0.0001\n" for number in range(12)
)


def ensure(tmp_path: Path, table: str | None, llms: str = "ab") -> Result:
    """Run it with a history and these LLMs in the settings."""
    history = "" if table is None else f'history = "{tmp_path / table}"'
    (tmp_path / "history.csv").write_text(ROWS)
    (tmp_path / "tollgate.toml").write_text(
        f'[index]\ndirectory = "{tmp_path / "made" / "index"}"\n{history}\n'
        + "".join(f"[llms.{llm}]\nbudget_usd = 1\n" for llm in llms)
    )
    return CliRunner().invoke(main.app, ["index", "ensure", "--config", str(tmp_path / "tollgate.toml")])


def test_it_is_built_once(tmp_path: Path) -> None:
    """The second time it is kept, and its files are the same."""
    first = ensure(tmp_path, "history.csv")
    manifest = (tmp_path / "made" / "index" / "manifest.json").stat().st_mtime_ns
    second = ensure(tmp_path, None)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert "12 rows, 2 LLMs" in first.stdout
    assert "is there, of 12 rows and 2 LLMs" in second.stdout
    assert (tmp_path / "made" / "index" / "manifest.json").stat().st_mtime_ns == manifest


REFUSED = [
    ("no history", None, "ab", "index.history: is not set, and there is no index in "),
    ("a table that is not there", "none.csv", "ab", "none.csv"),
    ("an LLM without a budget", "history.csv", "a", "only in the table: ['b']"),
    ("an LLM without answers", "history.csv", "abc", "only in the settings: ['c']"),
]


@pytest.mark.parametrize(("table", "llms", "said"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_it_is_refused_before_the_work(tmp_path: Path, table: str | None, llms: str, said: str) -> None:
    """Nothing is left behind."""
    result = ensure(tmp_path, table, llms)
    assert isinstance(result.exception, FixSetting)
    assert said in str(result.exception)
    assert not (tmp_path / "made").exists()


def test_another_llm_later(tmp_path: Path) -> None:
    """An index that is there is compared with the settings too: the workers would refuse it."""
    ensure(tmp_path, "history.csv")
    result = ensure(tmp_path, "history.csv", "abc")
    assert isinstance(result.exception, FixSetting)
    assert "only in the settings: ['c']" in str(result.exception)
