"""The options that verbs share, where verbs find their settings, and how they write their results."""

from __future__ import annotations

import errno
import getpass
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from worker.commands import main
from worker.commands.options import settings_from
from worker.commands.output import console, present
from worker.local.demo_directory import demo_directory

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
    directory = demo_directory()
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
    directory.rename(demo_directory())
    assert settings_from(None).kafka.group == "tollgate"


def test_a_link_is_no_demo(tmp_path: Path) -> None:
    """It may be another's, and lead anywhere."""
    demo_runs().rename(tmp_path / "elsewhere")
    demo_directory().symlink_to(tmp_path / "elsewhere")
    assert settings_from(None).kafka.group == "tollgate"


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run under a number that /etc/passwd does not know."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert settings_from(None).kafka.group == "tollgate"


# Every verb

VERBS = [(verb,) for verb in main.VERBS] + [
    ("broker", "start"),
    ("broker", "stop"),
    ("broker", "status"),
    ("topics", "create"),
    ("topics", "check"),
    ("index", "build"),
    ("index", "inspect"),
    ("budget", "suggest"),
]
WITH_RESULTS = ["demo", "bench", "chaos", "verify", "replay", "what-if", "evaluate", "send x", "explain x", "status"]


def invoke(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command line."""
    result = CliRunner().invoke(main.app, list(arguments))
    return result.exit_code, result.output


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the whole program, which turns errors into messages."""
    monkeypatch.setattr(sys, "argv", ["tollgate", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("jgo", ("broker", "start", "--directory", "broker"), "the package jgo: install tollgate[local]"),
        ("psutil", ("bench",), "the package psutil: install tollgate[local]"),
        ("matplotlib", ("evaluate", "--plot", "pictures"), "the package matplotlib: install tollgate[evaluate]"),
    ],
    ids=["broker", "bench", "evaluate"],
)
def test_a_package_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    module: str,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    """The error names the package and the extra of Tollgate that has it, before any work is done."""
    monkeypatch.chdir(tmp_path)
    for name in ("worker.commands.bench", "worker.local.bench", "worker.evaluation.plots"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    code, said = run(monkeypatch, capsys, *arguments)
    assert code == 4, said
    assert says in said


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_the_help_of_every_verb_teaches(monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]) -> None:
    """It names its exit codes and an example, begins as the list of verbs says, and fits 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    code, said = invoke(*verb, "--help")
    assert code == 0, said
    assert "Exit codes: 0 " in said, "the exit codes are missing"
    assert f"    tollgate {' '.join(verb)}" in said, "an example is missing"
    if len(verb) == 1:
        assert f"  {main.VERBS[verb[0]]}\n" in said, "the help does not begin with the sentence in the list of verbs"
    prose = [line for line in said.splitlines() if not line.startswith("    tollgate")]
    assert max(map(len, prose)) <= 80, "a line is too long"


def test_help_shows_brackets() -> None:
    """They are not markup."""
    assert "float [rows, d]" in " ".join(invoke("index", "build", "--help")[1].split())


def test_a_mistyped_verb_is_corrected() -> None:
    """The nearest one is named."""
    code, said = invoke("verfy")
    assert code == 2
    assert "No such command 'verfy'. Did you mean 'verify'?" in said


def test_the_version_is_shown() -> None:
    """By its own option."""
    code, said = invoke("--version")
    assert code == 0
    assert said.startswith("tollgate 0."), said


LAZY = """
import sys
from worker.commands import main
try:
    main.app(["--help"])
except SystemExit:
    print(sorted({"numpy", "faiss", "confluent_kafka", "pydantic", "rich", "msgspec"} & set(sys.modules)))
"""


def test_the_list_of_verbs_imports_none_of_them() -> None:
    """`tollgate --help` loads neither Kafka nor NumPy nor FAISS."""
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# Results


@pytest.mark.parametrize("command", WITH_RESULTS)
def test_json_means_one_thing_in_every_verb(command: str) -> None:
    """--json is a switch that prints; --output names a file."""
    said = " ".join(invoke(command.split(maxsplit=1)[0], "--help")[1].split())
    assert "--json Print the result as JSON on standard output, instead of tables." in said
    assert "-o, --output FILE Also write the result to FILE, as JSON." in said


NO_FILES = [
    ("in no directory", "missing/result.json", "missing is not a directory; create it"),
    ("a directory", ".", ". is a directory; name a file"),
    ("in a file", "file/result.json", "file is not a directory; create it"),
]


@pytest.mark.parametrize("command", WITH_RESULTS)
@pytest.mark.parametrize(("file", "problem"), [c[1:] for c in NO_FILES], ids=[c[0] for c in NO_FILES])
def test_a_result_that_cannot_be_written(empty: Path, command: str, file: str, problem: str) -> None:
    """Every command says so before it begins, as wrong usage."""
    (empty / "file").touch()
    code, said = invoke(*command.split(), "--output", file)
    assert code == 2, said
    assert problem in said


def test_a_result_is_written_and_shown(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON that people can read in the file; as tables on standard output."""
    present({"a": 1}, False, empty / "result.json", lambda screen: screen.print("a table"))
    assert (empty / "result.json").read_text() == '{\n  "a": 1\n}\n'
    assert capsys.readouterr().out == "a table\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_is_named_after_the_result_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The result is not lost with the file."""
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        present({"a": 1}, False, Path("/dev/full"), lambda screen: screen.print("a table"))
    assert capsys.readouterr().out == "a table\n"


def test_json_is_all_that_is_printed(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No table beside it, and no file without --output."""

    def show(_: Console) -> None:
        raise AssertionError("a table is shown")

    present({"a": 1}, True, None, show)
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    assert list(empty.iterdir()) == []


def test_nothing_is_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """A long line stays one line, whatever the width of a terminal would be."""
    console().print("x" * 500)
    assert capsys.readouterr().out == "x" * 500 + "\n"


# What is refused before the work begins

REFUSED = [
    ("a number of no budget", ["what-if", "--budget", "2"], "'2' names no budget; write NAME=NUMBER"),
    ("a price of no budget", ["what-if", "--price", "2"], "'2' names no budget; write NAME=NUMBER"),
    ("no number", ["what-if", "--budget", "a=b"], "'b' is not a number of at least 0"),
    ("a factor that is no number", ["what-if", "--budget-factor", "inf"], "inf is not a finite number"),
    ("another policy", ["what-if", "--policy", "best"], "'best' is not one of 'priced', 'port'"),
    ("an LLM that is not configured", ["what-if", "--without", "a"], "a is not configured in [llms]"),
    ("other estimates", ["replay", "--estimates", "guessed"], "'guessed' is not one of 'recorded', 'index'"),
    ("no time", ["replay", "--from", "yesterday"], "'yesterday' is neither an offset nor a time"),
    ("an anchor in no directory", ["replay", "--anchor", "missing/heads.json"], "missing is not a directory"),
    ("an index that exists", ["index", "build", "demo", "."], ". exists, and is never overwritten"),
    ("an index in a file", ["index", "build", "demo", "file/index"], "file is a file; name a directory"),
    ("another embedder", ["index", "build", "demo", "new", "--embedder", "best"], "'best' is not one of 'wordllama'"),
    ("a broker in a file", ["broker", "start", "--directory", "file/kafka"], "file is a file; name a directory"),
    ("a demo in a file", ["demo", "--directory", "file/demo"], "file is a file; name a directory"),
    ("pictures in a file", ["evaluate", "--plot", "file"], "file is a file; name a directory"),
    ("watching into a file", ["status", "--watch", "--output", "new"], "omit --watch"),
]


@pytest.mark.parametrize(("arguments", "problem"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_wrong_usage_is_refused(empty: Path, arguments: list[str], problem: str) -> None:
    """With exit code 2, the option and the remedy."""
    (empty / "file").touch()
    code, said = invoke(*arguments)
    assert code == 2, said
    assert problem in " ".join(said.split())


# Errors of the operating system

PROBLEMS = [
    (OSError(errno.ENOSPC, "No space left on device", "result.json"), 4, "result.json: No space left on device; free"),
    (PermissionError(errno.EACCES, "Permission denied", "/etc/x"), 4, "/etc/x: Permission denied; change its"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 4, "x: No such file or directory; create it"),
    (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 3, "Connection refused; check kafka.bootstrap"),
    (OSError("something else"), 4, "something else; run again with --debug"),
]


@pytest.mark.parametrize(("error", "code", "message"), PROBLEMS, ids=[str(case[0]) for case in PROBLEMS])
def test_no_error_of_the_system_ends_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    code: int,
    message: str,
) -> None:
    """It becomes one message with the file, the problem and the remedy."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    found, said = run(monkeypatch, capsys, "verify")
    assert found == code
    assert said.startswith(f"tollgate: {message}"), said
    assert "Traceback" not in said


JSON_FILE = '[log]\nformat = "json"\n'
RUN = "import sys; from worker.commands import main; sys.argv = ['tollgate', 'run']; main.main()"
BROKEN = "from worker.service import app; app.run = lambda settings: 1 / 0; " + RUN
LAST_WORDS: list[tuple[str, str, str, dict[str, str], int, str, str]] = [
    ("a wrong setting", RUN, JSON_FILE + '[routing]\npolicy = "x"\n', {}, 4, "failed", "routing.policy"),
    ("no TOML", RUN, "log", {"TOLLGATE_LOG__FORMAT": "json"}, 4, "failed", "tollgate.toml"),
    ("an error of ours", BROKEN, JSON_FILE, {}, 1, "crashed", "ZeroDivisionError"),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("program", "file", "variables", "code", "event", "named"),
    [c[1:] for c in LAST_WORDS],
    ids=[c[0] for c in LAST_WORDS],
)
def test_last_words_are_json(
    empty: Path, program: str, file: str, variables: dict[str, str], code: int, event: str, named: str
) -> None:
    """A verb that logs JSON lines ends with one, also if its settings are what is wrong."""
    (empty / "tollgate.toml").write_text(file)
    python = [sys.executable, "-c", program]
    said = subprocess.run(python, env=os.environ | variables, capture_output=True, text=True, check=False)
    line = json.loads(said.stderr)
    assert said.returncode == code
    assert line["event"] == event
    assert named in str(line)


def test_answers_are_called_or_recorded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`infer --calls-only` answers nothing from a table."""
    code, said = run(monkeypatch, capsys, "infer", "--calls-only", "--history", "demo")
    assert code == 2
    assert "--calls-only answers nothing from a table" in said


MISSING_FILES = [
    ["verify", "--config", "none.toml"],
    ["index", "inspect", "none"],
    ["index", "build", "none.csv", "new"],
    ["index", "ensure", "--config", "none.toml"],
    ["evaluate", "none.csv"],
    ["infer", "--history", "none.csv"],
    ["produce", "--history", "none.csv"],
    ["broker", "stop", "--directory", "none"],
]


@pytest.mark.parametrize("arguments", MISSING_FILES, ids=" ".join)
def test_a_missing_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """In one message."""
    monkeypatch.setattr(sys, "argv", ["tollgate", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.main()
    said = capsys.readouterr()
    assert caught.value.code != 0
    assert "none" in said.err + said.out
    assert "Traceback" not in said.err


def test_the_option_debug_may_stand_anywhere_before_the_text() -> None:
    """After `--` it is text."""
    assert main.without_debug(["send", "--debug", "--", "--debug"]) == (True, ["send", "--", "--debug"])
    assert main.without_debug(["send", "--", "--debug"]) == (False, ["send", "--", "--debug"])
