"""The committed Othello model: its card's figures measured again, and the board inside it.

Thresholds, written before the first run, from the issue and the recipe: at least 98 % of the most
probable moves legal on held-out games, or the card says that the aim was missed; every chance level
below 60 %; a linear probe at the best layer at least 0.10 above the re-initialised twin and above
the majority per square and move number; slow: reconstruction of the board by a dictionary of the
trained model at least 0.4 above that of a latent that is always on (shown) and of the twin's
dictionary (not shown: an expected failure that says what was measured).
The site of the dictionary is the layer a linear probe reads best, by the card.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensbench import io
from lensbench.models import load_model
from lensbench.models.loading import bundled_models
from lensbench.worlds.card import load_module
from lensbench.worlds.controls import reinitialised_twin
from lensbench.worlds.othello.card import AIM, card_text, evaluate_model
from lensbench.worlds.othello.corpus import OthelloCorpus
from lensbench.worlds.othello.games import OPENING, random_games
from lensbench.worlds.othello.reading import board_accuracy
from lensbench.worlds.othello.scoring import chance_levels, legality


@pytest.fixture(scope="module")
def folder() -> Path:
    return bundled_models()["othello"]


@pytest.fixture(scope="module")
def module(folder: Path) -> Any:
    return load_module(folder)


@pytest.fixture(scope="module")
def stated(folder: Path) -> dict[str, Any]:
    return io.read_json(folder / "evaluation.json")


def test_the_card_is_made_of_the_measured_figures(folder: Path, stated: dict[str, Any]) -> None:
    recipe = io.read_json(folder / "recipe.json")
    text = (folder / "README.md").read_text()
    assert text == card_text(stated, recipe)
    met = stated["heldout"]["top1"]["mean"] >= AIM
    assert ("held-out games: met" in text) == met
    assert ("held-out games: MISSED" in text) != met


def test_its_moves_are_legal_and_chance_is_printed(module: Any, stated: dict[str, Any]) -> None:
    games = random_games(300, seed=77, split="heldout")
    found = legality(module, games)
    for name in ("top1", "mass"):
        ours, said = getattr(found, name), stated["heldout"][name]
        assert ours.low - 0.005 <= said["mean"] <= ours.high + 0.005
    assert found.top1.mean >= min(AIM, stated["heldout"]["top1"]["mean"]) - 0.005
    assert found.loss > found.floor - 0.02  # nothing beats the generator
    chance = chance_levels(games)
    assert set(chance) == set(stated["chance"])
    assert max(level.high for level in chance.values()) < 0.6
    twin = legality(reinitialised_twin(module, seed=0), games[:100])  # control
    assert twin.top1.high < max(level.high for level in chance.values())


def test_prefixes_it_never_saw_are_continued_legally_too(module: Any) -> None:
    games = random_games(300, seed=78, split="heldout")
    late = legality(module, games, from_move=OPENING)
    trained = legality(module, random_games(300, seed=78, split="train"), from_move=OPENING)
    assert late.n_positions < legality(module, games).n_positions
    assert abs(late.top1.mean - trained.top1.mean) < 0.01


def test_the_board_is_linear_in_it_and_not_in_its_twin(module: Any, stated: dict[str, Any]) -> None:
    fit, score = random_games(150, seed=5), random_games(60, seed=6)
    found = board_accuracy(module, fit, score)
    best = max(layer.mean for layer in found.layers)
    twin = board_accuracy(reinitialised_twin(module, seed=0), fit, score)
    assert best > max(layer.mean for layer in twin.layers) + 0.10
    assert best > found.majority.mean + 0.10
    said = max(layer["mean"] for layer in stated["board"]["trained"]["layers"])
    assert best == pytest.approx(said, abs=0.03)  # fewer games to fit on


def test_it_opens_by_name_and_speaks_squares(folder: Path) -> None:
    model = load_model("othello")  # with its certificate
    assert model.card.family == "gpt2"
    ids = model.tokenizer("c2 b2")["input_ids"]
    corpus = OthelloCorpus.sample(3)
    assert [model.tokenizer.convert_ids_to_tokens(i) for i in ids] == ["[BOS]", "c2", "b2"]
    assert model.tokenizer.get_vocab() == {w: i for i, w in enumerate(corpus.vocab)}
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 4e6


@pytest.mark.slow
def test_every_figure_of_the_card_again(folder: Path, stated: dict[str, Any]) -> None:
    found = evaluate_model(folder)
    assert found["parameters"] == stated["parameters"]
    for key in ("heldout", "heldout_after_opening", "fresh"):
        assert found[key]["n_positions"] == stated[key]["n_positions"]
        for name in ("top1", "mass"):
            assert found[key][name]["mean"] == pytest.approx(stated[key][name]["mean"], abs=2e-3)
        assert found[key]["floor"] == pytest.approx(stated[key]["floor"], abs=1e-9)
    for name, row in stated["chance"].items():
        assert found["chance"][name]["mean"] == pytest.approx(row["mean"], abs=1e-9)
    for ours, said in zip(
        found["board"]["trained"]["layers"], stated["board"]["trained"]["layers"], strict=True
    ):
        assert ours["mean"] == pytest.approx(said["mean"], abs=5e-3)


FIT, SCORED, D_SAE = 1000, 500, 1024
"""Games that choose latents, games that score them (held-out openings), width of 8 x d_model."""


def board_coverage(model: Any, layer: int, folder: Path) -> Any:
    """Train a dictionary on fresh games of the training split; cover and rebuild mine and yours."""
    from lensbench import capture
    from lensbench.saes import coverage, label_rows, train

    site = f"blocks.{layer}.resid_post"
    training = OthelloCorpus.sample(6000, "train", seed=11)
    store = capture(model, training, [site], out=folder / "acts")
    sweep = {
        "train": {"tokens": 3_000_000, "batch_size": 2048},
        "sweep": [{"architecture": "topk", "d_sae": D_SAE, "k": 32, "lr": 1e-3, "seed": 0}],
    }
    run = train(store, sweep, progress=False)[0]
    fit = OthelloCorpus.sample(FIT, "train", seed=12)
    scored = OthelloCorpus.sample(SCORED, "heldout", seed=13)
    parts = [moves_of(model, layer, corpus) for corpus in (fit, scored)]
    x, neurons, labels = (np.concatenate(some) for some in list(zip(*parts, strict=True))[:3])
    held = np.repeat([False, True], [len(part[0]) for part in parts])
    rows = label_rows(
        dict(zip(board_labels(fit), labels.T, strict=True)),
        docs=np.concatenate([parts[0][3], parts[1][3] + FIT]),
        held=held,
    )
    with torch.no_grad():
        acts = run.sae.encode(torch.from_numpy(x))
    return coverage(acts, rows, neurons=neurons, x=x)


def board_labels(corpus: OthelloCorpus) -> list[str]:
    """Mine and yours of every square."""
    return [name for name, kind in corpus.label_kinds.items() if kind == "contextual"]


def moves_of(model: Any, layer: int, corpus: OthelloCorpus) -> tuple[np.ndarray, ...]:
    """Residual stream, raw MLP neurons, board labels and game of every move (no BOS, no EOS)."""
    from lensbench.sites import Site
    from lensbench.tokens import Tokens
    from lensbench.worlds.othello.vocabulary import EOS, PAD, transcripts

    sites = [Site("resid_post", layer), Site("mlp.post", layer)]
    tokens = torch.from_numpy(transcripts(corpus.games)[:, :-1])
    moves = (corpus.positions > 0) & (corpus.tokens != EOS)
    place = (corpus.doc_ids[moves], corpus.positions[moves])
    parts = [Tokens(ids, ids != PAD) for ids in tokens.split(250)]
    out = [model.run(part, capture=sites).acts for part in parts]
    x, neurons = (np.concatenate([o[s].float().numpy() for o in out])[place] for s in sites)
    labels = np.stack([corpus.labels[name][moves] for name in board_labels(corpus)], 1)
    return x, neurons, labels, corpus.doc_ids[moves]


@pytest.fixture(scope="module")
def covered(stated: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Coverage of the trained model's dictionary and of its twin's, at the same layer."""
    layers = [layer["mean"] for layer in stated["board"]["trained"]["layers"]]
    model, layer = load_model("othello", certify=False), int(np.argmax(layers))
    folder = tmp_path_factory.mktemp("boards")
    twin = reinitialised_twin(model, seed=1)
    return (
        board_coverage(model, layer, folder / "trained"),
        board_coverage(twin, layer, folder / "twin"),
    )


@pytest.mark.slow
def test_a_dictionary_of_the_trained_model_rebuilds_the_board(covered: tuple[Any, Any]) -> None:
    """Measured .463 [.460, .466]; an always-on latent rebuilds nothing, but covers .433."""
    found, twin = covered
    told = (found.summary(), twin.summary())
    assert found.coverage().n == 72
    floor = found.coverage("constant").mean  # coverage is never shown without it
    assert found.controls.values["coverage, constant"] == floor > 0.3
    assert found.reconstruction().mean >= found.reconstruction("constant").mean + 0.4, told
    assert found.reconstruction().low > twin.reconstruction().high, told


@pytest.mark.slow
@pytest.mark.xfail(reason="measured .463 trained, .180 random weights: a gap of .28, not .4")
def test_it_rebuilds_far_more_than_a_dictionary_of_random_weights(
    covered: tuple[Any, Any],
) -> None:
    """Karvonen et al. 2024 on 8x8: .95 trained, .08 random weights; here 0.4 is asked for.

    The effect has the right sign and not the published size. The threshold stays as it was written
    before the run; the model reads its board less well than theirs (a linear probe: .93, not .99).
    """
    found, twin = covered
    assert found.reconstruction().mean >= twin.reconstruction().mean + 0.4
