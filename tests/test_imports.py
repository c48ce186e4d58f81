"""Imports run one way: contracts <- core <- edges <- commands <- cli. The core is pure, and importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "worker"
FILES = {path.relative_to(FOLDER).with_suffix("").as_posix().replace("/", "."): path for path in FOLDER.rglob("*.py")}
MODULES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items() if "__" not in name}

CONTRACTS = {"messages", "errors", "record"}
CORE = {
    *("estimator", "features", "manifest", "ridge", "tokens", "prices", "policy"),
    *("events", "ledger", "window", "journal", "pricing", "settlement", "outbox", "deferral", "router", "snapshot"),
    *("usage", "ceilings", "wire", "topic_names", "asyncapi", "examples"),
    *("chain", "books", "expected", "publications", "passed", "witness", "proof", "report", "summary", "status"),
    *("stimuli", "solutions", "replay", "beginning", "divergence", "agreement", "evidence", "refusals"),
    *("explanation", "whatif", "tally", "exploration", "alarms", "drift"),
}

# All that the core may import of others. No Kafka, clock, logging, environment, files or randomness among them.
PURE_PACKAGES = {
    *("__future__", "array", "bisect", "collections", "copy", "dataclasses", "decimal", "enum", "functools", "hashlib"),
    *("heapq", "itertools", "math", "re", "typing", "msgspec", "numpy", "scipy", "faiss"),
}
IMPURE_CALLS = {"open", "print", "input"}
# A generator made from a seed is pure; the global one is not.
SEEDED = {"default_rng", "Generator", "PCG64", "Philox", "SeedSequence"}
EVALUATES = {"eval", "exec", "compile", "__import__"}
UNPICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def layer(module: str) -> int:
    """0 contracts, 1 core, 2 edges, 3 commands, 4 cli."""
    if module in CONTRACTS | CORE:
        return 0 if module in CONTRACTS else 1
    return 4 if module == "cli" else 3 if module.startswith("commands.") else 2


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree: ast.AST) -> set[str]:
    """The modules of worker that a module imports."""
    names = {name.removeprefix("worker.") for name in imported(tree) if name.startswith("worker.")}
    return {part for name in names for part in (name, name.rpartition(".")[0]) if part in MODULES}


def calls(tree: ast.AST) -> Iterator[str]:
    """The plain names that a module calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def test_the_core_is_all_there() -> None:
    """A module that was renamed is named here too."""
    assert sorted((CONTRACTS | CORE) - set(MODULES)) == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module: str) -> None:
    """No module imports from a layer above its own."""
    assert [name for name in sorted(ours(MODULES[module])) if layer(name) > layer(module)] == []


def test_contracts_import_nothing_of_ours() -> None:
    """They are imported by all."""
    assert {name: ours(MODULES[name]) for name in CONTRACTS} == {name: set() for name in CONTRACTS}


def test_nothing_imports_in_a_circle() -> None:
    """There is an order in which every module comes after those that it imports."""
    order = list(TopologicalSorter({name: ours(tree) for name, tree in MODULES.items()}).static_order())
    assert sorted(order) == sorted(MODULES)


@pytest.mark.parametrize("module", sorted(CONTRACTS | CORE))
def test_the_core_imports_nothing_impure(module: str) -> None:
    """Its packages compute; none of them reads a clock, a file, a socket or the environment for it."""
    others = {name.partition(".")[0] for name in imported(MODULES[module]) if not name.startswith("worker.")}
    assert others - PURE_PACKAGES == set()


@pytest.mark.parametrize("module", sorted(CONTRACTS | CORE))
def test_the_core_calls_nothing_impure(module: str) -> None:
    """No files, no output, no global random numbers."""
    attributes = [node for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)]
    unseeded = {
        node.attr
        for node in attributes
        if isinstance(node.value, ast.Attribute) and node.value.attr == "random" and node.attr not in SEEDED
    }
    assert (set(calls(MODULES[module])) & IMPURE_CALLS, unseeded) == (set(), set())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_evaluated_or_unpickled(module: str) -> None:
    """Data from outside never becomes code."""
    packages = {name.partition(".")[0] for name in imported(MODULES[module])}
    pickled = [
        node.lineno
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    ]
    assert (set(calls(MODULES[module])) & EVALUATES, packages & UNPICKLES, pickled) == (set(), set(), [])


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"cli"}))
def test_a_module_only_defines(module: str) -> None:
    """At the top of a module stand imports, definitions and constants: no loops, no calls for their effect.

    Commands are registered where they are defined; the last lines of `schemas` run it as a program.
    """
    statements = MODULES[module].body[1:] if ast.get_docstring(MODULES[module]) else MODULES[module].body
    imports, definitions = (ast.Import, ast.ImportFrom), (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    allowed = (*imports, *definitions, ast.Assign, ast.AnnAssign)
    programs = ("if __name__ == '__main__'", "if TYPE_CHECKING")
    assert [
        f"line {node.lineno}"
        for node in statements
        if not isinstance(node, allowed) and not ast.unparse(node).startswith(programs)
    ] == []


IMPORT_ALL = """
import importlib, sys, threading
effects = []
watched = ("socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.mkdir", "os.remove", "os.putenv")

def hook(event, arguments):
    if event in watched:
        effects.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        effects.append(f"writes {arguments[0]}")

others, ours = (argument.split() for argument in sys.argv[1:])
for name in others:
    importlib.import_module(name)
sys.dont_write_bytecode = True
sys.addaudithook(hook)
for name in ours:
    importlib.import_module(f"worker.{name}")
print(effects, threading.active_count())
"""


def test_importing_does_nothing() -> None:
    """No module of ours opens, writes, connects or starts anything when it is imported; others' do what they do."""
    top = [node for tree in MODULES.values() for node in tree.body]
    others = {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module} | {
        alias.name for node in top if isinstance(node, ast.Import) for alias in node.names
    }
    foreign = sorted(name for name in others if not name.startswith("worker"))
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(foreign), " ".join(sorted(MODULES))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("[] 1\n", "")
