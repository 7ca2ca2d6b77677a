"""The Lens page: what is drawn is what the model computes, at the token that is named."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.app.driver import files_offered, open_page, words
from tests.app.tiny_root import (
    TEXTS,
    Root,
    make_root,
    no_run,
    save_tiny,
    spec_of,
    tiny_root,
    values,
)

__all__ = ["no_run", "tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ROW = "17"  # in the text with markup, a line break and a control character


def lens_page(monkeypatch: Any, root: Root, **query: str) -> Any:
    return open_page(monkeypatch, root.folder, "lens", **query)


def by_hand(root: Root, text: str) -> tuple[list[int], torch.Tensor]:
    """Ids of a text and the lens of every layer, straight from transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root.model)
    module = AutoModelForCausalLM.from_pretrained(root.model).eval()
    ids = tokenizer(text).input_ids
    blocks: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, out: blocks.append(out if torch.is_tensor(out) else out[0])
        )
        for layer in module.model.layers
    ]
    with torch.no_grad():
        module(torch.tensor([ids]))
        lens = torch.stack([module.lm_head(module.model.norm(h))[0] for h in blocks])
    for hook in hooks:
        hook.remove()
    return ids, lens.log_softmax(-1)


def test_a_cell_is_the_prediction_made_at_its_token_of_the_token_that_follows(
    tiny_root: Root,
) -> None:
    from lensbench.app.workflows.lenses import LensAsk, lens_for

    ids, logp = by_hand(tiny_root, TEXTS[1])
    assert ids[0] == 0, "the tokenizer adds BOS"
    frame = lens_for(LensAsk(store=tiny_root.url, row=int(ROW))).to_frame()
    for layer in range(logp.shape[0]):
        at = frame.loc[frame["layer"] == layer].set_index("pos")
        for pos in range(1, len(ids) - 1):
            assert at["target_prob"][pos] == pytest.approx(
                float(logp[layer, pos, ids[pos + 1]].exp()), abs=1e-5
            )
    kl = (logp[-1].exp() * (logp[-1] - logp[0])).sum(-1)
    first = frame.loc[frame["layer"] == 0].set_index("pos")
    np.testing.assert_allclose(first["kl_to_final"], kl[1:], rtol=1e-3)
    assert (frame.loc[frame["layer"] == logp.shape[0] - 1, "kl_to_final"] < 1e-6).all()
    shifted = float(logp[0, 4, ids[4]].exp())  # control: the token itself, not the next
    assert first["target_prob"][4] != pytest.approx(shifted, abs=1e-5)


def test_hover_names_the_token_and_the_one_that_follows(monkeypatch, tiny_root: Root) -> None:
    page = lens_page(monkeypatch, tiny_root, store="acts", row=ROW)
    heat, cells = spec_of(page)["data"][:2]
    assert heat["hoverinfo"] == "skip"
    assert "prediction made at" in cells["hovertemplate"]
    assert "token that follows" in cells["hovertemplate"]
    said = {(c[0], c[3], c[4]) for c in cells["customdata"]}  # position, token, target
    assert ("9", "␣dog", "␣&amp;") in said
    assert ("10", "␣&amp;", "␣a") in said


def test_every_token_is_a_column_of_its_own_and_its_characters_are_visible_and_inert(
    monkeypatch, tiny_root: Root
) -> None:
    layout = spec_of(lens_page(monkeypatch, tiny_root, store="acts", row="0"))["layout"]
    ticks = layout["xaxis"]
    assert len(set(values(ticks["tickvals"]).tolist())) == len(ticks["ticktext"]) == 14
    assert ticks["ticktext"].count("␣cat") == 2
    layout = spec_of(lens_page(monkeypatch, tiny_root, store="acts", row=ROW))["layout"]
    shown = layout["xaxis"]["ticktext"]
    assert "↵" in shown
    assert "␣&lt;" in shown
    assert not any("\x07" in text or "<" in text for text in shown)


@pytest.mark.parametrize("metric", ["target_prob", "target_rank", "top_prob", "entropy",
                                    "kl_to_final"])  # fmt: skip
