"""The dashboard in Streamlit's own test harness: one page at a time, as its address opens it."""

from collections import UserDict
from pathlib import Path
from typing import Any

import pytest

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"


def open_page(monkeypatch: pytest.MonkeyPatch, root: Path, path: str = "", **query: str) -> Any:
    """Open ``/path?query`` over ``root`` and run it once."""
    from streamlit.testing.v1 import AppTest
    from streamlit.util import calc_hash

    monkeypatch.setattr("sys.argv", ["main.py", str(root)])
    page = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, value in query.items():
        page.query_params[name] = value
    if path:
        page._page_hash = calc_hash(path)  # what a browser sends for this address
    return page.run()


def words(page: Any) -> str:
    """Everything the page says, in one text."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "code", "text", "info",
             "warning", "error", "success")  # fmt: skip
    return "\n".join(str(element.value) for kind in kinds for element in getattr(page, kind))


class Files(UserDict[str, Any]):
    """Every file the pages offered, by name; one that is made when asked for is made on reading."""

    def __getitem__(self, name: str) -> Any:
        made = super().__getitem__(name)
        return made() if callable(made) else made


def files_offered(monkeypatch: pytest.MonkeyPatch) -> Files:
    """Fills while pages are drawn; download buttons are not drawn from here on."""
    import streamlit as st

    given = Files()
    monkeypatch.setattr(st, "download_button", lambda _label, data, name, *_a, **_k: given.update(
        {name: data}))  # fmt: skip
    return given
