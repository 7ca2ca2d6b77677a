"""``lensbench probe codes | angles | lengths | aligned | flips``: the library's own numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.commands import answer, refused
from tests.app.conftest import SITE, STORE


def test_codes_of_a_site_are_read_for_a_label(
    small_root: Path, tmp_path: Path, capsys: Any
) -> None:
    from lensbench import open_store, probes

    store = small_root / STORE
    line = ("probe", "codes", "--store", store, "--site", SITE, "--label", "is_comma",
            "--max-rows", 600)  # fmt: skip
    facts = answer(capsys, *line, "--seed", 2, "--out", tmp_path / "c", "--csv", tmp_path / "c.csv")
    opened = open_store(store)
    data = probes.probe_data(opened, names=["is_comma"], sites=[SITE], max_rows=opened.n_tokens)
    assert len(data.rows) == opened.n_tokens  # so the labels stand in the order of the rows
    made = probes.store_codes(opened, data.label("is_comma").values.astype(int), sites=[SITE],
                              max_rows=600, seed=2)  # fmt: skip
    assert facts["summary"] == pytest.approx(made.summary(), nan_ok=True)
    assert "knn_shuffled_labels" in facts["rows"][0]
    assert facts["rows"][0]["n"] > 100
    assert (tmp_path / "c" / "result.json").is_file()
    assert "Did you mean 'is_comma'" in refused(capsys, *line[:6], "--label", "is_coma")
    assert "blocks.9" in refused(capsys, *line[:4], "--site", "blocks.9.resid_post", *line[6:])


def test_angles_between_labels_and_between_stores(
    small_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store, probes

    store = small_root / STORE
    line = ("probe", "angles", "--store", store, "--site", SITE, "--max-rows", 1500, "--draws", 20)
    facts = answer(capsys, *line, "--labels", "is_comma", "--labels", "starts_upper")
    data = probes.probe_data(open_store(store), sites=[SITE], names=["is_comma", "starts_upper"],
                             max_rows=1500)  # fmt: skip
    made = probes.subspace_angles(
        {name: probes.fit_probe(data, name, SITE) for name in ("is_comma", "starts_upper")},
        draws=20,
    )
    assert facts["summary"] == pytest.approx(made.summary())
    row = facts["rows"][0]
    assert [row["first"], row["second"]] == ["is_comma", "starts_upper"]
    assert "random" in row
    said = refused(capsys, *line, "--labels", "is_comma")
    assert "at least two probes" in said
    assert "Did you mean" in refused(capsys, *line, "--labels", "is_comma", "--method", "logistik")


def test_checkpoints_are_captured_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import open_store

    out = tmp_path / "all"
    line = ("probe", "checkpoints", "--model", "atlas-dense", "--text", "atlas:20", "--site", SITE,
            "--out", out, "--revision")  # fmt: skip
    facts = answer(capsys, *line, "step512", "--revision", "step1024")
    assert [row["checkpoint"] for row in facts["rows"]] == ["step512", "step1024"]
    stores = [open_store(row["store"]) for row in facts["rows"]]
    assert (stores[0].rows(SITE, slice(0, 5)) != stores[1].rows(SITE, slice(0, 5))).any()
    both = [part for row in facts["rows"] for part in ("--store", row["store"])]
    shape = answer(capsys, "probe", "geometry", "--site", SITE, *both)
    assert {row["source"] for row in shape["rows"]} == {"step512", "step1024"}
    assert "is there already" in refused(capsys, *line, "step512")
    assert "step" in refused(capsys, *line[:-2], tmp_path / "b", "--revision", "step51")


def test_lengths_of_texts_beside_shuffled_text_and_a_twin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import load_model, probes

    texts = ["The capital of Peru is Lima", "The capital of Chile is Santiago", "The king sleeps"]
    (tmp_path / "t.txt").write_text("\n".join(texts))
    facts = answer(capsys, "probe", "lengths", "--model", "atlas-dense", "--text",
                   tmp_path / "t.txt", "--lengths", "3,4")  # fmt: skip
    model = load_model("atlas-dense")
    rows = [model.tokens(text).ids[0].tolist()[:4] for text in texts]
    made = probes.length_profile(model, [r for r in rows if len(r) == 4], lengths=[3, 4])
    assert facts["summary"] == pytest.approx(made.summary(), nan_ok=True)
    assert {row["source"] for row in facts["rows"]} == {"text", "shuffled_text",
                                                        "reinitialised_twin"}  # fmt: skip
    said = refused(capsys, "probe", "lengths", "--model", "atlas-dense", "--text",
                   tmp_path / "t.txt", "--lengths", "64")  # fmt: skip
    assert "0 of 3 texts have 64 tokens" in said


def test_two_readings_are_compared_token_by_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import load_model, probes

    file = tmp_path / "r.jsonl"
    file.write_text('{"ambiguous": "the king knows", "variant": "the old king knows"}\n')
    facts = answer(capsys, "probe", "aligned", "--model", "atlas-dense", "--pairs", file,
                   "--site", "blocks.2.resid_post", "--no-twin")  # fmt: skip
    made = probes.aligned_distances(
        load_model("atlas-dense"), [("the king knows", "the old king knows")],
        site="blocks.2.resid_post", twin=False,
    )  # fmt: skip
    assert [r["manhattan"] for r in facts["rows"]] == pytest.approx(
        made.to_frame()["manhattan"].tolist()
    )
    file.write_text('{"ambiguous": "a", "variant": "b", "disambiguatng": "c"}\n')
    said = refused(capsys, "probe", "aligned", "--model", "atlas-dense", "--pairs", file)
    assert "disambiguatng" in said
    assert "disambiguating" in said
    file.write_text('{"ambiguous": "a"}\n')
    assert "line 1" in refused(
        capsys, "probe", "aligned", "--model", "atlas-dense", "--pairs", file
    )


@pytest.mark.slow
def test_boards_are_turned_over_beside_random_directions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lensbench import load_model, probes

    facts = answer(capsys, "probe", "flips", "--games", 20, "--layers", 2, "--cases", 6)
    model = load_model("othello")
    made = probes.flip_study(model, probes.board_probes(model, n_games=20), layers=[2], n_cases=6)
    assert facts["summary"] == pytest.approx(made.summary())
    assert {row["way"] for row in facts["rows"]} >= {"probe", "random", "null"}


def test_layers_that_are_not_there_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "layers" in refused(capsys, "probe", "flips", "--games", 12, "--layers", "one")


def test_labels_in_a_file_are_read_in_the_order_of_the_rows(
    small_root: Path, tmp_path: Path, capsys: Any
) -> None:
    import json

    from lensbench import open_store

    ids = open_store(small_root / STORE).index().token_ids
    (tmp_path / "l.json").write_text(json.dumps({"even": (np.asarray(ids) % 2 == 0).tolist()}))
    facts = answer(capsys, "probe", "codes", "--store", small_root / STORE, "--site", SITE,
                   "--label", "even", "--label-file", tmp_path / "l.json", "--max-rows",
                   600)  # fmt: skip
    assert facts["rows"][0]["knn"] > facts["rows"][0]["knn_shuffled_labels"] + 0.1
