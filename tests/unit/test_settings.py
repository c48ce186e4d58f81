"""One settings object: flag > environment > file > default, secrets never from the file, mistakes refused by name."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from worker.contract.errors import FixSetting
from worker.contract.messages import Configuration
from worker.contract.settings import KafkaSettings, LlmSettings, RoutingSettings, Settings, load_settings
from worker.core.partition_config import configuration
from worker.estimation.manifest import Manifest

GROUP = "TOLLGATE_KAFKA__GROUP"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the tests sets nothing."""
    for name in list(os.environ):
        if name.lower().startswith("tollgate_"):
            monkeypatch.delenv(name)


def load(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, variables: dict[str, str], flags: dict[str, Any]
) -> Settings:
    """Settings from all sources."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    path = folder / "tollgate.toml"
    path.write_text(text)
    return load_settings(path, flags)


FILE = '[kafka]\ngroup = "file"\npartitions = 8\n'
PRECEDENCE: list[tuple[str, str, dict[str, str], dict[str, Any], dict[str, object]]] = [
    ("default", "", {}, {}, {"group": "tollgate", "partitions": 4}),
    ("file over default", FILE, {}, {}, {"group": "file", "partitions": 8}),
    (
        "environment over file, name by name",
        FILE,
        {GROUP: "environment"},
        {},
        {"group": "environment", "partitions": 8},
    ),
    (
        "flag over environment, name by name",
        FILE,
        {GROUP: "environment", "TOLLGATE_KAFKA__PARTITIONS": "16"},
        {"kafka": {"group": "flag"}},
        {"group": "flag", "partitions": 16},
    ),
    ("flag over file", FILE, {}, {"kafka": {"group": "flag"}}, {"group": "flag", "partitions": 8}),
    ("small letters", FILE, {GROUP.lower(): "environment"}, {}, {"group": "environment", "partitions": 8}),
    (
        "variables of others",
        "",
        {"TOLLGATE_PORT": "tcp://10.0.0.1:80", "TOLL__GATE": "1"},
        {},
        {"group": "tollgate", "partitions": 4},
    ),
]


@pytest.mark.parametrize(
    ("text", "variables", "flags", "expected"), [c[1:] for c in PRECEDENCE], ids=[c[0] for c in PRECEDENCE]
)
def test_precedence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    variables: dict[str, str],
    flags: dict[str, Any],
    expected: dict[str, object],
) -> None:
    """A flag wins over the environment, the environment over the file, the file over the default, setting by
    setting."""
    kafka = load(tmp_path, monkeypatch, text, variables, flags).kafka
    assert {"group": kafka.group, "partitions": kafka.partitions} == expected


SASL = {"TOLLGATE_KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "TOLLGATE_KAFKA__SASL_USERNAME": "ada"}
LLM = '[llms."a"]\nbudget_usd = 1\n'
REFUSED: list[tuple[str, str, dict[str, str], list[str]]] = [
    ("an unknown section", "[kafak]\n", {}, ["kafak: there is no such setting"]),
    ("an unknown name", "[kafka]\ngruop = 'x'\n", {}, ["kafka.gruop: there is no such setting"]),
    ("an unknown variable", "", {"TOLLGATE_KAFKA__GRUOP": "x"}, ["kafka.gruop: there is no such setting"]),
    (
        "an unknown section in a variable",
        "",
        {"TOLLGATE_KAFAK__GROUP": "x"},
        [
            "TOLLGATE_KAFAK__GROUP: there is no section 'kafak', only kafka, index, routing, limits, web, inference, "
            "log, llms"
        ],
    ),
    (
        "a value that is not allowed",
        '[routing]\npolicy = "best"\n',
        {},
        ["routing.policy: Input should be 'priced' or 'port', not 'best'"],
    ),
    (
        "a number out of range",
        "[kafka]\npartitions = 0\n",
        {},
        ["kafka.partitions: Input should be greater than or equal to 1, not 0"],
    ),
    (
        "all mistakes at once",
        '[log]\nlevel = "loud"\n[web]\nport = 70000\n',
        {},
        [
            "web.port: Input should be less than or equal to 65535, not 70000",
            "log.level: Input should be 'debug', 'info', 'warning' or 'error', not 'loud'",
        ],
    ),
    (
        "a switch for a number",
        "[kafka]\npartitions = true\n",
        {},
        ["kafka.partitions: is no switch, and cannot be true"],
    ),
    ("a switch for money", "[llms.a]\nbudget_usd = false\n", {}, ["llms.a.budget_usd: is no switch, and cannot be fa"]),
    (
        "a section in a variable",
        "",
        {"TOLLGATE_KAFKA": "abc"},
        ["TOLLGATE_KAFKA: names a section; set its settings one by one, as TOLLGATE_KAFKA__<NAME>"],
    ),
    (
        "a variable of an LLM that is not there",
        LLM + '[llms."gpt-4o"]\nbudget_usd = 1\n',
        {"TOLLGATE_LLMS__QWEN__BUDGET_USD": "1"},
        [
            "TOLLGATE_LLMS__QWEN__BUDGET_USD: is no LLM of the settings file, which lists TOLLGATE_LLMS__A__<NAME>, "
            "TOLLGATE_LLMS__GPT_4O__<NAME>"
        ],
    ),
    (
        "a variable of an LLM where there is none",
        "",
        {"TOLLGATE_LLMS__QWEN__BUDGET_USD": "1"},
        ["TOLLGATE_LLMS__QWEN__BUDGET_USD: is no LLM of the settings file, which lists none"],
    ),
    (
        "a variable that may mean two LLMs",
        "[llms.a-b]\nbudget_usd = 1\n[llms.a_b]\nbudget_usd = 1\n",
        {"TOLLGATE_LLMS__A_B__BUDGET_USD": "1"},
        ["TOLLGATE_LLMS__A_B__BUDGET_USD: may mean 'a-b' or 'a_b'; set it in the settings file"],
    ),
    (
        "an unknown setting of an LLM",
        LLM,
        {"TOLLGATE_LLMS__A__BUDGET": "1"},
        ["llms.a.budget: there is no such setting"],
    ),
    ("an LLM without a name", '[llms.""]\nbudget_usd = 1\n', {}, ["llms: an LLM's name is empty"]),
    (
        "a limit that cuts what could be sent again",
        "[limits]\nmax_query_bytes = 2000000\n",
        {},
        ["limits: max_dead_letter_bytes, 1000000, is below max_query_bytes, 2000000, and would cut"],
    ),
    ("an LLM without a budget", "[llms.a]\n", {}, ["llms.a: no budget is over all of its queries"]),
    ("half a price list", LLM + "input_usd_per_mtok = 1\n", {}, ["llms.a: a price list needs both"]),
    ("a cached price alone", LLM + "cached_input_usd_per_mtok = 1\n", {}, ["llms.a: a price list needs both"]),
    ("a negative budget", "[llms.a]\nbudget_usd = -1\n", {}, ["llms.a.budget_usd: Input should be greater than or"]),
    ("no budget at all", "[llms.a]\nbudget_usd = nan\n", {}, ["llms.a.budget_usd: Input should be a finite number"]),
    ("less than a micro-dollar", "[llms.a]\nbudget_usd = 0.0000001\n", {}, ["llms.a.budget_usd: Decimal input"]),
    ("two LLMs on one topic", LLM + '[llms."x y"]\nbudget_usd = 1\n[llms.x-y]\nbudget_usd = 1\n', {}, ["llms: 'x y'"]),
    ("no TOML", "[kafka\n", {}, ["{path}: Expected ']'"]),
    ("a section that is none", "kafka = 3\n", {}, ["kafka: Input should be a valid dictionary"]),
    ("a password in the file", '[kafka]\nsasl_password = "x"\n', {}, ["kafka.sasl_password: a secret does not belong"]),
    ("SASL without a password", "", SASL, ["kafka: security_protocol SASL_* needs sasl_username and a password"]),
    (
        "a password's file that is not there",
        "",
        {**SASL, "TOLLGATE_KAFKA__SASL_PASSWORD_FILE": "/nowhere"},
        ["kafka: sasl_password_file cannot be read: No such file or directory"],
    ),
    (
        "a certificate that is not there",
        '[kafka]\nssl_ca_file = "/nowhere"\n',
        {},
        ["kafka.ssl_ca_file: Path does not point to a file, not '/nowhere'"],
    ),
]


@pytest.mark.parametrize(("text", "variables", "lines"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_mistake_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, variables: dict[str, str], lines: list[str]
) -> None:
    """Each mistake has a line, which names the setting and what is allowed."""
    with pytest.raises(FixSetting) as caught:
        load(tmp_path, monkeypatch, text, variables, {})
    wanted = [line.format(path=tmp_path / "tollgate.toml") for line in lines]
    assert [said[: len(line)] for said, line in zip(str(caught.value).splitlines(), wanted, strict=True)] == wanted


SERVERS = [
    ("one", "a:9092", "a:9092"),
    ("several, with blanks", " a:9092 ,\tb-1.example.org:9093", "a:9092,b-1.example.org:9093"),
    ("IPv4", "127.0.0.1:1", "127.0.0.1:1"),
    ("IPv6", "[::1]:9092,[fe80::1:2]:65535", "[::1]:9092,[fe80::1:2]:65535"),
    ("a container's name", "my_kafka_1:19092", "my_kafka_1:19092"),
]
NO_SERVERS = [
    ("nothing", "", "an address is empty"),
    ("a comma at the end", "a:9092,", "an address is empty"),
    ("a protocol", "PLAINTEXT://a:9092", "'PLAINTEXT://a:9092' has a protocol, which kafka.security_protocol says"),
    ("no port", "a:9092,localhost", "'localhost' is no address"),
    ("a port that is no number", "localhost:abc", "'localhost:abc' is no address"),
    ("a port out of range", "localhost:70000", "'localhost:70000' has no port in 1..65535"),
    ("port zero", "localhost:0", "'localhost:0' has no port in 1..65535"),
    ("IPv6 without brackets", "::1:9092", "'::1:9092' is no address"),
    ("no host", ":9092", "':9092' is no address"),
    ("a blank inside", "a b:9092", "'a b:9092' is no address"),
    ("semicolons", "a:9092;b:9092", "'a:9092;b:9092' is no address"),
]


@pytest.mark.parametrize(("servers", "expected"), [c[1:] for c in SERVERS], ids=[c[0] for c in SERVERS])
def test_addresses_of_brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: str, expected: str) -> None:
    """Blanks around the addresses are removed: both clients read the same hosts and ports."""
    kafka = load(tmp_path, monkeypatch, "", {"TOLLGATE_KAFKA__BOOTSTRAP_SERVERS": servers}, {}).kafka
    assert kafka.bootstrap_servers == expected


@pytest.mark.parametrize(("servers", "problem"), [c[1:] for c in NO_SERVERS], ids=[c[0] for c in NO_SERVERS])
def test_no_addresses_of_brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: str, problem: str) -> None:
    """The error names the setting, the mistake and the remedy."""
    with pytest.raises(FixSetting) as caught:
        load(tmp_path, monkeypatch, "", {"TOLLGATE_KAFKA__BOOTSTRAP_SERVERS": servers}, {})
    remedy = "; give host:port, several separated by commas, IPv6 addresses in brackets"
    assert str(caught.value) == f"kafka.bootstrap_servers: {problem}{remedy}"


NAMES = [
    ("capitals", "Qwen", "QWEN"),
    ("as it is", "Qwen", "Qwen"),
    ("small letters", "Qwen", "qwen"),
    ("what shells do not allow", "openai/gpt-4.1 (mini)", "OPENAI_GPT_4_1_MINI"),
    ("the same, as it is", "gpt-4o", "gpt-4o"),
    ("two underscores", "a__B", "A_B"),
    ("two underscores, as they are", "a__B", "A__B"),
    ("letters of others", "Größe", "GRÖSSE"),
]


@pytest.mark.parametrize(("llm", "variable"), [c[1:] for c in NAMES], ids=[c[0] for c in NAMES])
def test_a_variable_sets_one_thing_of_an_llm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llm: str, variable: str
) -> None:
    """A variable sets one setting of one LLM, whatever the LLM's name is. All other settings stay as the file has
    them."""
    text = f'[llms."{llm}"]\nbudget_usd = 1\nmargin = 2\n[llms.other]\nbudget_usd = 5\n'
    llms = load(tmp_path, monkeypatch, text, {f"TOLLGATE_LLMS__{variable}__BUDGET_USD": "3"}, {}).llms
    found = {name: (one.budget_usd, one.margin) for name, one in llms.items()}
    assert found == {llm: (Decimal(3), 2.0), "other": (Decimal(5), None)}


def test_a_password_in_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password file that is not UTF-8 is refused by the setting that names it."""
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    named = {**SASL, "TOLLGATE_KAFKA__SASL_PASSWORD_FILE": str(tmp_path / "password")}
    with pytest.raises(FixSetting, match=r"^kafka: sasl_password_file cannot be read: it is no UTF-8"):
        load(tmp_path, monkeypatch, "", named, {})


