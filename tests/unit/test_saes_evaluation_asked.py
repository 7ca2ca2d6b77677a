"""What an evaluation is asked for: sequences counted, slips named, training text disclosed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench import capture, load_model, saes
from lensbench.errors import ConfigError
from lensbench.saes.evaluation import data
from lensbench.saes.evaluation.evaluate import EvaluationConfig
from lensbench.worlds.atlas import Atlas
from tests.saes_evaluation_helpers import tiny_llama

SITE = "blocks.1.resid_post"
SWEEP: dict[str, Any] = {
    "train": {"tokens": 2048, "batch_size": 128, "checkpoint_every": 4, "engine": "dense"},
    "sweep": [{"architecture": "topk", "d_sae": 32, "k": 3, "site": SITE, "lr": 1e-3}],
}
QUICK = {"controls": False, "max_tokens": 500, "ce_sequences": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, two captures of one text, one of another, and a run on the first."""
    corpus, folder = Atlas(0).sample(120), tmp_path_factory.mktemp("asked")
    model = load_model(tiny_llama(len(corpus.vocab)), certify=False)
    texts = {"acts": corpus, "again": corpus, "other": Atlas(0).sample(60, seed=5)}
    out: dict[str, Any] = {
        name: capture(model, text, [SITE], out=folder / name) for name, text in texts.items()
    }
    sweep = SWEEP | {"source": {"store": str(folder / "acts")}}
    runs = saes.train(out["acts"], sweep, out=folder / "run", device="cpu", progress=False)
    return out | {"model": model, "folder": folder, "runs": runs}


@pytest.mark.parametrize(("n", "size"), [(5, 4), (4, 4), (3, 16), (7, 2)])
def test_exactly_as_many_sequences_are_scored_as_were_asked_for(made, n: int, size: int) -> None:
    store = made["acts"]
    batches = list(data.scored_sequences(store, n, size))
    assert sum(b.tokens.n_rows for b in batches) == n
    for b in batches:
        assert b.docs.shape[0] == b.kept.shape[0] == b.tokens.n_rows
    config = EvaluationConfig(controls=False, max_tokens=500, ce_sequences=n, sequence_batch=size)
    found = saes.evaluate(made["runs"], store, made["model"], config=config)
    whole = next(store.sequences(n))
    docs, real = whole.doc_ids, whole.tokens.real.numpy()
    scored = real[:, 1:] & (np.cumsum(real, 1)[:, :-1] > 1)  # not after a sequence's first token
    assert found.n_scored == int(scored.sum())
    assert docs.shape[0] == n


def test_settings_may_be_a_dictionary_and_their_faults_are_named(made) -> None:
    found = saes.evaluate(made["runs"], made["acts"], config=QUICK)
    assert found.config["max_tokens"] == 500
    with pytest.raises(ConfigError, match=r"max_tokens: .*above 0 \(got -1\)"):
        saes.evaluate(made["runs"], made["acts"], config={"max_tokens": -1})


def test_one_dictionary_needs_no_list_and_a_path_says_how_it_is_opened(made) -> None:
    run, store = made["runs"][0], made["acts"]
    assert saes.evaluate(run, store, config=QUICK).names == (run.name,)
    assert len(saes.evaluate(run.sae, store, config=QUICK).names) == 1
    for path in ("run", Path("run"), ["run"]):
        with pytest.raises(ConfigError, match=r"saes\.open_runs\('run'\)"):
            saes.evaluate(path, store, config=QUICK)
    with pytest.raises(ConfigError, match=r"got a dict.*SAERun"):
        saes.evaluate([{}], store, config=QUICK)


def test_rows_that_were_trained_on_are_disclosed(made) -> None:
    runs = made["runs"]
    name = runs[0].name
    same = saes.evaluate(runs, made["acts"], config=QUICK)
    assert same.seen == {name: "rows"}
    assert "scored on the rows it was trained on" in same.disclosure
    assert same.disclosure in same.controls.note
    assert "trained on" in repr(same)
    copy = saes.evaluate(runs, made["again"], config=QUICK)
    assert copy.seen == {name: "text"}
    assert "scored on the text it was trained on" in copy.disclosure
    other = saes.evaluate(runs, made["other"], config=QUICK)
    assert other.seen == {name: "no"}
    assert "not the text it was trained on" in other.disclosure


def test_what_cannot_be_told_is_called_unknown(made) -> None:
    run, store = made["runs"][0], made["acts"]
    bare = saes.Dictionary("bare", SITE, run.sae)
    found = saes.evaluate([run, bare], store, config=QUICK)
    assert found.seen == {run.name: "rows", "bare": "unknown"}
    assert "1 of 2" in found.disclosure
    assert "unknown" in found.disclosure
    assert "unknown" in saes.evaluate([bare], store, config=QUICK).disclosure


def test_a_run_without_its_stores_name_is_known_by_its_checkpoint(made, tmp_path: Path) -> None:
    runs = saes.train(made["acts"], SWEEP, out=tmp_path / "r", device="cpu", progress=False)
    assert saes.evaluate(runs, made["acts"], config=QUICK).seen == {runs[0].name: "text"}
    assert saes.evaluate(runs, made["other"], config=QUICK).seen == {runs[0].name: "no"}


def test_the_disclosure_is_kept_with_the_result(made, tmp_path: Path) -> None:
    from lensbench.results import load

    found = saes.evaluate(made["runs"], made["acts"], config=QUICK)
    found.save(tmp_path / "e")
    assert load(tmp_path / "e").disclosure == found.disclosure


def test_the_picture_of_an_evaluation_names_its_axes_and_fits_its_title(made) -> None:
    found = saes.evaluate(made["runs"], made["acts"], config=QUICK)
    layout = found.plot().layout
    assert layout.xaxis.type == "log"
    assert layout.xaxis.title.text == "L0, log axis [latents per token]"
    assert layout.yaxis.title.text == "Explained variance [share of variance]"
    assert len(layout.title.subtitle.text) < 90
