"""The server hears this machine alone, and pages of other sites cannot speak to it."""

import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.browser.test_dashboard_browser import free_port, serving

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("root")
    (place / "secret-store").mkdir()
    return place


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    number = free_port()
    with serving(folder, number):
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


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_our_own_page_may_connect(port: int, name: str) -> None:
    assert answered(port, f"{name}:{port}", f"http://{name}:{port}") == 101


def answered(port: int, host: str, origin: str) -> int:
    """Status with which the server answers who wants to speak to a page's script."""
    lines = (
        "GET /_stcore/stream HTTP/1.1", f"Host: {host}", f"Origin: {origin}",
        "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: streamlit", "", "",
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), 30) as line:
        line.sendall("\r\n".join(lines).encode())
        return int(line.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "[::1]", "0.0.0.0"])
def test_a_site_that_points_its_name_at_this_machine_may_not(port: int, name: str) -> None:
    """DNS rebinding: the page is one of theirs, and host and origin agree with each other."""
    assert answered(port, f"{name}:{port}", f"http://{name}:{port}") in (400, 403)


def test_what_such_a_site_can_fetch_holds_nothing_of_the_folder(port: int, folder: Path) -> None:
    """Streamlit serves its own files to any host: the page without what its script would draw."""
    for path in ("/", "/stores?store=acts", "/_stcore/health", "/_stcore/host-config"):
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}",
                                       headers={"Host": f"evil.example:{port}"})  # fmt: skip
        with urllib.request.urlopen(asked, timeout=30) as answer:
            told = answer.read().decode()
            allowed = answer.headers.get("Access-Control-Allow-Origin", "")
        assert str(folder) not in told
        assert "secret-store" not in told
        assert allowed in ("", f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1.evil.example"])
def test_a_page_of_another_site_may_not(port: int, origin: str) -> None:
    with pytest.raises(InvalidStatus, match=re.compile("40[03]")):
        connect(f"ws://127.0.0.1:{port}/_stcore/stream", origin=origin, subprotocols=["streamlit"])
