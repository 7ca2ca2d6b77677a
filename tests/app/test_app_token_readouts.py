"""Probe and hyperdimensional read-outs of the Token page: fitted once, read without a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.app.driver import open_page, words
from tests.app.tiny_root import Root, no_run, tiny_root

__all__ = ["no_run", "tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SITES = [f"blocks.{n}.resid_post" for n in range(2, 6)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the atlas with the upper layers, and mean-difference probes of two labels."""
    from lensbench import capture
    from lensbench.app.workflows import probe_page, token_probes
    from lensbench.app.workflows.models import open_model
    from lensbench.app.workflows.probing import ProbeAsk
    from lensbench.worlds.atlas import Atlas

    root = tmp_path_factory.mktemp("read")
    model = open_model("atlas-dense", certify=False)
    capture(model, Atlas(0).sample(120, "all", 0), sites=SITES, out=root / "acts")
    url = str(root / "acts")
    given = token_probes.ask_for
    token_probes.ask_for = lambda _: ProbeAsk(url, ("is_name", "is_comma"), sites=(SITES[1],))
    try:
        probe_page.fit(token_probes.settings_for(root, url), lambda *_, **__: None)
    finally:
        token_probes.ask_for = given
    return root


def first(root: Path, label: str) -> int:
    """The first row where a label of the text is true."""
    from lensbench.app.workflows.token_probes import _labels

    return int(np.flatnonzero(_labels(str(root / "acts"))[label])[3])


def told(page: Any) -> str:
    assert not page.exception
    return words(page).replace("\\", "")


def test_probes_are_read_from_the_store_without_a_run(
    monkeypatch: Any, fitted: Path, request: pytest.FixtureRequest
) -> None:
    from lensbench.app.workflows.live import hold_model
    from lensbench.app.workflows.token_probes import probe_cell
    from lensbench.store import open_store

    hold_model("atlas-dense")  # opening it runs it once, to certify it
    request.getfixturevalue("no_run")

    row = first(fitted, "is_name")
    found = {one.probe.label: one for one in probe_cell(fitted, str(fitted / "acts"), row)}
    one = found["is_name"]
    assert (one.says, one.truth) == ("yes", "yes")
    assert found["is_comma"].says == found["is_comma"].truth == "no"
    x = open_store(fitted / "acts").rows(SITES[1], [row])
    out = float((x @ one.probe.weights.T + one.probe.bias)[0, 0])
    assert one.probability == pytest.approx(1 / (1 + np.exp(-out)))
    assert one.n_test > 10
    assert 0 < one.chance <= 1
    page = open_page(monkeypatch, fitted, "token", store="acts", row=str(row))
    said = told(page)
    assert "Probe read-outs" in said
    assert "2 of 2 agree with the text's labels here" in said
    assert "chance" in said
    assert "Not in this version" not in said
    table = next(t.value for t in page.dataframe if "the text says" in t.value)
    assert table["label"].tolist() == ["is name"], "what is said or true here"
    page.selectbox(key="probes-shown").set_value(False).run()
    table = next(t.value for t in page.dataframe if "the text says" in t.value)
    assert len(table) == 2


def test_labels_kept_beside_the_probes_are_those_of_the_text(fitted: Path) -> None:
    from lensbench.app.workflows import token_probes

    url = str(fitted / "acts")
    direct = token_probes._labels(url)
    assert (token_probes.folder_for(fitted, url) / token_probes.TRUTH).is_file()
    for row in (0, 7, 8, 101):
        kept = token_probes.labels_at(fitted, url, row)
        assert kept == {n: "yes" if v[row] else "no" for n, v in direct.items()}
        assert token_probes.labels_at(fitted / "elsewhere", url, row) == kept


def test_a_probe_is_taken_out_and_turned_as_plain_hooks_do(monkeypatch: Any, fitted: Path) -> None:
    from lensbench.app.workflows.models import open_model
    from lensbench.app.workflows.token_checks import place_of
    from lensbench.app.workflows.token_probe_check import check_probe
    from lensbench.app.workflows.token_probes import probe_named
    from lensbench.ops import Project
    from lensbench.plan import Plan, edit

    url, row = str(fitted / "acts"), first(fitted, "is_name")
    found = check_probe(fitted, url, row, "is_name")
    w = torch.from_numpy(probe_named(fitted, url, row, "is_name").probe.weights[0]).float()
    place, model = place_of(url, row), open_model("atlas-dense", certify=False)
    plan = edit(SITES[1], Project((w / w.norm())[None]), positions=[place.position])
    clean, out = (model.run(place.ids, p).logits[0, place.position] for p in (Plan(), plan))
    p, q = clean.log_softmax(-1), out.log_softmax(-1)
    assert found.value == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-2, abs=1e-7)
    assert found.control >= 0
    assert "random" in found.verdict
    page = open_page(monkeypatch, fitted, "token", store="acts", row=str(row))
    page.button(key="verify-probe").click().run()
    assert "turned round" in told(page)
    assert {m.label for m in page.metric} >= {"Measured (nats)", "Control (nats)"}
    offered(monkeypatch, fitted, row, "probe")


