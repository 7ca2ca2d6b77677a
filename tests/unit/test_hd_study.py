"""Dealing prompts of the atlas, telling failures, and the study from end to end, in small."""

import numpy as np
import pytest

import lensbench
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.probes.hd.atlas import TASKS, atlas_prompts, join
from lensbench.probes.hd.encoder import EncoderConfig
from lensbench.probes.hd.failures import BASELINE, flag_failures
from lensbench.probes.hd.study import BASELINES, hd_study
from lensbench.results import load


def facts(prompts) -> set[tuple[str, str, str]]:
    return {(r, *pair) for r, row in zip(prompts.relations, prompts.pairs, strict=True)
            for pair in row}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_no_pair_of_entity_and_relation_is_on_two_sides(task: str) -> None:
    dealt = atlas_prompts(task, n_train=1500, n_test=60, seed=3)
    asked = {
        (r, *row[-1]) for p in (dealt.test,) for r, row in zip(p.relations, p.pairs, strict=True)
    }
    trained = facts(dealt.train)
    assert asked <= set(dealt.held_out)
    assert not trained & set(dealt.held_out)
    assert not facts(dealt.validation) & set(dealt.held_out)
    seen = [{(r, *row[-1]) for r, row in zip(dealt.validation.relations, dealt.validation.pairs,
                                             strict=True)}]  # fmt: skip
    assert not trained & seen[0]
    # Control: without the split they are.
    mixed = atlas_prompts(task, "combination", n_train=1500, n_test=60, seed=3)
    assert facts(mixed.train) & facts(mixed.test)
    assert not set(mixed.train.texts) & set(mixed.test.texts)


def test_words_of_held_out_pairs_are_still_trained_in_their_roles() -> None:
    dealt = atlas_prompts("analogy", n_train=4000, n_test=60, seed=3)
    asked = {row[-1][0] for row in dealt.train.pairs}
    said = {row[-1][1] for row in dealt.train.pairs}
    assert {entity for _, entity, _ in dealt.held_out} <= asked
    assert {value for _, _, value in dealt.held_out} <= said
    assert dealt.test.texts[0].endswith(":")
    assert len(dealt.held_out) > 20


@pytest.mark.illtyped
def test_slips_in_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'analogy'"):
        atlas_prompts("analogies")
    with pytest.raises(UnknownNameError, match="pair, combination"):
        atlas_prompts("analogy", "pairs")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="no prompts to join"):
        join([])
    one, two = (atlas_prompts(t, n_train=5, n_test=5).train for t in ("analogy", "question"))
    with pytest.raises(ConfigError, match="have as many pairs"):
        join([one, two])


def test_a_score_that_knows_beats_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    wrong = rng.random(300) < 0.3
    scores = {BASELINE: rng.normal(size=300), "knows": wrong + rng.normal(size=300) * 0.3}
    found = flag_failures(scores, wrong, np.arange(300) // 3, n_boot=200)
    assert found.beats_baseline("knows")
    assert found.auroc[1] > 0.95
    assert abs(found.auroc[0] - 0.5) < 0.1
    # Control: a second score that knows nothing does not beat the first.
    scores["knows"] = rng.normal(size=300)
    assert not flag_failures(scores, wrong, np.arange(300), n_boot=200).beats_baseline("knows")
    # Control: a baseline that knows as much is not beaten, draw by draw.
    scores = {BASELINE: wrong + rng.normal(size=300) * 0.3}
    equal = flag_failures(scores | {"knows": scores[BASELINE]}, wrong, np.arange(300), n_boot=200)
    assert equal.gain_low[1] == equal.gain_high[1] == 0
    assert not equal.beats_baseline("knows")


def test_failures_need_some_of_each_kind_and_finite_scores(tmp_path) -> None:
    wrong = np.zeros(50, bool)
    with pytest.raises(NotEnoughDataError, match=r"0 of 50 answers are wrong.*earlier checkpoint"):
        flag_failures({BASELINE: np.ones(50)}, wrong, np.arange(50))
    wrong[:10] = True
    with pytest.raises(ConfigError, match="no score '1 - max probability'"):
        flag_failures({"x": np.ones(50)}, wrong, np.arange(50))
    with pytest.raises(ConfigError, match="not finite: x"):
        flag_failures({BASELINE: np.ones(50), "x": np.full(50, np.nan)}, wrong, np.arange(50))
    found = flag_failures({BASELINE: np.arange(50.0)}, wrong, np.arange(50), n_boot=20)
    assert load(found.save(tmp_path)) == found
    assert len(found.plot().data) == 1


@pytest.fixture(scope="module")
def study():
    config = EncoderConfig(hidden=(1.0,), max_epochs=2, lr=3e-3)
    return hd_study(
        lensbench.load_model("atlas-dense", revision="step512"), "question", "combination",
        encoder=config, dim=512, n_train=300, n_test=100, seed=4,
    )  # fmt: skip


def test_a_study_has_every_baseline_and_only_counts_what_the_model_gets_right(study) -> None:
    assert study.sources == ("probe", *BASELINES)
    assert set(study.to_frame()["n"]) == {int(study.right.sum())}
    chance = study.to_frame().groupby("score")["chance"].first()
    assert chance["probing@5"] == pytest.approx(5 * chance["probing@1"])
    assert chance["probing@1"] == pytest.approx(1 / study.n_concepts)
    assert np.isnan(chance["gold probing@1"])
    assert 0 < study.right.mean() < 1
    assert study.contingency.to_numpy().sum() == len(study.right)
    assert study.value() == pytest.approx((study.reading.rank[study.right] <= 1).mean())
    assert np.isnan(study.value("MLP classifier", "gold probing@1"))
    assert study.layers == (2, 3, 4, 5)
    assert study.by_relation()["n"].sum() == len(study.right)
    assert "shuffled labels probing@1" in str(study.controls)


def test_a_study_comes_back_from_disk_draws_and_tells_failures(study, tmp_path) -> None:
    assert load(study.save(tmp_path)) == study
    assert len(study.plot().data) == 4
    found = study.failures()
    assert found.names[0] == BASELINE
    assert found.n_wrong == int((~study.right).sum())
    assert set(study.summary()) >= {"probing@1", "gold probing@1", "model accuracy"}


@pytest.mark.illtyped
def test_a_study_refuses_what_it_cannot_do() -> None:
    model = lensbench.load_model("atlas-dense")
    with pytest.raises(UnknownNameError, match="Did you mean 'layer 0'"):
        hd_study(model, baselines=("layer0",))
    with pytest.raises(ConfigError, match="'before' or 'after'"):
        hd_study(model, when="during")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"capacity is \d+ pair"):
        hd_study(model, n_train=50, n_test=10, dim=32)
