"""The words language at the command line: texts by name, sampled, a tiny model trained on them."""

import json
from pathlib import Path

import numpy as np
import pytest

from lensbench.errors import ConfigError, UnknownNameError
from tests.app.commands import run


def test_texts_of_the_language_are_found_by_name() -> None:
    from lensbench.app.workflows.texts import find_text

    corpus = find_text("words:5:train:3")
    assert (corpus.n_docs, corpus.spec["world"], corpus.spec["seed"]) == (5, "words", 3)
    assert np.array_equal(corpus.lengths, [96] * 5)
    with pytest.raises(ConfigError, match="write words:N, or words:N:SPLIT:SEED"):
        find_text("words:many")
    with pytest.raises(UnknownNameError, match="known: train"):
        find_text("words:5:heldout")


def test_texts_are_sampled_with_the_words_they_spell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.jsonl"
    line = ("world", "sample", "words", "--out", out, "--docs", 4)
    assert run(*line, "--seed", 2, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["documents"], facts["vocabulary"], facts["tokens"]) == (4, 40, 4 * 96)
    for row in map(json.loads, out.read_text().splitlines()):
        spelt = row["text"].replace(" ", "")
        assert "/".join(row["words"]).startswith(spelt.rstrip("/"))
    for extra, says in (
        (("--family", "facts"), "--family is no option of words; it has: --world-seed"),
        (("--split", "heldout"), "known: train"),
        ((), "exists already"),
    ):
        assert run(*line, *extra) == 2
        assert says in capsys.readouterr().err


def test_a_tiny_model_is_trained_by_name_and_its_slips_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["n_layers=2", "d_model=16", "n_heads=2", "d_mlp=16", "rows=2", "width=16",
            "card=false", "evaluate_every=0", "layer_skip.p_max=0.2"]  # fmt: skip
    line = ("world", "train", "words", "--out", tmp_path / "m", "--steps", 3)
    sets = [part for one in tiny for part in ("--set", one)]
    assert run(*line, *sets) == 0
    recipe = json.loads((tmp_path / "m" / "recipe.json").read_text())
    assert recipe["layer_skip"]["p_max"] == 0.2
    capsys.readouterr()
    assert run(*line, "--set", "layer_skip.p_maxx=0.2") == 2
    assert "Did you mean 'p_max'?" in capsys.readouterr().err
    assert run("world", "train", "atlas-earlier") == 2
    assert "Did you mean 'atlas-early'?" in capsys.readouterr().err
