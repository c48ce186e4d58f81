"""What every file of the repository keeps to."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
MAX_DATA_BYTES = 5_000_000
MAX_SLEEP_SECONDS = 0.2
# Written in parts, so that this file does not hold what it looks for.
HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("maven", "org"),
        ("maven", "apache", "org"),
        ("golang", "org"),
        ("crates", "io"),
        ("deb", "debian", "org"),
    ]
]
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/")


def tracked(*patterns: str) -> list[str]:
    """The files in git that match, by their path from the root."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()]


def text(path: str) -> str:
    """The content of a text file; nothing of another."""
    data = (ROOT / path).read_bytes()
    return "" if b"\0" in data or path.endswith(".msgpack") else data.decode()


def functions(path: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module."""
    return [
        node for node in ast.walk(ast.parse(text(path))) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize("path", tracked("*.py"))
def test_a_module_is_small_and_says_what_it_is(path: str) -> None:
    """At most 400 lines, and a docstring at the top."""
    source = text(path)
    stated = ast.get_docstring(ast.parse(source)) is not None or not source.strip()
    assert (len(source.splitlines()) <= MAX_LINES, stated) == (True, True)


def test_functions_are_short() -> None:
    """Half of the functions have at most 8 lines of code, nine in ten at most 20; their docstrings not counted."""
    lengths = [_length(function) for path in tracked("worker/*.py") for function in functions(path)]
    assert (statistics.median(lengths) <= 8, statistics.quantiles(lengths, n=10)[-1] <= 20) == (True, True)


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", tracked("tests/*.py"))
def test_a_test_claims_something_and_does_not_sleep(path: str) -> None:
    """Each test says in words what must hold; none waits for longer than 0.2 s without a condition."""
    silent = [
        function.name
        for function in functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert (silent, _sleeps(path)) == ([], [])


def _sleeps(path: str) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(text(path))) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] == "sleep"
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value > MAX_SLEEP_SECONDS
    ]


def test_no_file_names_a_package_registry_or_a_place_on_one_machine() -> None:
    """Whoever installs this does so from where they always do, to where they like."""
    found = [
        (path, line)
        for path in tracked()
        for line in text(path).splitlines()
        if any(host in line for host in HOSTS) or MACHINE_PATH.search(line)
    ]
    assert found == []


def test_the_lock_file_pins_everything() -> None:
    """Each package in one version with its hashes, from no named index, and all that pyproject.toml asks for."""
    lock = text("requirements.lock").replace("\\\n", " ")
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    loose = [line for line in lines if not re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:", line)]
    locked = {line.partition("==")[0].replace("_", "-").lower() for line in lines}
    project = tomllib.loads(text("pyproject.toml"))["project"]
    asked = {re.split(r"[<>=\[;]", line)[0].lower() for line in project["dependencies"]}
    asked |= {re.split(r"[<>=\[;]", line)[0].lower() for line in project["optional-dependencies"]["dev"]}
    assert (loose, sorted(asked - locked)) == ([], [])


def test_the_data_is_small() -> None:
    """The demo's data and all other files together stay easy to clone."""
    assert sum((ROOT / path).stat().st_size for path in tracked("worker/data")) <= MAX_DATA_BYTES


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE"])
def test_the_licence_is_there(name: str) -> None:
    """Apache-2.0, with a notice that names where the data comes from."""
    assert {"LICENSE": "Apache License", "NOTICE": "MMLU-Pro"}[name] in text(name)


def test_make_takes_the_pythons_that_the_package_takes() -> None:
    """A newer one has no wheels of some packages: refused before anything is installed."""
    (oldest, newest) = re.findall(r"3\.(\d+)", tomllib.loads(text("pyproject.toml"))["project"]["requires-python"])
    assert f"(3, {oldest}) <= sys.version_info < (3, {newest})" in text("Makefile")


def test_every_verb_of_make_has_help() -> None:
    """`make` alone lists all of them, each in one line."""
    makefile = text("Makefile")
    (verbs,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert sorted(re.findall(r"^([a-z]+):.*## \S", makefile, re.MULTILINE)) == sorted(verbs.split())
