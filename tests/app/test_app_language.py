"""The page Latent language: bundled words and own ones, its controls, its job, its address."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.drawn import run_code
from tests.app.driver import files_offered, open_page, words
from tests.app.linking import walk
from tests.app.tiny_root import Root, spec_of, tiny_root, values

__all__ = ["tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
OWN = "en, fr, de\ndog, chien, Hund\nfish, poisson, Fisch\nbread, pain, Brot"
ATLAS = {"model": "atlas-dense"}
MINE = {"model": "atlas-dense", "words": "My own words", "lexicon": OWN}


def lines_of(page: Any) -> dict[str, Any]:
    return {t["name"]: values(t["y"]) for t in spec_of(page)["data"]
            if t.get("name") and t["type"] == "scatter"}  # fmt: skip


def test_the_bundled_words_are_measured_as_the_library_does(
    monkeypatch: Any, tiny_root: Root
) -> None:
    from lensbench import load_model, probes
    from lensbench.app.workflows.prompting import words_given

    page = open_page(monkeypatch, tiny_root.folder, "language", **ATLAS)
    assert not page.exception
    assert not page.error
    table, how = words_given("atlas")
    prompts = probes.translation_prompts(table, "fr", "de", **how)
    found = probes.latent_language(load_model("atlas-dense"), prompts, table, target="de",
                                   pivot="en")  # fmt: skip
    drawn = lines_of(page)
    np.testing.assert_allclose(drawn["de"], found.prob[2].mean(-1), rtol=1e-3)
    np.testing.assert_allclose(drawn["en, other words"], found.others[0].mean(-1), rtol=1e-3)
    said = words(page).replace("\\", "")
    assert "n = 34 words (left out: pivot inside the target word: 1)" in said
    assert "at no layer" in said
    assert "lensbench lens language --model atlas-dense --words atlas" in said
    means = page.dataframe[0].value
    np.testing.assert_allclose(means["de"], found.prob[2].mean(-1), rtol=1e-3)
    np.testing.assert_allclose(means["en, random tokens"], found.random[0].mean(-1), rtol=1e-3)
    page.radio(key="curve").set_value("energy").run()
    code = next(c.value for c in page.code if ".plot('energy')" in c.value)
    again = run_code(code).data
    np.testing.assert_allclose(again[-1].y, found.energy.mean(-1), rtol=1e-3)
    page.selectbox(key="into-language").set_value("en").run()
    assert page.selectbox(key="pivot").value != "en", "no language stands between itself"
    assert not page.exception


def test_own_words_are_read_line_by_line(monkeypatch: Any, tiny_root: Root) -> None:
    page = open_page(monkeypatch, tiny_root.folder, "language", **MINE)
    page.download_button(key="words-file").click().run()
    assert not page.exception
    given = files_offered(monkeypatch)
    page = open_page(monkeypatch, tiny_root.folder, "language", model="atlas-dense",
                     words="My own words")  # fmt: skip
    assert "Type a line of languages" in page.info[0].value
    page.button(key="example-words").click().run()
    assert not page.exception
    assert not page.error
    assert "n = 3 words" in words(page)
    assert "de : Hund" not in page.caption[1].value
    assert page.number_input(key="shots").max == 2
    assert json.loads(given["words.json"])["fr"] == ["chien", "poisson", "pain"]
    page.text_input(key="template").set_value("{source} - {target}").run()
    assert "chien" in words(page)
    assert "{source} - {target}" in next(c.value for c in page.code if "lens language" in c.value)
    for text, told in (("en", "first line"), ("en, en\ndog, dog", "each language once"),
                       ("en, fr\ndog", "line 2"), ("en, fr\ndog, chien", "2"),
                       ("en, fr, de\nzyx, zyw, zyv\nzya, zyb, zyc", "no token")):  # fmt: skip
        page.text_area(key="lexicon").set_value(text).run()
        assert not page.exception
        assert told in page.error[0].value


@pytest.mark.parametrize(
    ("first", "changes"),
    [
        (ATLAS, {"source": "en", "into-language": "fr", "pivot": "de", "shots": 1,
                 "curve": "energy"}),
        (MINE, {"template": "{source} : {target}", "shots": 1, "pivot": "fr"}),
    ],
)  # fmt: skip
def test_the_address_shows_the_same(
    monkeypatch: Any, tiny_root: Root, first: dict[str, str], changes: dict[str, Any]
) -> None:
    keys = walk(monkeypatch, tiny_root.folder, "language", first, changes)
    assert keys - {"lexicon", "template"} == {"model", "words", "source", "into-language", "pivot",
                                              "shots", "curve"}  # fmt: skip


def test_a_large_one_is_a_job_with_its_words_beside_it(monkeypatch: Any, tiny_root: Root) -> None:
    from lensbench.app.workflows import detached, jobs, languages, work

    started: list[Path] = []
    monkeypatch.setattr(languages, "AT_ONCE", 0)
    monkeypatch.setattr(detached, "start", lambda _argv, folder, **_: started.append(folder))
    page = open_page(monkeypatch, tiny_root.folder, "language", **MINE)
    assert not page.get("plotly_chart")
    page.button(key="start-language").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(tiny_root.folder, "language")
    assert "words.json" in job.command
    assert work.main(started[0]) == 0
    page = open_page(monkeypatch, tiny_root.folder, "language", **MINE)
    assert not page.exception
    drawn = lines_of(page)
    monkeypatch.setattr(languages, "AT_ONCE", 1e12)
    page = open_page(monkeypatch, tiny_root.folder, "language", **MINE)
    for name, line in lines_of(page).items():
        np.testing.assert_allclose(line, drawn[name], rtol=1e-4, atol=1e-9)


def test_models_that_cannot_be_asked_are_told(monkeypatch: Any, tiny_root: Root) -> None:
    page = open_page(monkeypatch, tiny_root.folder, "language")
    assert "Choose a model" in page.info[0].value
    page = open_page(monkeypatch, tiny_root.folder, "language", model="othello")
    assert "tokenizer knows" in page.error[0].value
    page = open_page(monkeypatch, tiny_root.folder, "language", model="atlas-translate")
    assert "an encoder and a decoder" in page.info[0].value
    page.button(key="to-decoder").click().run()
    assert not page.exception
    assert page.title[0].value == "Lens"
    assert page.selectbox(key="model").value == "atlas-translate"
