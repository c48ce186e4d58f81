"""What every file of the repository keeps to."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import tomllib
from pathlib import Path

from worker.commands.main import EXTRAS

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


def faults_of_form(path: str) -> list[str]:
    """What is wrong with the form of a module."""
    source = text(path)
    if not source.strip():
        return []
    lines, stated = len(source.splitlines()), ast.get_docstring(ast.parse(source))
    return [
        *([f"{path}: {lines} lines"] if lines > MAX_LINES else []),
        *([] if stated else [f"{path}: no docstring"]),
    ]


def test_a_module_is_small_and_says_what_it_is() -> None:
    """A module has at most 400 lines, and a docstring at the top."""
    assert [fault for path in tracked("*.py") for fault in faults_of_form(path)] == []


def test_functions_are_short() -> None:
    """Nine in ten functions have at most 20 lines of code. Docstrings are not counted."""
    lengths = [_length(function) for path in tracked("worker/*.py") for function in functions(path)]
    assert statistics.quantiles(lengths, n=10)[-1] <= 20


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_a_test_claims_something() -> None:
    """The docstring of each test says what must hold."""
    silent = [
        f"{path}: {function.name}"
        for path in tracked("tests/*.py")
        for function in functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert silent == []


def test_a_test_does_not_sleep() -> None:
    """No test waits for longer than 0.2 s without a condition."""
    assert [f"{path}: {call}" for path in tracked("tests/*.py") for call in _sleeps(path)] == []


def _sleeps(path: str) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(text(path))) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] == "sleep"
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, int | float)
        and call.args[0].value > MAX_SLEEP_SECONDS
    ]


def test_no_file_names_a_package_registry_or_a_place_on_one_machine() -> None:
    """Everybody installs from the registry that they use, into the place that they like."""
    found = [
        (path, line)
        for path in tracked()
        for line in text(path).splitlines()
        if any(host in line for host in HOSTS) or MACHINE_PATH.search(line)
    ]
    assert found == []


def test_the_lock_file_pins_everything() -> None:
    """Each package in one version with its hashes, from no named index, and all that pyproject.toml asks for."""
    lock = (text("requirements.lock") + text("requirements-llm.lock")).replace("\\\n", " ")
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    loose = [line for line in lines if not re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:", line)]
    locked = {line.partition("==")[0].replace("_", "-").lower() for line in lines}
    project = tomllib.loads(text("pyproject.toml"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    asked = {re.split(r"[<>=\[;]", line)[0].lower() for line in lines} - {project["name"]}
    assert loose == [], "not pinned with hashes"
    assert sorted(asked - locked) == [], "asked for, and not in the lock"


def test_every_package_of_a_verb_has_its_extra() -> None:
    """A command that lacks a package of an extra names the extra, for all packages of the extras that users install."""
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    asked = {re.split(r"[<>=\[;]", line)[0]: extra for extra in ("local", "evaluate", "llm") for line in extras[extra]}
    assert asked == EXTRAS


def test_the_data_is_small() -> None:
    """The demo's data and all other files together stay easy to clone."""
    assert sum((ROOT / path).stat().st_size for path in tracked("worker/data")) <= MAX_DATA_BYTES


def test_make_takes_the_pythons_that_the_package_takes() -> None:
    """A newer one has no wheels of some packages: refused before anything is installed."""
    (oldest, newest) = re.findall(r"3\.(\d+)", tomllib.loads(text("pyproject.toml"))["project"]["requires-python"])
    assert f"(3, {oldest}) <= sys.version_info < (3, {newest})" in text("Makefile")


def test_make_lists_its_verbs() -> None:
    """`make` alone prints each verb with a line of help."""
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (verbs,) = re.findall(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)
    listed = re.findall(r"^  make ([a-z]+) +\S", said, re.MULTILINE)
    assert sorted(listed) == sorted(verbs.split()), said
