"""Which port a worker's web server takes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from worker.contract.errors import FixSetting
from worker.contract.settings import WebSettings
from worker.service import ports


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def port_of(settings: WebSettings) -> int:
    """The port on which a worker would listen."""
    with ports.listen(settings) as listening:
        return int(listening.getsockname()[1])


def test_a_free_port_is_kept() -> None:
    """The port that the user has set, while nobody has it."""
    free = ports.free_port()
    assert port_of(WebSettings(port=free)) == free


def test_nobody_can_take_the_port_any_more() -> None:
    """From the moment that it is found: not between the look and the start of the web server."""
    with ports.listen(WebSettings(port=0)) as listening, pytest.raises(OSError, match="in use"):
        socket.create_server(listening.getsockname())


def test_a_taken_port_that_was_set_is_an_error(taken: int) -> None:
    """The user relies on it, so another port would not help."""
    with pytest.raises(FixSetting, match=rf"web\.port: {taken} of 127\.0\.0\.1 is in use"):
        ports.listen(WebSettings(port=taken))


def test_a_taken_default_is_replaced(taken: int) -> None:
    """A second worker on one host listens on a free port."""
    not_set = WebSettings.model_construct(_fields_set=set(), port=taken)
    assert port_of(not_set) not in (0, taken)


def test_port_0_is_a_free_one() -> None:
    """As the settings say."""
    assert port_of(WebSettings(port=0)) > 0


def test_an_address_of_another_machine_is_named() -> None:
    """The start fails with the setting, not with a traceback."""
    with pytest.raises(FixSetting, match=r"web\.host"):
        ports.listen(WebSettings(host="192.0.2.1", port=6066))
