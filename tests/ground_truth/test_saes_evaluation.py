"""``evaluate`` on a real atlas corpus with activations whose right answers are known."""

import numpy as np
import pytest
import torch

from lensbench import load_model, results
from lensbench.errors import ConfigError, MismatchError
from lensbench.saes import train
from lensbench.saes.evaluation.evaluate import EvaluationConfig, evaluate
from lensbench.saes.evaluation.passes import Dictionary
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.controls import reinitialised_twin
from tests.saes_evaluation_helpers import (
    HandSet,
    constant,
    identity,
    run_corpus,
    tiny_llama,
    write_store,
)

D, SITE, N_DOCS = 16, "blocks.1.resid_post", 240
WIDE = 64  # of the planted world: few of its directions lie near a random one


@pytest.fixture(scope="module")
def corpus():
    return Atlas(0).sample(N_DOCS, "all", seed=5)


@pytest.fixture(scope="module")
def label(corpus) -> str:
    """The contextual label with most tokens."""
    contextual = [n for n, kind in corpus.label_kinds.items() if kind == "contextual"]
    return max(
        contextual, key=lambda n: int(corpus.labels[n].sum()) * (corpus.labels[n].mean() < 0.3)
    )


@pytest.fixture(scope="module")
def model(corpus):
    return load_model(tiny_llama(len(corpus.vocab)), certify=False)


@pytest.fixture(scope="module")
def live(model, corpus, tmp_path_factory):
    """A store of the model's own activations."""
    acts = run_corpus(model, corpus, [SITE])
    return write_store(tmp_path_factory.mktemp("live"), corpus, acts, card=model.card)


@pytest.fixture(scope="module")
def planted(corpus, label, tmp_path_factory):
    """Noise, plus direction 0 wherever the label holds."""
    acts = noise_with(corpus, label, seed=0)
    return write_store(tmp_path_factory.mktemp("planted"), corpus, {SITE: acts})


def noise_with(corpus, label: str, seed: int) -> torch.Tensor:
    """Unit noise, and 6 along dimension 0 where the label holds."""
    gen = torch.Generator().manual_seed(seed)
    acts = torch.randn(len(corpus.tokens), WIDE, generator=gen)
    acts[:, 0] += 6.0 * torch.from_numpy(np.array(corpus.labels[label])).float()
    return acts


def reader(width: int = 12, *, at: int = 7, d: int = WIDE) -> HandSet:
    """Latent ``at`` reads direction 0; the others read noise directions."""
    gen = torch.Generator().manual_seed(1)
    w = torch.nn.functional.normalize(torch.randn(width, d, generator=gen), dim=-1)
    w[:, 0] = 0
    w[at] = torch.eye(d)[0]
    return HandSet(w.T, w, b_enc=-0.2)


def test_identity_mean_and_zero_dictionaries_hit_their_marks(corpus, tmp_path) -> None:
    model = load_model("atlas-dense", certify=False)  # trained: its ablations cost something
    acts = run_corpus(model, corpus, [SITE])
    live, d = write_store(tmp_path / "live", corpus, acts, card=model.card), model.card.d_model
    mean = torch.from_numpy(live.rows(SITE, np.arange(live.n_tokens))).double().mean(0).float()
    found = evaluate(
        [
            Dictionary("identity", SITE, identity(d), "hand"),
            Dictionary("mean", SITE, constant(mean), "hand"),
            Dictionary("zero", SITE, constant(torch.zeros(d)), "hand"),
        ],
        live,
        model,
        config=EvaluationConfig(ce_sequences=32, controls=False),
    )
    assert found.value("fvu", "identity") == 0.0
    assert found.value("l0", "identity") == d  # every dimension is positive or negative
    assert found.value("fvu", "mean") == pytest.approx(1.0, abs=1e-6)
    assert found.value("explained_variance", "mean") == pytest.approx(0.0, abs=1e-6)
    assert found.value("fvu", "zero") > 1.001
    for metric in ("ce_recovered_zero", "ce_recovered_mean", "kl_recovered_zero"):
        assert found.value(metric, "identity") == pytest.approx(1.0, abs=1e-6)
    assert found.value("ce_recovered_mean", "mean") == pytest.approx(0.0, abs=1e-5)
    assert found.value("kl_recovered_mean", "mean") == pytest.approx(0.0, abs=1e-5)
    assert found.value("ce_recovered_zero", "zero") == pytest.approx(0.0, abs=1e-6)
    assert abs(found.value("ce_recovered_zero", "mean")) > 1e-3  # control: baselines differ
    assert found.value("dead_fraction", "mean") == 1.0
    assert found.value("dead_fraction", "identity") == 0.0
    undefined = found.undefined[2, found.metrics.index("cosine")]
    assert undefined == found.n_tokens  # a zero vector has no direction
    assert np.isnan(found.value("cosine", "zero"))


