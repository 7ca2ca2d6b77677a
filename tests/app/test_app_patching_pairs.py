"""Patching by a reader's own pairs, one place looked at closely, held-out pairs, estimates."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.driver import open_page, words
from tests.app.tiny_root import spec_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
GOOD = ("A heavy coat , a empty boat ; recall the empty",
        "A heavy boat , a empty coat ; recall the empty", "boat", "coat")  # fmt: skip
MORE = ("A grey ring , a light lamp ; recall the light",
        "A grey lamp , a light ring ; recall the light", "lamp", "ring")  # fmt: skip
SHORT = ("A heavy coat , a empty boat ; recall the empty", "A heavy boat", "boat", "coat")


def ask_of(**changes: Any) -> Any:
    from lensbench.app.workflows.patching import PatchAsk

    given = {"task": "recall", "sites": ("attn.z",), "positions": "together", "n": 6}
    return PatchAsk(**{**given, **changes})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Own pairs, one of them of two lengths."""
    monkeypatch = pytest.MonkeyPatch()
    try:
        query = {"model": "atlas-dense", "of": "My own pairs", "pairs": json.dumps([GOOD, SHORT])}
        yield open_page(monkeypatch, tmp_path_factory.mktemp("root"), "patching", **query)
    finally:
        monkeypatch.undo()


def test_typed_pairs_are_aligned_and_one_of_two_lengths_is_left_out_in_words(page: Any) -> None:
    assert not page.exception
    assert not page.error
    (told,) = [w.value.replace("\\", "") for w in page.warning]
    assert "Pair 2" in told
    assert "12 tokens against 4" in told
    assert "Left out; add or drop a word" in told
    tokens = next(d.value for d in page.dataframe if "prompt" in d.value)
    assert tokens.iloc[0]["3"] == "[coat]"
    assert tokens.iloc[1]["3"] == "[boat]"
    assert tokens.iloc[0]["4"] == ","
    assert "1 prompt pairs" in words(page) or "n = 1" in words(page)


def test_the_map_of_typed_pairs_is_the_librarys(page: Any) -> None:
    import lensbench
    from lensbench import interventions, prompts
    from tests.app.tiny_root import values

    model = lensbench.load_model("atlas-dense", certify=False)
    columns = [[v] for v in (*GOOD[:2], f" {GOOD[2]}", f" {GOOD[3]}")]
    made = interventions.patch_sweep(model, prompts.from_texts(model, *columns), "resid_pre")
    drawn = np.asarray(values(spec_of(page)["data"][0]["z"]), dtype=float)
    assert drawn.reshape(6, -1) == pytest.approx(made.effect.reshape(6, -1), abs=1e-4)


def test_the_code_on_the_page_draws_the_same_map(page: Any) -> None:
    from tests.app.tiny_root import values

    code = next(c.value for c in page.code if "patch_sweep" in c.value)
    space: dict[str, Any] = {}
    exec(code.replace("result.plot()", "figure = result.plot()"), space)
    drawn = values(spec_of(page)["data"][0]["z"])
    np.testing.assert_allclose(np.asarray(space["figure"].data[0].z), drawn, rtol=1e-4, atol=1e-6)


def test_slips_in_the_table_are_told_in_words() -> None:
    from lensbench.app.workflows.own_pairs import rows_of, rows_of_csv, rows_of_json
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match="pair 2 lacks its corrupted and foil"):
        rows_of([dict(zip(("clean", "corrupted", "answer", "foil"), GOOD, strict=True)),
                 {"clean": "a", "answer": "b"}])  # fmt: skip
    with pytest.raises(ConfigError, match="lacks the columns foil"):
        rows_of_csv("clean,corrupted,answer\na,b,c\n")
    with pytest.raises(ConfigError, match="in the address cannot be read"):
        rows_of_json("[[1,2]]")
    assert rows_of_csv("Clean,corrupted,answer,foil\n" + ",".join(f'"{v}"' for v in GOOD)) == (
        GOOD,
    )
    assert rows_of([{}, {"clean": None}]) == ()


def test_a_pair_of_equal_prompts_or_answers_says_what_is_wrong() -> None:
    import lensbench
    from lensbench.app.workflows.own_pairs import alignments, own_pairs
    from lensbench.errors import ConfigError

    model = lensbench.load_model("atlas-dense", certify=False)
    bad = ((GOOD[0], GOOD[0], "boat", "coat"), (GOOD[0], GOOD[1], "boat", "boat"))
    first, second = alignments(model, bad)
    assert "are the same" in first.why
    assert "answer and foil" in second.why
    with pytest.raises(ConfigError, match="none of the pairs can be used"):
        own_pairs(model, bad)


