"""The page Acceleration: predictions from a store while no block runs, a live run on a button."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.driver import open_page, words
from tests.app.tiny_root import TEXTS, make_root, spec_of, values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LIVE = "Run the model and measure"
OWN = "Let the model continue these texts, and capture that"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of a tiny model: its own text, other text with every layer, one site alone."""
    import lensbench
    from lensbench.interventions import acceleration

    made = make_root(tmp_path_factory.mktemp("root"), profile="resid", run=False)
    model = lensbench.load_model(made.model)
    acceleration.capture_own(model, ["the cat", "a plain dog saw"], made.folder / "own", 10)
    lensbench.capture(model, list(TEXTS), ["blocks.0.resid_post"], out=made.folder / "few")
    return made.folder


@pytest.fixture
def no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, a run of a block is an error, however it is made."""
    from lensbench.models.huggingface import NativeModel
    from lensbench.models.ranges import LayerRunner

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a block was run")

    for name in ("run", "run_many", "layers", "generate"):
        monkeypatch.setattr(NativeModel, name, refuse)
    monkeypatch.setattr(LayerRunner, "run", refuse)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process, at once."""
    import signal

    from lensbench.app.workflows import detached, work

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))


def table_of(root: Path) -> Any:
    import lensbench
    from lensbench.interventions import acceleration

    model = lensbench.load_model(root / "models" / "tiny")
    return acceleration.lens_table(lensbench.open_store(root / "own"), model)


def shown(page: Any) -> dict[str, str]:
    return {m.label: m.value for m in page.metric}


def test_the_page_says_what_it_needs(monkeypatch, root: Path, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "acceleration")
    assert not page.exception
    assert "No activation store in this folder yet" in words(page)
    assert "lensbench accelerate" in words(page)
    page = open_page(monkeypatch, root, "acceleration")
    assert not page.exception
    assert "Choose a store" in words(page)


def test_numbers_are_those_of_the_simulators_and_no_block_runs(
    monkeypatch, root: Path, request: pytest.FixtureRequest
) -> None:
    from lensbench.interventions import acceleration

    table = table_of(root)
    request.getfixturevalue("no_block")
    page = open_page(monkeypatch, root, "acceleration", store="own", exit="1", draft="3")
    assert not page.exception
    told = acceleration.rates(acceleration.sim_fixed(table, 1, 3))
    assert shown(page)["Drafts kept, of drafted"] == f"{100 * told.acceptance:.0f} %"
    assert shown(page)["Tokens per round"] == f"{told.tokens_per_round:.2f}"
    grid = values(spec_of(page, 2)["data"][0]["z"])
    seen = np.asarray(grid, dtype=float).reshape(table.n_layers, -1)
    assert seen[-1] == pytest.approx(1.0)
    assert seen[0, 2] == pytest.approx(told.acceptance, abs=1e-6)
    page.slider(key="threshold").set_value(0.0).run()
    assert not page.exception
    assert (
        shown(page)[f"Layers per token, of {table.n_layers}"] == "1.00"
    )  # everything leaves at the first exit
    page.slider(key="exit").set_value(table.n_layers).run()
    assert shown(page)["Drafts kept, of drafted"] == "100 %"
    assert "lensbench accelerate" in " ".join(c.value for c in page.code)


def test_where_tokens_leave_is_drawn_for_the_threshold(monkeypatch, root: Path) -> None:
    from lensbench.interventions import acceleration

    table = table_of(root)
    page = open_page(monkeypatch, root, "acceleration", store="own", threshold="0.05")
    page.selectbox(key="measure").set_value("softmax_max").run()
    assert not page.exception
    traces = acceleration.sim_calm(table, 0.05, measure="softmax_max")
    left = np.concatenate([t.exits for t in traces])
    counts = [float((left == e).mean()) for e in range(1, table.n_layers + 1)]
    assert values(spec_of(page, 1)["data"][0]["y"]) == pytest.approx(counts)


@pytest.mark.usefixtures("here")
def test_other_text_is_called_a_guess_and_own_text_is_offered(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "acceleration", store="acts")
    assert not page.exception
    assert any("a guess" in w.value for w in page.warning)
    assert not [b for b in page.button if b.label == LIVE]
    next(b for b in page.button if b.label == OWN).click().run()
    assert not page.exception
    assert any("acts" in s.value for s in page.success)  # as a job: test_app_studies
    page = open_page(monkeypatch, root, "acceleration", store="acts-own")
    assert not page.warning
    assert "wrote itself" in words(page)


def test_what_a_store_lacks_is_named(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "acceleration", store="few")
    assert not page.exception
    assert any("resid\\_pre" in i.value for i in page.info)
    assert any(b.label == OWN for b in page.button)


@pytest.mark.usefixtures("here")
def test_a_live_run_stands_beside_its_prediction(monkeypatch, root: Path) -> None:
    page = open_page(monkeypatch, root, "acceleration", store="own")
    before = len(page.get("plotly_chart"))
    next(b for b in page.button if b.label == LIVE).click().run(timeout=120)
    assert not page.exception
    assert not page.error
    assert len(page.get("plotly_chart")) == before + 5
    told, seen = (
        np.asarray(values(spec_of(page, before + i)["data"][0]["z"]), dtype=float).ravel()
        for i in (0, 1)
    )
    assert seen == pytest.approx(told, nan_ok=True)
    frame = page.dataframe[-1].value
    assert frame.loc[frame["class"] == "identical", "as predicted"].all()
    assert json.dumps(spec_of(page, before + 2)).count("measured") > 0
    assert {"agreement", "local attention"} <= {
        t["name"] for t in spec_of(page, before + 4)["data"]
    }


