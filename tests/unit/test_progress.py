"""Bars are seen on a terminal and in notebooks, and nowhere else."""

import io
import sys
from typing import Any

import pytest

from lensbench import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0)


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **options: Any) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.told("capture", options.get("progress"), 40, "token") as so_far:
        for done in (10, 30, 40):
            so_far(done)
    return stream.getvalue()


def test_a_terminal_sees_the_share_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(monkeypatch, Terminal())
    assert "capture" in said
    assert "40/40" in said or "100%" in said


def test_a_pipe_false_and_a_call_of_ones_own_see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == ""
    assert shown(monkeypatch, Terminal(), progress=False) == ""
    told: list[int] = []
    assert shown(monkeypatch, Terminal(), progress=told.append) == ""
    assert told == [10, 30, 40]


def test_a_quick_call_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 30)
    said = shown(monkeypatch, Terminal())
    assert "%" not in said


def test_items_come_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    assert list(progress.each("abc", "letters", "letter")) == ["a", "b", "c"]
    assert "letters" in stream.getvalue()


@pytest.mark.filterwarnings("ignore")  # of the notebook machinery
def test_a_notebook_sees_a_bar_with_or_without_widgets() -> None:
    import nbformat
    from nbclient import NotebookClient

    code = (
        "import lensbench.models\nimport transformers.utils.logging\n"  # which imports tqdm too
        "from lensbench import progress\nprogress.DELAY = 0\n"
        "for x in progress.each('abc', 'letters', 'letter'):\n    pass"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    said = str(book.cells[0].outputs)
    assert "letters" in said
    assert "3/3" in said or "100%" in said
    assert "IProgress" not in said


def test_a_follower_is_told_of_the_outermost_bar_though_none_is_drawn() -> None:
    from lensbench.progress import bar, each, followed, told

    seen: list[tuple[int, int | None, str]] = []
    with followed(lambda *one: seen.append(one)):
        for _ in each([1, 2], "outer", "text"):
            list(each([1, 2, 3], "inner", "token"))
        with told("counted", None, 9, "row") as so_far:
            so_far(4)
            so_far(9)
        with bar("hushed", 1, show=False) as shown:
            shown.update(1)
    list(each([1], "after", "text"))
    assert seen == [(1, 2, "text"), (2, 2, "text"), (4, 9, "row"), (9, 9, "row")]
