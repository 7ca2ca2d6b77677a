"""A tuned lens from the command line and on the Lens page: trained, gone on with, read, refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.commands import answer, refused, run
from tests.app.driver import open_page, words
from tests.app.tiny_root import TEXTS, Root, make_root, no_run, save_tiny, spec_of, values

__all__ = ["no_run"]
SETTINGS = ("--set", "steps=30", "--set", "tokens_per_step=16", "--set", "holdout=0.25",
            "--set", "optimizer=adam", "--set", "lr_scale=10")  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A folder with a model, a store, and a tuned lens that the command trained."""
    made = make_root(tmp_path_factory.mktemp("tuned"), run=False)
    line = ("lens", "tune", "--store", made.url, "--model", made.model)
    assert run(*line, "--out", made.folder / "tuned", *SETTINGS) == 0
    return made


def test_the_command_trains_what_the_library_does_and_goes_on(root: Root, capsys: Any) -> None:
    import torch

    import lensbench
    from lensbench import probes, results

    line = ("lens", "tune", "--store", root.url, "--model", root.model, "--out",
            root.folder / "tuned", *SETTINGS)  # fmt: skip
    facts = answer(capsys, *line)  # the lens is there already: nothing is trained again
    model = lensbench.load_model(root.model)
    store = lensbench.open_store(root.url)
    config = {"steps": 30, "tokens_per_step": 16, "holdout": 0.25, "optimizer": "adam",
              "lr_scale": 10.0}  # fmt: skip
    wanted = probes.train_tuned_lens(store, model, config)
    found = probes.load_tuned_lens(root.folder / "tuned", model)
    assert torch.equal(found.weight, wanted.weight)
    assert float(found.weight.abs().max()) > 0
    compared = results.load(facts["comparison"])
    assert compared.kind == "LensComparison"
    assert [r["kl_tuned"] for r in facts["layers"]] == pytest.approx(compared.kl("tuned"))
    assert facts["documents"] == "held out"
    assert facts["layers"][-1]["kl_tuned"] == pytest.approx(0, abs=1e-6)
    other = refused(capsys, *line[:-2], "--set", "lr_scale=5")
    assert "other settings" in other
    assert "lr_scal" in refused(capsys, *line[:-2], "--set", "lr_scal=5")


def test_a_text_is_read_through_the_tuned_lens(root: Root, tmp_path: Path, capsys: Any) -> None:
    import lensbench
    from lensbench import probes

    line = ("lens", "text", "--model", root.model, "--prompt", TEXTS[0], "--at", 5)
    facts = answer(capsys, *line, "--tuned", root.folder / "tuned")
    model = lensbench.load_model(root.model)
    lens = probes.load_tuned_lens(root.folder / "tuned", model)
    made = probes.states_of_text(model, model.tokens(TEXTS[0])).lens(model, readout=lens)
    assert [r["probability"] for r in facts["layers"]] == pytest.approx(made.top_prob[:, 5, 0])
    logit = answer(capsys, *line)
    assert facts["layers"][0]["entropy"] != pytest.approx(logit["layers"][0]["entropy"], abs=1e-6)
    assert facts["layers"][-1] == logit["layers"][-1], "the last layer is the model in both"
    elsewhere = ("lens", "text", "--model", "atlas-dense", "--prompt", "the cat", "--tuned")
    assert "not of atlas-dense" in refused(capsys, *elsewhere, root.folder / "tuned")
    assert refused(capsys, *elsewhere, tmp_path / "none")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("no_run")
