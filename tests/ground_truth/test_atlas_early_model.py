"""The committed atlas-early: its card's figures measured again, and bounds fixed before its run.

The bounds are in ``lensbench.worlds.early_card``; they were committed before the model was trained.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lensbench
from lensbench import io
from lensbench.models.loading import bundled_models
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.card import AIMS, load_module
from lensbench.worlds.controls import reinitialised_twin
from lensbench.worlds.early_card import (
    BESIDE,
    DISTINCT_AIM,
    MIDDLE,
    card_text,
    distinct_2,
    evaluate_early,
    exit_figures,
    halves,
    verdicts,
)
from lensbench.worlds.exits import mean_agreement
from lensbench.worlds.measure import accuracy, floor_gap

WORLD = Atlas(0)


@pytest.fixture(scope="module")
def folder() -> Path:
    return bundled_models()["atlas-early"]


@pytest.fixture(scope="module")
def module(folder: Path) -> Any:
    return load_module(folder)


@pytest.fixture(scope="module")
def stated(folder: Path) -> dict[str, Any]:
    return io.read_json(folder / "evaluation.json")


def test_the_card_is_made_of_the_measured_figures(folder: Path, stated: dict[str, Any]) -> None:
    recipe = io.read_json(folder / "recipe.json")
    assert (folder / "README.md").read_text() == card_text(stated, recipe)
    rows = verdicts(stated).values()
    card = (folder / "README.md").read_text()
    assert all(f"| {what} |" in card for what, *_ in rows)
    assert card.count("| NO |") == sum(not met for *_, met in rows)


@pytest.mark.parametrize(
    "gate",
    [
        *("loss_heldout", "loss_fresh", *AIMS, *(f"exit_{layer}" for layer in MIDDLE)),
        pytest.param(
            "distinct_2",
            marks=pytest.mark.xfail(
                strict=True,
                reason="distinct-2 of greedy continuations is .750 of the text's, aim .9: where "
                "several words can follow, greedy decoding says one; the world's own most probable "
                "words reach .709, atlas-dense .765; sampled continuations reach 1.017",
            ),
        ),
    ],
)
def test_a_bound_that_was_fixed_before_the_run_is_met(gate: str, stated: dict[str, Any]) -> None:
    what, got, bound, met = verdicts(stated)[gate]
    assert met, f"{what}: {got:.3f}, bound {bound:.3f}"


def test_it_has_atlas_denses_architecture_words_and_world(folder: Path) -> None:
    dense = bundled_models()[BESIDE]
    assert (folder / "tokenizer.json").read_bytes() == (dense / "tokenizer.json").read_bytes()
    assert io.read_json(folder / "config.json") == io.read_json(dense / "config.json")
    assert not (folder / "revisions").exists()
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2.9e6
    early, other = (lensbench.load_model(name) for name in ("atlas-early", BESIDE))
    assert early.card.fingerprint != other.card.fingerprint


def test_it_knows_what_atlas_dense_knows(module: Any, stated: dict[str, Any]) -> None:
    found = accuracy(WORLD, module, n=100, seed=21)
    for family, interval in found.items():
        mean = stated["accuracy_heldout"][family]["mean"]
        slack = 4 * max(mean * (1 - mean), 0.01) ** 0.5 / 10
        assert abs(interval.mean - mean) < slack, family
    gap = floor_gap(module, WORLD.sample(600, "heldout", seed=33)).gap
    assert gap.low <= stated["loss_heldout"]["gap"]["high"]
    assert gap.high >= stated["loss_heldout"]["gap"]["low"]


def test_middle_layers_agree_with_the_last_far_more_than_atlas_denses(
    module: Any, stated: dict[str, Any]
) -> None:
    """Other documents than the card's; a twin without training is the control."""
    corpus = WORLD.sample(200, "heldout", seed=34)
    documents = [corpus.document(i)[:-1] for i in range(corpus.n_docs)]
    early, dense, twin = (
        mean_agreement(one, documents)
        for one in (module, load_module(bundled_models()[BESIDE]), reinitialised_twin(module, 0))
    )
    np.testing.assert_allclose(early, stated["exits"]["atlas-early"]["agreement"], atol=0.03)
    for layer in MIDDLE:
        assert 1 - early[layer - 1] <= (1 - dense[layer - 1]) / 3
        assert twin[layer - 1] < early[layer - 1] - 0.2
    assert early[-1] == dense[-1] == 1.0


def test_the_model_has_not_collapsed(module: Any, stated: dict[str, Any]) -> None:
    """Other documents than the card's. Sampled text is as varied as the world's."""
    found = exit_figures(WORLD, module, n_docs=300, seed=35)
    assert found["distinct_2_sampled"] >= DISTINCT_AIM
    # Greedy text is as varied as the most probable text of the world, which is what it can be.
    assert stated["exits"]["atlas-early"]["distinct_2"] >= DISTINCT_AIM * stated["world_distinct_2"]
    # control: one word again and again
    corpus = WORLD.sample(300, "heldout", 35)
    _, reference = halves([corpus.document(i) for i in range(corpus.n_docs)])
    assert distinct_2([[5] * len(rest) for rest in reference], reference) < 0.05


def test_where_one_word_only_can_come_the_middle_layers_know_it(stated: dict[str, Any]) -> None:
    """Asked after the run: where the world leaves a choice, layers may disagree on ties."""
    early = stated["exits"]["atlas-early"]
    for layer in MIDDLE:
        assert early["agreement_determined"][layer - 1] >= 0.98
        assert early["agreement_undetermined"][layer - 1] < 0.95


def test_the_worlds_own_continuation_says_its_bayes_word_at_every_step() -> None:
    mixture = WORLD.reference("heldout")
    words = "List bag clean , car pink , box grey ; recall box".split()
    said = mixture.continued(words, 30, stop="[EOS]")
    assert said[0] == "grey"
    assert said[-1] == "[EOS]"
    whole = [*words, *said]
    told = mixture.trace(whole)[len(words) :]
    assert [one.bayes for one in told] == said
    assert mixture.continued(words, 2, stop="[EOS]") == said[:2]


@pytest.mark.slow
def test_every_figure_of_the_card_is_measured_again(folder: Path, stated: dict[str, Any]) -> None:
    again = evaluate_early(folder)
    for name, (_, got, _, _) in verdicts(stated).items():
        assert verdicts(again)[name][1] == pytest.approx(got, abs=1e-3), name
