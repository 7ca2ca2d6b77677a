"""Latent: the table, the dashboard, and a text of one's own, each beside a direct computation."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NAME = "topk-64-k8"


@pytest.fixture(scope="module")
def name(small_root: Path) -> str:
    return next(p.name for p in (small_root / "runs" / "small").iterdir() if NAME in p.name)


@pytest.fixture(scope="module")
def loud(small_root: Path, name: str) -> int:
    """A latent that fires often."""
    from lensbench.app.workflows.latent_page import latent_table

    table = latent_table(small_root / "runs" / "small", name)
    return int(table.sort_values("density")["latent"].iloc[-1])


def latent_page(monkeypatch: Any, root: Path, name: str, **query: str) -> Any:
    return open_page(monkeypatch, root, "latent", run="runs/small", dictionary=name, **query)


def html(page: Any) -> str:
    return "\n".join(element.proto.body for element in page.get("html"))


def test_nothing_is_chosen_for_the_reader(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "latent", run="runs/small")
    assert page.selectbox(key="dictionary").value is None
    assert "one of 2 dictionaries" in page.info[0].value


def test_the_table_holds_every_latent_with_its_measured_density(
    monkeypatch, small_root: Path, name: str
) -> None:
    from lensbench.app.workflows.fronts import evaluated

    page = latent_page(monkeypatch, small_root, name)
    assert not page.exception
    table = page.dataframe[0].value.sort_values("latent")
    density = evaluated(small_root / "runs" / "small").density[name]
    np.testing.assert_allclose(table["density"], density)


def test_the_filter_of_density_keeps_exactly_what_it_says(
    monkeypatch, small_root: Path, name: str
) -> None:
    page = latent_page(monkeypatch, small_root, name)
    density = np.asarray(page.dataframe[0].value["density"])
    page.number_input(key="low").set_value(0.1).run()
    assert len(page.dataframe[0].value) == int((density >= 0.1).sum()) < len(density)
    page.number_input(key="high").set_value(0.2).run()
    assert len(page.dataframe[0].value) == int(((density >= 0.1) & (density <= 0.2)).sum())


def test_the_filter_of_labels_keeps_one_label(monkeypatch, small_root: Path, name: str) -> None:
    page = latent_page(monkeypatch, small_root, name)
    label = page.selectbox(key="label").options[0]
    page.selectbox(key="label").set_value(label).run()
    assert set(page.dataframe[0].value["label"]) == {label}


def test_the_dashboard_shows_the_strongest_context_first_with_its_value(
    monkeypatch, small_root: Path, name: str, loud: int
) -> None:
    page = latent_page(monkeypatch, small_root, name, latent=str(loud))
    assert not page.exception
    assert not page.error
    largest = float(words(page).split("largest activation **")[1].split("**")[0])
    strongest = float(html(page).split("lb-value><a")[1].split(">")[1].split("<")[0])
    assert strongest == pytest.approx(largest, rel=0.01)
    assert len(page.get("plotly_chart")) == 1
    assert "token?store=acts&amp;row=" in html(page)
    assert "of document" in html(page)
    assert "next " in html(page)


def test_the_histogram_counts_the_tokens_it_fires_on(
    small_root: Path, name: str, loud: int
) -> None:
    from lensbench.app.workflows.latent_figures import histogram_figure
    from lensbench.app.workflows.latent_page import dictionary_of, make_board
    from lensbench.store import open_store

    run = small_root / "runs" / "small"
    board = make_board(run, name, loud, small_root / "acts")
    figure, frame = histogram_figure(board, loud)
    store, sae = open_store(small_root / "acts"), dictionary_of(run, name).sae
    import torch

    rows = torch.from_numpy(store.rows(store.sites[0], slice(0, store.n_tokens))).float()
    fires = int((sae.encode(rows)[:, loud] > 0).sum())
    assert frame["tokens"].sum() == fires
    assert sum(figure.data[0].y) == fires


def test_a_text_of_ones_own_gives_what_model_and_dictionary_give(
    monkeypatch, small_root: Path, name: str, loud: int
) -> None:
    import torch

    from lensbench.app.cache import tested
    from lensbench.app.workflows.latent_page import dictionary_of
    from lensbench.app.workflows.models import open_model

    monkeypatch.setattr("sys.argv", ["main.py", str(small_root)])
    run, text = small_root / "runs" / "small", "Alice the baker lives in Lima ."
    frame = tested(run, name, loud, small_root / "acts", text)
    one, model = dictionary_of(run, name), open_model("atlas-dense")
    with torch.no_grad():
        states = model.module(model.tokens(text).ids, output_hidden_states=True).hidden_states
        direct = one.sae.encode(states[4][0].float())[:, loud]  # after block 3
    np.testing.assert_allclose(frame["activation"], direct.numpy(), rtol=1e-4, atol=1e-4)
    other = tested(run, name, loud, small_root / "acts", "Bruno the farmer lives in Rome .")
    assert other["token"].tolist() != frame["token"].tolist()
    assert not np.allclose(other["activation"], frame["activation"])


def test_the_text_field_runs_the_model_on_what_was_typed(
    monkeypatch, small_root: Path, name: str, loud: int
) -> None:
    page = latent_page(monkeypatch, small_root, name, latent=str(loud), part="On my text")
    page.text_area(key="text").set_value("Lucy sang .").run()
    strip = html(page).split("lb-line>")[1]
    assert "Lucy" in strip
    assert "BOS" in strip
    assert "on 4 tokens" in words(page)


def test_text_that_looks_like_html_stays_text(
    monkeypatch, small_root: Path, name: str, loud: int
) -> None:
    from lensbench.app.widgets.latent_strips import lines_of
    from lensbench.app.workflows.latent_page import Passage

    made = lines_of([Passage(("<script>x</script>", " a\n"), (1.0, 0.0), 0, 1.0)])
    assert "<script>" not in made
    assert "␣" in made
    assert "↵" in made
    page = latent_page(monkeypatch, small_root, name, latent=str(loud), part="On my text",
                       text="<script>alert(1)</script>")  # fmt: skip
    assert not page.exception
    assert "<script>" not in html(page)


def test_a_text_that_is_too_long_is_refused_with_what_to_do(small_root: Path, name: str) -> None:
    from lensbench.app.workflows.latent_text import latents_of_text
    from lensbench.errors import ConfigError

    where = small_root / "runs" / "small", name, small_root / "acts"
    with pytest.raises(ConfigError, match="shorten it"):
        latents_of_text(*where, "a " * 400)
    with pytest.raises(ConfigError, match="latents run from 0 to 63"):
        latents_of_text(*where, "a").of(64)


def test_rows_and_text_are_encoded_once_for_all_latents(
    monkeypatch, small_root: Path, name: str, loud: int
) -> None:
    from lensbench.app.cache import board, tested
    from lensbench.saes.evaluation import passes
    from lensbench.saes.latents import contexts

    monkeypatch.setattr("sys.argv", ["main.py", str(small_root)])
    run, store = small_root / "runs" / "small", small_root / "acts"
    board(run, name, loud, store)
    tested(run, name, loud, store, "Lucy sang .")

    def no_encoding(*_: Any) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(contexts, "encode", no_encoding)
    monkeypatch.setattr(passes, "encode", no_encoding)
    other, _ = board(run, name, loud - 1 if loud else 1, store)
    assert other.latents.tolist() != [loud]
    tested(run, name, int(other.latents[0]), store, "Lucy sang .")


def test_a_dictionary_that_is_not_there_is_said(monkeypatch, small_root: Path) -> None:
    page = latent_page(monkeypatch, small_root, "topk-9")
    assert "'topk-9'" in page.warning[0].value.replace("\\", "")  # no Markdown is read in it


def test_without_its_store_the_page_says_how_to_capture_one(
    monkeypatch, small_root: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(small_root / "runs", tmp_path / "runs")
    page = latent_page(monkeypatch, tmp_path, name, latent="3")
    assert not page.exception
    assert "lensbench capture" in page.error[0].value.replace("\\", "")
    assert len(page.dataframe[0].value) == 64, "the rest of the page is there"


def test_both_firing_rates_stand_beside_their_n(monkeypatch, small_root: Path, name: str) -> None:
    from lensbench.app.workflows.fronts import evaluated

    page = open_page(monkeypatch, small_root, "latent", run="runs/small", dictionary=name,
                     latent="3")  # fmt: skip
    assert not page.exception
    n = evaluated(small_root / "runs" / "small").n_tokens
    assert f"share of the {n:,} tokens of the evaluation" in words(page)
    assert "fires on" in words(page)
    assert "stored tokens" in words(page)


def test_equal_contexts_are_shown_once_with_their_number() -> None:
    from lensbench.app.widgets.latent_strips import lines_of
    from lensbench.app.workflows.latent_page import Passage, _merged

    one = Passage(("a", " b"), (1.0, 0.0), 0, 1.0)
    other = Passage(("a", " c"), (0.9, 0.0), 0, 1.0)
    same = Passage(("a", " b"), (0.8, 0.0), 0, 1.0)
    kept = _merged([one, other, same])
    assert [(p.words[1], p.times, p.values[0]) for p in kept] == [(" b", 2, 1.0), (" c", 1, 0.9)]
    assert lines_of(kept).count("x2") == 1


def test_the_random_direction_is_drawn_beside_the_logit_effects() -> None:
    import pandas as pd

    from lensbench.app.workflows.latent_figures import effects_figure

    frame = pd.DataFrame({"token": ["a", "b"], "token_id": [1, 2], "effect": [3.0, -2.0]})
    frame.attrs["units"] = {"effect": "logits"}
    (line,) = [t for t in effects_figure(frame, 1.5).data if t.type == "scatter"]
    assert {x for x in line.x if x is not None} == {1.5, -1.5}
    assert "random direction" in line.name
    assert not [t for t in effects_figure(frame).data if t.type == "scatter"]


def test_its_own_store_is_read_though_another_that_fits_comes_first(
    small_root: Path, name: str, tmp_path: Path
) -> None:
    """A second capture with the same model, of another text, whose name sorts first."""
    import shutil

    from lensbench import capture
    from lensbench.app.workflows.latent_page import store_of
    from lensbench.app.workflows.models import open_model
    from tests.app.conftest import SITE

    root = tmp_path / "root"
    shutil.copytree(small_root, root)
    capture(open_model("atlas-dense", certify=False), ["the cat sleeps"], sites=[SITE],
            out=root / "aa")  # fmt: skip
    run = root / "runs" / "small"
    assert store_of(run, name, root) == root / "acts"
    shutil.rmtree(root / "acts")
    assert store_of(run, name, root) == root / "aa"  # control: it does fit


@pytest.fixture
def few_tokens(monkeypatch) -> Any:
    """The page looks at the first 200 tokens or so; nothing is kept from before, or for later."""
    import streamlit as st

    from lensbench.app.workflows import latent_page, live
    from lensbench.saes.latents.dashboard import DashboardConfig

    few = DashboardConfig(max_tokens=200, per_band=3, sequence_batch=8)
    monkeypatch.setattr(latent_page, "BOARD", few)
    monkeypatch.setattr(latent_page, "saved_board", lambda *_: None)

    def forget() -> None:
        live._latents.clear()
        st.cache_data.clear()

    forget()
    yield few
    forget()


def test_a_page_that_looked_at_a_part_of_the_store_says_so(
    monkeypatch, small_root: Path, name: str, loud: int, capsys, few_tokens: Any
) -> None:
    from lensbench.app.cli.main import main
    from lensbench.app.workflows.latent_page import make_board
    from lensbench.app.workflows.live import hold_store

    run, acts = small_root / "runs" / "small", small_root / "acts"
    board, stored = make_board(run, name, loud, acts), hold_store(str(acts)).n_tokens
    assert few_tokens.max_tokens <= board.n_tokens < stored
    told = f"the first {board.n_tokens:,} of {stored:,} stored tokens"
    page = latent_page(monkeypatch, small_root, name, latent=str(loud))
    assert words(page).count(told) >= 3, "beside the density, the contexts and the histogram"
    assert main(["latents", "show", f"{run}/{name}", str(loud), "--store", str(acts)]) == 0
    assert told in capsys.readouterr().out
