"""Training on transcripts, scoring legality: on models of a few hundred weights, or none at all."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lensbench.errors import ConfigError, MismatchError
from lensbench.worlds.optimiser import MuonAdam
from lensbench.worlds.othello import games as g
from lensbench.worlds.othello.recipe import OthelloTrainConfig
from lensbench.worlds.othello.scoring import chance_levels, legal_tokens, legality
from lensbench.worlds.othello.task import OthelloTask
from lensbench.worlds.othello.vocabulary import EOS, PAD, playable, transcripts
from lensbench.worlds.recipe import WorldTrainConfig
from lensbench.worlds.task import parse_recipe
from lensbench.worlds.training import train_world

TINY = {"model": "othello", "size": 4, "steps": 6, "n_layers": 1, "d_model": 16, "n_heads": 2,
        "d_mlp": 16, "rows": 4, "warmup": 2, "decay_steps": 3, "evaluate_every": 0,
        "state_every": 2, "threads": 1, "device": "cpu", "card": False}  # fmt: skip


def tiny(out: Path, **changes: object) -> Any:
    return parse_recipe({**TINY, "out": out, **changes})


class Killed(Exception):
    pass


def kill_at(step: int):
    def progress(row: dict[str, object]) -> None:
        if row["step"] == step:
            raise Killed

    return progress


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = load_file(train_world(tiny(tmp_path / "whole")) / "model.safetensors")
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        train_world(tiny(cut, evaluate_every=5), kill_at(5))
    assert not (cut / "model.safetensors").exists()
    resumed = load_file(train_world(tiny(cut, resume=True)) / "model.safetensors")
    assert set(whole) == set(resumed)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    other = load_file(train_world(tiny(tmp_path / "other", seed=1)) / "model.safetensors")
    name = "transformer.wte.weight"  # control: another seed, other weights
    assert not torch.equal(whole[name], other[name])
    with pytest.raises(MismatchError, match="another recipe"):
        train_world(tiny(cut, resume=True, d_mlp=32))


def test_the_files_are_in_the_hubs_format_with_a_series_and_a_card(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = train_world(tiny(tmp_path, save_steps="2", card=True))
    model = AutoModelForCausalLM.from_pretrained(out, dtype="float32")
    early = AutoModelForCausalLM.from_pretrained(out / "revisions" / "step2")
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not torch.equal(early.lm_head.weight, model.lm_head.weight)
    assert AutoTokenizer.from_pretrained(out)("a2 d4")["input_ids"][0] == 2
    assert json.loads((out / "recipe.json").read_text())["model"] == "othello"
    card = (out / "README.md").read_text()
    assert "held-out games: MISSED" in card  # six steps teach nothing, and the card says so
    assert str(tmp_path) not in card
    assert "nan" not in card


def test_batches_are_functions_of_seed_and_step_and_never_corpora(tmp_path: Path) -> None:
    task = OthelloTask(tiny(tmp_path, size=6, rows=64))
    batches = [transcripts(task.games_at(step)) for step in (0, 0, 1)]
    assert np.array_equal(batches[0], batches[1])
    assert not np.array_equal(batches[0], batches[2])
    corpus = transcripts(g.random_games(64, seed=0, split="train"))
    assert not {tuple(row) for row in batches[0]} & {tuple(row) for row in corpus}
    assert not g.is_held_out(task.games_at(0)).any()
    assert g.is_held_out(g.random_games(500, seed=0)).any()  # control: the deal is not empty


def test_the_loss_is_that_of_the_played_moves_and_then_its_expectation(tmp_path: Path) -> None:
    """Both written out token by token; padding moves nothing."""
    task = OthelloTask(tiny(tmp_path, rows=64, expected_from=1))
    model = task.new_model()
    with torch.no_grad():
        model.transformer.wte.weight.normal_()  # so that every token costs otherwise
    for step in (0, 1):
        games = task.games_at(step)
        tokens = torch.from_numpy(transcripts(games))
        assert (tokens == PAD).any()
        with torch.autocast("cpu", torch.bfloat16):
            logp = model(tokens[:, :-1]).logits.float().log_softmax(-1)
        costs = []
        for i in range(64):
            for t in range(int(games.lengths[i]) + 1):
                ids = task_ids(int(games.legal[i, t])) or [EOS]
                costs.append(-logp[i, t, ids].mean() if step else -logp[i, t, tokens[i, t + 1]])
        torch.testing.assert_close(task.loss(model, step), torch.stack(costs).mean())
    kept = tokens[:, 1:] != PAD
    played = nn.functional.cross_entropy(model(tokens[:, :-1]).logits[kept], tokens[:, 1:][kept])
    assert abs(played - task.loss(model, 1)) > 1e-3  # control: at this step it is not that


def task_ids(legal: int) -> list[int]:
    """Token ids of the legal squares of a 4x4 board."""
    return [4 + i for i, s in enumerate(playable(4)) if legal >> s & 1]


def test_the_expected_target_is_the_mean_of_the_played_ones(tmp_path: Path) -> None:
    """The first reply of many games: frequencies of what was played approach the target."""
    task = OthelloTask(tiny(tmp_path, size=6, rows=4000, expected_from=1))
    games = task.games_at(0)
    played, expected = (task.targets(games, step)[:, :2].mean(0) for step in (0, 1))
    np.testing.assert_allclose(played, expected, atol=0.03)
    assert np.abs(played - expected).max() > 0
    assert expected[0].max() == pytest.approx(0.25)
    assert np.abs(played[0] - expected[1]).max() > 0.1  # control: of another move number


def test_muon_takes_the_matrices_of_gpt2s_blocks_and_keeps_their_gain() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=2,
                                       n_inner=64, bos_token_id=2, eos_token_id=3))  # fmt: skip
    optimiser = MuonAdam(model, muon_lr=1.0, adam_lr=1.0)
    assert len(optimiser.matrices) == 4
    assert not any("wte" in name or "wpe" in name for name in optimiser.matrices)
    before = {name: p.detach().clone() for name, p in optimiser.matrices.items()}
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimiser.step(1, 1.0)
    size = {
        name: (p - 0.98 * before[name]).norm(2, dim=(0, 1)).item() / min(p.shape) ** 0.5
        for name, p in optimiser.matrices.items()
    }
    grow, shrink = (size[f"transformer.h.0.mlp.{name}.weight"] for name in ("c_fc", "c_proj"))
    assert 1.6 < grow / shrink < 2.4  # sqrt(outputs / inputs) = 2 where a matrix widens


class Fixed(nn.Module):
    """A model whose logits are those given, whatever it reads."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.at = nn.Parameter(logits), 0

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        rows = self.logits[self.at : self.at + len(input_ids)]
        self.at += len(input_ids)
        return SimpleNamespace(logits=rows)