def test_a_key_needs_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without a certificate is refused: both clients would ignore it."""
    key = tmp_path / "key.pem"
    key.touch()
    with pytest.raises(FixSetting, match="ssl_key_file needs the ssl_certificate_file"):
        load(tmp_path, monkeypatch, f'[kafka]\nssl_key_file = "{key}"\n', {}, {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The error says how to name another file."""
    with pytest.raises(FixSetting, match="No such file or directory; name the settings file with --config"):
        load_settings(tmp_path / "nowhere.toml")


PASSWORDS = [
    ("from the environment", {"TOLLGATE_KAFKA__SASL_PASSWORD": "secret"}),
    ("from a file that the environment names", {"TOLLGATE_KAFKA__SASL_PASSWORD_FILE": "{folder}/password"}),
]


@pytest.mark.parametrize("variables", [c[1] for c in PASSWORDS], ids=[c[0] for c in PASSWORDS])
def test_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """A password is read without the end of its line, and repr does not show it."""
    (tmp_path / "password").write_text("secret\n")
    named = {name: value.format(folder=tmp_path) for name, value in variables.items()}
    settings = load(tmp_path, monkeypatch, "", {**SASL, **named}, {})
    assert settings.kafka.password() == "secret"
    assert "secret" not in repr(settings)


