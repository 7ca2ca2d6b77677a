"""The committed atlas-dense: its card's figures measured again, and its circuits.

Figures are compared with ``evaluation.json``, which was measured on the same files; thresholds are
the aims of the recipe. An aim that is missed must be named in the card.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench import io
from lensbench.models import load_model
from lensbench.models.loading import bundled_models
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.card import AIMS, GAP_AIM, card_text, evaluate_model, load_module
from lensbench.worlds.controls import reinitialised_twin
from lensbench.worlds.measure import accuracy, floor_gap, induction_scores, io_patching

WORLD = Atlas(0)


@pytest.fixture(scope="module")
def folder() -> Path:
    return bundled_models()["atlas-dense"]


@pytest.fixture(scope="module")
def module(folder: Path) -> Any:
    return load_module(folder)


@pytest.fixture(scope="module")
def stated(folder: Path) -> dict[str, Any]:
    return io.read_json(folder / "evaluation.json")


def test_the_card_is_made_of_the_measured_figures(folder: Path, stated: dict[str, Any]) -> None:
    recipe = io.read_json(folder / "recipe.json")
    assert (folder / "README.md").read_text() == card_text(stated, recipe)


def test_every_missed_aim_is_named_in_the_card(folder: Path, stated: dict[str, Any]) -> None:
    missing = (folder / "README.md").read_text().split("## What was not learnt")[1]
    for family, aim in AIMS.items():
        missed = stated["accuracy_heldout"][family]["mean"] < aim
        assert missed == (f"- {family}: " in missing)
    assert (stated["loss_heldout"]["gap"]["mean"] > GAP_AIM) == ("Held-out loss is" in missing)


def test_accuracy_on_held_out_combinations(module: Any, stated: dict[str, Any]) -> None:
    found = accuracy(WORLD, module, n=100, seed=21)
    for family, interval in found.items():
        mean = stated["accuracy_heldout"][family]["mean"]
        slack = 4 * max(mean * (1 - mean), 0.01) ** 0.5 / 10
        assert abs(interval.mean - mean) < slack, family


def test_a_reinitialised_twin_answers_nothing(module: Any) -> None:
    """Control: the architecture and the tokenizer alone score chance."""
    found = accuracy(WORLD, reinitialised_twin(module, seed=0), n=50, seed=21)
    assert max(interval.mean for interval in found.values()) < 0.2


def test_loss_beside_the_floor(module: Any, stated: dict[str, Any]) -> None:
    corpus = WORLD.sample(600, "heldout", seed=33)
    gap = floor_gap(module, corpus).gap
    assert gap.low <= stated["loss_heldout"]["gap"]["high"]
    assert gap.high >= stated["loss_heldout"]["gap"]["low"]
    assert gap.mean > -0.01  # nothing beats the floor
    twin = floor_gap(reinitialised_twin(module, seed=0), WORLD.sample(50, "heldout", seed=33))
    assert twin.gap.low > 3  # control


def test_an_induction_head_exists_and_a_twin_has_none(module: Any, stated: dict[str, Any]) -> None:
    """Scores from our own taps, then again from transformers' eager attention."""
    scores = induction_scores(module, WORLD)
    head = stated["induction_head"]
    assert scores[head["layer"], head["head"]] == pytest.approx(head["score"], abs=0.01)
    assert scores.max() >= 0.5
    assert induction_scores(reinitialised_twin(module, seed=0), WORLD).max() < 0.3


def test_induction_score_by_transformers_own_attention(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    eager = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    names = [WORLD.index[w] for w in WORLD.people.firsts]
    rng = np.random.default_rng(0)
    once = np.stack([rng.permutation(names)[:8] for _ in range(64)])
    tokens = np.concatenate([np.full((64, 1), WORLD.index["[BOS]"]), once, once], axis=1)
    with torch.no_grad():
        patterns = eager(torch.from_numpy(tokens), output_attentions=True).attentions
    best = max(
        float(np.mean([p[:, h, q, q - 7].mean() for q in range(9, 17)]))
        for p in patterns
        for h in range(p.shape[1])
    )
    assert best >= 0.5
    ours = induction_scores(load_module(folder), WORLD).max()
    assert best == pytest.approx(float(ours), abs=1e-3)


def test_who_receives_is_localised(module: Any) -> None:
    patching = io_patching(module, WORLD, n=12, seed=5)
    assert patching.share() <= 0.20
    assert patching.effect.max() > 0.9  # the receiver can be restored by one cell
    assert patching.effect[-1, -1] == pytest.approx(1.0, abs=1e-3)  # the last cell is everything
    assert np.abs(patching.effect[:, 0]).max() < 1e-4  # control: BOS says nothing


def test_the_series_is_addressable_and_ordered(folder: Path) -> None:
    steps = sorted(int(p.name[4:]) for p in (folder / "revisions").iterdir())
    assert 512 in steps
    corpus = WORLD.sample(150, "heldout", seed=33)
    gaps = [
        floor_gap(load_module(folder / "revisions" / f"step{s}"), corpus).gap.mean for s in steps
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert load_model("atlas-dense", revision="step512", certify=False).card.revision == "step512"


@pytest.mark.slow
def test_every_figure_of_the_card_again(folder: Path, stated: dict[str, Any]) -> None:
    found = evaluate_model(folder)
    assert found["parameters"] == stated["parameters"]
    for key in ("loss_heldout", "loss_heldout_elsewhere", "loss_fresh"):
        assert found[key]["loss"] == pytest.approx(stated[key]["loss"], abs=2e-3)
        assert found[key]["floor"] == pytest.approx(stated[key]["floor"], abs=1e-9)
    for split in ("accuracy_heldout", "accuracy_train"):
        for family, row in stated[split].items():
            assert found[split][family]["mean"] == pytest.approx(row["mean"], abs=0.01), family
    for family, aim in AIMS.items():
        row = found["accuracy_heldout"][family]
        assert row["mean"] >= aim or stated["accuracy_heldout"][family]["mean"] < aim
