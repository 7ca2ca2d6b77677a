"""Two texts on the Lens page: alignment, a state put from one into the other, checks, control."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensbench.app.workflows.lens_pair_answer import command_of
from tests.app.commands import answer, refused
from tests.app.driver import open_page, words
from tests.app.tiny_root import spec_of, values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FIRST = "List bag round , letter wooden , shoe clean ; recall letter"
SECOND = "List bag wooden , letter round , shoe clean ; recall letter"


def ask_of(**changes: Any) -> Any:
    from lensbench.app.workflows.lens_pair import PairAsk

    return PairAsk(**{"model": "atlas-dense", "first": FIRST, "second": SECOND, **changes})


def put_of(**changes: Any) -> Any:
    from lensbench.app.workflows.lens_pair import Put

    return Put(**{"source": 6, "source_layer": 1, "position": 6, "layer": 1, **changes})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    monkeypatch = pytest.MonkeyPatch()
    query = {"view": "Two texts", "model": "atlas-dense", "text": FIRST, "text2": SECOND,
             "src": "6", "pos": "6"}  # fmt: skip
    try:
        yield open_page(monkeypatch, tmp_path_factory.mktemp("root"), "lens", **query)
    finally:
        monkeypatch.undo()


def test_four_maps_and_a_course_are_drawn_and_the_checks_are_said(page: Any) -> None:
    assert not page.exception
    assert not page.error
    assert len(page.get("plotly_chart")) == 5
    said = words(page)
    assert "13 places, 2 of them differ (aligned token by token)" in said
    assert "changes no logit, bit for bit" in said
    assert "outside it nothing changed, to the last bit" in said
    assert "early layers need not write" in said
    ends = page.dataframe[1].value
    assert ends["run"].tolist()[-1] == "control: random state"
    assert ends["P(wooden)"].astype(float).tolist()[:3] == pytest.approx([1, 0, 1], abs=0.01)
    assert float(ends["P(wooden)"].iloc[3]) < 0.5


def test_the_command_shown_says_what_the_page_says(
    page: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Places, state and strength as they stand on the page; one answer, a control beside it."""
    from lensbench.results import load

    line = next(c.value for c in page.code if "lens pair" in str(c.value))
    assert f"--from-token 6 --from-block {page.selectbox(key='src_layer').value}" in line
    drawn, out = tmp_path / "pair.html", tmp_path / "pair"
    facts = answer(capsys, *shlex.split(line)[1:], "--html", drawn, "--out", out)
    ends = page.dataframe[1].value
    assert facts["scored"] == "wooden"
    told = [row["probability"] for row in facts["rows"]]
    assert told == pytest.approx(ends["P(wooden)"].astype(float).tolist(), abs=1e-3)
    assert facts["summary"]["largest change out of reach"] == 0
    assert facts["summary"]["logits moved by its own state put back"] == 0
    assert facts["controls"]["kl of a random state"] == facts["rows"][3]["kl"] > 0
    assert sum(not row["same"] for row in facts["alignment"]) == 2
    assert drawn.read_text(encoding="utf-8").count('type="application/json" id="figure-') == 4
    patched, second = (load(out / name) for name in ("patched", "second"))
    change = (patched.values[0] - second.values[0])[-1]
    cells = [c["change"] for c in facts["cells"] if c["layer"] == max(patched.layers)]
    np.testing.assert_allclose(cells, change, atol=1e-6)
    weak = answer(capsys, *shlex.split(line)[1:], "--strength", 0)
    assert weak["summary"]["kl"] == 0
    assert "--strength 0.5 --token sol" in command_of(ask_of(token="sol"), put_of(strength=0.5))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--strength", 2), "between them"),
        (("--state", "mlp_ou"), "Did you mean 'mlp_out'"),
        (("--metric", "ranks"), "target_rank"),
        (("--into-token", 99), "tokens 0 to"),
        (("--from-block", 99), "blocks 0 to 5"),
    ],
)
def test_what_is_not_there_is_refused(
    more: tuple[Any, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("lens", "pair", "--model", "atlas-dense", "--prompt", FIRST, "--into", SECOND)
    assert said in refused(capsys, *line, *more)


def test_the_maps_are_the_models_under_an_edit_by_hand(page: Any) -> None:
    import lensbench
    from lensbench.ops import Set
    from lensbench.plan import Edit, Plan
    from lensbench.sites import Site

    model = lensbench.load_model("atlas-dense", certify=False)
    sites = [Site("resid_post", n) for n in range(model.n_layers)]
    low = sites[0]
    state = model.run(model.tokens(FIRST), capture=low).acts[low][0, 6]
    plan = Plan((Edit(low, Set(state), positions=(6,)),))
    token = model.tokens(FIRST).ids[0, 6]
    drawn: list[Any] = []
    for one in (Plan(), plan):
        acts = model.run(model.tokens(SECOND), one, capture=sites).acts
        p = torch.stack([model.unembed(acts[s][0]).float().softmax(-1)[:, token] for s in sites])
        drawn.append(p.numpy())
    second, patched, change = (values(spec_of(page, i)["data"][0]["z"]) for i in (1, 2, 3))
    np.testing.assert_allclose(second, drawn[0], atol=1e-5)
    np.testing.assert_allclose(patched, drawn[1], atol=1e-5)
    np.testing.assert_allclose(change, drawn[1] - drawn[0], atol=1e-5)
    assert np.abs(change).max() > 0.9
    heat = spec_of(page, 3)["data"][0]
    assert (heat["zmin"], heat["zmax"]) == (-1, 1)
    ring = [s for s in spec_of(page, 3)["layout"]["shapes"] if s["type"] == "circle"]
    assert [(s["x0"] + s["x1"]) / 2 for s in ring] == [6]


@pytest.mark.parametrize("kind", ["strength", "own"])
def test_nothing_put_changes_nothing_bit_for_bit(kind: str) -> None:
    from lensbench.app.workflows.lens_pair import lens_of, unchanged

    ask = ask_of()
    put = put_of(strength=0.0) if kind == "strength" else put_of()
    plain = lens_of(ask, "second")
    same = lens_of(ask, "second", put, "patch" if kind == "strength" else "own")
    assert np.array_equal(plain.values, same.values)
    assert np.array_equal(plain.top_prob, same.top_prob)
    assert unchanged(ask, put_of()) == 0
    moved = lens_of(ask, "second", put_of())
    assert not np.array_equal(plain.values, moved.values), "control: a real patch does"


def test_a_change_lies_in_the_causal_cone_only() -> None:
    from lensbench.app.workflows.lens_pair_figures import Change

    found = Change.of(ask_of(), put_of(layer=2, position=6), "entropy")
    assert found.outside == 0
    inside = found.frame.loc[found.frame["reached"]]
    assert (inside["pos"] >= 6).all()
    assert (inside["layer"] >= 2).all()
    assert not ((inside["layer"] == 2) & (inside["pos"] > 6)).any()
    assert inside["change"].abs().max() > 0.1


def test_the_control_is_a_state_of_the_same_length() -> None:
    from lensbench.app.workflows.lens_pair import plan_of
    from lensbench.app.workflows.live import hold_model

    model = hold_model("atlas-dense").model
    lengths = []
    for kind in ("patch", "random"):
        op: Any = plan_of(model, ask_of(), put_of(), kind).edits[0].op
        lengths.append(float(op.value.norm()))
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)


def test_texts_of_two_lengths_are_aligned_by_what_they_share() -> None:
    from lensbench.app.workflows.lens_pair import alignment

    table = alignment(ask_of(second="List bag wooden , shoe clean ; recall letter"))
    shared = table[table["same"]]
    assert shared["first"].tolist() == shared["second"].tolist()
    assert table["second token"].isna().sum() >= 3
    assert shared.iloc[-1]["first"] == "letter"
    assert (int(shared.iloc[-1]["first token"]), int(shared.iloc[-1]["second token"])) == (12, 9)


@pytest.mark.parametrize(
    ("typed", "said"), [("wooden round", "2 tokens"), ("zzqq", "no token for")]
)
def test_a_token_that_is_none_is_told_in_words(typed: str, said: str) -> None:
    from lensbench.app.workflows.lens_pair import lens_of, scored
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=said):
        lens_of(ask_of(token=typed), "first")
    assert scored(ask_of(token="round"))[1].strip() == "round"


