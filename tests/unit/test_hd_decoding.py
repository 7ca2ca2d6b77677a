"""The decode table: what was read by which query, beside chance and what must not read it."""

import numpy as np
import pytest

import lensbench
from lensbench.probes.hd.atlas import atlas_prompts
from lensbench.probes.hd.encoder import EncoderConfig, HDEncoder
from lensbench.probes.hd.ingest import ingest_layers, prompt_states
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.probe import read_concepts
from lensbench.probes.hd.study import hd_study
from lensbench.results import load
from lensbench.stats import wilson

SMALL = EncoderConfig(kind="factored", hidden=(1.0,), max_epochs=4, lr=3e-3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    folder, steps = tmp_path_factory.mktemp("kept"), []
    model = lensbench.load_model("atlas-dense", revision="step512")
    study = hd_study(
        model, "question", "combination", encoder=SMALL, dim=512, n_train=300, n_test=80, seed=4,
        baselines=("shuffled labels",), keep=folder,
        progress=lambda said, **at: steps.append((said, at["step"], at["steps"])),
    )  # fmt: skip
    return study, folder, steps, model


def test_each_prompt_has_its_query_its_margin_and_whether_it_is_right(made) -> None:
    study = made[0]
    table = study.decoded()
    assert len(table) == len(study.right)
    assert ((table["decoded"] == table["true"]) == table["right"]).all()
    assert (table["right"].to_numpy() == (study.reading.rank <= 1)).all()
    assert 0 < table["right"].mean() < 1
    silent = table[~table["answered"]]
    assert len(silent)
    assert (silent["decoded"] == "").all()
    assert (silent["similarity"] <= study.reading.threshold).all()
    assert (table.loc[table["answered"], "similarity"] > study.reading.threshold).all()
    top = study.reading.similarity
    np.testing.assert_allclose(table["margin"], top[:, 0] - top[:, 1])
    assert (table["margin"] >= 0).all()


def test_accuracies_of_concepts_add_up_to_the_score_and_have_wilson_intervals(made) -> None:
    study = made[0]
    table = study.by_concept()
    assert table["n"].sum() == study.right.sum()
    assert (table["accuracy"] * table["n"]).sum() / table["n"].sum() == pytest.approx(study.value())
    one = table.iloc[0]
    mine = np.array(study.reading.targets) == one["concept"]
    hits = int((mine & study.right & (study.reading.rank <= 1)).sum())
    span = wilson(hits, int(one["n"]))
    assert (one["low"], one["high"]) == (span.low, span.high)
    assert (table["chance"] == 1 / study.n_concepts).all()
    read = np.array([f[0] for f in study.reading.found])
    read[~study.reading.answered] = ""
    others = ~mine & study.right
    assert one["elsewhere"] == pytest.approx((read[others] == one["concept"]).mean())
    assert one["n_elsewhere"] == others.sum()


def test_the_control_of_every_concept_is_that_of_shuffled_labels(made, tmp_path) -> None:
    study = made[0]
    table = study.by_concept()
    whole = (table["control"] * table["n"]).sum() / table["n"].sum()
    assert whole == pytest.approx(study.value("shuffled labels"))
    assert whole < study.value() / 2, "what is shuffled must not be read"
    assert load(study.save(tmp_path)) == study
    # A study without the baseline says so instead of a number.
    from dataclasses import replace

    without = replace(study, ranks=np.zeros((0, 0)))
    assert without.by_concept()["control"].isna().all()
    assert "control_right" not in without.decoded()


def test_the_encoder_that_is_kept_reads_the_same_again(made) -> None:
    study, folder, _, model = made
    encoder, memory = HDEncoder.load(folder), ItemMemory.load(folder)
    dealt = atlas_prompts("question", "combination", n_train=300, n_test=80, seed=4)
    states = prompt_states(model, list(dealt.test.texts), layers=study.layers)
    vectors = encoder.encode(ingest_layers(states), seed=SMALL.seed + 3)
    again = read_concepts(memory, vectors, dealt.test, solver="threshold")
    assert again.found == study.reading.found
    assert again.query == study.reading.query


def test_every_step_is_told_once(made) -> None:
    steps = made[2]
    assert [s for s, _, _ in steps] == ["running the prompts", "fitting the encoder",
                                        "baseline: shuffled labels"]  # fmt: skip
    assert [(a, b) for _, a, b in steps] == [(1, 3), (2, 3), (3, 3)]
