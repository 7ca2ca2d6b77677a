"""``lensbench probe erase | codelength``: the library's numbers, and slips in words."""

from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import answer, refused, run
from tests.app.conftest import SITE, STORE


def test_an_erased_label_is_at_chance_and_the_other_stays(
    small_root: Path, tmp_path: Path, capsys: Any
) -> None:
    from lensbench import open_store, probes, results

    line = ("probe", "erase", "--store", small_root / STORE, "--label", "is_comma", "--keep",
            "starts_upper", "--max-rows", 2000)  # fmt: skip
    facts = answer(capsys, *line, "--out", tmp_path / "e")
    data = probes.probe_data(
        open_store(small_root / STORE), names=["is_comma", "starts_upper"], max_rows=2000
    )
    made = probes.erasure_check(data, "is_comma", SITE)
    assert facts["summary"] == pytest.approx(made.summary())
    rows = {(row["change"], row["label"]): row for row in facts["rows"]}
    assert rows["before", "is_comma"]["accuracy"] > 0.95
    assert rows["leace", "is_comma"]["at_chance"]
    assert not rows["random_directions", "is_comma"]["at_chance"], "control"
    assert not rows["leace", "starts_upper"]["at_chance"], "another label stays"
    told = [row["accuracy"] for row in facts["rows"]]
    assert told == pytest.approx(made.accuracy.ravel().tolist())
    eraser = results.load(Path(facts["erasers"]["leace"]))
    assert eraser.kind == "Eraser"
    assert results.load(Path(facts["saved"])).kind == "ErasureCheck"
    assert run(*line) == 0
    assert SITE in capsys.readouterr().out
    assert "no eraser named 'lease'" in refused(capsys, *line, "--method", "lease")
    assert "Did you mean 'is_comma'" in refused(capsys, *line[:4], "--label", "is_coma", *line[6:])


def test_codelengths_come_shortest_first_beside_their_controls(
    small_root: Path, tmp_path: Path, capsys: Any
) -> None:
    from lensbench import results

    line = ("probe", "codelength", "--store", small_root / STORE, "--labels", "is_comma",
            "--labels", "starts_upper", "--max-rows", 1500, "--code", "online")  # fmt: skip
    facts = answer(capsys, *line, "--out", tmp_path / "c")
    short = [row["compression"] for row in facts["rows"]]
    assert len(short) == 2
    assert short == sorted(short, reverse=True)
    assert all(row["compression"] > row["shuffled_labels"] for row in facts["rows"])
    found = results.load(Path(facts["saved"]))
    assert found.kind == "Codelengths"
    assert max(found.columns["compression"]) == pytest.approx(short[0])
    assert run(*line) == 0
    assert "is_comma" in capsys.readouterr().out
    assert "no code named 'mdl'" in refused(capsys, *line[:-1], "mdl")
