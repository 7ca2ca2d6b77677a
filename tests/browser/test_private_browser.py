"""The server hears this machine alone, and pages of other sites cannot speak to it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.browser.test_dashboard_browser import free_port, serving

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    number = free_port()
    with serving(tmp_path_factory.mktemp("root"), number):
        yield number


def listening(port: int) -> set[str]:
    """Addresses, as the kernel spells them, that listen on ``port``."""
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.is_file() else ():
            local, _, state = line.split()[1:4]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                found.add(local.rpartition(":")[0])
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="no table of sockets here")
def test_the_socket_is_bound_to_this_machine_only(port: int) -> None:
    assert listening(port) == {"0100007F"}, "127.0.0.1, and neither 0.0.0.0 nor ::"


def test_our_own_page_may_connect(port: int) -> None:
    own = f"http://127.0.0.1:{port}"
    with connect(f"ws://127.0.0.1:{port}/_stcore/stream", origin=own, subprotocols=["streamlit"]):
        pass


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1.evil.example"])
def test_a_page_of_another_site_may_not(port: int, origin: str) -> None:
    with pytest.raises(InvalidStatus, match=re.compile("40[03]")):
        connect(f"ws://127.0.0.1:{port}/_stcore/stream", origin=origin, subprotocols=["streamlit"])