def test_planted_label_direction_is_found_and_every_control_is_low(planted, label) -> None:
    found = evaluate([Dictionary("d", SITE, reader())], planted)
    row = found.labels_frame().set_index("label").loc[label]
    assert row["latent"] == 7
    assert row["f1"] > 0.97
    assert row["auroc"] > 0.99
    assert row["f1_low"] <= row["f1"] <= row["f1_high"]
    assert row["f1_shuffled_labels"] < 0.6
    assert row["f1_always_on"] < 0.6
    assert row["f1_random_dictionary"] < row["f1"] - 0.15
    assert "random dictionary" in str(found.controls)
    assert "held out" in found.split
    assert "ce_recovered_zero" not in found.metrics  # no model was given


def test_without_the_planted_direction_nothing_is_found(planted, label) -> None:
    blind = reader()
    blind.W_enc[:, 7] = blind.W_enc[:, 6]
    row = evaluate([Dictionary("d", SITE, blind)], planted, config=EvaluationConfig(controls=False))
    row = row.labels_frame().set_index("label").loc[label]
    assert row["f1"] < 0.6
    assert abs(row["auroc"] - 0.5) < 0.1


def test_train_split_deals_combinations_and_two_stores_select_on_one(tmp_path, label) -> None:
    stores = {}
    for split in ("train", "heldout"):
        corpus = Atlas(0).sample(N_DOCS if split == "train" else 150, split, seed=3)
        acts = noise_with(corpus, label, seed=2)
        stores[split] = write_store(tmp_path / split, corpus, {SITE: acts})
    runs, config = [Dictionary("d", SITE, reader())], EvaluationConfig(controls=False)
    one = evaluate(runs, stores["train"], config=config)
    assert "no combination" in one.split
    two = evaluate(runs, stores["train"], heldout=stores["heldout"], config=config)
    assert "scored on one of split 'heldout'" in two.split
    for found in (one, two):
        row = found.labels_frame().set_index("label").loc[label]
        assert (row["latent"], row["f1"] > 0.97) == (7, True)
    assert two.labels_frame()["n_documents"].max() == 150


def test_implants_are_recovered_only_when_the_decoder_has_them(planted) -> None:
    w = torch.nn.functional.normalize(
        torch.randn(4, WIDE, generator=torch.Generator().manual_seed(0))
    )
    runs = [Dictionary("has", SITE, HandSet(w.T, w)), Dictionary("hasn't", SITE, reader())]
    found = evaluate(runs, planted, implants=w, config=EvaluationConfig(controls=False))
    assert found.value("implants_recovered", "has") == 1.0
    assert found.value("implants_recovered", "hasn't") == 0.0
    assert found.controls.values["random directions recovered"] == 0.0


@pytest.fixture(scope="module")
def sweep():
    """A few steps of a tiny sweep: two dictionaries as the trainer gives them."""
    return {
        "train": {"tokens": 4096, "batch": 256},
        "sweep": [{"architecture": "topk", "d_sae": 32, "k": [2, 8], "lr": 3e-3, "site": SITE}],
    }


