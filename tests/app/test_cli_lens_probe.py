"""``lensbench lens`` and ``lensbench probe``: the library's numbers, and slips in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import answer, refused, run
from tests.app.conftest import SITE, STORE
from tests.app.driver import open_page, words

PROMPT = "List bag round , letter wooden , shoe clean ; recall letter"


def test_every_layer_of_a_text_is_the_lens_of_the_library(tmp_path: Path, capsys: Any) -> None:
    import lensbench
    from lensbench import probes, results

    line = ("lens", "text", "--model", "atlas-dense", "--prompt", PROMPT, "--at", 5)
    facts = answer(capsys, *line, "--out", tmp_path / "t")
    model = lensbench.load_model("atlas-dense", certify=False)
    made = probes.states_of_text(model, model.tokens(PROMPT)).lens(model, k=5)
    assert facts["token"] == made.tokens[5]
    assert [r["probability"] for r in facts["layers"]] == pytest.approx(made.top_prob[:, 5, 0])
    assert facts["layers"][-1]["kl_to_final"] == pytest.approx(0, abs=1e-6)
    assert results.load(facts["saved"]).kind == "TokenLens"
    assert run(*line) == 0
    assert "after token 5" in capsys.readouterr().out


def test_stored_layers_need_the_last_one_and_say_so(small_root: Path, capsys: Any) -> None:
    told = refused(capsys, "lens", "layers", "--store", small_root / STORE)
    assert "blocks.5.resid_post" in told


def test_neurons_are_listed_clearest_first_and_agree_with_themselves(capsys: Any) -> None:
    facts = answer(capsys, "lens", "neurons", "--model", "atlas-dense", "--top", 7,
                   "--against", "atlas-dense")  # fmt: skip
    clear = [row["top_prob"] for row in facts["neurons"]]
    assert len(clear) == 7
    assert clear == sorted(clear, reverse=True)
    assert facts["agreement"]["same"] == 1
    assert "no side of a neuron" in refused(
        capsys, "lens", "neurons", "--model", "atlas-dense", "--side", "out"
    )


def test_the_decoder_lens_wants_an_encoder_and_sentences(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "s.txt").write_text("the cat\n\nthe dog\n")
    (tmp_path / "none.txt").write_text("\n")
    line = ("lens", "decoder", "--model", "atlas-dense", "--text")
    assert "atlas-dense" in refused(capsys, *line, tmp_path / "s.txt")
    assert "holds no sentence" in refused(capsys, *line, tmp_path / "none.txt")
    assert "no such file" in refused(capsys, *line, tmp_path / "away.txt")


def test_tokens_behind_a_prediction_and_their_faithfulness(capsys: Any) -> None:
    """The copied word, the key and its first mention decide what is recalled."""
    facts = answer(capsys, "probe", "tokens", "--model", "atlas-dense", "--prompt", PROMPT,
                   "--method", "leave_one_out", "--test", "--top", 3)  # fmt: skip
    assert facts["targets"] == ["wooden"]
    assert {row["token"] for row in facts["tokens"]} == {"letter", "wooden"}
    beaten = {row["metric"]: row["beats_shuffles"] for row in facts["faithfulness"]}
    assert beaten["sufficiency"] > 0.9
    assert "no attribution method" in refused(
        capsys, "probe", "tokens", "--model", "atlas-dense", "--prompt", PROMPT, "--method", "lime"
    )


def test_linear_probes_come_best_first_with_their_controls(
    small_root: Path, tmp_path: Path, capsys: Any
) -> None:
    from lensbench import results

    line = ("probe", "linear", "--store", small_root / STORE, "--labels", "is_comma", "--labels",
            "starts_upper", "--max-rows", 2000)  # fmt: skip
    facts = answer(capsys, *line, "--out", tmp_path / "p")
    assert facts["probes"] == 2
    scores = [row["score"] for row in facts["rows"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95
    assert scores[1] > facts["summary"]["mean_shuffled_labels"] + 0.2
    assert facts["summary"]["mean_shuffled_labels"] < 0.6
    assert results.load(facts["saved"]).kind == "ProbeSweep"
    assert run(*line) == 0
    assert SITE in capsys.readouterr().out
    assert "Did you mean 'is_comma'" in refused(
        capsys, "probe", "linear", "--store", small_root / STORE, "--labels", "is_coma"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_shows_a_label_beside_its_controls(
    small_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(monkeypatch, small_root, "probe", store=STORE, labels="is_comma")
    assert not page.exception
    assert not page.error
    assert page.multiselect[0].value == ["is_comma"]
    assert page.multiselect[1].value == [SITE]
    assert "Not shown: reinitialised twin. --twin STORE" in words(page)
    [figure] = page.get("plotly_chart")  # one label has no map
    names = {trace["name"] for trace in json.loads(figure.proto.spec)["data"] if "name" in trace}
    assert {"logistic", "shuffled labels"} <= names
    assert "lensbench probe linear" in words(page)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_without_a_store_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(monkeypatch, tmp_path, "probe")
    assert not page.exception
    assert "lensbench capture" in words(page)


def test_positions_repeated_are_fitted_each_by_itself_and_one_joins_its_rows(
    small_root: Path, capsys: Any
) -> None:
    line = ("probe", "linear", "--store", small_root / STORE, "--labels", "starts_upper",
            "--max-rows", 2000, "--no-twin")  # fmt: skip
    each = answer(capsys, *line, "--positions", "1", "--positions", "-3")
    assert {row["position"] for row in each["rows"]} == {"1", "-3"}
    assert each["summary"]["documents @1"] == each["documents"]
    both = answer(capsys, *line, "--positions", "1,-3")
    assert {row["position"] for row in both["rows"]} == {"1, -3"}
    assert both["rows"][0]["n_train"] > each["rows"][0]["n_train"]
    assert "Did you mean 'last'" in refused(capsys, *line, "--positions", "lst")


def test_a_twin_is_captured_unasked_and_what_is_missing_is_said(
    small_root: Path, tmp_path: Path, capsys: Any
) -> None:
    line = ("probe", "linear", "--store", small_root / STORE, "--labels", "starts_upper",
            "--max-rows", 2000)  # fmt: skip
    with_twin = answer(capsys, *line)
    assert with_twin["missing"] == {}
    [row] = with_twin["rows"]
    assert 0 < row["reinitialised_twin"] < row["score"]
    without = answer(capsys, *line, "--no-twin")
    assert list(without["missing"]) == ["reinitialised_twin"]
    assert "without --no-twin it is made" in without["missing"]["reinitialised_twin"]
    assert without["rows"][0]["score"] == row["score"]
    assert run(*line, "--no-twin") == 0
    assert "no reinitialised_twin" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_twin_of_a_model_without_a_name_is_said_not_made(tmp_path: Path, capsys: Any) -> None:
    import numpy as np

    from tests import store_builder

    x = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    store_builder.build(tmp_path / "acts", {"blocks.0.resid_post": x}, [400])
    (tmp_path / "y.json").write_text(json.dumps({"y": (x[:, 0] > 0).tolist()}))
    line = ("probe", "linear", "--store", tmp_path / "acts", "--label-file", tmp_path / "y.json")
    facts = answer(capsys, *line)
    assert facts["rows"][0]["score"] > 0.9
    assert "toy" in facts["missing"]["reinitialised_twin"]


def test_what_tests_and_comparisons_found_is_saved_too(tmp_path: Path, capsys: Any) -> None:
    from lensbench import results

    out = tmp_path / "out"
    facts = answer(capsys, "probe", "tokens", "--model", "atlas-dense", "--prompt", PROMPT,
                   "--method", "leave_one_out", "--test", "--out", out)  # fmt: skip
    tested: Any = results.load(facts["saved_faithfulness"])
    assert tested.to_frame().to_dict("records") == facts["faithfulness"]
    assert results.load(facts["saved"]).kind == "TokenAttribution"
    both = ("lens", "neurons", "--model", "atlas-dense", "--against", "atlas-dense")
    facts = answer(capsys, *both, "--out", tmp_path / "n")
    assert results.load(facts["saved_agreement"]).summary()["same"] == 1
    assert run(*both, "--out", tmp_path / "m") == 0
    assert str(tmp_path / "m" / "agreement") in capsys.readouterr().out


def test_the_code_that_is_shown_gives_the_numbers_of_the_sweep(
    small_root: Path, tmp_path: Path
) -> None:
    import numpy as np

    from lensbench.app.workflows import probing
    from lensbench.store import open_store

    ids = open_store(small_root / STORE).index().token_ids
    file = tmp_path / "own labels.json"
    file.write_text(json.dumps({"even": [int(i) for i in ids % 2 == 0]}))
    ask = probing.ProbeAsk(
        str(small_root / STORE), label_file=str(file), sites=(SITE,), methods=("ridge",),
        positions=("all", "1"), seeds=2, max_rows=1500,
    )  # fmt: skip
    shown: dict[str, Any] = {}
    exec(probing.python_of(ask, ".plot('even')"), shown)
    ours = probing.probe(ask)
    for column in ("score", "low", "control_task", "n_train"):
        np.testing.assert_array_equal(shown["sweep"].columns[column], ours.columns[column])
    assert set(ours.positions) == {"all", "1"}
    assert "--label-file" in probing.command_of(ask)
    assert "twin=lensbench.open_store('t')" in probing.python_of(probing.ProbeAsk("s", twin="t"))


def test_a_page_begins_with_a_few_layers_of_one_site(tmp_path: Path) -> None:
    import numpy as np

    from lensbench.app.workflows.probe_page import few_sites
    from tests import store_builder

    names = [f"blocks.{n}.{s}" for n in range(6) for s in ("resid_mid", "resid_post", "mlp_out")]
    x = np.zeros((20, 3), np.float32)
    store_builder.build(tmp_path / "s", dict.fromkeys(names, x), [20])
    every, few = few_sites(str(tmp_path / "s"))
    assert set(every) == set(names)
    assert few == [f"blocks.{n}.resid_post" for n in (0, 2, 3, 5)]
