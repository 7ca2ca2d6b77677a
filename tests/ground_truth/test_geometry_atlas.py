"""Published effects of geometry, asked of atlas-dense and of a small model of stories."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dimensions(tmp_path_factory):
    """GRIDE at n1 = 1, 16 and 64 by source and layer; 4,000 tokens of 1,500 held-out documents."""
    from lensbench import capture, load_model
    from lensbench.probes import control_stores, intrinsic_dimension
    from lensbench.worlds.atlas import Atlas

    folder, model = tmp_path_factory.mktemp("atlas"), load_model("atlas-dense")
    corpus = Atlas(seed=0).sample(1500, "heldout", seed=1)
    store = capture(model, corpus, "blocks.*.resid_post", out=folder / "plain", dtype="float32")
    found = intrinsic_dimension(
        store, controls=control_stores(store, model, folder), scales=(1, 16, 64),
        positions="not_first",
    ).part(estimator="gride")  # fmt: skip
    return found.pivot(index=["source", "n1"], columns="layer", values="dimension")


def test_dimension_peaks_in_early_layers_of_the_trained_model_and_not_of_its_twin(dimensions):
    """At the scale of the plateau; published for 7B models (Cheng et al. 2024)."""
    own, twin = (dimensions.loc[(name, 64)].to_numpy()
                 for name in ("atlas-dense", "reinitialised_twin"))  # fmt: skip
    assert 0 < own.argmax() < 4
    assert own.max() > 1.2 * max(own[0], own[-1])
    assert twin.argmax() == 5


@pytest.mark.xfail(
    reason="shuffling raises the dimension of atlas-dense: at n1 = 64 the peak is 11.7 on shuffled "
    "text and 9.1 on text, at n1 = 1 9.3 and 5.3; its texts are templates, shuffled ones are not"
)
def test_shuffling_the_text_lowers_the_peak(dimensions) -> None:
    plain, mixed = (dimensions.loc[name].max().max() for name in ("atlas-dense", "shuffled_text"))
    assert mixed < plain


def test_dimension_falls_over_training_at_small_scales(tmp_path) -> None:
    from lensbench.probes import checkpoint_stores, intrinsic_dimension
    from lensbench.worlds.atlas import Atlas

    corpus = Atlas(seed=0).sample(1000, "heldout", seed=1)
    series = checkpoint_stores("atlas-dense", corpus, "blocks.*.resid_post", tmp_path)
    found = intrinsic_dimension(series, scales=(1,), positions="not_first", max_rows=3000)
    mean = found.part(estimator="gride").groupby("source", sort=False)["dimension"].mean()
    assert list(mean.index) == ["step64", "step512", "step1024", "final"]
    assert (np.diff(mean) < 0.15).all()
    assert mean["final"] < 0.7 * mean["step64"]


def test_which_gates_are_open_tells_the_family_of_a_text_and_less_so_in_the_twin(tmp_path) -> None:
    from lensbench import capture, load_model
    from lensbench.probes import control_stores, store_codes
    from lensbench.worlds.atlas import Atlas

    corpus, model = Atlas(seed=0).sample(1500, "heldout", seed=1), load_model("atlas-dense")
    last = corpus.offsets[1:] - 2
    family = np.full(corpus.n_docs, -1)
    for i, name in enumerate(n for n in corpus.labels if n.startswith("family_")):
        family[np.asarray(corpus.labels[name])[last]] = i
    site = "blocks.5.mlp.gate"
    store = capture(model, corpus, site, out=tmp_path / "plain")
    twin = control_stores(store, model, tmp_path, which=["reinitialised_twin"])
    found = store_codes(store, family, sites=site, positions="last", controls=twin, max_rows=1200)
    own, other = (found.part(source=name) for name in ("atlas-dense", "reinitialised_twin"))
    assert own["logistic"].item() > 0.9  # .955 when it was written
    assert own["logistic"].item() > other["logistic"].item() + 0.2  # .597
    assert own["kmeans_hungarian"].item() > other["kmeans_hungarian"].item()
    assert own["logistic_shuffled_labels"].item() < 0.25
    assert own["regime"].item() == "sufficiently expressive"


def test_a_comma_changes_garden_paths_and_not_sentences_whose_verb_takes_no_object() -> None:
    from lensbench import load_model
    from lensbench.probes import SentencePair, aligned_distances
    from lensbench.worlds.atlas import lexicon as lex

    rng, pairs = np.random.default_rng(0), []
    for _ in range(40):
        m, n = rng.choice(lex.ANIMATES, 2, replace=False)
        w, place = rng.choice(lex.MAIN_VERBS), rng.choice(lex.PLACES)
        for kind, verbs in (("path", lex.OPTIONAL_OBJECT), ("no object", lex.NO_OBJECT)):
            start, end = f"While the {m} {rng.choice(verbs)}", f"the {n} {w} near the {place} ."
            pairs.append(SentencePair(f"{start} {end}", f"{start} , {end}", str(w), kind))
    found = aligned_distances(load_model("atlas-dense"), pairs).means()
    value = found.set_index(["source", "kind", "measure"])["value"]
    own, twin = value["model"], value["reinitialised_twin"]
    assert own["path", "manhattan"] > 2 * own["no object", "manhattan"]
    assert own["path", "cosine"] < own["no object", "cosine"] - 0.05
    assert own["path", "surprisal_difference"] > 1
    assert abs(own["no object", "surprisal_difference"]) < 0.1
    for measure in ("manhattan", "cosine"):  # random weights do not know the verbs apart
        assert twin["path", measure] == pytest.approx(twin["no object", measure], rel=0.2)


@pytest.fixture(scope="module")
def story_profile(shared_data):
    from lensbench import load_model
    from lensbench.probes import length_profile

    model = load_model(str(shared_data / "story-llama"))
    text = (shared_data / "tinystories.txt").read_text().split("<|endoftext|>")
    ids = [model.tokens(t.strip()).ids[0].numpy() for t in text[:60] if t.strip()]
    batch = np.stack([i[:128] for i in ids if len(i) >= 128][:24])
    return length_profile(model, batch, lengths=(8, 16, 32, 64, 128))


def test_attention_of_stories_passes_less_than_even_attention_at_any_length(story_profile) -> None:
    frame = story_profile.part(source="text")
    long = frame[frame["length_tokens"] == 128]
    assert (long["zero_frequency"] < 0.5 * long["zero_frequency_even"]).all()
    twin = story_profile.part(source="reinitialised_twin")
    np.testing.assert_allclose(twin["zero_frequency"], twin["zero_frequency_even"], rtol=0.02)


@pytest.mark.xfail(
    reason="in this causal model both fall with length, 8 to 128 tokens: zero frequency of the "
    "last block .69 to .09, similarity of tokens .40 to .20 (published for encoders)"
)
def test_longer_stories_make_tokens_more_alike(story_profile) -> None:
    frame = story_profile.part(source="text")
    short, long = (frame[frame["length_tokens"] == n] for n in (8, 128))
    assert long["similarity_without_first"].mean() > short["similarity_without_first"].mean()