def test_the_true_distribution_scores_one_and_the_floor_and_its_negative_scores_nothing() -> None:
    games = g.random_games(300, seed=8)
    alive, mask = legal_tokens(games)
    mask = mask.copy()
    mask[..., EOS] = ~alive
    truth = torch.from_numpy(np.where(mask, 0.0, -40.0)).float()
    found = legality(Fixed(truth), games)
    assert found.top1.mean == 1
    assert found.mass.mean == pytest.approx(1, abs=1e-5)
    assert found.loss == pytest.approx(found.floor, abs=1e-5)
    assert found.ends == 1
    assert found.n_positions == alive.sum() == games.lengths.sum()
    assert np.nanmin(found.by_move) == 1
    worst = legality(Fixed(-truth), games)  # control
    assert worst.top1.mean == 0
    assert worst.mass.mean < 1e-5
    assert worst.ends == 0
    late = legality(Fixed(truth), games, from_move=20)
    assert late.n_positions == alive[:, 20:].sum()
    with pytest.raises(ConfigError, match="after 99 moves"):
        legality(Fixed(truth), games, from_move=99)


def test_chance_levels_equal_those_written_out() -> None:
    games = g.random_games(200, seed=8)
    found = chance_levels(games)
    shares, empty = [], []
    for i in range(200):
        for t in range(int(games.lengths[i])):
            n = int(games.legal[i, t]).bit_count()
            shares.append(n / 32)
            empty.append(n / (36 - (int(games.mine[i, t]) | int(games.yours[i, t])).bit_count()))
    assert found["square"].mean == pytest.approx(np.mean(shares))
    assert found["unplayed square"].mean == pytest.approx(np.mean(empty))
    assert found["square"].mean < found["unplayed square"].mean < found["move number"].mean < 0.7
    assert found["move number"].n == 200


def test_recipes_are_told_apart_by_name_and_refuse_what_does_not_fit() -> None:
    assert isinstance(parse_recipe({"model": "othello"}), OthelloTrainConfig)
    assert isinstance(parse_recipe({}), WorldTrainConfig)
    for settings, says in (
        ({"model": "othello", "size": 5}, "size"),
        ({"model": "othello", "d_model": 30}, "multiple of n_heads"),
        ({"model": "othello", "variant": "equal"}, "variant"),
        ({"model": "atlas-dense", "size": 6}, "size"),
    ):
        with pytest.raises(ConfigError, match=says):
            parse_recipe(settings)
