"""Whoever waits is told for what: no model is opened but under a spinner that says so."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lensbench.app.workflows import live
from tests.app.driver import open_page
from tests.browser.filled import addresses, filled_root, small_root, tiny_root

__all__ = ["filled_root", "small_root", "tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
OWN = {"from": "My own text", "model": "atlas-dense", "text": "the capital of"}
MORE: list[tuple[str, dict[str, str]]] = [
    ("lens", OWN), ("lens", {**OWN, "lens": "Site lens"}),
    ("lens", {**OWN, "view": "Two texts", "text2": "the town of"}),
    ("attention", {"store": "tiny"}),
    ("patching", {"model": "atlas-dense", "of": "My own pairs"}),
    ("steering", {"model": "atlas-dense", "direction": "A prompt task"}),
    ("experts", {"model": "atlas-moe", "part": "Routing of a text"}),
]  # fmt: skip
PAGES = ("capture", "token", "stores", "latent", "directions", "lens", "attention", "patching",
         "steering", "experts", "acceleration")  # fmt: skip


class Waiting:
    """How many spinners turn now, and what was done while none did."""

    def __init__(self) -> None:
        self.depth = 0
        self.told: list[str] = []
        self.silent: list[str] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        draw, make = DeltaGenerator.spinner, live.open_model

        @contextmanager
        def spinner(self_: Any, text: str = "", *args: Any, **more: Any) -> Generator[None]:
            self.depth, self.told = self.depth + 1, [*self.told, text]
            try:
                with draw(self_, text, *args, **more):
                    yield
            finally:
                self.depth -= 1

        def opened(name: str, *args: Any, **more: Any) -> Any:
            self.silent += [] if self.depth else [name]
            return make(name, *args, **more)

        monkeypatch.setattr(DeltaGenerator, "spinner", spinner)
        monkeypatch.setattr(st, "spinner", lambda *a, **k: spinner(st._main, *a, **k))
        monkeypatch.setattr(live, "open_model", opened)


@pytest.mark.parametrize(("path", "query"), [*((p, {}) for p in PAGES), *MORE], ids=str)
def test_no_model_is_opened_without_a_word(
    monkeypatch: pytest.MonkeyPatch, filled_root: Path, path: str, query: dict[str, str]
) -> None:
    usual = dict(parse_qsl(urlsplit(addresses(filled_root)[path]).query))
    live.forget()
    st.cache_data.clear()
    waiting = Waiting()
    waiting.watch(monkeypatch)
    page = open_page(monkeypatch, filled_root, path, **(query or usual))
    assert not page.exception
    assert waiting.silent == []
    assert all(text and text[0].isupper() and not text.endswith(".") for text in waiting.told)
