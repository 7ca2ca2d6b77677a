"""Directions: map, nearest latents and geometry, each beside a direct computation."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.driver import open_page, words
from tests.app.tiny_root import values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RUN = "runs/small"


@pytest.fixture(scope="module")
def name(small_root: Path) -> str:
    return next(p.name for p in (small_root / RUN).iterdir() if "topk-64-k8" in p.name)


def sae_of(root: Path, name: str) -> Any:
    from lensbench.saes import open_runs

    return next(r for r in open_runs(root / RUN) if r.name == name).sae


def page_of(monkeypatch: Any, root: Path, name: str, **query: str) -> Any:
    page = open_page(monkeypatch, root, "directions", run=RUN, dictionary=name, **query)
    assert not page.exception
    return page


def figure(page: Any, at: int = 0) -> dict[str, Any]:
    return json.loads(page.get("plotly_chart")[at].proto.spec)


def test_the_map_holds_every_latent_at_its_place_with_its_facts(
    monkeypatch, small_root: Path, name: str
) -> None:
    from lensbench import saes
    from lensbench.app.workflows.fronts import evaluated

    page = page_of(monkeypatch, small_root, name)
    made = saes.decoder_map(sae_of(small_root, name))
    density = evaluated(small_root / RUN).density[name]
    seen = 0
    for trace in figure(page)["data"]:
        places = np.stack([values(trace["x"]), values(trace["y"])], 1)
        numbers = [int(row[0]) for row in trace["customdata"]]
        assert numbers == [int(i) for i in trace["ids"]]
        np.testing.assert_allclose(places, made.places[numbers], atol=1e-5)
        told = [float(row[1]) for row in trace["customdata"]]
        np.testing.assert_allclose(told, density[numbers], rtol=1e-3)
        seen += len(numbers)
    assert seen == 64
    assert "are among its ten nearest here" in words(page).replace("\\", "")


def test_what_a_latent_writes_is_what_its_dashboard_says(small_root: Path, name: str) -> None:
    from lensbench.app.workflows.geometry import tokens_written
    from lensbench.app.workflows.latent_page import make_board, words_for

    written, why = tokens_written(small_root / RUN, name)
    assert (why, len(written)) == ("", 64)
    board = make_board(small_root / RUN, name, 7, small_root / "acts")
    known = words_for(board, small_root / "acts")
    top = [known[int(i)].strip() for i in board.top_tokens[0][:3]]
    assert written[7] == " ".join(top)


def test_labels_and_stars_colour_the_map(
    monkeypatch, small_root: Path, name: str, tmp_path: Path
) -> None:
    from lensbench import saes

    root = Path(shutil.copytree(small_root, tmp_path / "root"))
    page = page_of(monkeypatch, root, name, colour="Stars")
    assert "label and star them" in words(page)
    run = next(r for r in saes.open_runs(root / RUN) if r.name == name)
    saes.notes(run).set(5, label="days", starred=True)
    page = page_of(monkeypatch, root, name, colour="Stars")
    drawn = {t["name"]: t["ids"] for t in figure(page)["data"]}
    assert drawn["starred (n=1)"] == ["5"]
    assert len(drawn["not starred (n=63)"]) == 63
    page = page_of(monkeypatch, root, name, colour="My label")
    assert {t["name"] for t in figure(page)["data"]} == {"no label (n=63)", "days (n=1)"}


def test_without_umap_the_page_says_how_to_get_it_and_shows_pca(
    monkeypatch, small_root: Path, name: str
) -> None:
    from lensbench.saes.latents import decoder_map

    monkeypatch.setattr(decoder_map, "find_spec", lambda _: None)
    page = page_of(monkeypatch, small_root, name, layout="UMAP")
    assert "not installed" in page.info[0].value
    assert any("pip install 'lensbench[umap]'" in str(c.value) for c in page.code)
    assert "PC 1" in figure(page)["layout"]["xaxis"]["title"]["text"]


def test_the_nearest_to_a_latent_are_its_nearest_and_not_itself(
    monkeypatch, small_root: Path, name: str
) -> None:
    page = page_of(monkeypatch, small_root, name, show="Nearest latents", latent="9")
    rows = sae_of(small_root, name).W_dec.numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit[9]
    cosine[9] = -2
    table = page.dataframe[0].value
    assert table["latent"].tolist()[:10] == np.argsort(-cosine)[:10].tolist()
    np.testing.assert_allclose(table["cosine"][:10], np.sort(cosine)[::-1][:10], atol=1e-5)
    assert "random direction" in words(page)
    bars = figure(page)["data"][0]
    np.testing.assert_allclose(values(bars["y"]), table["cosine"], atol=1e-6)


@pytest.mark.parametrize(
    ("direction", "kind"),
    [
        ("Towards a token (unembedding)", "unembedding"),
        ("A token as it is read (embedding)", "embedding"),
    ],
)
def test_a_token_is_looked_up_in_the_model(
    monkeypatch, small_root: Path, name: str, direction: str, kind: Any
) -> None:
    from lensbench import saes
    from lensbench.app.workflows.models import open_model

    page = page_of(monkeypatch, small_root, name, show="Nearest latents", direction=direction,
                   token="Lima")  # fmt: skip
    wanted = saes.token_direction(open_model("atlas-dense"), "Lima", kind=kind)
    known = saes.nearest_latents(wanted, sae_of(small_root, name), n=20)
    assert page.dataframe[0].value["latent"].tolist() == known.latents[0].tolist()
    page.text_input(key="token").set_value("Lima Rome").run()
    assert "2 tokens here" in page.error[0].value


def test_two_texts_and_a_code_that_finds_the_same(monkeypatch, small_root: Path, name: str) -> None:
    page = page_of(monkeypatch, small_root, name, show="Nearest latents",
                   direction="The difference of two texts", one="Alice lives in Lima .",
                   other="Lucy sang .")  # fmt: skip
    code = next(str(c.value) for c in page.code if "nearest_figure" in str(c.value))
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["found"]["latent"].tolist() == page.dataframe[0].value["latent"].tolist()


def test_a_vector_from_a_file_finds_the_latent_it_is(small_root: Path, name: str) -> None:
    from lensbench.app.workflows.directions import VECTOR, DirectionAsk, nearest_to
    from lensbench.errors import ConfigError, DamagedDataError

    row = sae_of(small_root, name).W_dec[33].numpy() * 5
    ask = DirectionAsk(VECTOR, file="w.json", content=json.dumps(row.tolist()).encode())
    frame, control = nearest_to(small_root / RUN, name, ask)
    assert frame["latent"].tolist()[0] == 33
    assert frame["cosine"][0] == pytest.approx(1) != pytest.approx(control, abs=0.1)
    with pytest.raises(ConfigError, match="needs 128"):
        nearest_to(small_root / RUN, name, DirectionAsk(VECTOR, file="w.txt", content=b"1 2"))
    with pytest.raises(DamagedDataError):
        nearest_to(small_root / RUN, name, DirectionAsk(VECTOR, file="w.npy", content=b"1 2"))


def test_geometry_is_that_of_the_library_and_lists_each_pair_once(
    monkeypatch, small_root: Path, name: str
) -> None:
    from lensbench import saes

    page = page_of(monkeypatch, small_root, name, show="Geometry")
    made = saes.decoder_geometry(sae_of(small_root, name))
    shown = {m.label: m.value for m in page.metric}
    assert float(shown["nearest other latent, median cosine"]) == pytest.approx(
        made.summary()["nearest cosine, median"], abs=1e-3
    )
    assert len(page.get("plotly_chart")) == 2
    table = page.dataframe[0].value
    pairs = [frozenset(p) for p in zip(table["latent"], table["nearest"], strict=True)]
    assert len(set(pairs)) == len(pairs)
    assert table["nearest_cosine"].iloc[0] == pytest.approx(made.nearest_cosine.max())


def test_a_run_that_was_not_evaluated_has_a_map_too(
    monkeypatch, small_root: Path, name: str, tmp_path: Path
) -> None:
    shutil.copytree(small_root / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / RUN / "evaluation")
    page = page_of(monkeypatch, tmp_path, name)
    assert not page.error
    assert page.selectbox(key="colour").options == ["My label", "Stars"]
    page = page_of(monkeypatch, tmp_path, name, show="Geometry")
    assert not page.error


def test_a_word_that_the_model_has_no_token_for_is_refused_and_the_dictionary_is_named(
    monkeypatch, small_root: Path, name: str
) -> None:
    query = {"show": "Nearest latents", "direction": "Towards a token (unembedding)"}
    page = page_of(monkeypatch, small_root, name, token="Zanzibar", **query)
    said = page.error[0].value.replace("\\", "")
    assert "no token for 'Zanzibar'" in said or "tokens here" in said
    assert not page.get("plotly_chart")
    assert "64 latents of" in words(page)
    assert "model: atlas-dense" in words(page).replace("\\", "")
