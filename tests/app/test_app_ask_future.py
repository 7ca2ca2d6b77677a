"""The page Ask a state: the future lens, its job, its map and cell beside bigrams, its scores."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.drawn import run_code
from tests.app.driver import files_offered, open_page, words
from tests.app.linking import walk
from tests.app.tiny_root import TEXTS, Root, make_root, spec_of, values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PART = {"ask": "Which tokens it foretells"}
STORED = {**PART, "store": "acts", "row": "20", "fitted": "acts"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A store whose future lens lies where the page's job leaves it."""
    from lensbench.app.workflows import lens_future

    root = make_root(tmp_path_factory.mktemp("future"), run=False)
    folder = lens_future.folder_for(root.folder, root.url, "state")
    lens_future.fit(lens_future.settings_of(root.url, "state", folder), lambda *_: None)
    return root


def lens_in(root: Root) -> Any:
    from lensbench.app.workflows import lens_future
    from lensbench.results import load

    return load(lens_future.folder_for(root.folder, root.url, "state") / "lens")


def test_the_map_is_the_librarys_at_every_distance(monkeypatch: Any, fitted: Root) -> None:
    import lensbench
    from lensbench import probes

    asked = {"from": "My own text", "model": str(fitted.model), "text": TEXTS[0]}
    page = open_page(monkeypatch, fitted.folder, "ask", **PART, fitted="acts", **asked)
    assert not page.exception
    assert not page.error
    grid = probes.future_grid(lensbench.load_model(fitted.model), lens_in(fitted), TEXTS[0])
    for far in (1, 0, 3):
        page.selectbox(key="far").set_value(far).run()
        drawn = values(spec_of(page)["data"][0]["z"])
        np.testing.assert_allclose(drawn, grid.prob[:, :, far], rtol=1e-3, atol=1e-6)
    code = next(c.value for c in page.code if "grid_figure(" in c.value)
    np.testing.assert_allclose(np.asarray(run_code(code).data[0].z), drawn, rtol=1e-3, atol=1e-6)
    assert np.ptp(grid.prob[:, :, 3]) > 0


def test_a_cell_stands_beside_bigrams_of_other_documents(monkeypatch: Any, fitted: Root) -> None:
    import lensbench

    page = open_page(monkeypatch, fitted.folder, "ask", **STORED)
    assert not page.exception
    assert not page.error
    store = lensbench.open_store(fitted.url)
    index, row = store.index(), store.sequence_of(20)
    often = Counter(index.token_ids.tolist())
    ids = row.tokens.ids[0].tolist()
    at = max(range(1, len(ids) - 1), key=lambda i: often[ids[i]])
    page.selectbox(key="layer").set_value(0).run()
    page.selectbox(key="pos").set_value(at).run()
    cell = page.dataframe[0].value
    token = ids[at]
    here = int(row.doc_ids[0][at])
    for far in range(4):
        later = [int(index.token_ids[t + far + 1]) for t in range(len(index.token_ids) - far - 1)
                 if index.token_ids[t] == token and index.doc_ids[t] != here
                 and index.doc_ids[t] == index.doc_ids[t + far + 1]]  # fmt: skip
        assert cell["bigram_n"].tolist()[far] == len(later)
        if later:
            most = Counter(later).most_common(1)[0][1]
            assert cell["bigram_share"].tolist()[far] == f"{most / len(later):.3f}"
    assert cell["bigram_n"].sum() > 0
    said = words(page)
    assert "documents that had no part in the fit" in said
    assert "lensbench lens future" in said
    assert "fitted on this very text" in said
    last = open_page(monkeypatch, fitted.folder, "ask", **{**STORED, "row": "55"})
    assert "fitted on this very text" not in words(last), "a document of the last fifth"


def test_the_scores_are_those_of_held_out_documents(monkeypatch: Any, fitted: Root) -> None:
    from lensbench.app.workflows import lens_future

    given = files_offered(monkeypatch)
    page = open_page(monkeypatch, fitted.folder, "ask", **STORED, far="0")
    found = lens_future.scores_of(str(lens_future.folder_for(fitted.folder, fitted.url, "state")))
    for metric in lens_future.METRICS:
        page.radio(key="score-of").set_value(metric).run()
        assert not page.exception
        lines = {t["name"]: values(t["y"]) for t in spec_of(page, 1)["data"] if t.get("name")}
        wanted = [found.score(metric, layer, 0) for layer in found.layers]
        np.testing.assert_allclose(lines["future lens"], wanted, rtol=1e-4)
    assert "control: bigrams" in lines or np.isnan(found.mean[0, 3]).all()
    assert {"future-scores.csv", "future-map.html", "future-cell.json"} <= {
        name.removeprefix("ask-") for name in given
    }


def test_the_address_shows_the_same(monkeypatch: Any, fitted: Root) -> None:
    changes = {"far": 2, "pos": 3, "layer": 0, "score-of": "surprisal"}
    keys = walk(monkeypatch, fitted.folder, "ask", STORED, changes)
    assert keys == {"ask", "from", "store", "row", "fitted", "to", "far", "pos", "layer",
                    "score-of"}  # fmt: skip


def test_the_fit_is_a_job(monkeypatch: Any, fitted: Root) -> None:
    from lensbench.app.workflows import detached, jobs, work

    started: list[Path] = []
    monkeypatch.setattr(detached, "start", lambda _argv, folder, **_: started.append(folder))
    page = open_page(monkeypatch, fitted.folder, "ask", **STORED)
    assert page.get("plotly_chart")
    page.radio(key="to").set_value("vocabulary").run()
    assert not page.get("plotly_chart")
    page.button(key="start-future").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(fitted.folder, "future")
    assert "--target vocabulary" in job.command
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert work.main(started[0]) == 0
    page = open_page(monkeypatch, fitted.folder, "ask", **STORED, to="the logits")
    assert not page.exception
    assert len(page.get("plotly_chart")) == 2


def test_without_a_store_of_the_model_the_next_step_is_named(
    monkeypatch: Any, fitted: Root
) -> None:
    typed = {"from": "My own text", "text": "the ring", **PART}
    page = open_page(monkeypatch, fitted.folder, "ask", model="atlas-dense", **typed)
    assert "Capture some text" in page.info[0].value
    assert "lensbench capture" in words(page)
    page = open_page(monkeypatch, fitted.folder, "ask", model=str(fitted.model), **typed)
    assert "Choose the store" in page.info[0].value