def test_csv_and_python_give_what_is_drawn_in_a_range_of_no_single_figure(
    monkeypatch, tiny_root: Root, metric: str
) -> None:
    import io

    import pandas as pd

    given = files_offered(monkeypatch)
    page = lens_page(monkeypatch, tiny_root, store="acts", row=ROW)
    page.radio(key="metric").set_value(metric).run()
    assert not page.exception
    heat = spec_of(page)["data"][0]
    csv = pd.read_csv(io.StringIO(given[f"lens-{metric}.csv"]))
    column = "log10_target_rank" if metric == "target_rank" else metric
    table = csv.pivot(index="layer", columns="pos", values=column).to_numpy()
    np.testing.assert_allclose(values(heat["z"]), table, rtol=1e-5, equal_nan=True)
    assert f'plot("{metric}")' in page.code[0].value
    space: dict[str, Any] = {}
    *lines, last = page.code[0].value.splitlines()
    exec("\n".join([*lines, f"figure = {last}"]), space)
    np.testing.assert_allclose(np.asarray(space["figure"].data[0].z), table, rtol=1e-4)
    other = lens_page(monkeypatch, tiny_root, store="acts", row="0")
    other.radio(key="metric").set_value(metric).run()
    also = spec_of(other)["data"][0]
    assert (also["zmin"], also["zmax"]) == (heat["zmin"], heat["zmax"])


@pytest.mark.usefixtures("no_run")
def test_a_store_is_read_without_a_run_and_a_cell_is_followed_over_the_layers(
    monkeypatch, tiny_root: Root
) -> None:
    page = lens_page(monkeypatch, tiny_root, store="acts", row=ROW, pos="9", layer="1")
    assert not page.exception
    assert not page.error
    assert "Prediction made at ␣dog (token 9)" in str(spec_of(page, 1)["layout"]["title"])
    _, logp = by_hand(tiny_root, TEXTS[1])
    top = page.dataframe[0].value
    assert top["probability"].tolist() == pytest.approx(
        logp[1, 9].exp().topk(5).values.tolist(), abs=1e-4
    )
    page.selectbox(key="pos").set_value(10).run()
    assert "Prediction made at ␣&amp; (" in str(spec_of(page, 1)["layout"]["title"])


@pytest.mark.parametrize(("key", "more"), [("pos", {}), ("at", {"lens": "Component lens"})])
def test_the_token_of_the_row_is_marked_until_another_is_chosen(
    monkeypatch, tiny_root: Root, key: str, more: dict[str, str]
) -> None:
    from lensbench.app.workflows.sequences import sequence_at

    here, after = (
        sequence_at(tiny_root.url, int(ROW) + n).position_of(int(ROW) + n) for n in (0, 1)
    )
    page = lens_page(monkeypatch, tiny_root, store="acts", row=ROW, **more)
    assert not page.error
    assert page.selectbox(key=key).value == here
    page.selectbox(key=key).set_value(here - 1).run()
    assert page.selectbox(key=key).value == here - 1
    page.number_input(key="row").set_value(int(ROW) + 1).run()
    assert page.selectbox(key=key).value == after
    linked = lens_page(
        monkeypatch, tiny_root, store="acts", row=ROW, **{key: str(here - 2)}, **more
    )
    assert linked.selectbox(key=key).value == here - 2, "a link to another token shows that one"


def test_n_formula_and_the_warning_about_early_layers_are_on_the_page(
    monkeypatch, tiny_root: Root
) -> None:
    page = lens_page(monkeypatch, tiny_root, store="acts", row=ROW)
    title = str(spec_of(page)["layout"]["title"])
    assert "largest p_l" in title
    assert "n = 1 text" in title
    assert "early layers need not write in the basis" in words(page)


def test_a_typed_text_runs_the_model_once_and_agrees_with_the_store(
    monkeypatch, tiny_root: Root
) -> None:
    from lensbench.app.workflows.lenses import LensAsk, lens_for
    from lensbench.models.huggingface import NativeModel

    runs: list[int] = []
    plain = NativeModel.run
    monkeypatch.setattr(
        NativeModel, "run", lambda self, *a, **k: (runs.append(1), plain(self, *a, **k))[1]
    )
    query = {"from": "My own text", "model": str(tiny_root.model), "text": TEXTS[0]}
    page = lens_page(monkeypatch, tiny_root, **query)
    assert not page.exception
    assert not page.error
    page.radio(key="metric").set_value("entropy").run()
    assert len(runs) == 1, "the second look is kept"
    typed = lens_for(LensAsk(model=str(tiny_root.model), text=TEXTS[0])).to_frame()
    stored = lens_for(LensAsk(store=tiny_root.url, row=0)).to_frame()
    both = typed.merge(stored, on=["layer", "pos"], suffixes=("", "_stored"))
    assert len(both) == len(stored)
    np.testing.assert_allclose(both["entropy"], both["entropy_stored"], rtol=1e-4)
    assert typed["token"][0] == "<s>"