def test_runs_of_the_trainer_are_taken_as_they_come_with_a_twin_beside(
    live, model, corpus, sweep, tmp_path
) -> None:
    runs = train(live, sweep, progress=False)
    twin = reinitialised_twin(model, seed=1)
    acts = run_corpus(twin, corpus, [SITE])
    twin_store = write_store(tmp_path / "twin", corpus, acts, card=twin.card)
    twin_run = train(twin_store, sweep, progress=False)[0]
    config = EvaluationConfig(ce_sequences=16, max_tokens=3000)
    found = evaluate(runs, live, model, twin=(twin_run, twin_store), config=config)
    assert found.names == tuple(run.name for run in runs)
    assert found.architectures == ("topk", "topk")
    k2, k8 = found.names
    assert found.value("l0", k2) <= 2
    assert 2 < found.value("l0", k8) <= 8
    assert found.value("fvu", k8) < found.value("fvu", k2) < 1
    frame = found.labels_frame()
    assert np.isfinite(frame["f1_reinitialised_twin"]).any()
    assert (frame["f1_reinitialised_twin"] != frame["f1"]).any()
    assert "label F1 of reinitialised twin" in found.controls.values
    core = found.to_frame().query("measure == 'core' and metric in ('fvu', 'l0')")
    beside = core[core["source"] == "reinitialised_twin"]
    assert twin_run.name == k2
    assert set(beside["name"]) == {k2}, "FVU at another sparsity is no control"
    assert float(beside.loc[beside["metric"] == "l0", "value"].iloc[0]) <= 2
    assert f"labels of the re-initialised twin: by {k2}, also beside" in found.controls.note
    both = evaluate(runs[0], live, model, twin=(twin_run, twin_store), config=config)
    assert "also beside" not in both.controls.note
    shorter = write_store(
        tmp_path / "short", corpus, {SITE: acts[SITE]}, card=twin.card, skip_first=True
    )
    with pytest.raises(MismatchError, match=r"twin's store has|stored token ids differ"):
        evaluate(runs, live, twin=(twin_run, shorter), config=config)


