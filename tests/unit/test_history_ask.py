"""`tollgate history ask` asks what was not answered, within a limit of money, and can be ended and begun again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.provider import Provider, provided
from worker.commands import main
from worker.contract.errors import FixSetting

# An answer of the provider costs 12 x 3 + 30 x 15 micro-dollars.
COST = 0.000486
LLM = 'base_url = "{address}"\nbudget_usd = 1\ninput_usd_per_mtok = 3\noutput_usd_per_mtok = 15\n'


@pytest.fixture
def provider() -> Iterator[Provider]:
    with provided() as server:
        yield server


@pytest.fixture
def place(tmp_path: Path, provider: Provider) -> Path:
    """A directory with settings of two LLMs and a history in which each query was asked of the first."""
    llm = LLM.format(address=provider.base_url)
    (tmp_path / "tollgate.toml").write_text(f"[llms.first]\n{llm}[llms.second]\n{llm}")
    rows = "".join(f"q{number},Why {number}?,0.5,0.001\n" for number in range(20))
    (tmp_path / "history.csv").write_text(f"query_id,prompt,first,first|total_cost\n{rows}")
    return tmp_path


def ask(place: Path, *more: str, count: int = 5, usd: float = 1) -> Result:
    """The command, that asks the user nothing unless `more` does not say so."""
    base = ["history", "ask", str(count), str(place / "history.csv"), "--config", str(place / "tollgate.toml")]
    return CliRunner().invoke(main.app, [*base, "--to", str(place / "answers.jsonl"), "--max-usd", str(usd), *more])


def lines(place: Path) -> list[dict[str, Any]]:
    """The answers of the file."""
    return [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()]


def test_only_llms_that_have_not_answered_are_asked(place: Path, provider: Provider) -> None:
    """Five past prompts for the second LLM, and none for the first."""
    assert ask(place, "--yes").exit_code == 0
    assert {one.model for one in provider.asked} == {"second"}
    assert len({one["query_id"] for one in lines(place)}) == 5
    assert {one["cost_usd"] for one in lines(place)} == {f"{COST:.6f}"}


def test_the_price_is_told_before_anything_is_asked(place: Path, provider: Provider) -> None:
    """Whoever says no pays nothing."""
    done = CliRunner().invoke(
        main.app,
        [
            "history",
            "ask",
            "5",
            str(place / "history.csv"),
            "--config",
            str(place / "tollgate.toml"),
            "--to",
            str(place / "answers.jsonl"),
            "--max-usd",
            "1",
        ],
        input="n\n",
    )
    assert (done.exit_code, provider.asked) == (1, [])
    assert "5 questions (first 0, second 5) cost at most 0.0" in done.stderr


def test_no_more_is_spent_than_allowed(place: Path, provider: Provider) -> None:
    """Before a call, the most that it may cost is set aside: 40 output tokens are 0.0006 US dollars here."""
    done = ask(place, "--yes", "--json", "--max-output-tokens", "40", usd=0.002, count=20)
    told = json.loads(done.stdout)
    assert (done.exit_code, told["answered"] + told["not_asked"]) == (1, 20)
    assert told["answered"] == len(provider.asked)
    assert 0 < told["spent_usd"] <= 0.002


def test_the_same_command_goes_on(place: Path, provider: Provider) -> None:
    """What was answered is not asked again, and what it cost counts for the limit."""
    ask(place, "--yes", count=5)
    ask(place, "--yes", count=5)
    assert len(provider.asked) == 5
    told = json.loads(ask(place, "--yes", "--json", count=20).stdout)
    assert (told["answered"], round(told["spent_usd"], 6)) == (15, round(20 * COST, 6))


def test_an_llm_without_prices_is_not_asked(place: Path, provider: Provider) -> None:
    """What it may cost is not known, and unknown is not zero."""
    (place / "tollgate.toml").write_text(f'[llms.second]\nbase_url = "{provider.base_url}"\nbudget_usd = 1\n')
    done = ask(place, "--yes")
    assert isinstance(done.exception, FixSetting)
    assert "llms.second: has no prices" in str(done.exception)


def test_answers_and_their_judgements_become_history(place: Path) -> None:
    """Beside the old table, by the id that each answer has."""
    ask(place, "--yes", count=5)
    judged = "".join(f"{one['id']},1\n" for one in lines(place))
    (place / "judged.csv").write_text(f"id,score\n{judged}")
    names = [str(place / name) for name in ("history.csv", "answers.jsonl", "judged.csv")]
    done = CliRunner().invoke(main.app, ["history", "convert", *names, "--to", str(place / "new.csv"), "--json"])
    told = {one["llm"]: (one["answers"], one["scored"], one["priced"]) for one in json.loads(done.stdout)["llms"]}
    assert told == {"first": (20, 20, 20), "second": (5, 5, 5)}
