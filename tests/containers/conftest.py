"""The image, built once for all tests on an engine."""

from __future__ import annotations

import os

import pytest

from tests.containers.stack import Stack


@pytest.fixture(scope="session")
def image() -> str:
    """The image's name. `docker compose build` makes it, unless BUILT says that it is there."""
    if not os.environ.get("BUILT"):
        Stack().compose("build")
    return "tollgate"
