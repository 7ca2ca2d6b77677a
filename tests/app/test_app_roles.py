"""Pages and commands on a run folder that holds a transcoder and a crosscoder beside an SAE."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.driver import open_page, words
from tests.store_builder import SITE, build

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TARGET = "blocks.1.resid_post"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lensbench import saes

    root = tmp_path_factory.mktemp("root")
    rng = np.random.default_rng(0)
    values = {site: rng.standard_normal((600, 16)).astype(np.float32) for site in (SITE, TARGET)}
    store = build(root / "store", values, [600])
    common = {"architecture": "topk", "d_sae": 32, "k": 4}
    entries = [
        common | {"name": "over", "site": SITE, "target": TARGET},
        common | {"name": "both", "sites": [SITE, TARGET]},
        common | {"name": "plain", "site": SITE},
    ]
    train = {"tokens": 640, "batch_size": 64, "log_every": 2}
    sweep = {"source": {"store": store.url}, "train": train, "sweep": entries}
    saes.train(store, sweep, out=root / "run", device="cpu", progress=False)
    return root


@pytest.mark.parametrize("name", ["over", "both", "plain"])
@pytest.mark.parametrize("path", ["runs", "sweep", "latent", "directions"])
def test_no_page_breaks(monkeypatch: Any, root: Path, path: str, name: str) -> None:
    page = open_page(monkeypatch, root, path, run="run", dictionary=name)
    assert not page.exception
    if path == "directions" and name == "both":
        assert "compare_sites" in words(page).replace("\\", "")
    else:
        assert not page.error


@pytest.mark.parametrize("show", ["Map", "Nearest latents", "Geometry"])
def test_decoder_rows_of_a_transcoder_are_those_of_its_target(
    monkeypatch: Any, root: Path, show: str
) -> None:
    asked = {"run": "run", "dictionary": "over", "show": show, "latent": "3"}
    page = open_page(monkeypatch, root, "directions", **asked)
    assert not page.exception
    assert not page.error
    told = f"its decoder rows lie in {TARGET}"
    assert told in words(page).replace("\\", "")
    if show == "Geometry":
        assert "reads another site than it writes" in words(page)
    asked["dictionary"] = "plain"  # control
    assert told not in words(open_page(monkeypatch, root, "directions", **asked))


def test_a_latent_of_a_transcoder_is_nearest_to_its_own_decoder_row(root: Path) -> None:
    from lensbench.app.workflows.directions import LATENT, DirectionAsk, nearest_to, python_of
    from lensbench.saes import open_runs

    run = root / "run"
    ask = DirectionAsk(LATENT, latent=3, of="over")
    coder = next(r for r in open_runs(run) if r.name == "over").coder
    rows = coder.W_dec / coder.W_dec.norm(dim=1, keepdim=True)
    cosine = rows @ rows[3]
    cosine[3] = -2
    found = nearest_to(run, "over", ask)[0]
    assert found["latent"].iloc[0] == int(cosine.argmax())
    names: dict[str, Any] = {}
    exec(python_of(run, "over", ask), names)
    assert names["found"]["latent"].tolist() == found["latent"].tolist()


@pytest.mark.parametrize("name", ["over", "both"])
def test_a_latent_is_shown_or_refused_in_words(monkeypatch: Any, root: Path, name: str) -> None:
    page = open_page(monkeypatch, root, "latent", run="run", dictionary=name, latent="3")
    assert not page.exception
    assert ("compare_sites" in words(page).replace("\\", "")) == (name == "both")


def test_latents_of_a_transcoder_are_listed(root: Path) -> None:
    from lensbench.app.workflows.latent_page import latent_table, store_of

    assert len(latent_table(root / "run", "over")) == 32
    assert store_of(root / "run", "over", root) == root / "store"


def test_an_evaluation_names_what_it_leaves_out(root: Path, monkeypatch: Any) -> None:
    from lensbench.app.workflows import evaluation
    from lensbench.errors import MismatchError

    said: list[str] = []
    kept = evaluation.scored(root / "run", said.append)
    assert [run.name for run in kept] == ["over", "plain"]
    assert said == ["left out, because it is a crosscoder: both"]
    peers = evaluation.scored(root / "run", said.append, ("sae",))  # for SAELens' evaluation
    assert [run.name for run in peers] == ["plain"]
    others = [run for run in evaluation.runs_or_foreign(root / "run") if run.name == "both"]
    monkeypatch.setattr(evaluation, "runs_or_foreign", lambda _: others)
    with pytest.raises(MismatchError, match="compare_sites"):
        evaluation.scored(root / "run", said.append)
