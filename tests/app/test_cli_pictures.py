"""``--html``, ``--svg``, ``--png``, ``--csv``: what was measured, in files that open offline."""

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer, refused, run
from tests.app.test_cli_help import leaves
from tests.app.test_cli_json import NOT_HERE, examples

PROMPT = "The capital of Peru is"
LINE = ("lens", "text", "--model", "atlas-dense", "--prompt", PROMPT)


def figures_of(page: Path) -> list[dict[str, Any]]:
    """The figures of a page, as its script reads them."""
    text = page.read_text(encoding="utf-8")
    tags = re.findall(r'<script type="application/json" id="figure-\d+-data">(.*?)</script>', text)
    return [json.loads(tag) for tag in tags]


def numbers(value: Any) -> np.ndarray:
    """An array as plotly writes one: a list, or base64 with a type and a shape."""
    import base64

    if isinstance(value, dict):
        flat = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        shape = [int(n) for n in str(value.get("shape", flat.size)).split(",")]
        return flat.reshape(shape).astype(float)
    return np.array(value, dtype=float)


def lens() -> Any:
    from lensbench import load_model, probes

    model = load_model("atlas-dense")
    return probes.states_of_text(model, model.tokens(PROMPT)).lens(model, k=5)


def test_a_page_holds_exactly_the_numbers_and_no_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, rows = tmp_path / "new" / "a.html", tmp_path / "a.csv"
    facts = answer(capsys, *LINE, "--html", page, "--csv", rows)
    assert facts["drawn"] == [str(page), str(rows)]
    made = lens()
    (drawn,) = figures_of(page)
    expected: Any = made.plot().data[0]
    np.testing.assert_array_equal(numbers(drawn["data"][0]["z"]), np.array(expected.z, dtype=float))
    pd.testing.assert_frame_equal(
        pd.read_csv(rows, keep_default_na=False, na_values=[""]).select_dtypes("number"),
        made.to_frame().reset_index(drop=True).select_dtypes("number"),
        check_exact=False, rtol=1e-6, check_dtype=False,
    )  # fmt: skip
    text = page.read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.S)  # what is not plotly's program
    assert "http://" not in own
    assert "https://" not in own
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?!data:)", text)
    assert "default-src 'none'" in text  # nothing could be fetched if something tried
    assert "one text" in text  # the control stands beside the picture


def test_an_answer_without_pictures_is_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """Control: the option adds one line, and changes no number."""
    assert "drawn" not in answer(capsys, *LINE)


def test_two_results_stand_on_one_page_and_in_two_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, rows = tmp_path / "t.html", tmp_path / "t.csv"
    facts = answer(capsys, "probe", "tokens", "--model", "atlas-dense", "--prompt", PROMPT,
                   "--method", "leave_one_out", "--test", "--html", page, "--csv", rows,
                   "--out", tmp_path / "out")  # fmt: skip
    assert len(figures_of(page)) == 2
    assert facts["drawn"][1:] == [str(rows), str(tmp_path / "t-2.csv")]
    assert len(pd.read_csv(tmp_path / "t-2.csv")) == len(facts["faithfulness"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "arrays.safetensors", "faithfulness", "result.json",
    ]  # fmt: skip


@pytest.mark.browser
def test_a_page_is_drawn_in_a_browser_that_has_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.browser.test_report_browser import look

    page = tmp_path / "a.html"
    answer(capsys, *LINE, "--html", page)
    from lensbench.app.workflows.drawing import browser

    found = browser()
    assert found is not None
    dom, asked = look(found, page, tmp_path)
    assert dom.count('data-drawn="light"') == 1
    assert "main-svg" in dom
    assert asked == []


@pytest.mark.browser
def test_svg_and_png_are_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    answer(capsys, *LINE, "--svg", svg, "--png", png)
    text = svg.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "Lima" in text or "Venezue" in text
    assert "token at which the prediction is made" in text
    assert png.read_bytes().startswith(b"\x89PNG")
    width = int.from_bytes(png.read_bytes()[16:20], "big")
    assert width == 1920


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--out", "x.html"), "--html x.html"),
        (("--out", "x.png"), "--png x.png"),
        (("--out", "x.csv"), "--csv x.csv"),
        (("--out", "x.json"), "--json > x.json"),
        (("--html", "x.svg"), "--svg x.svg"),
        (("--htlm", "x"), "--html"),
    ],
)
def test_a_file_where_a_folder_is_meant_is_refused_before_any_work(
    given: tuple[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, "lens", "text", "--model", "no-such", "--prompt", "x", *given)
    assert not list(tmp_path.iterdir())


def test_other_folders_are_no_files_either_and_files_stay_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "looks like a file" in refused(
        capsys, "capture", "--model", "atlas-dense", "--text", "atlas:2", "--out",
        tmp_path / "a.html",
    )  # fmt: skip
    (tmp_path / "there").write_text("mine")
    assert "is a file" in refused(capsys, *LINE, "--out", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    assert run("world", "sample", "--docs", 1, "--out", tmp_path / "a.json") == 0  # a file's --out


def test_without_a_browser_the_way_that_needs_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "--html needs none" in refused(capsys, *LINE, "--svg", tmp_path / "a.svg")


def test_an_interrupted_save_leaves_no_half_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import io
    from lensbench.app.workflows.answers import saved_in

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(io, "write_json", broken)
    with pytest.raises(KeyboardInterrupt):
        saved_in(lens(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


DRAWN_QUICKLY = ("lens layers", "lens decode", "lens document", "probe geometry", "readability",
                 "latents map", "show")  # fmt: skip
"""Ways in which a result comes to be drawn; the slow test takes every command."""


def drawn(paths: Iterable[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the first examples of commands that stand here, each with a page."""
    for path in paths:
        for line in examples((path,))[:1]:
            words = [w for w in shlex.split(line)[1:] if w != "--html" and not w.endswith(".html")]
            page = folder / f"{path}.html"
            answer(capsys, *words, "--html", page)
            assert figures_of(page), line


def test_examples_of_several_kinds_are_drawn(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(workspace)
    drawn(DRAWN_QUICKLY, tmp_path, capsys)


@pytest.mark.slow
def test_examples_of_every_command_are_drawn(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(workspace)
    elsewhere = {"explain", "lens compare", "probe decode", *NOT_HERE}
    mine = [path for path, command in leaves().items() if path not in elsewhere
            and any("--html" in p.opts for p in command.params)]  # fmt: skip
    drawn(mine, tmp_path, capsys)


def test_every_command_that_saves_a_result_draws_it() -> None:
    """One place gives the options; a command whose --out is no result's has none of them."""
    drawing = {path for path, c in leaves().items() if any("--html" in p.opts for p in c.params)}
    assert {"lens text", "probe linear", "patch", "steer", "accelerate"} <= drawing
    assert not {"capture", "train sae", "report", "runs export", "store ls"} & drawing
    for path in drawing:
        names = [name for p in leaves()[path].params for name in p.opts]
        assert len(names) == len(set(names)), path
