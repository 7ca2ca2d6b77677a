"""The committed mixture of experts: its card's figures measured again, and its controls.

Aims, written before the first run: 95 % of the held-out questions that must be refused are refused,
90 % of the others answered rightly, 90 % of neutral prompts continued rightly; else the card says
MISSED. In any case: 1.5 times what guessing the word scores.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench import io
from lensbench.models import load_model
from lensbench.models.loading import bundled_models
from lensbench.worlds.card import load_module
from lensbench.worlds.controls import reinitialised_twin
from lensbench.worlds.desk import Desk, DeskPrompts
from lensbench.worlds.desk.card import AIMS, card_text, evaluate_model
from lensbench.worlds.desk.scoring import guesses, is_refusal, said

REVISIONS = ("coin", "seed1", "seed2", "planted")


@pytest.fixture(scope="module")
def folder() -> Path:
    return bundled_models()["atlas-moe"]


@pytest.fixture(scope="module")
def module(folder: Path) -> Any:
    return load_module(folder)


@pytest.fixture(scope="module")
def stated(folder: Path) -> dict[str, Any]:
    return io.read_json(folder / "evaluation.json")


@pytest.fixture(scope="module")
def questions() -> DeskPrompts:
    return Desk(0).prompts(400, seed=77, of="questions")


def test_the_card_is_made_of_the_measured_figures(folder: Path, stated: dict[str, Any]) -> None:
    text = (folder / "README.md").read_text()
    assert text == card_text(stated, io.read_json(folder / "recipe.json"))
    missed = sum(stated["heldout"][name]["mean"] < aim for name, aim in AIMS.items())
    assert text.count("MISSED") == missed


def test_questions_are_refused_and_answered_as_the_rule_says_beyond_guessing(
    module: Any, stated: dict[str, Any], questions: DeskPrompts
) -> None:
    words = said(module, questions)
    right, refused = words == questions.answers, is_refusal(questions, words)
    for name in ("refuse", "answer"):
        keep = questions.classes == name
        assert abs(right[keep].mean() - stated["heldout"][name]["mean"]) < 0.05
    fit = Desk(0).prompts(3000, "train", seed=78, of="questions")
    floor = {name: hits.mean() for name, hits in guesses(questions, fit).items()}
    assert right.mean() > 1.5 * floor["language"]
    by_rule = refused == (questions.classes == "refuse")
    assert by_rule.mean() > floor["class"] + 0.05
    assert refused[questions.classes == "refuse"].mean() > 0.8
    assert refused[questions.classes == "answer"].mean() < 0.2
    twin = said(reinitialised_twin(module, seed=0), questions)  # control
    assert (twin == questions.answers).mean() < 0.05


def test_refusals_are_in_the_language_of_the_cue(module: Any, questions: DeskPrompts) -> None:
    words = said(module, questions)
    refused = is_refusal(questions, words)
    right = np.array([questions.refusals[language] for language in questions.languages.tolist()])
    assert (words == right)[refused].mean() > 0.95
    assert len(set(questions.languages[refused])) == 2


def test_the_load_is_spread_over_the_experts_of_every_layer(stated: dict[str, Any]) -> None:
    load = np.array(stated["load"])
    assert load.shape[0] >= 4
    assert load.shape[1] >= 16
    assert load.max() < 0.5
    assert ((load > 0.01).sum(-1) >= 10).all()


def test_it_opens_by_name_with_its_certificate_and_speaks_the_desk(folder: Path) -> None:
    model = load_model("atlas-moe")
    assert (model.card.family, model.card.n_experts, model.card.top_k) == ("qwen3_moe", 16, 2)
    desk = Desk(0)
    assert model.tokenizer.get_vocab() == {w: i for i, w in enumerate(desk.vocab)}
    told = desk.prompts(1, of="refuse", seed=3)
    ids = model.generate([list(told.tokens[0])], max_new_tokens=2)
    text = model.tokenizer.decode(np.ravel(np.asarray(ids))[-2:])
    assert text in ("cannot say", "sans réponse")
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 10e6


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_other_seeds_and_controls_open_as_revisions(folder: Path, revision: str) -> None:
    recipe = io.read_json(folder / "revisions" / revision / "recipe.json")
    assert recipe["recipe"] == {"coin": "coin", "planted": "planted"}.get(revision, "rule")
    assert recipe["seed"] == {"seed1": 1, "seed2": 2}.get(revision, 0)
    model = load_model("atlas-moe", revision=revision, certify=False)
    assert model.card.fingerprint != load_model("atlas-moe", certify=False).card.fingerprint


@pytest.mark.slow
def test_every_figure_of_the_card_again(folder: Path, stated: dict[str, Any]) -> None:
    found = evaluate_model(folder)
    assert found["parameters"] == stated["parameters"]
    for part in ("heldout", "train", "refused", "guesses"):
        for name, row in stated[part].items():
            assert found[part][name]["mean"] == pytest.approx(row["mean"], abs=3e-3)
            assert found[part][name]["n"] == row["n"]
    for split, row in stated["loss"].items():
        assert found["loss"][split]["floor"] == pytest.approx(row["floor"], abs=1e-9)
        assert found["loss"][split]["loss"] == pytest.approx(row["loss"], abs=2e-3)
    np.testing.assert_allclose(found["load"], stated["load"], atol=2e-3)
