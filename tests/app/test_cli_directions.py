"""``lensbench latents match | nearest | geometry | map | sites``: the library's own numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.cli_workspace import NAMES, SITE
from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer, refused, run


@pytest.fixture
def pair(workspace: Path) -> list[Path]:
    return [workspace / "demo-run" / "run" / name for name in NAMES]


def opened(folder: Path) -> Any:
    from lensbench import saes

    return next(r for r in saes.open_runs(folder.parent) if r.name == folder.name)


def test_two_dictionaries_are_matched_beside_random_and_permuted_ones(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import results, saes

    facts = answer(capsys, "latents", "match", *pair, "--seed", 3, "--out", tmp_path / "m")
    made = saes.match_dictionaries(*map(opened, pair), seed=3)
    assert facts["summary"] == pytest.approx(made.summary())
    assert facts["controls"] == pytest.approx(dict(made.controls.values))
    assert facts["controls"]["MMCS A->A permuted"] == pytest.approx(1.0)
    assert facts["rows"][0]["n"] == 512
    least = facts["least"][0]
    assert least["cosine"] == pytest.approx(float(np.nanmin(made.best_a_to_b)))
    assert least["nearest"] == made.nearest_a_to_b[least["latent"]]
    assert results.load(tmp_path / "m").summary() == pytest.approx(made.summary())
    itself = answer(capsys, "latents", "match", pair[0], pair[0])
    assert itself["summary"]["Hungarian"] == pytest.approx(1.0)  # control: the same dictionary
    assert run("latents", "match", *pair) == 0
    assert "MMCS A->random" in capsys.readouterr().out  # the control's number, not its name alone
    assert "Did you mean" in refused(capsys, "latents", "match", pair[0], f"{pair[1]}x")


def test_latents_nearest_to_a_latent_a_token_two_texts_and_a_vector(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import load_model, saes

    line = ("latents", "nearest", pair[0])
    own = answer(capsys, *line, "--latent", 27, "--top", 3)
    assert own["rows"][0] == {"direction": 0, "rank": 1, "latent": 27, "cosine": pytest.approx(1)}
    token = answer(capsys, *line, "--token", "Lima", "--top", 4, "--seed", 2)
    model = load_model("atlas-dense")
    made = saes.nearest_latents(saes.token_direction(model, "Lima"), opened(pair[0]), n=4, seed=2)
    assert [row["latent"] for row in token["rows"]] == made.latents[0].tolist()
    assert token["controls"] == pytest.approx(dict(made.controls.values))
    read = answer(capsys, *line, "--token", "Lima", "--embedding", "--top", 4)
    assert read["rows"] != token["rows"]  # control: said and read are two directions
    texts = answer(capsys, *line, "--text", "The capital of Peru is", "--minus", "The dog is")
    assert len(texts["rows"]) == 10
    np.save(tmp_path / "v.npy", opened(pair[0]).sae.W_dec[5].detach().numpy())
    vector = answer(capsys, *line, "--vector", tmp_path / "v.npy", "--top", 1)
    assert vector["rows"][0]["latent"] == 5
    for given, said in (
        ((), "name one direction"),
        (("--latent", 1, "--token", "Lima"), "--latent and --token"),
        (("--text", "a"), "--minus"),
        (("--latent", 999), "0 to 511"),
        (("--vector", tmp_path / "none.npy"), "no file"),
        (("--tokn", "x"), "--token"),
    ):
        assert said in refused(capsys, *line, *given)


def test_geometry_and_map_are_the_librarys_and_can_be_drawn(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import saes

    near = answer(capsys, "latents", "geometry", pair[0], "--top", 5, "--html", tmp_path / "g.html")
    made = saes.decoder_geometry(opened(pair[0]))
    assert near["summary"] == pytest.approx(made.summary(), nan_ok=True)
    assert near["rows"][0]["nearest_cosine"] == pytest.approx(float(made.nearest_cosine.max()))
    assert near["controls"] == pytest.approx(dict(made.controls.values))
    assert (tmp_path / "g.html").stat().st_size > 1e6
    laid = answer(capsys, "latents", "map", pair[0], "--top", 2)
    places = saes.decoder_map(opened(pair[0]))
    assert [laid["rows"][1][c] for c in "xy"] == pytest.approx(places.places[1].tolist())
    assert laid["summary"]["neighbours kept"] > next(iter(laid["controls"].values()))
    assert "Did you mean 'pca'" in refused(capsys, "latents", "map", pair[0], "--method", "pac")
    assert "--max-latents" in refused(capsys, "latents", "geometry", pair[0], "--max-latent", "x")


def test_sites_of_a_crosscoder_share_latents(
    workspace: Path, pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store, saes

    sites = [SITE.replace("3", "2"), SITE]
    sweep = {"train": {"tokens": 1024, "batch": 256},
             "sweep": [{"architecture": "topk", "d_sae": 64, "k": 8, "sites": sites}]}  # fmt: skip
    store = open_store(workspace / "demo-run" / "acts")
    made = saes.train(store, sweep, out=tmp_path / "run", progress=False)[0]
    facts = answer(capsys, "latents", "sites", tmp_path / "run", "--top", 64, "--seed", 4)
    found = saes.compare_sites(made, seed=4)
    assert facts["sites"] == sites
    assert [r["relative_norm"] for r in facts["rows"]] == pytest.approx(
        found.relative_norm.tolist()
    )
    assert facts["summary"] == pytest.approx(found.summary(), nan_ok=True)
    assert "Did you mean" in refused(
        capsys, "latents", "sites", tmp_path / "run", "--b", "blocks.3.resid_pos"
    )
    assert "takes a crosscoder" in refused(capsys, "latents", "sites", pair[0])
