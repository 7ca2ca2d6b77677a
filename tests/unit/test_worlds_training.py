"""Packing, the optimiser, resuming, checkpoint series: on a model of a few thousand weights."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lensbench.errors import ConfigError, MismatchError, StoppedError
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.atlas_task import new_model
from lensbench.worlds.batches import IGNORE, batch_at, pack
from lensbench.worlds.optimiser import orthogonalise
from lensbench.worlds.recipe import WorldTrainConfig, parse_steps
from lensbench.worlds.training import train_world

WORLD = Atlas(0)


def tiny(out: Path, **changes: object) -> WorldTrainConfig:
    base = {"steps": 6, "out": out, "n_layers": 1, "d_model": 16, "n_heads": 2, "d_mlp": 16,
            "rows": 2, "warmup": 2, "decay_steps": 3, "evaluate_every": 0, "state_every": 2,
            "threads": 1, "device": "cpu", "card": False}  # fmt: skip
    return WorldTrainConfig.parse({**base, **changes})


class Killed(Exception):
    pass


def kill_at(step: int):
    def progress(row: dict[str, object]) -> None:
        if row["step"] == step:
            raise Killed

    return progress


def test_packing_keeps_documents_whole_and_targets_inside() -> None:
    batch = batch_at(WORLD, 3, seed=0, rows=16, width=64)
    filled = batch.segments > 0
    assert filled.mean() > 0.8
    for row in range(16):
        for segment in range(1, batch.segments[row].max() + 1):
            at = np.flatnonzero(batch.segments[row] == segment)
            ids = batch.tokens[row, at]
            assert WORLD.vocab[ids[0]] == "[BOS]"
            assert WORLD.vocab[ids[-1]] == "[EOS]"
            assert batch.positions[row, at].tolist() == list(range(len(at)))
            assert batch.targets[row, at].tolist() == [*ids[1:], IGNORE]
    assert (batch.targets[~filled] == IGNORE).all()


def test_batches_are_functions_of_seed_and_step() -> None:
    a, b = (batch_at(WORLD, 3, seed=0, rows=4, width=64) for _ in range(2))
    assert np.array_equal(a.tokens, b.tokens)
    for other in (batch_at(WORLD, 4, seed=0, rows=4, width=64),
                  batch_at(WORLD, 3, seed=1, rows=4, width=64)):  # fmt: skip
        assert not np.array_equal(a.tokens, other.tokens)


def test_packed_documents_share_no_context(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    model = new_model(config, len(WORLD.vocab)).eval()
    documents = iter([[2, 40, 41, 3], [2, 50, 51, 52, 3], *([[0] * 99] * 100)])
    batch = pack(documents, rows=1, width=64)
    mask = torch.from_numpy(batch.mask()) | torch.eye(64, dtype=torch.bool)
    additive = torch.zeros(mask.shape).masked_fill(~mask, -3e4)

    def last_logits(first_word: int, masked: bool) -> torch.Tensor:
        ids = torch.from_numpy(batch.tokens.copy())
        ids[0, 1] = first_word
        with torch.no_grad():
            out = model(ids, position_ids=torch.from_numpy(batch.positions),
                        attention_mask=additive if masked else None)  # fmt: skip
        return out.logits[0, 8]

    torch.testing.assert_close(last_logits(40, True), last_logits(77, True))
    assert not torch.equal(last_logits(40, False), last_logits(77, False))  # control: no mask


def test_orthogonalise_flattens_the_spectrum() -> None:
    g = torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(0))
    before, after = (torch.linalg.svdvals(x) for x in (g, orthogonalise(g)))
    assert before.max() / before.min() > 5  # control: the input is not flat
    assert after.min() > 0.5
    assert after.max() < 1.3


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    train_world(tiny(tmp_path / "whole"))
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        train_world(tiny(cut, evaluate_every=5), kill_at(5))
    assert not (cut / "model.safetensors").exists()
    train_world(tiny(cut, resume=True))
    resumed = load_file(cut / "model.safetensors")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    train_world(tiny(tmp_path / "other", seed=1))  # control: another seed, other weights
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert not torch.equal(whole["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_an_interrupted_run_saves_its_last_step_and_goes_on(tmp_path: Path) -> None:
    train_world(tiny(tmp_path / "whole", state_every=100))
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    cut = tmp_path / "cut"

    def interrupt(row: dict[str, object]) -> None:
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match=r"stopped after step 3 of 6.*--resume"):
        train_world(tiny(cut, state_every=100, evaluate_every=2), interrupt)
    train_world(tiny(cut, state_every=100, resume=True))
    resumed = load_file(cut / "model.safetensors")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_run_is_not_overwritten_by_starting_again(tmp_path: Path) -> None:
    train_world(tiny(tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(MismatchError, match="already holds a run at step 6 of 6; add --resume"):
        train_world(tiny(tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_resume_refuses_another_recipe(tmp_path: Path) -> None:
    train_world(tiny(tmp_path))
    with pytest.raises(MismatchError, match="another recipe"):
        train_world(tiny(tmp_path, resume=True, adam_lr=0.1))


def test_a_run_may_be_shortened_before_its_learning_rate_falls(tmp_path: Path) -> None:
    train_world(tiny(tmp_path / "short", steps=6))
    for steps, killed_at in ((12, 3), (12, 10)):  # state at step 2 (flat in both), at step 8
        out = tmp_path / f"long{killed_at}"
        with pytest.raises(Killed):
            train_world(tiny(out, steps=steps, evaluate_every=killed_at), kill_at(killed_at))
    train_world(tiny(tmp_path / "long3", steps=6, resume=True))
    short, cut = (load_file(tmp_path / n / "model.safetensors") for n in ("short", "long3"))
    assert all(torch.equal(short[k], cut[k]) for k in short)
    with pytest.raises(MismatchError, match="12 steps"):
        train_world(tiny(tmp_path / "long10", steps=6, resume=True))


def test_series_and_seeds_are_kept_and_open(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = train_world(tiny(tmp_path, save_steps="log:2", seeds=2))
    assert first == tmp_path / "seed0"
    for seed in (0, 1):
        steps = sorted(p.name for p in (tmp_path / f"seed{seed}" / "revisions").iterdir())
        assert steps == ["step2", "step4"]
    early = AutoModelForCausalLM.from_pretrained(first / "revisions" / "step2")
    last = AutoModelForCausalLM.from_pretrained(first)
    assert early.dtype == torch.float32
    assert not torch.equal(early.lm_head.weight, last.lm_head.weight)
    assert AutoTokenizer.from_pretrained(first).bos_token == "[BOS]"
    assert json.loads((first / "recipe.json").read_text())["seed"] == 0


def test_learning_rate_and_pools_follow_the_recipe(tmp_path: Path) -> None:
    config = tiny(tmp_path, steps=100, warmup=10, decay_steps=50, pools=[(4, 0.25), (10, 0.5)])
    scales = [config.scale(s) for s in range(100)]
    assert scales[0] == 0.1
    assert max(scales) == 1.0 == scales[30]
    assert scales[99] == pytest.approx(0.02)
    assert [config.pool(s) for s in (0, 5, 99)] == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "steps", "expected"),
    [("", 10, ()), ("log:3", 100, (16, 32, 64)), ("8, 2", 10, (2, 8)), ("log:12", 3, (1, 2))],
)
def test_steps_to_keep(text: str, steps: int, expected: tuple[int, ...]) -> None:
    assert parse_steps(text, steps) == expected


@pytest.mark.parametrize(("text", "steps"), [("log", 10), ("log:0", 10), ("5,50", 10), ("a", 10)])
def test_wrong_steps_to_keep(text: str, steps: int) -> None:
    with pytest.raises(ConfigError, match="save_steps"):
        parse_steps(text, steps)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        WorldTrainConfig.parse({"learning_rate": 1})


def test_measuring_a_trained_model_draws_no_progress_bar(tmp_path: Path, capfd) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from lensbench.worlds.card import load_module

    out = train_world(tiny(tmp_path))
    shown = logging.is_progress_bar_enabled()
    capfd.readouterr()
    logging.enable_progress_bar()
    try:
        AutoModelForCausalLM.from_pretrained(out)
        assert "Loading weights" in capfd.readouterr().err  # control: there is a bar to silence
        assert load_module(out).dtype == torch.float32
        assert capfd.readouterr().err == ""
        assert logging.is_progress_bar_enabled()  # and it is put back
    finally:
        if not shown:
            logging.disable_progress_bar()


def test_heads_share_the_width_and_in_pairs_where_positions_turn_them(tmp_path: Path) -> None:
    from lensbench.worlds.othello.recipe import OthelloTrainConfig
    from lensbench.worlds.translate.recipe import TranslateTrainConfig

    for kind in (OthelloTrainConfig, TranslateTrainConfig):
        assert kind.parse({"d_model": 36, "out": tmp_path}).d_model == 36
        with pytest.raises(ConfigError, match="a multiple of n_heads"):
            kind.parse({"d_model": 38, "out": tmp_path})
    with pytest.raises(ConfigError, match="an even multiple of n_heads"):
        WorldTrainConfig.parse({"d_model": 36, "out": tmp_path})
