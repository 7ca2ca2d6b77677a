"""The Attention page: patterns are the model's, and scores find heads that were planted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.app.driver import files_offered, open_page, words
from tests.app.tiny_root import TEXTS, Root, make_root, no_run, spec_of, tiny_root, values

__all__ = ["no_run", "tiny_root"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def page_of(monkeypatch: Any, root: Root, **query: str) -> Any:
    return open_page(monkeypatch, root.folder, "attention", **query)


def by_hand(root: Root, text: str) -> np.ndarray:
    """Patterns [layers, heads, query, key], straight from transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(root.model)(text).input_ids
    module = AutoModelForCausalLM.from_pretrained(root.model, attn_implementation="eager").eval()
    with torch.no_grad():
        out = module(torch.tensor([ids]), output_attentions=True)
    return torch.stack(out.attentions)[:, 0].numpy()


def planted(ids: list[int]) -> Any:
    """One layer: a previous-token, a duplicate, an induction, a first-token and an even head."""
    from lensbench.app.workflows.patterns import Patterns

    n = len(ids)
    a = np.zeros((1, 5, n, n), np.float32)
    for i in range(n):
        earlier = [j for j in range(i) if ids[j] == ids[i]]
        after = [j + 1 for j in earlier if j + 1 < i]
        for head, keys in enumerate([[max(i - 1, 0)], earlier or [0], after or [0], [0]]):
            a[0, head, i, keys] = 1 / len(keys)
        a[0, 4, i, : i + 1] = 1 / (i + 1)
    return Patterns(a, None, np.array(ids), tuple(map(str, ids)), ran_model=False)


def test_scores_find_planted_heads_and_an_even_head_scores_the_control() -> None:
    found = planted([9, 1, 2, 3, 4, 1, 2, 3, 4])
    table = found.scores().set_index(["kind", "head"])["score"]
    for head, kind in enumerate(["previous_token", "duplicate_token", "induction", "first_token"]):
        assert table[kind, head] == pytest.approx(1.0)
        assert found.best_head(kind) == f"0.{head}"
        even = found.scores(kind)["even"].iloc[0]
        assert table[kind, 4] == pytest.approx(even, abs=1e-6)
        others = [table[kind, h] for h in range(4) if h != head]
        assert max(others) < 0.6, "no planted head has another's score"
    assert found.scores("induction")["n"].iloc[0] == 4
    assert found.scores("previous_token")["n"].iloc[0] == 8


def test_a_text_without_repeats_has_no_induction_score() -> None:
    found = planted([1, 2, 3, 4])
    assert found.n_queries("induction") == 0
    assert found.scores("induction")["score"].isna().all()
    assert found.best_head("induction") == "0.0"


@pytest.mark.usefixtures("no_run")
def test_patterns_of_a_full_store_are_the_models_and_need_no_run(
    monkeypatch, tiny_root: Root
) -> None:
    theirs = by_hand(tiny_root, TEXTS[0])
    page = page_of(monkeypatch, tiny_root, store="acts", row="0", head="1.2")
    assert not page.exception
    assert not page.error
    assert page.selectbox(key="head").value == "1.2"
    heat = spec_of(page, 1)["data"][0]
    drawn = values(heat["z"])
    stored = theirs[1, 2, 1:]  # BOS has no row
    seen = np.isfinite(drawn)
    assert seen.sum() == sum(range(2, len(theirs[1, 2]) + 1)), "only keys that a query may see"
    np.testing.assert_allclose(drawn[seen], stored[seen], atol=1e-5)
    assert (heat["zmin"], heat["zmax"]) == (0, 1)


def test_a_typed_text_is_run_once_and_gives_the_same_patterns(tiny_root: Root) -> None:
    from lensbench.app.workflows.attention import AttentionAsk, patterns_for

    theirs = by_hand(tiny_root, TEXTS[0])
    typed = patterns_for(AttentionAsk(model=str(tiny_root.model), text=TEXTS[0]))
    np.testing.assert_allclose(typed.weights, theirs, atol=1e-5)
    stored = patterns_for(AttentionAsk(store=tiny_root.url, row=0))
    np.testing.assert_allclose(stored.weights[:, :, 1:], theirs[:, :, 1:], atol=1e-5)
    assert np.isnan(stored.weights[:, :, 0]).all()
    assert stored.scores("previous_token")["n"].iloc[0] == len(stored.words) - 1


def test_value_weighting_is_its_formula_and_says_that_it_needs_a_run(
    monkeypatch, tiny_root: Root
) -> None:
    from lensbench.app.workflows.attention import AttentionAsk, patterns_for

    ask = AttentionAsk(store=tiny_root.url, row=0)
    found = patterns_for(ask, run=True)
    assert found.value_norms is not None
    moved = found.weights[2, 3] * found.value_norms[2, 3]
    wanted = moved / moved.sum(-1, keepdims=True)
    frame = found.head(2, 3, weighted=True)
    np.testing.assert_allclose(
        frame["value_weighted"], wanted[frame["query"], frame["key"]], rtol=1e-5
    )
    plain = found.head(2, 3)["attention"]
    assert np.abs(frame["value_weighted"] - plain).max() > 0.05, "control: it changes something"
    page = page_of(monkeypatch, tiny_root, store="acts", row="0", weighted="true")
    assert "run once" in page.info[0].value
    page.toggle(key="run").set_value(True).run()
    assert not page.exception
    assert "share of |v|" in str(spec_of(page, 1)["data"][0]["colorbar"]["title"])


