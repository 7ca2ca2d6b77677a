"""Whoever asks a job to stop is heard, and reads that it was asked."""

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from lensbench.app.workflows import detached, jobs, work
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job whose process is this one, as far as anybody can see; signals go nowhere."""
    monkeypatch.setattr(detached, "start", lambda _args, folder, **_: (folder / "log.txt").touch())
    monkeypatch.setattr(detached, "is_running", lambda _job: True)
    sent: list[int] = []
    monkeypatch.setattr(detached.os, "kill", lambda _pid, number: sent.append(number))
    return jobs.start(tmp_path, "capture", "acts", {"model": "atlas-dense", "text": "atlas:9",
                                                    "out": str(tmp_path / "acts")})  # fmt: skip


def test_a_job_that_was_asked_to_stop_says_so(monkeypatch, tmp_path: Path, waiting: str) -> None:
    page = open_page(monkeypatch, tmp_path, "capture", job=waiting)
    assert not page.exception
    assert "asked to stop" not in words(page)
    page.button(f"stop-{waiting}").click().run()
    assert not page.exception
    assert jobs.look(tmp_path, waiting).stopping
    assert "asked to stop" in words(page)
    assert f"stop-{waiting}" not in {button.key for button in page.button}, "once is enough"


def test_an_interrupt_that_python_drops_is_heard_at_the_next_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waiting: str
) -> None:
    monkeypatch.setattr(work, "_asked", threading.Event())
    before = signal.signal(signal.SIGTERM, work._interrupt)
    report = work.Report(tmp_path / "jobs" / waiting)

    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    try:
        report(done=1, total=9)
        monkeypatch.setattr("sys.unraisablehook", lambda *_: None)
        one: Any = Finalised()
        del one  # the exception is raised where nobody can catch it
        with pytest.raises(KeyboardInterrupt):
            report(done=2, total=9)
    finally:
        signal.signal(signal.SIGTERM, before)
        report.end("stopped")
    assert jobs.look(tmp_path, waiting).done == 1