def test_an_example_fills_the_fields_and_empty_ones_say_what_to_do(
    monkeypatch, tmp_path: Path
) -> None:
    page = open_page(monkeypatch, tmp_path, "lens", view="Two texts")
    assert "Choose a model" in words(page)
    page.selectbox(key="model").set_value("atlas-dense").run()
    assert "Type two texts, or take the example pair" in words(page)
    page.button(key="example").click().run()
    assert not page.exception
    assert page.text_area(key="text").value == FIRST
    assert page.text_area(key="text2").value == SECOND
    assert len(page.get("plotly_chart")) == 5
    page.slider(key="strength").set_value(0.0).run()
    change = values(spec_of(page, 3)["data"][0]["z"])
    assert not np.asarray(change).any()
    page.text_input(key="token").set_value("wooden round").run()
    assert "2 tokens here" in page.error[0].value.replace("\\", "")


def test_tokens_to_follow_are_lines_of_their_own(monkeypatch, tmp_path: Path) -> None:
    query = {"from": "My own text", "model": "atlas-dense", "text": FIRST, "pos": "12"}
    page = open_page(monkeypatch, tmp_path, "lens", pins="round clean", **query)
    assert not page.exception
    named = {trace["name"] for trace in spec_of(page, 1)["data"]}
    assert {"round (pinned)", "clean (pinned)"} <= named
    assert spec_of(page)["data"][0]["texttemplate"] == "%{text}", "cells say their token"
