"""The core is pure, nothing from outside becomes code, and importing does nothing. Which package imports which is
held by import-linter (pyproject.toml)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "worker"
FILES = {path.relative_to(FOLDER).with_suffix("").as_posix().replace("/", "."): path for path in FOLDER.rglob("*.py")}
MODULES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items() if "__" not in name}

PURE = {name: tree for name, tree in MODULES.items() if name.startswith(("core.", "treasury."))}

# All that the core may import of others. No Kafka, clock, logging, environment, files or randomness among them.
PURE_PACKAGES = {
    *("__future__", "array", "bisect", "collections", "copy", "dataclasses", "decimal", "enum", "functools", "hashlib"),
    *("heapq", "itertools", "math", "types", "typing", "msgspec", "numpy", "scipy", "faiss"),
}
IMPURE_CALLS = {"open", "print", "input"}
# A generator made from a seed is pure; the global one is not.
SEEDED = {"default_rng", "Generator", "PCG64", "Philox", "SeedSequence"}
EVALUATES = {"eval", "exec", "compile", "__import__"}
UNPICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(tree: ast.AST) -> Iterator[str]:
    """The plain names that a module calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def faults_of_the_core() -> Iterator[str]:
    """Each import and each call in the core that is not pure."""
    for module, tree in PURE.items():
        packages = {name.partition(".")[0] for name in imported(tree) if not name.startswith("worker.")}
        yield from (f"{module} imports {name}" for name in packages - PURE_PACKAGES)
        yield from (f"{module} calls {name}" for name in set(calls(tree)) & IMPURE_CALLS)
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        unseeded = {node.attr for node in attributes if ast.unparse(node.value).endswith(".random")} - SEEDED
        yield from (f"{module} draws from the global generator: {name}" for name in unseeded)


def test_the_core_is_pure() -> None:
    """The core computes. It reads no clock, file, socket or environment, and draws no global random numbers."""
    assert sorted(faults_of_the_core()) == []


def dangers() -> Iterator[str]:
    """Each place where data from outside could become code."""
    for module, tree in MODULES.items():
        packages = {name.partition(".")[0] for name in imported(tree)}
        yield from (f"{module} calls {name}" for name in set(calls(tree)) & EVALUATES)
        yield from (f"{module} imports {name}" for name in packages & UNPICKLES)
        keywords = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "allow_pickle"]
        yield from (f"{module}:{word.lineno} unpickles" for word in keywords if ast.unparse(word.value) != "False")


def test_nothing_is_evaluated_or_unpickled() -> None:
    """Data from outside never becomes code."""
    assert sorted(dangers()) == []


def effects_at_import() -> Iterator[str]:
    """Each statement at the top of a module that is not an import, a definition or a constant."""
    imports, definitions = (ast.Import, ast.ImportFrom), (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    allowed = (*imports, *definitions, ast.Assign, ast.AnnAssign)
    programs = ("if __name__ == '__main__'", "if TYPE_CHECKING")
    for module, tree in MODULES.items():
        statements = tree.body[1:] if ast.get_docstring(tree) else tree.body
        yield from (
            f"{module}:{node.lineno}"
            for node in statements
            if not isinstance(node, allowed)
            and not ast.unparse(node).startswith(programs)
            and module != "commands.main"
        )


def test_a_module_only_defines() -> None:
    """At the top of a module stand imports, definitions and constants: no loops, no calls for their effect.

    Commands are registered where they are defined; the last lines of `schemas` run it as a program.
    """
    assert sorted(effects_at_import()) == []


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


@pytest.mark.long
def test_importing_does_nothing() -> None:
    """No module of ours opens, writes, connects or starts anything when it is imported; others' do what they do."""
    top = [node for tree in MODULES.values() for node in tree.body]
    others = {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module} | {
        alias.name for node in top if isinstance(node, ast.Import) for alias in node.names
    }
    foreign = sorted(name for name in others if not name.startswith("worker"))
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(foreign), " ".join(sorted(MODULES))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] 1\n", "")


def test_a_router_has_one_door() -> None:
    """No module but the router and its view reads or writes an attribute of a router that is not public."""
    doors = ("core.router", "core.lane_view")
    found = {
        f"{name}: {ast.unparse(node)}"
        for name, tree in MODULES.items()
        if name not in doors
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value).rpartition(".")[2] in ("router", "_router")
        and (node.attr.startswith("_") or isinstance(node.ctx, ast.Store))
    }
    assert found == set()


def test_the_counting_reader_shares_no_code() -> None:
    """A mistake of the rest cannot be in it too: it imports nothing of this package."""
    names = set(imported(MODULES["local.counted"]))
    assert {name for name in names if name.startswith("worker")} == set()
