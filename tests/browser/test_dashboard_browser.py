"""The dashboard in a real browser: nothing leaves the machine, and a run outlives page and server.

A Chromium is driven over its debugging port (``chrome.py``), so no driver has to be installed.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lensbench.app.page_list import PAGES
from tests.app.conftest import small_root  # noqa: F401 - a fixture
from tests.browser.chrome import Chrome, find

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
LOCAL = {"127.0.0.1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    root: Path, port: int, python: str = sys.executable, *, kill: bool = False, **popen: Any
) -> Iterator[str]:
    """The dashboard as its command starts it; ended by the signal of its own process.

    With ``kill`` it and what it started are killed instead, as when a machine ends a session.
    """
    command = [python, "-W", "ignore", "-m", "lensbench", "app", "--root", str(root),
               "--port", str(port)]  # fmt: skip
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **popen,
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                with suppress(OSError):
                    urllib.request.urlopen(f"{url}/_stcore/health", timeout=5).close()
                    break
                time.sleep(0.05)
            yield url
        finally:
            if kill:
                os.killpg(server.pid, signal.SIGKILL)
            else:
                server.send_signal(signal.SIGINT)
            server.wait(timeout=20)


@pytest.fixture(scope="module")
def root(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    copy = tmp_path_factory.mktemp("dashboard") / "root"
    shutil.copytree(small_root, copy)
    return copy


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[str]:
    with serving(root, free_port()) as url:
        yield url


def outside(asked: list[str]) -> list[str]:
    """Addresses that are not this machine (``data:`` and ``blob:`` never leave the page)."""
    found = [urlsplit(url) for url in asked]
    return [u.geturl() for u in found if u.scheme not in ("data", "blob", "about", "chrome")
            and u.hostname not in LOCAL]  # fmt: skip


STATE = "document.querySelector('[data-testid=stProgress]')?.innerText ?? ''"
CURVES = "document.querySelectorAll('.js-plotly-plot .scatterlayer').length >= 2"


def step(tab: Chrome) -> int:
    """Step of the run that the page says goes on."""
    return int(re.sub(r"running: step ([\d,]+) .*", r"\1", tab.js(STATE)).replace(",", ""))


def test_a_run_started_in_the_form_outlives_page_and_server(root: Path, tmp_path: Path) -> None:
    port, status = free_port(), root / "runs" / "mine" / "status.json"
    with Chrome(tmp_path / "profile") as tab:
        with serving(root, port, kill=True) as url:
            tab.open(f"{url}/train?store=acts")
            tab.type("new-train-tokens", "40000000")
            tab.type("new-name", "mine")
            tab.click("Start training")
            tab.wait("location.pathname.endsWith('/runs')"
                     " && location.search.includes('run=runs%2Fmine')")  # fmt: skip
            tab.open(tab.js("location.href"), live=True)  # a reload
            # A browser that is cut off while it fetches what draws curves never asks again.
            tab.wait(f"({STATE}).startsWith('running: step ') && {CURVES}", 90)
            before = step(tab)
        # That server was killed in the middle. The tab stays as it is, and finds the next one.
        running = json.loads(status.read_text())["step"]
        with serving(root, port):
            tab.wait(f"({STATE}).startsWith('running: step ')"
                     f" && !({STATE}).startsWith('running: step {before:,} ')", 90)  # fmt: skip
            assert step(tab) >= running, "the run went on meanwhile"
            assert "run=runs%2Fmine" in tab.js("location.search")
            tab.click("Stop after a checkpoint")
            tab.says("Stopped after a checkpoint", timeout=90)
            tab.settled(CURVES)
    told = json.loads(status.read_text())
    assert told["state"] == "stopped"
    assert outside(tab.asked) == []


def test_every_page_draws_without_an_error_and_asks_nobody_outside(
    root: Path, served: str, tmp_path: Path
) -> None:
    name = next((root / "runs" / "small").glob("topk-64-k8*")).name
    query = {
        "stores": "?store=acts&part=Rows",
        "runs": "?run=runs/small",
        "sweep": "?run=runs/small",
        "latent": f"?run=runs/small&dictionary={name}&latent=3",
    }
    with Chrome(tmp_path / "profile", dark=True) as tab:
        for page in PAGES:
            tab.open(
                f"{served}/{'' if page.path == 'home' else page.path}{query.get(page.path, '')}"
            )
            tab.says(page.title)
            assert not tab.js("!!document.querySelector('[data-testid=stException]')"), tab.text()
            if page.path in query:
                said = "[data-testid=stAlertContentError]"
                assert not tab.js(f"!!document.querySelector('{said}')"), tab.text()
        ground = tab.js("getComputedStyle(document.querySelector('[data-testid=stApp]'))"
                        ".backgroundColor")  # fmt: skip
        assert max(int(part) for part in ground.strip("rgb()").split(",")) < 80, "dark is dark"
        assert outside(tab.asked) == []
        assert any("127.0.0.1" in address for address in tab.asked)
        # The watch sees what it should: a request that a page does make.
        tab.js("fetch('http://127.0.0.2:9/x').catch(() => 0), 1")
        tab.wait("1")
        time.sleep(0.2)
        tab.js("1")
        assert outside(tab.asked) == ["http://127.0.0.2:9/x"]