def offered(monkeypatch: Any, root: Path, row: int, kind: str) -> None:
    """The table of a cell and that of its check are files, and are made again by their code."""
    from tests.app.test_app_tables import Case, complaints, visit

    query = {"store": "acts", "row": str(row), "hyper-task": "question"}
    names = (f"token-{kind if kind == 'hyper' else 'probes'}", f"check-{kind}")
    with monkeypatch.context() as m:
        seen = visit(Case("token", names, query, press=(f"verify-{kind}",)), root, m)
        assert [complaints(seen.get(name)) for name in names] == [[], []]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process, at once."""
    import signal

    from lensbench.app.workflows import detached, work

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))


@pytest.mark.usefixtures("here")
def test_without_probes_the_cell_says_the_command_and_fits_at_a_click(
    monkeypatch: Any, fitted: Path, tmp_path: Path, tiny_root: Root
) -> None:
    from lensbench.app.workflows import jobs, token_probes
    from lensbench.app.workflows.probing import ProbeAsk

    (tmp_path / "acts").symlink_to(fitted / "acts")
    small = lambda url: ProbeAsk(url, ("is_comma",), sites=(SITES[0],))  # noqa: E731 - a stand-in
    monkeypatch.setattr(token_probes, "ask_for", small)
    row = str(first(fitted, "is_comma"))
    page = open_page(monkeypatch, fitted, "token", store="acts", row=row)
    assert "no probe of this model" not in told(page)
    other = tmp_path / "other"
    other.mkdir()
    import shutil

    shutil.copytree(fitted / "acts", other / "acts")
    page = open_page(monkeypatch, other, "token", store="acts", row=row)
    assert "no probe of this model is kept here" in told(page)
    assert "lensbench probe linear" in told(page)
    page.button(key="fit-probes").click().run()
    assert "1 of 1 agree" in told(page)
    [job] = jobs.all_jobs(other, "probes")
    assert (job.state, job.result["probes"]) == ("finished", 1)
    assert "fit-probes" not in {b.key for b in page.button}, "all that the page fits is there"
    page = open_page(monkeypatch, tiny_root.folder, "token", store="acts", row="17")
    assert "has no labels to fit one on" in told(page)
    assert "--label-file" in told(page)
    assert "fit-probes" not in {b.key for b in page.button}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies of a few prompts, with one baseline."""
    from functools import partial

    from lensbench import probes
    from lensbench.app.workflows import token_hyper
    from lensbench.probes.hd.study import DEFAULT_ENCODER

    monkeypatch.setattr(token_hyper, "N_TRAIN", 120)
    monkeypatch.setattr(token_hyper, "N_TEST", 20)
    quick = DEFAULT_ENCODER.model_copy(update={"max_epochs": 2})
    study = partial(probes.hd_study, baselines=("shuffled labels",))
    monkeypatch.setattr(probes, "hd_study", lambda *a, **k: study(*a, **{**k, "encoder": quick}))


@pytest.mark.usefixtures("here", "small")
def test_a_concept_is_read_from_the_store_beside_chance(
    monkeypatch: Any, fitted: Path, request: pytest.FixtureRequest
) -> None:
    from lensbench.app.workflows import token_hyper

    url, row = str(fitted / "acts"), first(fitted, "before_answer")
    page = open_page(monkeypatch, fitted, "token", store="acts", row=str(row))
    assert "no hyperdimensional encoder" in told(page)
    page.selectbox(key="hyper-task").set_value("question").run()
    assert "--task question" in told(page)
    page.button(key="fit-hyper").click().run()
    assert "held-out prompts" in told(page)
    assert "shuffled labels 0.0" in told(page)
    page.button(key="verify-hyper").click().run()
    assert "the direction of" in told(page)
    offered(monkeypatch, fitted, row, "hyper")
    request.getfixturevalue("no_run")
    found = token_hyper.hyper_cell(fitted, url, row, "question")
    assert len(found.study.right) == 20
    concepts = token_hyper.opened(fitted, token_hyper.hold_store(url), "question")[1]
    assert found.study.n_concepts == len(concepts)
    assert found.found["similarity"].is_monotonic_decreasing
    assert len(found.found) == token_hyper.SHOWN
    for column in ("above the threshold", "follows"):  # said of every concept, not left empty
        assert set(found.found[column]) <= {"yes", "no"}
    again = open_page(monkeypatch, fitted, "token", store="acts", row=str(row))
    assert "Threshold" in told(again)


@pytest.mark.usefixtures("here", "small")
def test_the_direction_read_is_the_gradient_of_the_read_out(fitted: Path) -> None:
    from lensbench.app.workflows import hyper, token_hyper

    url, row = str(fitted / "acts"), first(fitted, "before_answer")
    if not token_hyper.tasks_kept(fitted, url):
        hyper.facts(token_hyper.ask_for(url, "question"), fitted / "hyper" / "one")
    layer, u = token_hyper.reading_direction(fitted, url, row, "question", "Quito")
    assert layer == 2
    assert float(u.norm()) == pytest.approx(1.0, rel=1e-4)
    store = token_hyper.hold_store(url)
    encoder, memory, study = token_hyper.opened(fitted, store, "question")
    states = token_hyper.stored_states(store, np.array([row]), layers=study.layers)
    x = token_hyper.ingest_layers(states)[0]

    def read(v: torch.Tensor) -> float:
        out = encoder.raw(v[None])[0, -1].float()
        wanted = memory.space.real(memory.vector("Quito")[None])[0].float()
        return float(torch.nn.functional.cosine_similarity(out, wanted, dim=0))

    step = 0.2 * x.std() * u
    assert read(x + step) > read(x) > read(x - step)
