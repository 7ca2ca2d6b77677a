"""The page Ask a state: a state in another prompt, its controls, its cell, its job."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.drawn import run_code
from tests.app.driver import files_offered, open_page, words
from tests.app.linking import walk
from tests.app.tiny_root import TEXTS, Root, spec_of, tiny_root, values

__all__ = ["tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TARGET = "the dog saw the log"
KEYS = {"ask", "from", "model", "text", "pos", "token", "target", "slot", "reading", "layer",
        "into", "write"}  # fmt: skip


def typed(monkeypatch: Any, root: Root, **query: str) -> Any:
    given = {"from": "My own text", "model": str(root.model), "text": TEXTS[0],
             "target": TARGET, **query}  # fmt: skip
    return open_page(monkeypatch, root.folder, "ask", **given)


def made(root: Root, position: int, **more: Any) -> Any:
    import lensbench
    from lensbench import probes

    model = lensbench.load_model(root.model)
    source = probes.Spot(TEXTS[0], position)
    return probes.transplant_layers(model, source, probes.Spot(TARGET, -1), **more), model


def test_the_map_is_the_librarys_and_its_code_repeats_it(monkeypatch: Any, tiny_root: Root) -> None:
    page = typed(monkeypatch, tiny_root, pos="4")
    assert not page.exception
    assert not page.error
    wanted, _ = made(tiny_root, 4)
    for view in ("prob", "above", "top_prob", "kl"):
        page.radio(key="reading").set_value(view).run()
        frame = wanted.to_frame().pivot(index="layer", columns="into", values=view).to_numpy()
        drawn = values(spec_of(page)["data"][0]["z"])
        np.testing.assert_allclose(drawn, frame, rtol=1e-3, atol=1e-6)
        assert np.ptp(frame) > 0
    code = next(c.value for c in page.code if ".plot('kl')" in c.value)
    np.testing.assert_allclose(np.asarray(run_code(code).data[0].z), drawn, rtol=1e-3, atol=1e-6)
    said = words(page)
    assert "a mean state and 3 random ones" in said
    assert "lensbench lens ask" in said
    assert "**log**" in said.replace("␣", "").replace("\\", ""), "the prompt's last token"


def test_a_cell_says_what_every_control_says(monkeypatch: Any, tiny_root: Root) -> None:
    page = typed(monkeypatch, tiny_root, pos="4", layer="1", into="0")
    wanted, model = made(tiny_root, 4)
    cell = wanted.at(1, 0)
    table = page.dataframe[0].value
    assert table["with"].tolist()[0] == "this state"
    assert [f"{p:.3f}" for p in cell["prob"]] == table.iloc[:, 2].tolist()
    assert len(table) == 5
    assert not page.dataframe[1:], "nothing is written until it is asked for"
    page.slider(key="write").set_value(3).run()
    assert not page.exception
    from lensbench import probes

    one = probes.transplant(model, probes.Spot(TEXTS[0], 4, 1), probes.Spot(TARGET, -1, 0),
                            max_new_tokens=3)  # fmt: skip
    text = page.dataframe[1].value
    np.testing.assert_allclose(text["p_with"], one.p_with[0], rtol=1e-3)
    page.text_input(key="token").set_value("␣cat").run()
    [cat] = model.tokenizer(" cat", add_special_tokens=False).input_ids
    again, _ = made(tiny_root, 4, scored=cat)
    assert table.columns[2] != page.dataframe[0].value.columns[2]
    assert [f"{p:.3f}" for p in again.at(1, 0)["prob"]] == page.dataframe[0].value.iloc[
        :, 2
    ].tolist()
    page.text_input(key="slot").set_value("dog").run()
    assert "cannot reach the prompt's end" in words(page)
    page.text_input(key="slot").set_value("zebra").run()
    assert "zebra" in page.error[0].value


def test_a_stored_sequence_gives_the_state_of_its_own_ids(
    monkeypatch: Any, tiny_root: Root
) -> None:
    page = open_page(monkeypatch, tiny_root.folder, "ask", store="acts", row="3", pos="4",
                     target=TARGET)  # fmt: skip
    assert not page.exception
    assert not page.error
    wanted, _ = made(tiny_root, 4)
    frame = wanted.to_frame().pivot(index="layer", columns="into", values="prob").to_numpy()
    np.testing.assert_allclose(values(spec_of(page)["data"][0]["z"]), frame, rtol=1e-3, atol=1e-6)
    code = next(c.value for c in page.code if ".plot(" in c.value)
    np.testing.assert_allclose(np.asarray(run_code(code).data[0].z), frame, rtol=1e-3, atol=1e-6)


def test_ready_prompts_are_those_the_model_has_words_for(monkeypatch: Any, tiny_root: Root) -> None:
    page = typed(monkeypatch, tiny_root, target="")
    assert "Type the prompt" in page.info[0].value
    page.button(key="ready-selfie").click().run()
    assert not page.exception
    assert page.text_input(key="slot").value == "_"
    assert len(page.get("plotly_chart")) == 1
    page.button(key="ready-identity").click().run()
    assert page.text_area(key="target").value.startswith("cat -> cat")
    page = typed(monkeypatch, tiny_root, model="atlas-dense", text="the ring", target="")
    keys = {b.key for b in page.button if b.key and b.key.startswith("ready-")}
    assert keys == {"ready-example"}, "an atlas has no arrows"
    page.button(key="ready-example").click().run()
    assert len(page.get("plotly_chart")) == 1


def test_the_address_shows_the_same(monkeypatch: Any, tiny_root: Root) -> None:
    first = {"from": "My own text", "model": "models/tiny", "text": TEXTS[0], "target": TARGET}
    changes = {"pos": 3, "token": "␣cat", "slot": "dog", "reading": "kl", "layer": 0, "into": 2,
               "write": 2}  # fmt: skip
    assert walk(monkeypatch, tiny_root.folder, "ask", first, changes) == KEYS


def test_a_cell_of_the_lens_leads_there(monkeypatch: Any, tiny_root: Root) -> None:
    query = {"from": "My own text", "model": str(tiny_root.model), "text": TEXTS[0], "pos": "4",
             "layer": "1"}  # fmt: skip
    page = open_page(monkeypatch, tiny_root.folder, "lens", **query)
    page.button(key="ask-state").click().run()
    assert not page.exception
    assert page.title[0].value == "Ask a state"
    assert page.selectbox(key="pos").value == 4
    assert page.selectbox(key="layer").value == 1
    assert len(page.get("plotly_chart")) == 1
    page = open_page(monkeypatch, tiny_root.folder, "lens", store="acts", row="20")
    page.button(key="ask-state").click().run()
    assert not page.exception
    assert page.title[0].value == "Ask a state"
    assert len(page.get("plotly_chart")) == 1


def test_a_large_one_is_a_job_whose_result_the_page_shows(
    monkeypatch: Any, tiny_root: Root
) -> None:
    from lensbench.app.workflows import detached, jobs, lens_ask, work

    started: list[Path] = []
    monkeypatch.setattr(lens_ask, "AT_ONCE", 0)
    monkeypatch.setattr(detached, "start", lambda _argv, folder, **_: started.append(folder))
    page = typed(monkeypatch, tiny_root, pos="4")
    assert not page.get("plotly_chart")
    page.button(key="start-asked").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(tiny_root.folder, "asked")
    assert "lens ask" in job.command
    assert work.main(started[0]) == 0
    page = typed(monkeypatch, tiny_root, pos="4")
    assert not page.exception
    wanted, _ = made(tiny_root, 4)
    frame = wanted.to_frame().pivot(index="layer", columns="into", values="prob").to_numpy()
    np.testing.assert_allclose(values(spec_of(page)["data"][0]["z"]), frame, rtol=1e-3, atol=1e-6)


def test_tables_and_figure_are_files(monkeypatch: Any, tiny_root: Root) -> None:
    given = files_offered(monkeypatch)
    typed(monkeypatch, tiny_root, pos="4", write="2")
    assert {"ask-prob.csv", "ask-prob.html", "ask-cell.csv", "ask-text.json"} <= set(given)
    assert "prob_random" in given["ask-prob.csv"]


def test_the_state_is_that_of_the_row_asked_for(monkeypatch: Any, tiny_root: Root) -> None:
    from lensbench.app.workflows.sequences import sequence_at

    store = str(tiny_root.folder / "acts")
    for row in (3, 20):
        page = open_page(monkeypatch, tiny_root.folder, "ask", store="acts", row=str(row))
        assert page.selectbox(key="pos").value == sequence_at(store, row).position_of(row)
