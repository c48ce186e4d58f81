"""What unit tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from tests import query_cases


@pytest.fixture(autouse=True)
def logs_end_with_the_test() -> Iterator[None]:
    """A verb that runs in this process configures the log on a stream that ends with its test."""
    yield
    structlog.reset_defaults()
    # pytest's own handlers are of other types.
    for handler in [one for one in logging.root.handlers if type(one) is logging.StreamHandler]:
        logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def send(tmp_path_factory: pytest.TempPathFactory) -> query_cases.Send:
    """A system that decides on the queries of tests/cases."""
    return query_cases.system(tmp_path_factory.mktemp("index") / "index")
