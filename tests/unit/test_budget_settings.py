"""[budgets]: what is refused at the start, what a variable changes, and what each lane gets."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from worker.contract.accounts import Budget
from worker.contract.budget_settings import BudgetSettings
from worker.contract.errors import FixSetting
from worker.contract.settings import KafkaSettings, LlmSettings, RoutingSettings, Settings, load_settings
from worker.contract.token_costs import PriceList
from worker.core.partition_config import configuration
from worker.estimation.manifest import Manifest

LLM = '[llms."a"]\nbudget_usd = 1\n'
C = LLM + "[budgets.c]\n"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the tests sets nothing."""
    for name in list(os.environ):
        if name.lower().startswith("tollgate_"):
            monkeypatch.delenv(name)


def manifest() -> Manifest:
    """That of an index of two LLMs."""
    fields: dict[str, Any] = dict.fromkeys(Manifest.__struct_fields__, None)
    return Manifest(**{**fields, "llms": ("a", "b"), "margins": (1.5, 1.5), "index": "index"})


def load(folder: Path, text: str) -> Settings:
    """The settings of a file."""
    path = folder / "tollgate.toml"
    path.write_text(text)
    return load_settings(path)


MISTAKES = [
    (
        "two resources",
        C + "usd = 1\ntokens = 1\n",
        "budgets.c: a budget has exactly one of usd, tokens, requests, open",
    ),
    ("no resource", C, "this one has none of them"),
    ("zero", C + "usd = 0\n", "budgets.c.usd: Input should be greater than 0"),
    ("less than a micro-dollar", C + "usd = 0.0000001\n", "budgets.c.usd: Decimal input"),
    ("half a request", C + "requests = 0.5\n", "budgets.c.requests: Input should be a valid integer"),
    ("no LLM", C + "usd = 1\nllms = []\n", "budgets.c.llms: Tuple should have at least 1 item"),
    ("an unknown LLM", C + 'usd = 1\nllms = ["a", "b"]\n', "budgets.c.llms: b is no LLM of [llms]; the LLMs are: a"),
    ("without LLMs", "[budgets.c]\nusd = 1\n", "budgets.c: matches no LLM, because [llms] has none; add the LLMs"),
    (
        "the name of an LLM",
        LLM + "[budgets.a]\nusd = 1\n",
        "budgets.a: has the name of an LLM; give it another name, or set llms.a.budget_usd instead",
    ),
    ("a period that does not exist", C + 'usd = 1\nevery = "fortnight"\n', "budgets.c.every: Input should be"),
    (
        "an LLM that only budgets with tags are over",
        '[llms.a]\n[budgets.c]\nusd = 1\ntags = { team = "x" }\n',
        "llms.a: no budget is over all of its queries, so it could spend without a limit; set llms.a.budget_usd",
    ),
]


@pytest.mark.parametrize(("text", "said"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_a_mistake_names_the_setting(text: str, said: str, tmp_path: Path) -> None:
    """Nothing starts with a budget that could never be what its author means."""
    with pytest.raises(FixSetting) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)


def test_a_variable_of_an_unknown_budget_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error lists the budgets of the settings file."""
    monkeypatch.setenv("TOLLGATE_BUDGETS__D__USD", "2")
    with pytest.raises(FixSetting, match=r"is no budget of the settings file, which lists TOLLGATE_BUDGETS__C__<NAME>"):
        load(tmp_path, C + "usd = 1\n")


def test_a_variable_changes_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, as of an LLM."""
    monkeypatch.setenv("TOLLGATE_BUDGETS__THE_COMPANY__USD", "7")
    assert load(tmp_path, LLM + "[budgets.the-company]\nusd = 1\n").budgets["the-company"].amount == 7_000_000


LLMS = {"a": LlmSettings(), "b": LlmSettings(budget_usd=Decimal("0.5"))}


def whole(**named: dict[str, Any]) -> Settings:
    """Settings of two LLMs, of which the first has no budget of its own."""
    budgets = {name: BudgetSettings.model_validate(fields) for name, fields in named.items()}
    return Settings(kafka=KafkaSettings(partitions=3), llms=LLMS, budgets=budgets)


def test_budgets_are_split_in_whole_units() -> None:
    """The budgets of LLMs come first, then the others as they stand. What does not divide goes to the first lanes."""
    team = {"usd": 1, "tags": {"team": "x"}}
    settings = whole(company={"usd": "0.00001"}, gpu={"open": 64, "llms": ["a"]}, team=team)
    lanes = [configuration(settings, manifest(), partition, {}).budgets for partition in range(3)]
    assert lanes[0][1:3] == (Budget("company", "usd", 4), Budget("gpu", "open", 22, ("a",)))
    assert lanes[0][3] == Budget("team", "usd", 333_334, tags={"team": "x"})
    assert [[budget.amount for budget in lane] for lane in lanes] == [
        [166_667, 4, 22, 333_334],
        [166_667, 3, 21, 333_333],
        [166_666, 3, 21, 333_333],
    ]


FREE = PriceList(Decimal(1), Decimal(0))
PRICED = PriceList(Decimal(1), Decimal(4))


@pytest.mark.parametrize("lists", [{}, {"a": PRICED}, {"a": PRICED, "b": FREE}], ids=["none", "one", "a free one"])
def test_tokens_need_a_price_of_output(lists: dict[str, PriceList]) -> None:
    """A budget in tokens over an LLM without one is refused, with the remedy. With one it is taken."""
    settings = whole(company={"usd": 1}, tokens={"tokens": 300, "llms": ["a", "b"]})
    refused = r"budgets\.tokens\.tokens: . has no price of output tokens.*set llms\.\w\.price_list"
    with pytest.raises(FixSetting, match=refused):
        configuration(settings, manifest(), 0, lists)
    made = configuration(settings, manifest(), 0, {"a": PRICED, "b": PRICED})
    assert made.budgets[-1] == Budget("tokens", "tokens", 100, ("a", "b"))


def test_port_needs_a_budget_of_each_llm() -> None:
    """The published algorithm knows no budget over more than one LLM."""
    company, port = {"c": BudgetSettings(usd=Decimal(1))}, RoutingSettings(policy="port")
    with pytest.raises(FixSetting, match=r"llms\.a\.budget_usd: the policy port knows only budgets of one LLM"):
        configuration(Settings(llms=LLMS, budgets=company, routing=port), manifest(), 0, {})