def test_what_is_called_measured_is_the_live_column(root: Path) -> None:
    import dataclasses

    import lensbench
    from lensbench.app.workflows.acceleration_live import drafts_of, others_of
    from lensbench.interventions import acceleration

    model = lensbench.load_model(root / "models" / "tiny")
    store = lensbench.open_store(root / "own")
    found = acceleration.acceleration_study(model, store, ["fixed_exit", "del"])
    assert drafts_of(found)["measured"].isna().all()  # nothing was run
    rows = [{**r, "meas_acceptance": 0.125, "meas_speedup": 3.0} for r in found.rows]
    changed = dataclasses.replace(found, rows=tuple(rows))
    assert set(drafts_of(changed)["measured"]) == {0.125}
    assert list(drafts_of(changed)["predicted"]) == list(drafts_of(found)["predicted"])
    assert list(others_of(changed)["speed-up, measured"]) == [3.0]


def test_stages_are_read_of_a_text_in_which_the_model_writes_its_padding_token(root: Path) -> None:
    import torch

    import lensbench
    from lensbench.interventions.acceleration import inference_stages
    from lensbench.tokens import Tokens

    model = lensbench.load_model(root / "models" / "tiny")
    pad = int(model.tokenizer.pad_token_id or 0)
    ids = torch.tensor([[5, 6, 7, pad, pad]])
    found = inference_stages(model, Tokens(ids, torch.ones_like(ids, dtype=torch.bool)))
    assert found.n_tokens == 4


def test_the_threshold_that_is_chosen_keeps_the_level(monkeypatch, root: Path) -> None:
    from lensbench.app.workflows import exit_threshold
    from lensbench.app.workflows.acceleration import ExitAsk, left

    found = exit_threshold.threshold_for(str(root / "own"), "softmax_max", 0.8)
    ask = ExitAsk(str(root / "own"), threshold=found.plain, measure="softmax_max")
    assert left(ask)["agreement"] >= 0.8  # texts of equal length: means over texts and tokens agree
    assert found.bound.threshold > 1  # two texts bound nothing
    assert found.n_needed == 14  # 0.8 ** 14 < 0.05
    assert all(n >= 14 for _, n in found.needed)
    page = open_page(monkeypatch, root, "acceleration", store="own")
    page.select_slider(key="keep").set_value(80).run()
    assert not page.exception
    assert "No threshold has a bound of 80" in words(page)
    page.button(key="use-threshold").click().run()
    assert not page.exception
    kept = exit_threshold.threshold_for(str(root / "own"), "softmax_diff", 0.8)
    assert page.slider(key="threshold").value >= min(1.0, kept.use) - 1e-9


@pytest.mark.usefixtures("here")
def test_an_empty_folder_offers_text_of_a_bundled_model(monkeypatch, tmp_path: Path) -> None:
    from lensbench.app.widgets import own_text

    monkeypatch.setattr(own_text, "EXAMPLES", 2)
    monkeypatch.setattr(own_text, "NEW", 3)
    page = open_page(monkeypatch, tmp_path, "acceleration")
    page.button(key="examples").click().run(timeout=120)
    assert not page.exception
    assert (tmp_path / own_text.FOLDER / "manifest.json").is_file()


def test_costs_are_those_of_every_text_summed(root: Path) -> None:
    """Texts are counted as one run; here one by one."""
    from lensbench.app.workflows import acceleration as page
    from lensbench.interventions import acceleration
    from lensbench.interventions.acceleration.study.cost import serial_calls
    from lensbench.interventions.acceleration.study.work import work_plain, work_rounds

    url = str(root / "own")
    found = page.held(url)
    traces = acceleration.sim_fixed(found.table, 1, 3)
    layers = found.table.n_layers
    mine, plain = ([w(t) for t in traces] for w in (
        lambda t: work_rounds(layers, t), lambda t: work_plain(layers, t.n_prompt, t.new)
    ))  # fmt: skip
    told = page.drafted(page.ExitAsk(url, 1, 3))
    flops = [sum(map(found.costs.of_work, each)) for each in (mine, plain)]
    calls = [sum(serial_calls(w, layers) for w in each) for each in (plain, mine)]
    assert told["flops_share"] == pytest.approx(flops[0] / flops[1])
    assert told["serial_speedup"] == pytest.approx(calls[0] / calls[1])


@pytest.mark.usefixtures("no_block")
def test_a_slider_neither_runs_a_block_nor_reads_the_store_again(monkeypatch, root: Path) -> None:
    """How fast that is, ``python -m benchmarks.dashboard`` tells."""
    from lensbench.app.workflows import acceleration

    page, read = open_page(monkeypatch, root, "acceleration", store="own"), list[object]()
    monkeypatch.setattr(acceleration, "lens_table", lambda *a, **_: read.append(a))
    for key, places in {"exit": (2, 3), "draft": (1, 7), "threshold": (0.15, 0.45)}.items():
        for value in places:
            before = shown(page)
            page.slider(key=key).set_value(value).run()
            assert not page.exception
            assert shown(page) != before, f"{key} at {value}"
    assert read == []