def test_two_spellings_of_a_site_are_one_site(live, model, sweep, tmp_path) -> None:
    """A dictionary of a peer names TransformerLens' hook: it shares the forward passes of ours."""
    import json

    from lensbench import saes

    ours = train(live, sweep, progress=False)[0]
    cfg = saes.save(ours.sae, tmp_path) / "cfg.json"
    text = json.loads(cfg.read_text())
    assert text["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    text["metadata"] = {"hook_name": "blocks.1.hook_resid_post"}
    cfg.write_text(json.dumps(text))
    theirs = saes.load(tmp_path)
    by_hand = Dictionary("by hand", "blocks.1.hook_resid_post", identity(D))
    config = EvaluationConfig(ce_sequences=8, max_tokens=800, controls=False)
    found = evaluate([ours, theirs, by_hand], live, model, config=config)
    assert found.sites == (SITE,) * 3
    again = [Dictionary(str(i), SITE, identity(D)) for i in range(3)]
    assert found.layers_run == evaluate(again, live, model, config=config).layers_run
    assert found.value("fvu", "sae") == found.value("fvu", ours.name)


@pytest.mark.parametrize(("n_docs", "says"), [(1, "one document is"), (3, "3 documents are")])
def test_a_store_too_small_for_labels_is_evaluated_without_them(
    n_docs, says, model, tmp_path
) -> None:
    few = Atlas(0).sample(n_docs, "all", 0)
    store = write_store(tmp_path / "s", few, run_corpus(model, few, [SITE]), card=model.card)
    runs = [Dictionary("identity", SITE, identity(D)), Dictionary("other", SITE, reader(d=D))]
    found = evaluate(runs, store, model, config=EvaluationConfig(ce_sequences=8))
    assert found.value("fvu", "identity") == 0.0
    assert np.isfinite(found.value("fvu", "other"))
    assert np.isfinite(found.value("ce_reconstructed", "other"))
    assert not found.labels
    for words in (found.split, found.controls.note):
        assert says in words
        assert "no labels" in words
        assert "heldout=" in words
    bounds = found.values[1, found.metrics.index("fvu"), 1:]
    assert np.isnan(bounds).all() if n_docs == 1 else np.isfinite(bounds).all()
    assert results.load(found.save(tmp_path / "result")) == found
    assert found.plot().to_json()
    assert len(found.to_frame())
    assert found.summary()["tokens"] == store.n_tokens
    scored = Atlas(0).sample(60, "heldout", 0)
    more = write_store(tmp_path / "h", scored, run_corpus(model, scored, [SITE]), card=model.card)
    assert evaluate(runs, store, heldout=more, config=EvaluationConfig(controls=False)).labels


def test_sweep_of_eight_costs_at_most_035_and_says_so(live, model) -> None:
    runs = [Dictionary(str(i), SITE, identity(D)) for i in range(8)]
    config = EvaluationConfig(ce_sequences=16, controls=False, max_tokens=500)
    found = evaluate(runs, live, model, config=config)
    assert found.layer_ratio <= 0.35
    assert found.layers_run / found.layers_separate_shared <= 0.35
    assert found.summary()["layer-forwards / separate"] == found.layer_ratio
    assert found.n_scored > 0


def test_result_has_frames_a_picture_controls_and_comes_back_equal(live, model, tmp_path) -> None:
    runs = [Dictionary("a", SITE, identity(D), "x"), Dictionary("b", SITE, reader(d=D), "y")]
    config = EvaluationConfig(ce_sequences=16, max_tokens=2000)
    found = evaluate(runs, live, model, config=config)
    again = results.load(found.save(tmp_path / "result"))
    assert again == found
    frame = found.to_frame()
    assert set(frame["measure"]) == {"core", "labels"}
    frame = frame[(frame["measure"] == "core") & (frame["source"] == "dictionary")]
    assert set(frame["metric"]) == set(found.metrics)
    assert (frame["n"] > 0).all()
    inner = frame[np.isfinite(frame["low"]) & np.isfinite(frame["value"])]
    assert len(inner) > 10
    assert (inner["low"] <= inner["value"]).all()
    assert (inner["value"] <= inner["high"]).all()
    assert len(found.labels_frame()) == 2 * len(set(found.labels["label"]))
    assert len(found.density_frame()) == 2 * D + 12
    assert found.plot().data
    assert "uncontrolled" not in str(found.controls)
    assert found.provenance.seed == 0


def test_what_does_not_belong_together_is_refused(live, corpus, tmp_path) -> None:
    other = load_model(tiny_llama(len(corpus.vocab), seed=9), certify=False)
    one = Dictionary("a", SITE, identity(D))
    with pytest.raises(MismatchError, match="holds activations of"):
        evaluate([one], live, other)
    with pytest.raises(ConfigError, match="names of their own"):
        evaluate([one, one], live)
    with pytest.raises(ConfigError, match="names of their own"):
        evaluate([], live)
    with pytest.raises(MismatchError, match="reads 5 numbers"):
        evaluate([Dictionary("b", SITE, identity(5))], live)
    acts = {SITE: torch.randn(len(corpus.tokens), D)}
    strange = write_store(tmp_path / "s", corpus, acts, spec={**corpus.spec, "seed": 6})
    with pytest.raises(MismatchError, match=r"stored token ids differ|longer ones"):
        evaluate([one], strange)


def test_seeds_are_bounded_and_the_largest_works(planted) -> None:
    from lensbench.errors import ConfigError

    for seed in (-1, 2**63, 2**70):
        with pytest.raises(ConfigError, match=rf"seed: must be .* \(got {seed}\)"):
            EvaluationConfig.parse({"seed": seed})
    config = EvaluationConfig(seed=2**63 - 1, max_tokens=800)
    assert np.isfinite(
        evaluate([Dictionary("d", SITE, reader())], planted, config=config).values[0, 0, 0]
    )
