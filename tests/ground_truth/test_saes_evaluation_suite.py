"""The suite on one pass: planted answers come out, controls stay low, what is missing says why.

Thresholds, written before the first run: a label that one latent reads scores above 0.95 under the
sparse probe and in coverage, its random dictionary and shuffled labels at least 0.15 lower; the
rows are encoded once by each dictionary; eight dictionaries cost at most 0.35 of eight evaluations.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lensbench import load_model, results
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.saes.evaluation.evaluate import EvaluationConfig, evaluate
from lensbench.saes.evaluation.passes import Dictionary
from lensbench.saes.evaluation.settings import MEASURES
from lensbench.worlds.atlas import Atlas
from tests.saes_evaluation_helpers import HandSet, run_corpus, tiny_llama, write_store

SITE, D = "blocks.1.resid_post", 32
QUICK = {"ce_sequences": 0, "max_tokens": 2500}


@pytest.fixture(scope="module")
def corpus() -> Any:
    return Atlas(0).sample(160, "all", seed=5)


def sentences(corpus) -> dict[str, np.ndarray]:
    """Two labels of your own, of whole documents, that cross."""
    rng = np.random.default_rng(0)
    return {name: rng.random(corpus.n_docs) < 0.4 for name in ("formal", "long")}


@pytest.fixture(scope="module")
def planted(corpus, tmp_path_factory) -> Any:
    """Noise, plus direction 0 in formal documents and direction 1 in long ones."""
    gen = torch.Generator().manual_seed(0)
    acts = torch.randn(len(corpus.tokens), D, generator=gen)
    for at, values in enumerate(sentences(corpus).values()):
        acts[:, at] += 6.0 * torch.from_numpy(values[corpus.doc_ids]).float()
    return write_store(tmp_path_factory.mktemp("planted"), corpus, {SITE: acts})


class Counting(HandSet):
    """Counts the rows that it encodes."""

    rows = 0

    def encode(self, x):
        self.rows += len(x)
        return super().encode(x)


def reader(seed: int = 1) -> Counting:
    """Latents 3 and 5 read the two directions; the others read noise."""
    gen = torch.Generator().manual_seed(seed)
    w = torch.nn.functional.normalize(torch.randn(24, D, generator=gen), dim=-1)
    w[:, :2] = 0
    w[3], w[5] = torch.eye(D)[0], torch.eye(D)[1]
    return Counting(w.T, w, b_enc=-1.0)


@pytest.fixture(scope="module")
def found(planted, corpus) -> Any:
    suite = ("core", "labels", "sparse_probing", "tpp", "scr", "coverage", "splitting", "seeds")
    codec = reader()
    made = evaluate(
        [Dictionary("d", SITE, codec)],
        planted,
        suite=suite,
        labels=sentences(corpus),
        atoms=torch.eye(D)[:2],
        config=QUICK | {"letters": False, "suite_tokens": 1500},
    )
    return made, codec


def scores(made, measure: str, metric: str) -> dict[str, float]:
    table = made.beside_controls(measure, metric)
    assert len(table) == 1
    return {str(k): float(v) for k, v in table.iloc[0].items() if k != "dictionary"}


def test_every_measure_finds_what_was_planted_and_its_controls_do_not(found) -> None:
    made, _ = found
    probe = scores(made, "sparse_probing", "accuracy, k=1")
    assert probe["accuracy, k=1"] > 0.95
    for control in ("random_dictionary", "shuffled_labels", "chance"):
        assert probe[control] < probe["accuracy, k=1"] - 0.15, control
    cover = scores(made, "coverage", "coverage, latent chosen")
    assert cover["coverage, latent chosen"] > 0.95
    assert cover["always_on"] < 0.8
    assert cover["random_dictionary"] < cover["coverage, latent chosen"] - 0.15
    taken = scores(made, "tpp", "TPP, 2 latents")
    detail = made.suite["tpp"]["d"]
    # Only two latents tell anything here, so taking out two takes both labels: own drops are full,
    # and TPP itself is nothing. That TPP aims is tested on a world of its own.
    assert (np.diagonal(detail.drop[:, 0]) > 0.4).all()
    assert taken["TPP, 2 latents"] == pytest.approx(detail.score(2).mean, nan_ok=False)
    assert abs(taken["random_latents"]) < 0.15
    assert taken["chance"] == 0
    freed = scores(made, "scr", "SCR, 2 latents")
    assert set(freed) >= {"random_latents", "random_dictionary", "always_on", "chance"}
    assert made.suite["scr"]["d"].labels == ("formal", "long")  # yours, as there are two
    split = scores(made, "splitting", "F1 of all latents")
    assert split["F1 of all latents"] > 0.95
    assert split["shuffled_labels"] < 0.8
    atoms = scores(made, "seeds", "MMCS from atoms")
    assert atoms["MMCS from atoms"] == pytest.approx(1, abs=1e-6)
    assert atoms["random_dictionary"] < 0.85
    labels = scores(made, "labels", "F1")
    assert labels["F1"] > 0.95
    assert {"random_dictionary", "shuffled_labels", "always_on", "current_token"} <= set(labels)
    core = scores(made, "core", "fvu")
    assert core["mean_activation"] == 1.0
    assert np.isfinite(core["random_dictionary"])


def test_each_row_is_encoded_once_whatever_the_suite_asks(found) -> None:
    made, codec = found
    assert codec.rows == made.n_tokens


def test_a_dictionary_that_reads_neither_direction_scores_like_chance(planted, corpus) -> None:
    blind = reader()
    blind.W_enc[:, [3, 5]] = blind.W_enc[:, [4, 6]]
    made = evaluate([Dictionary("d", SITE, blind)], planted, suite="sparse_probing",
                    labels=sentences(corpus), config=QUICK)  # fmt: skip
    probe = scores(made, "sparse_probing", "AUROC, k=1")
    assert abs(probe["AUROC, k=1"] - 0.5) < 0.1


def test_the_result_comes_back_equal_draws_every_measure_and_is_long(found, tmp_path) -> None:
    made, _ = found
    again = results.load(made.save(tmp_path / "r"))
    assert again == made
    frame = made.to_frame()
    assert {"measure", "name", "metric", "source", "value", "low", "high", "n", "unit"} <= set(
        frame
    )
    for measure, figure in made.plots().items():
        assert figure.data, measure
    sources = {str(t.name) for t in made.plot("sparse_probing").data}
    assert {"dictionary", "random dictionary", "chance"} <= sources
    assert "sparse probing: AUROC, k=1, mean" in made.summary()
    with pytest.raises(UnknownNameError, match="Did you mean 'coverage'"):
        made.plot("covrage")


def test_a_saved_suite_loads_in_a_process_that_knows_no_measure(found, tmp_path) -> None:
    import subprocess
    import sys

    folder = found[0].save(tmp_path / "r")
    code = f"from lensbench.results import load; print(sorted(load({str(folder)!r}).suite))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sparse_probing" in out.stdout


def test_names_are_checked_and_the_nearest_is_offered(planted) -> None:
    one = Dictionary("d", SITE, reader())
    with pytest.raises(UnknownNameError, match="Did you mean 'absorption'"):
        evaluate([one], planted, suite=("core", "absorbtion"))
    with pytest.raises(ConfigError, match="Did you mean 'tpp'"):
        EvaluationConfig.parse({"suite": ["tp"]})
    with pytest.raises(ConfigError, match="suite is empty"):
        evaluate([one], planted, suite=())
    assert EvaluationConfig.parse({"suite": "all"}).suite == tuple(MEASURES)


def test_what_cannot_be_measured_is_left_out_with_the_reason(planted, tmp_path) -> None:
    one = Dictionary("d", SITE, reader())
    made = evaluate([one], planted, suite=("core", "absorption", "seeds", "implants"), config=QUICK)
    assert "tokenizer" in made.left_out["absorption"]
    assert "recipe is not known" in made.left_out["seeds"]
    assert "recipe is not known" in made.left_out["implants"]
    assert made.measures == ("core",)
    few = Atlas(0).sample(1, "all", 0)
    small = write_store(tmp_path / "s", few, {SITE: torch.randn(len(few.tokens), D)})
    none = evaluate([one], small, suite=("labels", "tpp"), config=QUICK)
    assert "too few to split" in none.left_out["labels"]
    assert "too few to split" in none.left_out["tpp"]


def test_scr_takes_two_labels_that_you_name_and_guesses_none(planted, corpus) -> None:
    one, two = Dictionary("d", SITE, reader()), sentences(corpus)
    three = two | {"odd": np.arange(corpus.n_docs) % 2 == 1}
    quick = QUICK | {"suite_tokens": 600}
    made = evaluate([one], planted, suite=("core", "scr"), labels=three, config=quick)
    assert "--scr-labels A,B" in made.left_out["scr"]
    assert "formal,long" in made.left_out["scr"]  # one of the pairs that it could be
    named = quick | {"scr_labels": ("long", "odd")}
    made = evaluate([one], planted, suite="scr", labels=three, config=named)
    assert made.suite["scr"]["d"].labels == ("long", "odd")
    slip = quick | {"scr_labels": ("formel", "odd")}
    with pytest.raises(UnknownNameError, match="Did you mean 'formal'"):
        evaluate([one], planted, suite="scr", labels=three, config=slip)


def test_labels_that_scr_cannot_use_are_refused_at_once_and_without_scr_they_do_not_matter(
    planted, corpus, tmp_path
) -> None:
    one, labels = Dictionary("d", SITE, reader()), sentences(corpus)
    labels |= {"all": np.ones(corpus.n_docs, bool), "opposite": ~labels["long"]}
    for other, said in (("all", "'all' is True on all"), ("opposite", "2 of the four"),
                        ("long", "two different labels")):  # fmt: skip
        config = QUICK | {"scr_labels": ("long", other)}
        with pytest.raises(ConfigError, match=said):
            evaluate([one], planted, suite="scr", labels=labels, config=config)
    assert evaluate([one], planted, suite="core", labels=labels, config=config).measures
    few = Atlas(0).sample(1, "all", 0)
    bare = write_store(tmp_path / "few", few, {SITE: torch.randn(len(few.tokens), D)})
    with pytest.raises(ConfigError, match=r"there are no labels.*--labels FILE\.json"):
        evaluate([one], bare, suite="scr", config=config)


def test_labels_that_no_probe_reads_are_not_asked_how_they_are_split(planted, corpus) -> None:
    one, rng = Dictionary("d", SITE, reader()), np.random.default_rng(5)
    config = QUICK | {"letters": False, "suite_tokens": 1500}
    noise = {name: rng.random(corpus.n_docs) < 0.3 for name in "ab"}
    made = evaluate([one], planted, suite=("absorption", "splitting"), labels=noise, config=config)
    for measure in ("absorption", "splitting"):
        assert "no label has a linear probe of F1 0.6" in made.left_out[measure]
    some = noise | sentences(corpus)
    made = evaluate([one], planted, suite=("absorption", "splitting"), labels=some, config=config)
    kept = made.suite["splitting"]["d"].kept
    assert kept == ("formal", "long")
    assert scores(made, "splitting", "latents per label")["n"] == 2


def test_the_length_of_decoder_rows_moves_no_measure_of_main_latents(planted, corpus) -> None:
    """Rows a thousand times as long, latents a thousandth as strong: the same dictionary."""
    size = torch.ones(24)
    size[[3, 5]] = 1000.0
    own, scaled = reader(), reader()
    scaled.W_enc, scaled.b_enc = scaled.W_enc / size, scaled.b_enc / size
    scaled.W_dec = scaled.W_dec * size[:, None]
    made = evaluate(
        [Dictionary("own", SITE, own), Dictionary("scaled", SITE, scaled)],
        planted,
        suite=("absorption", "splitting"),
        labels=sentences(corpus),
        config=QUICK | {"letters": False, "suite_tokens": 1500},
    )
    for measure in ("absorption", "splitting"):
        found = made.suite[measure]
        assert [main[0] for main in found["own"].main] == [3, 5]
        assert found["scaled"].main == found["own"].main
        frames = (found[name].to_frame() for name in ("scaled", "own"))
        pd.testing.assert_frame_equal(*frames, rtol=1e-4, obj=measure)


def test_labels_of_another_length_are_refused(planted) -> None:
    one = Dictionary("d", SITE, reader())
    with pytest.raises(MismatchError, match=r"shape \[7\].*stored rows.*documents"):
        evaluate([one], planted, labels={"a": [True] * 7}, config=QUICK)
    with pytest.raises(ConfigError, match="must map"):
        evaluate([one], planted, labels={}, config=QUICK)


def test_the_twin_stands_beside_every_measure(planted, corpus, tmp_path) -> None:
    gen = torch.Generator().manual_seed(9)
    nothing = torch.randn(len(corpus.tokens), D, generator=gen)
    store = write_store(tmp_path / "twin", corpus, {SITE: nothing})
    made = evaluate(
        [Dictionary("d", SITE, reader())],
        planted,
        suite=("core", "labels", "sparse_probing", "coverage", "tpp"),
        labels=sentences(corpus),
        twin=(Dictionary("t", SITE, reader()), store),
        config=QUICK,
    )
    assert "reinitialised_twin" in made.beside_controls("tpp")
    for measure in ("labels", "sparse_probing", "coverage"):
        table = made.beside_controls(measure).iloc[0]
        own = float(table.iloc[1])
        assert float(table["reinitialised_twin"]) < own - 0.15, measure
    assert np.isfinite(made.beside_controls("core")["reinitialised_twin"]).all()


def test_dictionaries_evaluated_together_score_as_each_does_alone(
    planted, corpus, tmp_path
) -> None:
    gen = torch.Generator().manual_seed(9)
    mixed = torch.randn(len(corpus.tokens), D, generator=gen)
    mixed[:, 0] += 6.0 * torch.from_numpy(sentences(corpus)["formal"][corpus.doc_ids]).float()
    twin = (Dictionary("t", SITE, reader()), write_store(tmp_path / "twin", corpus, {SITE: mixed}))
    asked = {
        "suite": ("sparse_probing", "tpp", "absorption", "splitting"),
        "labels": sentences(corpus) | {"odd": np.arange(corpus.n_docs) % 2 == 1},
        "twin": twin,
        "config": QUICK | {"letters": False, "suite_tokens": 1500, "ks": (1,)},
    }
    worse = reader(2)
    worse.W_enc[:, [3, 5]] += 0.4 * torch.randn(D, 2, generator=gen)
    both = [Dictionary("d", SITE, reader(1)), Dictionary("e", SITE, worse)]
    together = evaluate(both, planted, **asked).to_frame()
    assert set(together["measure"]) == {"core", *asked["suite"]}
    counted = together.loc[together["metric"] == "latents per label"].set_index("source")["n"]
    assert (counted["dictionary"] == 2).all()  # no document's number is in the activations
    assert (counted["reinitialised_twin"] == 1).all()  # its own activations hold "formal" alone
    for one in both:
        alone = evaluate([one], planted, **asked).to_frame()
        mine = together.loc[together["name"] == one.name].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, alone, check_exact=True)


def test_seeds_of_one_recipe_are_matched_and_others_are_not(planted) -> None:
    from lensbench.saes import train

    entry = {"architecture": "topk", "d_sae": 16, "k": 2, "lr": 3e-3, "site": SITE}
    sweep = {
        "train": {"tokens": 2048, "batch": 128},
        "sweep": [entry | {"seed": [0, 1]}, entry | {"k": 4}],
    }
    runs = train(planted, sweep, progress=False)
    made = evaluate(runs, planted, suite="seeds", config=QUICK)
    table = made.beside_controls("seeds").set_index("dictionary")
    pair = [r.name for r in runs if r.config["k"] == 2]
    assert list(table.index) == pair
    assert table["permuted"].to_numpy() == pytest.approx(1)
    assert (table["MMCS to other seeds"] > table["random_dictionary"]).all()
    (alone,) = (r.name for r in runs if r.config["k"] == 4)
    assert "seed" in made.left_out[f"seeds: {alone}"]


def test_eight_dictionaries_with_the_suite_on_cost_at_most_035(corpus, tmp_path) -> None:
    model = load_model(tiny_llama(len(corpus.vocab)), certify=False)
    acts = run_corpus(model, corpus, [SITE])
    live = write_store(tmp_path / "live", corpus, acts, card=model.card)
    w = torch.nn.functional.normalize(torch.randn(24, 16), dim=-1)
    codecs = [Counting(w.T, w) for _ in range(8)]
    runs = [Dictionary(str(i), SITE, codec) for i, codec in enumerate(codecs)]
    config = {"ce_sequences": 16, "max_tokens": 600, "suite_tokens": 600, "ks": (1,)}
    made = evaluate(runs, live, model, suite=("core", "sparse_probing", "coverage"), config=config)
    assert made.layer_ratio <= 0.35
    assert made.layers_run / made.layers_separate_shared <= 0.35
    assert {c.rows for c in codecs} == {made.n_tokens + _stored(live, 16)}


def _stored(store, n: int) -> int:
    """Rows of the first ``n`` sequences: those that CE replaces, encoded live once."""
    return int((next(store.sequences(n)).rows >= 0).sum())


def test_first_letters_are_of_words_and_no_word_is_in_both_halves() -> None:
    from lensbench.app.workflows.models import open_model
    from lensbench.saes.evaluation.suite_rows import letter_rows

    corpus = Atlas(0).sample(200)
    tokenizer = open_model("atlas-dense", certify=False).tokenizer
    rows = letter_rows(corpus.tokens, tokenizer, 2000, 0)
    labels = rows.usable()
    words = [corpus.vocab[t] for t in corpus.tokens[rows.at]]
    for i, name in enumerate(labels.names):
        letter = name[-1]
        assert [w[0].casefold() == letter for w in words] == labels.values[:, i].tolist()
    held = {w for w, h in zip(words, labels.held, strict=True) if h}
    assert held
    assert not held & {w for w, h in zip(words, labels.held, strict=True) if not h}
    assert max(np.bincount(labels.docs)) <= 16
    nothing = letter_rows(corpus.tokens, None, 2000, 0)
    assert "tokenizer" in nothing.why_not
