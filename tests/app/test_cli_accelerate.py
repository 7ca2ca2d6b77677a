"""``lensbench accelerate``: the library's rows, a live run held to them, slips in words."""

from pathlib import Path

import pytest

from tests.app.commands import answer, refused, run
from tests.app.tiny_root import make_root

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FEW = "fixed_exit(exit_layer=1, draft=2), early_exit(threshold=0.5), shortgpt(delete=1)"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a store of its own text, and one of other text (``acts``)."""
    import lensbench
    from lensbench.interventions import acceleration

    made = make_root(tmp_path_factory.mktemp("root"), profile="resid", run=False)
    model = lensbench.load_model(made.model)
    acceleration.capture_own(model, ["the cat", "a plain dog saw"], made.folder / "own", 10)
    (made.folder / "prompts.txt").write_text("the cat sat\n\na plain dog\n")
    (made.folder / "prompts.jsonl").write_text('{"prompt": "the cat sat"}\n')
    (made.folder / "bad.jsonl").write_text('{"prompt": "the cat"}\n{"line": 2}\n')
    (made.folder / "empty.txt").write_text("\n \n")
    return made.folder


def test_rows_are_those_of_the_library(root: Path, capsys) -> None:
    import lensbench
    from lensbench.interventions.acceleration import acceleration_study

    path = root / "models" / "tiny"
    told = answer(capsys, "accelerate", "--model", path, "--store", root / "own")
    found = acceleration_study(lensbench.load_model(path), lensbench.open_store(root / "own"))
    assert [r["label"] for r in told["rows"]] == [r["label"] for r in found.rows]
    for ours, theirs in zip(told["rows"], found.rows, strict=True):
        for name in ("acceptance", "agreement", "flops_saved", "pred_speedup_serial"):
            expected = theirs[name]
            assert (
                ours[name] is None
                if expected != expected
                else (ours[name] == pytest.approx(expected))
            )
    assert told["exact"]
    assert all(r["meas_speedup"] is None for r in told["rows"])
    assert told["summary"]["block_forwards"] == 0


@pytest.mark.parametrize("prompts", ["prompts.txt", "prompts.jsonl"])
def test_prompts_are_continued_and_predictions_held_to_a_live_run(
    prompts: str, root: Path, capsys, tmp_path: Path
) -> None:
    import lensbench

    told = answer(
        capsys, "accelerate", "--model", root / "models" / "tiny", "--prompts", root / prompts,
        "--methods", FEW, "--new-tokens", 8, "--live", "--keep", tmp_path / "own",
        "--out", tmp_path / "result",
    )  # fmt: skip
    drafts, exits, pruned = told["rows"]
    assert drafts["tested"]
    assert all(row["held"] for row in told["rows"])
    assert drafts["meas_acceptance"] == pytest.approx(drafts["acceptance"])
    assert 0 <= pruned["agreement"] <= 1
    assert exits["pred_speedup_calibrated"] > 0
    again = lensbench.results.load(tmp_path / "result")
    assert [r["label"] for r in again.rows] == [r["label"] for r in told["rows"]]
    kept = answer(
        capsys, "accelerate", "--model", root / "models" / "tiny", "--store", tmp_path / "own",
        "--methods", "fixed_exit(exit_layer=1, draft=2)",
    )  # fmt: skip
    assert kept["rows"][0]["acceptance"] == drafts["acceptance"]


def test_a_printed_row_can_be_asked_for_again_and_of_fewer_texts(root: Path, capsys) -> None:
    where = ("--model", root / "models" / "tiny", "--store", root / "own")
    row = "draft_and_verify(skips=(('attn', 1), ('mlp', 0)), threshold=0.6, most=12)"
    told = answer(capsys, "accelerate", *where, "--methods", f"{row}, del", "--texts", 1, "--live")
    assert told["rows"][0]["label"] == row
    assert told["rows"][1]["method"] == "del"
    assert (told["texts"], told["new_tokens"]) == (1, 10)
    assert {(r["n"], r["n_verified"], r["tested"]) for r in told["rows"]} == {(1, 1, True)}


def test_a_threshold_is_chosen_with_and_without_a_bound(root: Path, capsys) -> None:
    from lensbench.interventions.acceleration import lens_table, sim_calm

    where = ("--model", root / "models" / "tiny", "--store", root / "own")
    told = answer(capsys, "accelerate", *where, "--methods", FEW, "--agreement", 0.9)["threshold"]
    assert told["with_bound"] is None  # two texts bound nothing
    assert "at least 29 are needed" in told["told"]
    assert told["texts_at_least"] == 29
    for row in told["texts_needed"]:
        assert f"{row['texts']:,}" in told["told"] or row != told["texts_needed"][-1]
        assert row["texts"] >= 29
    import lensbench

    model = lensbench.load_model(root / "models" / "tiny")
    table = lens_table(lensbench.open_store(root / "own"), model)
    traces = sim_calm(table, told["without"])
    full = [list(d.text) for d in table.documents()]
    agreed = [
        sum(a == b for a, b in zip(t.tokens, d, strict=True)) / len(d)
        for t, d in zip(traces, full, strict=True)
    ]
    assert told["agreement"] == pytest.approx(sum(agreed) / 2)
    assert told["agreement"] >= 0.9


def test_the_table_is_printed_with_what_its_columns_mean(root: Path, capsys) -> None:
    where = ("--model", root / "models" / "tiny", "--store", root / "own")
    assert run("accelerate", *where, "--methods", FEW) == 0
    said = capsys.readouterr().out
    assert "fixed_exit(exit_layer=1, draft=2)" in said
    assert "layers that wait for one another" in said
    assert "measured" not in said


def test_a_store_of_other_text_is_refused_with_what_to_do_and_taken_as_a_proxy(
    root: Path, capsys
) -> None:
    where = ("--model", root / "models" / "tiny", "--store", root / "acts")
    said = refused(capsys, "accelerate", *where)
    assert "--prompts FILE" in said
    assert "--proxy" in said
    told = answer(capsys, "accelerate", *where, "--proxy", "--methods", FEW)
    assert not told["exact"]
    assert {r["prediction_class"] for r in told["rows"]} == {"proxy"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "neither"),
        (["--store", "own", "--prompts", "prompts.txt"], "both"),
        (["--store", "own", "--keep", "x"], "--keep"),
        (["--prompts", "prompts.txt", "--agreement", "0.9"], "--store DIR"),
        (["--store", "nowhere"], "nowhere"),
        (["--prompts", "nowhere.txt"], "does not exist"),
        (["--prompts", "empty.txt"], "no prompt"),
        (["--prompts", "bad.jsonl"], "line 2"),
        (["--prompts", "prompts.txt", "--new-tokens", "100000"], "shorten it"),
        (["--store", "own", "--methods", "fixed_exi"], "Did you mean 'fixed_exit'"),
        (["--store", "own", "--methods", "fixed_exit(exit_layer=9, draft=2)"], "1 to"),
        (["--store", "own", "--methods", "fixed_exit(draft=2, layer=1)"], "known: exit_layer"),
        (["--store", "own", "--methods", "fixed_exit(1, 2)"], "name the settings"),
        (["--store", "own", "--methods", "fixed_exit(1"], "no name and no call"),
        (["--store", "own", "--methods", "kangaroo"], "adapter"),
        (["--store", "own", "--live", "--texts", "0"], "--texts"),
    ],
)
def test_slips_are_named_without_a_traceback(
    args: list[str], said: str, root: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert said in refused(capsys, "accelerate", "--model", "./models/tiny", *args)


def test_a_model_with_an_encoder_is_refused(capsys) -> None:
    said = refused(capsys, "accelerate", "--model", "atlas-translate", "--prompts", "atlas:2")
    assert "encoder" in said