# What one partition decides by


def manifest(llms: tuple[str, ...] = ("a", "b")) -> Manifest:
    """An index of these LLMs."""
    fields: dict[str, Any] = dict.fromkeys(Manifest.__struct_fields__)
    return Manifest(**{**fields, "llms": llms, "margins": tuple(1.5 for _ in llms), "index": "index"})


def budgets(partitions: int, usd: str, horizon: int = 0) -> Settings:
    """Settings of two LLMs with the same budget."""
    llms = {name: LlmSettings(budget_usd=Decimal(usd)) for name in ("a", "b")}
    return Settings(
        kafka=KafkaSettings(partitions=partitions), routing=RoutingSettings(horizon_queries=horizon), llms=llms
    )


def amounts(config: Configuration) -> dict[str, int]:
    """The amounts of the budgets of a configuration."""
    return {budget.name: budget.amount for budget in config.budgets}


SPLITS = [
    ("even", 4, "1", [250_000] * 4),
    ("what is left goes to the first", 3, "0.000011", [4, 4, 3]),
    ("fewer micro-dollars than partitions", 4, "0.000002", [1, 1, 0, 0]),
    ("nothing", 2, "0", [0, 0]),
]


@pytest.mark.parametrize(("partitions", "usd", "shares"), [c[1:] for c in SPLITS], ids=[c[0] for c in SPLITS])
def test_budgets_are_split_exactly(partitions: int, usd: str, shares: list[int]) -> None:
    """The shares of all partitions add up to the budget, to the micro-dollar."""
    settings = budgets(partitions, usd)
    split = [amounts(configuration(settings, manifest(), partition, {})) for partition in range(partitions)]
    assert split == [{"a": share, "b": share} for share in shares]


def test_the_horizon_is_split_as_budgets_are() -> None:
    """The horizon of a partition is its share of the queries."""
    settings = budgets(3, "1", horizon=10)
    assert [configuration(settings, manifest(), partition, {}).horizon_queries for partition in range(3)] == [4, 3, 3]


def test_a_margin_of_the_settings_wins() -> None:
    """The settings' margin replaces the index's margin. LLMs, margins and budgets have the order of the index."""
    llms = {"b": LlmSettings(budget_usd=Decimal(1), margin=2.0), "a": LlmSettings(budget_usd=Decimal(1))}
    made = configuration(Settings(llms=llms), manifest(), 0, {})
    assert made.llms == ("a", "b")
    assert made.margins == (1.5, 2.0)
    assert list(amounts(made)) == ["a", "b"]


def test_an_index_of_other_llms_is_refused() -> None:
    """The error names the LLMs that only the index or only the settings have."""
    with pytest.raises(FixSetting, match=r"only in the index: \['c'\], only in the settings: \['b'\]"):
        configuration(budgets(1, "1"), manifest(("a", "c")), 0, {})