def test_a_long_sequence_is_cut_around_the_row_and_says_so(tiny_root: Root) -> None:
    from lensbench.app.workflows.lenses import LensAsk, lens_for

    lens = lens_for(LensAsk(store=tiny_root.url, row=6, max_tokens=5))
    assert len(lens.tokens) == 5
    assert 7 in lens.positions.tolist(), "row 6 is at position 7"
    assert "9 more tokens not shown" in lens.plot().layout.title.subtitle.text


def test_a_store_without_the_last_layer_draws_what_it_has_and_says_how_to_add_it(
    monkeypatch, tmp_path: Path
) -> None:
    sites = ["blocks.0.resid_post", "blocks.1.resid_post"]
    root = make_root(tmp_path, profile="sae", sites=sites, run=False)
    page = lens_page(monkeypatch, root, store="acts", row="3")
    assert not page.exception
    assert not page.error
    (note,) = page.info
    assert "blocks.2.resid_post" in str(note.value).replace("\\", "")
    (add,) = [str(c.value) for c in page.code if "lensbench.capture(" in str(c.value)]
    assert "blocks.2.resid_post" in add
    drawn = spec_of(page)
    assert set(drawn["data"][0]["y"]) == {0, 1} or len(drawn["data"][0]["z"]) == 2
    assert "final" not in str(page.get("plotly_chart")[1].proto.spec)
    from lensbench.app.workflows.lenses import LensAsk, lens_for

    part = lens_for(LensAsk(store=root.url, row=3))
    assert part.layers == (0, 1)
    assert np.isnan(part.to_frame()["kl_to_final"]).all()
    whole = make_root(tmp_path / "whole", profile="resid", run=False)
    full = lens_for(LensAsk(store=whole.url, row=3))
    np.testing.assert_allclose(part.top_prob, full.top_prob[:2], rtol=1e-4, atol=1e-6)


def test_a_store_without_any_residual_stream_has_no_lens(monkeypatch, tmp_path: Path) -> None:
    root = make_root(tmp_path, profile="sae", sites=["blocks.0.mlp_out"], run=False)
    page = lens_page(monkeypatch, root, store="acts", row="3")
    assert not page.exception
    assert not page.error
    assert len(page.info) == 1
    assert any("resid_post" in str(c.value) for c in page.code)


def test_a_store_deleted_while_its_page_is_open_is_told_in_words(
    monkeypatch, tiny_root: Root, tmp_path: Path
) -> None:
    from lensbench.app.workflows.lenses import LensAsk, lens_for
    from lensbench.errors import MissingDataError

    for name in ("acts", "other"):
        shutil.copytree(tiny_root.folder / "acts", tmp_path / name)
    root = Root(tmp_path, tiny_root.model)
    page = lens_page(monkeypatch, root, store="acts", row="3")
    assert not page.error
    shutil.rmtree(tmp_path / "acts")
    page.run()
    assert not page.exception
    assert "no store 'acts' here (any more)" in words(page).replace("\\", "")
    with pytest.raises(MissingDataError, match="any more"):  # a click that was under way
        lens_for(LensAsk(store=str(tmp_path / "acts"), row=3))


def test_a_model_that_is_gone_or_has_other_weights_is_refused(monkeypatch, tmp_path: Path) -> None:
    from lensbench.app.workflows.live import forget

    root = make_root(tmp_path, run=False)
    save_tiny(root.model, seed=5)
    forget()
    page = lens_page(monkeypatch, root, store="acts", row="3")
    assert "not of tiny" in page.error[0].value.replace("\\", "")
    shutil.rmtree(root.model)
    forget()
    page = lens_page(monkeypatch, root, store="acts", row="3")
    assert not page.exception
    assert "tiny" in page.error[0].value
    forget()


def test_nothing_is_asked_of_an_empty_or_endless_text(monkeypatch, tiny_root: Root) -> None:
    from lensbench.app.workflows.lenses import LensAsk
    from lensbench.errors import ConfigError

    page = lens_page(monkeypatch, tiny_root, **{"from": "My own text"})
    assert not page.exception
    assert not page.get("plotly_chart")
    with pytest.raises(ConfigError, match="empty"):
        LensAsk(model="atlas-dense", text="  ")
    with pytest.raises(ConfigError, match="2000"):
        LensAsk(model="atlas-dense", text="a" * 2001)