def test_what_is_given_away_is_what_is_drawn_and_the_code_draws_it_again(
    monkeypatch, tiny_root: Root
) -> None:
    import io

    import pandas as pd

    given = files_offered(monkeypatch)
    page = page_of(monkeypatch, tiny_root, store="acts", row="17", head="0.1")
    heat = spec_of(page, 1)["data"][0]
    csv = pd.read_csv(io.StringIO(given["attention-head-large.csv"]))
    table = csv.pivot(index="query", columns="key", values="attention").to_numpy()
    np.testing.assert_allclose(values(heat["z"]), table, rtol=1e-5, equal_nan=True)
    space: dict[str, Any] = {}
    *lines, last = page.code[1].value.splitlines()
    exec("\n".join([*lines, f"figure = {last}"]), space)
    np.testing.assert_allclose(
        np.asarray(space["figure"].data[0].z), table, rtol=1e-5, equal_nan=True
    )
    assert "induction" in "".join(given), "the scores too"


def test_a_store_without_patterns_says_the_command_and_offers_one_run(
    monkeypatch, tmp_path
) -> None:
    root = make_root(tmp_path, profile="resid", run=False)
    page = page_of(monkeypatch, root, store="acts", row="3")
    assert "holds no attention patterns" in page.info[0].value
    assert "blocks.0.attn.pattern" in page.code[0].value
    assert not page.get("plotly_chart")
    page.toggle(key="run").set_value(True).run()
    assert not page.exception
    assert len(page.get("plotly_chart")) == 3


def test_every_head_has_a_thumbnail_that_says_its_scores(monkeypatch, tiny_root: Root) -> None:
    page = page_of(monkeypatch, tiny_root, store="acts", row="0")
    points = spec_of(page)["data"][1]
    assert len(points["customdata"]) == 12
    assert "head 2.3" in points["customdata"][-1]
    assert "even head" in points["customdata"][-1]


def test_repeated_random_tokens_are_the_same_for_the_same_seed_and_hold_no_specials(
    monkeypatch, tiny_root: Root
) -> None:
    from lensbench.app.workflows.attention import AttentionAsk, patterns_for

    ask = AttentionAsk(model=str(tiny_root.model), repeats=8)
    ids = patterns_for(ask).ids
    assert ids[0] == 0
    assert ids[1:9].tolist() == ids[9:].tolist()
    assert len(set(ids[1:9].tolist())) == 8
    assert ids[1:].min() > 5
    other = patterns_for(AttentionAsk(model=str(tiny_root.model), repeats=8, seed=1)).ids
    assert other.tolist() != ids.tolist()
    query = {"from": "Repeated random tokens", "model": str(tiny_root.model)}
    page = page_of(monkeypatch, tiny_root, **query)
    assert not page.exception
    assert "n = 16 queries" in words(page) + str(spec_of(page, 2)["layout"]["title"])


def test_a_head_that_is_not_there_is_refused(tiny_root: Root) -> None:
    from lensbench.app.workflows.attention import AttentionAsk, patterns_for
    from lensbench.errors import ConfigError

    found = patterns_for(AttentionAsk(store=tiny_root.url, row=0))
    with pytest.raises(ConfigError, match=r"no head 1\.9; the model has 3 layers of 4 heads"):
        found.head(1, 9)
    with pytest.raises(ConfigError, match="no value vectors"):
        found.head(1, 1, weighted=True)


def test_scores_are_those_of_the_circuits_package(tiny_root: Root) -> None:
    from lensbench import load_model, probes
    from lensbench.app.workflows.attention import AttentionAsk, patterns_for

    found = patterns_for(AttentionAsk(model=str(tiny_root.model), repeats=8))
    theirs = probes.head_scores(load_model(tiny_root.model), found.ids[None]).to_frame()
    for kind in ("previous_token", "duplicate_token", "induction"):
        ours = found.scores(kind).set_index(["layer", "head"])["score"]
        same = theirs.loc[theirs["kind"] == kind].set_index(["layer", "head"])["score"]
        np.testing.assert_allclose(ours, same.loc[ours.index], atol=1e-5)


def test_the_note_goes_when_the_model_was_run_and_its_code_names_what_it_needs(
    monkeypatch, tmp_path: Path
) -> None:
    root = make_root(tmp_path, profile="resid", run=False)
    page = open_page(monkeypatch, root.folder, "attention", store="acts", row="3")
    code = next(str(c.value) for c in page.code if "lensbench.capture(" in str(c.value))
    assert "# texts: " in code
    assert "model = lensbench.load_model(" in code
    compile(code, "code", "exec")
    page.toggle(key="run").set_value(True).run()
    assert not page.exception
    assert not page.info
    assert "Add it with" not in words(page)
    assert page.get("plotly_chart")


@pytest.mark.parametrize("named", [True, False])
def test_what_a_store_of_a_world_lacks_is_added_by_what_is_copied(
    monkeypatch, tmp_path: Path, named: bool
) -> None:
    """A command where it can say the settings; else Python that makes the text from its recipe."""
    import shlex

    import lensbench
    from lensbench.worlds.atlas import Atlas
    from tests.app.commands import run

    model = lensbench.load_model("atlas-dense", certify=False)
    more: dict[str, Any] = {} if named else {"positions": slice(1, None)}
    lensbench.capture(model, Atlas(0).sample(5, "all", 0), ["blocks.5.resid_post"],
                      out=tmp_path / "acts", exclude_special=True, **more)  # fmt: skip
    page = open_page(monkeypatch, tmp_path, "attention", store="acts", row="17")
    assert "holds no attention patterns" in page.info[0].value
    assert "lensbench heads scores --model atlas-dense" in words(page)
    copied = str(page.code[0].value)
    if named:
        assert "--text atlas:5:all:0" in copied
        assert run(*shlex.split(copied)[1:]) == 0
    else:
        exec(copied, {})
    page = open_page(monkeypatch, tmp_path, "attention", store="acts", row="17")
    assert not page.exception
    assert not page.info
    assert len(page.get("plotly_chart")) == 3