def test_the_page_reads_through_the_tuned_lens_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch, root: Root
) -> None:
    from lensbench.app.workflows.lenses import LensAsk, cell_for, lens_for

    page = open_page(monkeypatch, root.folder, "lens", store="acts", row="3")
    assert not page.error
    assert "Logit lens" in str(spec_of(page)["layout"]["title"])
    plain = values(spec_of(page)["data"][0]["z"])
    page.selectbox(key="lens").set_value("tuned").run()
    assert not page.exception
    assert not page.error
    assert "Tuned lens" in str(spec_of(page)["layout"]["title"])
    assert "its maps were trained" in words(page)
    drawn = values(spec_of(page)["data"][0]["z"])
    assert float(np.nanmax(np.abs(drawn - plain)[:-1])) > 1e-6
    np.testing.assert_allclose(drawn[-1], plain[-1], atol=1e-6)
    space: dict[str, Any] = {}
    *lines, last = page.code[0].value.splitlines()
    exec("\n".join([*lines, f"figure = {last}"]), space)
    np.testing.assert_allclose(np.asarray(space["figure"].data[0].z), drawn, rtol=1e-4)
    ask = LensAsk(store=root.url, row=3, lens=str(root.folder / "tuned"))
    lens = lens_for(ask)
    for row, layer in enumerate(lens.layers):
        cell = cell_for(ask, int(lens.positions[2]), layer)
        assert cell.top["probability"][0] == pytest.approx(lens.top_prob[row, 2, 0], abs=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_refuses_a_lens_of_another_model_in_words(
    monkeypatch: pytest.MonkeyPatch, root: Root, tmp_path: Path
) -> None:
    import lensbench
    from lensbench.probes import TunedLens, save_tuned_lens

    shutil.copytree(root.folder, tmp_path / "r")
    other = lensbench.load_model(save_tiny(tmp_path / "other", seed=7))
    save_tuned_lens(TunedLens.identity(other), tmp_path / "r" / "foreign")
    page = open_page(monkeypatch, tmp_path / "r", "lens", store="acts", row="3", lens="foreign")
    assert not page.exception
    [error] = page.error
    assert "foreign is of other" in str(error.value).replace("\\", "")
    page.selectbox(key="lens").set_value("tuned").run()
    assert not page.error
    shutil.rmtree(tmp_path / "r" / "tuned")
    page.run()
    assert not page.exception


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("no_run")
def test_the_token_page_has_the_tuned_lens_beside_the_logit_lens(
    monkeypatch: pytest.MonkeyPatch, root: Root, tmp_path: Path
) -> None:
    from lensbench.app.workflows.token_page import lens_cell

    page = open_page(monkeypatch, root.folder, "token", store="acts", row="3")
    assert not page.exception
    assert not page.error
    logit, tuned = (spec_of(page, i) for i in (0, 1))
    assert "Prediction made at" in str(logit["layout"]["title"])
    assert "Tuned lens (tuned)" in str(tuned["layout"]["title"])
    assert "its maps were trained" in words(page)
    found = lens_cell(root.url, 3, str(root.folder / "tuned"))
    frame = found.course
    for trace in tuned["data"]:
        mine = frame.loc[frame["token"] == trace["name"], "probability"]
        np.testing.assert_allclose(values(trace["y"]), mine, rtol=1e-5)
    first = lens_cell(root.url, 3).top["probability"]
    assert found.top["probability"].tolist() == pytest.approx(first.tolist()), "the last layer"
    space: dict[str, Any] = {}
    code = next(c.value for c in page.code if "tuned" in c.value and "lens_cell" in c.value)
    *lines, last = code.strip().splitlines()
    exec("\n".join([*lines, f"figure = {last}"]), space)
    assert len(space["figure"].data) == len(tuned["data"])
    shutil.copytree(root.folder, tmp_path / "r")
    (tmp_path / "r" / "tuned").rename(tmp_path / "r" / "another")
    shutil.copytree(tmp_path / "r" / "another", tmp_path / "r" / "third")
    page = open_page(monkeypatch, tmp_path / "r", "token", store="acts", row="3")
    page.selectbox(key="token-tuned").set_value("third").run()
    assert not page.exception
    assert "Tuned lens (third)" in str(spec_of(page, 1)["layout"]["title"])
