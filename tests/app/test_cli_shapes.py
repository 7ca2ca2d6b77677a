"""``lensbench probe geometry`` and ``hd``, and their pages: the numbers of the library; slips."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import answer, refused
from tests.app.conftest import SITE, STORE
from tests.app.driver import open_page, words

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_geometry_is_that_of_the_library(small_root: Path, tmp_path: Path, capsys: Any) -> None:
    import lensbench
    from lensbench import probes, results

    line = ("probe", "geometry", "--store", small_root / STORE, "--out", tmp_path / "g")
    facts = answer(capsys, *line)
    store = lensbench.open_store(str(small_root / STORE))
    made = probes.anisotropy({STORE: store}, max_rows=20_000)
    assert [row["anisotropy"] for row in facts["rows"]] == pytest.approx(
        made.numbers["anisotropy"].tolist()
    )
    assert results.load(facts["saved"]).kind == "Anisotropy"
    told = refused(capsys, *line, "--measure", "dimensions")
    assert "Did you mean 'dimension'" in told
    away = refused(capsys, "probe", "geometry", "--store", tmp_path / "away")
    assert "no activation store" in away


def test_controls_are_captured_and_stand_beside(
    small_root: Path, tmp_path: Path, capsys: Any
) -> None:
    """Shuffled text and a re-initialised model: other spaces than the model's own."""
    line = ("probe", "geometry", "--store", small_root / STORE, "--measure", "neighbours",
            "--rows", 300, "--make-controls", tmp_path / "controls")  # fmt: skip
    facts = answer(capsys, *line)
    spaces = {row["source_b"] for row in facts["rows"]}
    assert spaces == {STORE, "shuffled_text", "reinitialised_twin"}
    other = [r["imbalance"] for r in facts["rows"]
             if r["source_a"] == STORE and r["source_b"] == "shuffled_text"]  # fmt: skip
    assert min(other) > 0.2


def test_the_hyperdimensional_study_has_every_baseline(tmp_path: Path, capsys: Any) -> None:
    line = ("probe", "hd", "--n-train", 60, "--n-test", 30, "--dim", 256)
    facts = answer(capsys, *line, "--out", tmp_path / "h")
    sources = {row["source"] for row in facts["rows"]}
    assert sources == {"probe", "constant vector", "MLP classifier", "layer 0", "re-initialised",
                       "shuffled labels"}  # fmt: skip
    assert facts["failures"] or facts["no_failures"]
    kept = {path.name for path in (tmp_path / "h").iterdir()}
    assert kept >= {"result.json", "encoder.json", "items.json"}, "to read other states with"
    assert "Did you mean 'analogy'" in refused(capsys, *line, "--task", "analgy")


@quiet
@pytest.mark.parametrize("measure", ["Anisotropy", "Intrinsic dimension", "Neighbourhoods"])
def test_every_measure_has_its_figures(
    small_root: Path, monkeypatch: pytest.MonkeyPatch, measure: str
) -> None:
    page = open_page(monkeypatch, small_root, "geometry", stores=STORE, measure=measure)
    assert not page.exception
    assert not page.error
    drawn = [json.loads(f.proto.spec) for f in page.get("plotly_chart")]
    assert len(drawn) == (1 if measure == "Anisotropy" else 2)
    assert SITE in page.dataframe[0].value.to_string()
    assert "lensbench probe geometry" in words(page)


@quiet
def test_the_pages_ask_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(monkeypatch, tmp_path, "geometry")
    assert not page.exception
    assert "lensbench capture" in words(page)
    page = open_page(monkeypatch, tmp_path, "hyper")
    assert not page.exception
    assert "Choose a model" in words(page)
    page = open_page(monkeypatch, tmp_path, "hyper", model="atlas-dense")
    assert not page.exception
    assert "every baseline" in words(page)
    assert "start-hd" in {button.key for button in page.button}