def test_what_the_patched_model_says_is_a_run_by_hand() -> None:
    import lensbench
    from lensbench.app.workflows.own_pairs import own_pairs
    from lensbench.app.workflows.patch_cell import pair_by_pair
    from lensbench.app.workflows.patching import kept
    from lensbench.interventions.patching.check import place_at
    from lensbench.ops import Set
    from lensbench.plan import Edit, Plan

    ask = ask_of(own=(GOOD, MORE), sites=("resid_pre",), positions="")
    result = kept(ask)
    index = int(np.nanargmax(result.effect))
    place = place_at(result, index)
    model = lensbench.load_model("atlas-dense", certify=False)
    pairs = own_pairs(model, ask.own)
    site = str(place.site)
    state = model.run(pairs.clean, capture=site).acts[place.site][0, int(str(place.position))]
    plan = Plan((Edit(place.site, Set(state), positions=(int(str(place.position)),)),))
    logits = model.run([list(pairs.corrupted_ids[0])], plan, logits="last").logits
    assert logits is not None
    best = model.tokenizer.decode([int(logits[0, -1].argmax())]).strip()
    table = pair_by_pair(ask, index)
    assert table["says now"][0].startswith(best)
    gap = float(logits[0, -1, pairs.answer[0]] - logits[0, -1, pairs.foil[0]])
    assert table["patched"][0] == pytest.approx(gap, abs=1e-3)
    assert not table["said before"][0].startswith(best), "control: unpatched it says another"


def test_a_head_is_verified_on_pairs_that_the_map_has_not_seen(monkeypatch) -> None:
    from lensbench.app.workflows import patch_cell
    from lensbench.interventions.patching import check

    seen: dict[str, Any] = {}
    plain = check.run_sweep

    def spy(engine: Any, *args: Any) -> Any:
        seen["fresh"] = set(engine.pairs.clean_ids)
        return plain(engine, *args)

    monkeypatch.setattr(check, "run_sweep", spy)
    ask = ask_of(n=8)
    result = patch_cell.kept(ask)
    best = int(np.nanargmax(result.effect))
    found = patch_cell.verify(ask, best, seed=3)
    import lensbench
    from lensbench import prompts

    model = lensbench.load_model("atlas-dense", certify=False)
    assert not seen["fresh"] & set(prompts.recall(model, n=8).clean_ids)
    frame = found.frame
    assert frame["effect"][0] > 0.9
    assert frame["effect"][1:].abs().max() < 0.3, "the control"
    assert "Stands out of 20 random steps" in found.verdict
    assert found.standing.stands_out
    dull = patch_cell.verify(ask, int(np.nanargmin(np.abs(result.effect))), seed=3)
    assert "Not outside the random steps" in dull.verdict
    assert patch_cell.verdict_of(result, best).startswith("Stands out of 20 random steps")


def test_of_places_that_do_nothing_few_stand_out() -> None:
    """Noise: every random step of a map in turn beside the others of it."""
    from lensbench.app.workflows import patch_cell
    from lensbench.standing import LEVEL, standing

    result = patch_cell.kept(ask_of(n=16, random_patches=24))
    steps = result.random_effect
    out = [standing(x, np.delete(steps, i)).stands_out for i, x in enumerate(steps)]
    assert len(steps) == 24
    assert sum(bool(x) for x in out) <= LEVEL * (len(steps) + 1)


def test_an_ablation_is_ranked_among_other_places() -> None:
    from lensbench.app.workflows import patch_cell

    ask = ask_of(n=8, how="mean", sites=("attn.z",), positions="together")
    result = patch_cell.kept(ask)
    assert "No random steps" in patch_cell.verdict_of(result, 0)
    assert "other places drawn at random" in patch_cell.verify(ask, 0).verdict


def test_three_clicks_to_a_verified_head_and_to_an_estimate(monkeypatch, tmp_path: Path) -> None:
    query = {"model": "atlas-dense", "task": "recall", "n": "8"}
    page = open_page(monkeypatch, tmp_path, "patching", **query)
    page.selectbox(key="site").set_value("attn.z").run()  # 1
    assert not page.exception
    assert page.selectbox(key="place").value == "block 0, head 3", "the largest stands first"
    page.button(key="verify").click().run()
    assert not page.exception
    assert "Stands out of 20 random steps" in page.success[0].value.replace("\\", "")
    assert "verify this one" in words(page)
    page.toggle(key="estimate").set_value(True).run()
    assert not page.exception
    assert not page.error
    assert "Rank correlation" in words(page)
    page.selectbox(key="how").set_value("zero").run()
    assert "choose denoise or noise" in page.error[0].value.replace("\\", "")


def test_a_csv_of_the_folder_is_read_and_a_bad_one_refused(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "clean,corrupted,answer,foil\n" + ",".join(f'"{v}"' for v in GOOD) + "\n"
    )
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    query = {"model": "atlas-dense", "of": "A CSV file"}
    page = open_page(monkeypatch, tmp_path, "patching", file="mine.csv", **query)
    assert not page.exception
    assert page.get("plotly_chart")
    page = open_page(monkeypatch, tmp_path, "patching", file="bad.csv", **query)
    assert not page.exception
    assert "lacks the columns clean" in page.error[0].value.replace("\\", "")
