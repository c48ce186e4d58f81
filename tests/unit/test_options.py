"""Where commands find their settings when none are named, and where they write what is asked of them."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from worker.commands import main
from worker.commands.options import settings_from, write_json
from worker.estimation import demo_data

FILE = '[kafka]\ngroup = "{group}"\n'


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without settings, to run in, and one for demos beside it."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return here


def demo_runs() -> Path:
    """The settings of a demo as it runs."""
    directory = demo_data.demo_directory()
    directory.mkdir()
    (directory / "tollgate.toml").write_text(FILE.format(group="demo"))
    return directory


def test_nothing_is_there() -> None:
    """The defaults."""
    assert settings_from(None).kafka.group == "tollgate"


def test_a_demo_runs() -> None:
    """Its settings, without naming them."""
    demo_runs()
    assert settings_from(None).kafka.group == "demo"


def test_a_file_here_is_nearer_than_a_demo(empty: Path) -> None:
    """./tollgate.toml, then the demo."""
    demo_runs()
    (empty / "tollgate.toml").write_text(FILE.format(group="here"))
    assert settings_from(None).kafka.group == "here"


def test_a_demo_of_another_user_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may make a directory of that name in /tmp."""
    directory, somebody = demo_runs(), os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    directory.rename(demo_data.demo_directory())
    assert settings_from(None).kafka.group == "tollgate"


def test_a_link_is_no_demo(tmp_path: Path) -> None:
    """It may be another's, and lead anywhere."""
    demo_runs().rename(tmp_path / "elsewhere")
    demo_data.demo_directory().symlink_to(tmp_path / "elsewhere")
    assert settings_from(None).kafka.group == "tollgate"


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run under a number that /etc/passwd does not know."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert settings_from(None).kafka.group == "tollgate"


COMMANDS = ["demo", "bench", "chaos", "verify", "replay", "what-if", "evaluate"]
NO_FILES = [
    ("in no directory", "missing/result.json", "missing is no directory; make it"),
    ("a directory", ".", ". is a directory; name a file"),
    ("in a file", "file/result.json", "file is no directory; make it"),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("file", "problem"), [c[1:] for c in NO_FILES], ids=[c[0] for c in NO_FILES])
def test_a_result_that_could_not_be_written(empty: Path, command: str, file: str, problem: str) -> None:
    """Every command says so before it begins, as wrong usage."""
    (empty / "file").touch()
    result = CliRunner().invoke(main.app, [command, "--json", file])
    assert (result.exit_code, problem in result.output) == (2, True), result.output


@pytest.mark.parametrize("option", ["--budgets", "--with-prices"])
def test_a_number_of_no_llm(empty: Path, option: str) -> None:
    """Is wrong usage, and the form is shown."""
    result = CliRunner().invoke(main.app, ["what-if", option, "2"])
    assert (result.exit_code, "'2' names no LLM; write LLM=NUMBER" in result.output) == (2, True), result.output


def test_a_result_is_written(empty: Path) -> None:
    """As JSON that people can read, in one go; nothing without a name."""
    write_json(None, {"a": 1})
    write_json(empty / "result.json", {"a": 1})
    assert [(file.name, file.read_text()) for file in empty.iterdir()] == [("result.json", '{\n  "a": 1\n}\n')]
