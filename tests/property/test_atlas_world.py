"""What holds for every seed, split and variant of the atlas."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.worlds.atlas import SPLITS, Atlas
from lensbench.worlds.atlas.corpus import Corpus
from lensbench.worlds.controls import (
    f1_interval,
    implant_directions,
    recovered_share,
    shuffled_labels,
)

WORLDS = {
    (seed, variant): Atlas(seed, variant) for seed in (0, 1) for variant in ("english", "equal")
}
worlds = st.sampled_from(list(WORLDS.values()))


@settings(max_examples=25, deadline=None)
@given(world=worlds, split=st.sampled_from(SPLITS), seed=st.integers(0, 2**31))
def test_predictions_are_distributions_that_allow_what_was_said(world, split, seed) -> None:
    corpus = world.sample(8, split, seed)
    mixture = world.reference(split)
    for i in range(corpus.n_docs):
        words = corpus.words(i)[1:]
        for prediction, word in zip(mixture.trace(words), words, strict=True):
            assert math.isclose(sum(prediction.probs.values()), 1.0, rel_tol=1e-9)
            assert 0 < prediction.probs[word] <= 1 + 1e-12
            assert 0 <= prediction.entropy <= math.log(len(world.vocab))
            assert prediction.probs[prediction.bayes] >= max(prediction.probs.values()) - 1e-12


@settings(max_examples=25, deadline=None)
@given(world=worlds, split=st.sampled_from(SPLITS), seed=st.integers(0, 2**31),
       n=st.integers(1, 30))  # fmt: skip
def test_corpora_are_well_formed_and_come_back(world, split, seed, n) -> None:
    corpus = world.sample(n, split, seed)
    assert corpus.n_docs == n
    assert corpus.lengths.max() <= 48
    firsts, lasts = corpus.tokens[corpus.offsets[:-1]], corpus.tokens[corpus.offsets[1:] - 1]
    assert {world.vocab[t] for t in firsts} == {"[BOS]"}
    assert {world.vocab[t] for t in lasts} == {"[EOS]"}
    assert not np.isin(corpus.tokens, [0, 1]).any()  # neither padding nor unknown words
    again = Corpus.from_spec(corpus.spec)
    assert np.array_equal(again.tokens, corpus.tokens)
    assert np.array_equal(again.template, corpus.template)
    for y in corpus.labels.values():
        assert y.shape == corpus.tokens.shape


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=20), seed=st.integers(0, 999))
def test_shuffled_labels_keep_their_count(lengths, seed) -> None:
    docs = np.repeat(np.arange(len(lengths)), lengths)
    y = np.random.default_rng(seed).random(len(docs)) < 0.4
    moved = shuffled_labels({"y": y}, docs, seed=seed)["y"]
    assert moved.sum() == y.sum()
    interval = f1_interval(moved, y, docs, n_boot=100, seed=seed)
    assert 0 <= interval.low <= interval.high <= 1 + 1e-12
    assert interval.n == len(lengths)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 10), strength=st.floats(0.25, 2.0), seed=st.integers(0, 999))
def test_implanted_directions_are_recovered_by_themselves(n, strength, seed) -> None:
    import torch

    x = torch.randn(500, 24, generator=torch.Generator().manual_seed(seed))
    changed, implant = implant_directions(x, n, strength, seed=seed)
    assert recovered_share(implant.directions, implant.directions) == 1.0
    assert int(((changed - x).abs().sum(-1) > 0).sum()) == 5 * n
    low, high = (recovered_share(changed, implant.directions, threshold=t) for t in (0.3, 0.95))
    assert low >= high
