"""The other lenses of the Lens page: sites, components, the decoder lens; special tokens grey."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.app.drawn import run_code
from tests.app.driver import files_offered, open_page, words
from tests.app.tiny_root import TEXTS, Root, save_tiny, spec_of, tiny_root, values

__all__ = ["tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SOURCES = (
    "German : the key and the bread are outside .\nFrench : the key and the bread are outside ."
)
RIGHT = "der Schlüssel und das Brot sind draußen .\nla clé et le pain sont dehors ."


def typed(monkeypatch: Any, root: Root, **query: str) -> Any:
    given = {"from": "My own text", "model": str(root.model), "text": TEXTS[0], **query}
    return open_page(monkeypatch, root.folder, "lens", **given)


def model_of(root: Root) -> Any:
    import lensbench

    return lensbench.load_model(root.model)


def redrawn(code: str) -> Any:
    space: dict[str, Any] = {}
    *lines, last = code.splitlines()
    exec("\n".join([*lines, f"figure = {last}"]), space)
    return space["figure"]


def own_code(page: Any) -> str:
    return next(c.value for c in page.code if ".plot(" in c.value or "figure_of(" in c.value)


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "resid_mid"])
def test_the_site_lens_draws_what_the_library_reads_and_its_code_repeats_it(
    monkeypatch: Any, tiny_root: Root, site: str
) -> None:
    from lensbench import probes
    from lensbench.app.workflows.lens_places import METRICS, SITES

    page = typed(monkeypatch, tiny_root, lens="Site lens", site=SITES[site])
    assert not page.exception
    assert not page.error
    lens = probes.site_lens(model_of(tiny_root), TEXTS[0], site)
    frame = lens.to_frame()
    for metric in METRICS:
        page.radio(key="score").set_value(metric).run()
        table = frame.pivot(index="order", columns="pos", values=metric).to_numpy()
        wanted = np.log10(table) if metric == "target_rank" else table
        drawn = values(spec_of(page)["data"][0]["z"])
        np.testing.assert_allclose(drawn, wanted, rtol=1e-4, atol=1e-6)
    again = np.asarray(redrawn(own_code(page)).data[0].z)
    np.testing.assert_allclose(again, drawn, rtol=1e-4, atol=1e-6)
    assert "The last row is the model's own prediction" in words(page)
    assert "Site lens" in page.query_params["lens"]


def test_what_is_added_may_be_read_as_its_share_of_the_logits(
    monkeypatch: Any, tiny_root: Root
) -> None:
    from lensbench import probes

    page = typed(monkeypatch, tiny_root, lens="Site lens", score="Entropy")
    own = values(spec_of(page)["data"][0]["z"])
    page.radio(key="norm").set_value("held").run()
    held = values(spec_of(page)["data"][0]["z"])
    lens = probes.site_lens(model_of(tiny_root), TEXTS[0], "attn_out", norm="held")
    wanted = lens.to_frame().pivot(index="order", columns="pos", values="entropy").to_numpy()
    np.testing.assert_allclose(held, wanted, rtol=1e-4)
    assert float(np.abs(own - held)[:-1].max()) > 1e-4
    page.radio(key="site").set_value("resid_mid").run()
    assert "norm" not in [r.key for r in page.radio], "the stream is a state, not an addition"


def test_components_are_drawn_a_block_at_a_time_and_sum_to_the_model(
    monkeypatch: Any, tiny_root: Root
) -> None:
    import io

    from lensbench import probes

    given = files_offered(monkeypatch)
    page = typed(monkeypatch, tiny_root, lens="Component lens", at="5")
    assert not page.exception
    assert not page.error
    lens = probes.component_lens(model_of(tiny_root), TEXTS[0])
    said = words(page)
    assert "all of them together are the model's own prediction" in said.replace("\\", "")
    named = spec_of(page)["layout"]["yaxis"]["ticktext"]
    assert named == list(lens.places)
    table = lens.to_frame().pivot(index="order", columns="pos", values="target_rank")
    drawn = values(spec_of(page)["data"][0]["z"])
    silent = np.isnan(drawn[:, :-1])
    np.testing.assert_allclose(drawn[:, :-1][~silent],
                               np.log10(table.to_numpy())[:, :-1][~silent], atol=1e-5)  # fmt: skip
    assert {lens.places[i] for i in np.flatnonzero(silent.all(1))} <= {
        p for p in lens.places if p.endswith("bias")
    }, "only what writes nothing is grey"
    page.selectbox(key="block").set_value("1").run()
    named = spec_of(page)["layout"]["yaxis"]["ticktext"]
    assert named
    assert all(n.startswith("L1") for n in named)
    csv = pd.read_csv(io.StringIO(given["lens-components-target_rank.csv"]))
    assert sorted(set(csv["place"])) == sorted(named)
    again = np.asarray(redrawn(own_code(page)).data[0].z)
    np.testing.assert_allclose(again, values(spec_of(page)["data"][0]["z"]), atol=1e-5)


def test_a_cell_says_its_best_tokens_and_who_promotes_the_next(
    monkeypatch: Any, tiny_root: Root
) -> None:
    from lensbench import probes
    from lensbench.plots import visible

    page = typed(monkeypatch, tiny_root, lens="Component lens", at="5", place="L2 MLP")
    lens = probes.component_lens(model_of(tiny_root), TEXTS[0])
    order = lens.places.index("L2 MLP")
    best, who = (d.value for d in page.dataframe[:2])
    assert best["token"].tolist() == [visible(lens.words[w]) for w in lens.top[order, 5]]
    ranks = lens.to_frame().query("pos == 5").set_index("place")["target_rank"]
    assert ranks["L2 bias"] == 1, "this model has no such bias: all tokens are equal, none is first"
    wanted = ranks[[not place.endswith("bias") for place in ranks.index]].sort_values()
    assert who["target_rank"].tolist() == wanted.head(8).tolist()
    page.selectbox(key="at").set_value(int(lens.positions[-1])).run()
    assert "nothing follows" in words(page)


def test_a_stored_sequence_is_read_by_its_own_ids(monkeypatch: Any, tiny_root: Root) -> None:
    from lensbench.app.workflows.lens_places import PlacesAsk, places_for
    from lensbench.app.workflows.lenses import LensAsk

    page = open_page(monkeypatch, tiny_root.folder, "lens", store="acts", row="17",
                     lens="Site lens")  # fmt: skip
    assert not page.exception
    assert not page.error
    stored = places_for(PlacesAsk(LensAsk(store=tiny_root.url, row=17), "mlp_out"))
    own = places_for(PlacesAsk(LensAsk(model=str(tiny_root.model), text=TEXTS[1]), "mlp_out"))
    assert stored.positions[0] == 1, "BOS has no row"
    assert stored.tokens == own.tokens[1:]
    np.testing.assert_allclose(stored.values, own.values[:, :, 1:], rtol=1e-4, atol=1e-5)
    few = places_for(PlacesAsk(LensAsk(store=tiny_root.url, row=20, max_tokens=4), "mlp_out"))
    assert len(few.tokens) == 4
    at = stored.positions.tolist().index(int(few.positions[0]))
    np.testing.assert_allclose(few.values, stored.values[:, :, at : at + 4], rtol=1e-4, atol=1e-5)


def test_a_lens_that_does_not_fit_says_which_does(monkeypatch: Any, tiny_root: Root) -> None:
    page = typed(monkeypatch, tiny_root, lens="Decoder lens")
    assert not page.exception
    assert not page.error
    assert "encoder-decoder, such as atlas-translate" in page.info[0].value.replace("\\", "")
    page.button(key="fitting").click().run()
    assert "Logit lens" in str(spec_of(page)["layout"]["title"])
    page = open_page(monkeypatch, tiny_root.folder, "lens", store="acts", row="3",
                     lens="Decoder lens")  # fmt: skip
    assert "a stored sequence" in page.info[0].value
    for kind in ("Logit lens", "Site lens", "Component lens"):
        page = typed(monkeypatch, tiny_root, model="atlas-translate", text=SOURCES, lens=kind)
        assert not page.exception
        assert not page.error
        if kind == "Logit lens":
            continue  # the address leaves a default out
        assert "The decoder lens reads this one" in page.info[0].value
        page.button(key="fitting").click().run()
        assert page.get("plotly_chart")


def test_the_decoder_lens_reads_typed_sentences_beside_its_controls(
    monkeypatch: Any, tiny_root: Root
) -> None:
    import lensbench
    from lensbench import probes

    given = files_offered(monkeypatch)
    page = typed(monkeypatch, tiny_root, model="atlas-translate", text=SOURCES)
    assert not page.exception
    assert not page.error
    assert page.selectbox(key="lens").value == "Decoder lens", "what fits is chosen"
    sources = SOURCES.splitlines()
    model = lensbench.load_model("atlas-translate")
    found = probes.decoder_lens(model, sources, max_new_tokens=48)
    assert page.dataframe[0].value["output"].tolist() == found.texts(0)["output"].tolist()[::-1]
    code = next(c.value for c in page.code if "said_by(" in c.value)
    pd.testing.assert_frame_equal(run_code(code), page.dataframe[0].value, check_dtype=False)
    page.selectbox(key="sentence").set_value(1).run()
    code = next(c.value for c in page.code if "said_by(" in c.value)
    pd.testing.assert_frame_equal(run_code(code), page.dataframe[0].value, check_dtype=False)
    assert page.dataframe[0].value["output"].tolist() == found.texts(1)["output"].tolist()[::-1]
    assert page.radio(key="measure").options == ["Same text as the model's own"]
    page.text_area(key="right").set_value(RIGHT).run()
    scored = probes.decoder_lens(model, sources, RIGHT.splitlines(), max_new_tokens=48)
    page.radio(key="measure").set_value("token_accuracy").run()
    lines = {t["name"]: values(t["y"]) for t in spec_of(page)["data"] if t.get("name")}
    for state, name in (("model", "the states of that layer"),
                        ("shuffled", "control: another sentence's states"),
                        ("reinitialised", "control: encoder re-initialised")):  # fmt: skip
        np.testing.assert_allclose(lines[name], scored.sentences("token_accuracy", state).mean(1))
    assert "n = 2 sentences" in words(page)
    assert "cannot read that layer" in words(page)
    assert "lens-decoder-token_accuracy.csv" in given
    code = next(c.value for c in page.code if "token_accuracy" in c.value)
    assert len(redrawn(code).data) >= 3
    page.text_area(key="right").set_value("der Hund").run()
    assert "1 right answers for 2 sentences" in page.error[0].value


def test_special_tokens_are_left_grey_by_their_ids(monkeypatch: Any, tiny_root: Root) -> None:
    page = typed(monkeypatch, tiny_root, metric="Entropy")
    before = values(spec_of(page)["data"][0]["z"])
    assert np.isfinite(before).all()
    page.toggle(key="grey").set_value(True).run()
    assert not page.exception
    after = values(spec_of(page)["data"][0]["z"])
    assert np.isnan(after[:, 0]).all(), "<s>"
    np.testing.assert_allclose(after[:, 1:], before[:, 1:])
    assert "Special tokens are left out" in words(page)
    again = np.asarray(redrawn(own_code(page)).data[0].z, np.float64)
    np.testing.assert_allclose(again, after, rtol=1e-4)
    page = open_page(monkeypatch, tiny_root.folder, "lens", store="acts", row="3")
    assert not page.toggle, "the store left them out"


def test_two_texts_with_a_bos_name_what_is_predicted_at_each_token(
    monkeypatch: Any, tiny_root: Root
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first, second = TEXTS[2], TEXTS[2].replace("dog saw", "cat saw", 1)
    query = {"view": "Two texts", "model": str(tiny_root.model), "text": first, "text2": second,
             "token": "␣cat", "metric": "Probability of the token"}  # fmt: skip
    page = open_page(monkeypatch, tiny_root.folder, "lens", **query)
    assert not page.exception
    assert not page.error
    heat, cells = spec_of(page)["data"][:2]
    assert "prediction made at" in cells["hovertemplate"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_root.model)
    module = AutoModelForCausalLM.from_pretrained(tiny_root.model).eval()
    ids = tokenizer(first).input_ids
    assert ids[0] == tokenizer.bos_token_id
    [cat] = tokenizer(" cat", add_special_tokens=False).input_ids
    with torch.no_grad():
        wanted = module(torch.tensor([ids])).logits[0].softmax(-1)[:, cat]
    drawn = values(heat["z"])
    np.testing.assert_allclose(drawn[-1], wanted, rtol=1e-3, atol=1e-6)
    assert not np.allclose(drawn[-1][1:], wanted[:-1], rtol=1e-3), "control: one token off"
    places = {str(c[0]): (c[3], c[4]) for c in cells["customdata"]}
    assert places["0"][0] == "&lt;s&gt;"
    for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)[1:4], 1):
        assert places[str(i)][0] == token.replace("Ġ", "␣")
        assert places[str(i)][1] == "␣cat", "the target is the token that is scored"
    page.toggle(key="grey").set_value(True).run()
    for chart in (0, 1, 2):
        z = values(spec_of(page, chart)["data"][0]["z"])
        assert np.isnan(z[:, 0]).all()
        assert np.isfinite(z[:, 1:]).all()


def test_a_site_that_a_model_has_not_is_named(tmp_path: Path) -> None:
    from lensbench.app.workflows.lens_places import PlacesAsk, places_for
    from lensbench.app.workflows.lenses import LensAsk
    from lensbench.errors import UnknownNameError

    parallel = save_tiny(tmp_path / "models" / "neox", "gpt_neox")
    with pytest.raises(UnknownNameError, match="resid_mid"):
        places_for(PlacesAsk(LensAsk(model=str(parallel), text=TEXTS[0]), "resid_mid"))
