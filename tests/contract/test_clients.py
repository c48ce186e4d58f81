"""Clients in other languages read what Tollgate writes, write what it reads, and send a key to the same partition.

The clients are small programs of these tests, with the standard library of their language only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.contract import fixtures
from worker.contract import codec, examples
from worker.contract.messages import Completion
from worker.contract.settings import Settings

PROGRAMS = Path(__file__).parent / "clients"
COMMANDS = {
    "go": ["go", "run", "client.go"],
    "java": ["java", "Client.java"],
    "node": ["node", "client.mjs"],
}
LIMITS = Settings().limits
NAMES = sorted(fixtures.files())


@cache
def said_by(language: str) -> Any:
    """What the program of this language found in the fixtures; the test is skipped if the language is not here."""
    command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"`{command[0]}` is not installed, so the {language} client was not run")
    run = subprocess.run([*command, fixtures.FOLDER], cwd=PROGRAMS, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(params=sorted(COMMANDS))
def said(request: pytest.FixtureRequest) -> Any:
    """What each client says."""
    return said_by(request.param)


def test_the_fixtures_are_current() -> None:
    """`python -m tests.contract.fixtures` changes no file."""
    assert {path.name: path.read_bytes() for path in fixtures.FOLDER.iterdir()} == fixtures.files()


@pytest.mark.parametrize(("key", "wanted"), fixtures.JAVA_HASHES.items())
def test_the_hash_is_javas(key: str, wanted: int) -> None:
    """The reference that the clients are compared with has the values of Kafka's own tests."""
    assert fixtures.murmur2(key.encode()) == wanted


@pytest.mark.parametrize("name", [name for name in NAMES if name != "keys.json"])
def test_a_client_reads_what_tollgate_writes(said: Any, name: str) -> None:
    """Every field, number, text and byte of each record, in MessagePack and in JSON."""
    content = fixtures.files()[name]
    wanted = content if name.endswith(".json") else msgspec.json.encode(msgspec.msgpack.decode(content))
    assert said["decoded"][name] == json.loads(wanted)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("dispatch.")])
def test_tollgate_reads_what_a_client_writes(said: Any, name: str) -> None:
    """The completion that a client makes of a dispatch is the example of schemas/."""
    value = json.dumps(said["completions"][name]).encode()
    fields = codec.completion_fields(value, LIMITS.max_completion_bytes, LIMITS.max_nesting)
    assert msgspec.convert(fields, Completion) == examples.inputs()["completion"]


def test_a_client_sends_a_key_to_the_same_partition(said: Any) -> None:
    """Its hash and partition of each key are those of the reference."""
    assert said["keys"] == json.loads(fixtures.files()["keys.json"])
