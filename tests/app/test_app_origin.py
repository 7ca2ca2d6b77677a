"""Every page and every file taken from it says which model, store and run it comes from."""

import json

import pytest

from lensbench.app.workflows.exports import as_html, as_json, unmarked
from lensbench.app.workflows.live import hold_model, hold_store
from tests.app.driver import files_offered, open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("path", ["stores", "lens", "token", "probe", "acceleration", "train"])
def test_a_page_of_a_store_says_its_contents_and_its_models_weights(
    monkeypatch, small_root, path: str
) -> None:
    store = hold_store(str(small_root / "acts"))
    page = open_page(monkeypatch, small_root, path, store="acts")
    assert not page.exception
    told = unmarked(words(page))
    assert f"Store acts, contents {store.fingerprint}" in told
    assert f"weights {store.model['fingerprint']}" in told


def test_a_page_of_several_stores_says_each_and_its_files_carry_it(monkeypatch, small_root) -> None:
    store = hold_store(str(small_root / "acts"))
    given = files_offered(monkeypatch)
    page = open_page(monkeypatch, small_root, "geometry", stores="acts")
    assert not page.exception
    assert f"Store acts, contents {store.fingerprint}" in unmarked(words(page))
    assert store.fingerprint in json.loads(given["geometry-0.json"])["provenance"]


@pytest.mark.parametrize("path", ["patching", "attention", "experts"])
def test_a_page_of_a_model_says_its_weights_once_it_is_open(
    monkeypatch, small_root, path: str
) -> None:
    name = "atlas-moe" if path == "experts" else "atlas-dense"
    card = hold_model(name).model.card
    more = {"from": "My own text", "text": "the cat", "run": "true"} if path == "attention" else {}
    page = open_page(monkeypatch, small_root, path, model=name, **more)
    assert not page.exception
    assert f"Model {name}, float32, weights {card.fingerprint}" in unmarked(words(page))


def test_a_page_of_a_run_says_when_and_of_which_model(monkeypatch, small_root) -> None:
    model = json.loads((small_root / "runs/small/provenance.json").read_text())["model"]
    for path in ("runs", "sweep", "latent"):
        told = unmarked(words(open_page(monkeypatch, small_root, path, run="runs/small")))
        assert "Run runs/small, 20" in told
        assert f"weights {model['fingerprint']}" in told


def test_nothing_chosen_says_nothing(monkeypatch, small_root) -> None:
    """Control."""
    told = unmarked(words(open_page(monkeypatch, small_root, "patching")))
    assert "weights" not in told
    assert "contents" not in told


def test_files_carry_it(monkeypatch, small_root) -> None:
    """Rows as JSON, and the page of HTML (its last paragraph)."""
    import sys

    import pandas as pd
    import plotly.graph_objects as go
    import streamlit as st

    from lensbench.app.state import comes_from

    monkeypatch.setattr(sys, "argv", ["app", str(small_root)])
    st.session_state["store"] = "acts"
    try:
        told = " · ".join(comes_from())
    finally:
        del st.session_state["store"]
    assert hold_store(str(small_root / "acts")).fingerprint in told
    frame = pd.DataFrame({"x": [0.0, 1.0], "y": [1.0, 2.0]})
    assert json.loads(as_json(frame, told))["provenance"] == told
    assert told in as_html(go.Figure(go.Scatter(y=[1, 2])), alt="a line", provenance=told)
