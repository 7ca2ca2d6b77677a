"""The bundled Othello model: what probes read of its board, and whether it uses what they read.

Sizes, seeds and thresholds were written before the first run. The card's ridge probes read .89 to
.93 of this model and .68 to .70 of random weights, which is where the first bounds come from.
"""

from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def model() -> Any:
    import lensbench

    return lensbench.load_model("othello", certify=False)


def test_cases_are_boards_of_the_rules_with_one_disc_turned() -> None:
    from dataclasses import replace

    from lensbench.probes.boards.cases import flip_cases
    from lensbench.worlds.othello.rules import Position
    from lensbench.worlds.othello.vocabulary import token_of_square

    cases = flip_cases(20, 6, 40, seed=3)
    token = token_of_square(6)
    square_of = {int(t): s for s, t in enumerate(token) if t >= 0}
    assert len(cases) >= 15
    for i in range(len(cases)):
        position = Position.start(6)
        for t in cases.tokens[i, 1 : cases.lengths[i]]:
            position = position.play(square_of[int(t)])
        assert {square_of[int(t)] for t in np.flatnonzero(cases.before[i])} == set(
            position.legal_moves()
        )
        discs = list(position.discs)
        at = int(cases.squares[i])
        assert cases.to_yours[i] == (discs[at] == position.side)
        discs[at] = -discs[at]
        flipped = replace(position, discs=tuple(discs)).legal_moves()
        assert {square_of[int(t)] for t in np.flatnonzero(cases.after[i])} == set(flipped)
        assert flipped
        assert set(flipped) != set(position.legal_moves())


def test_the_error_counts_what_is_named_wrongly_and_what_is_missed() -> None:
    from lensbench.probes.boards.flip import _error  # pyright: ignore[reportPrivateUsage]

    legal = np.array([[True, True, False, False, False]] * 3)
    logits = np.array([[5.0, 4, 3, 2, 1], [5, 1, 4, 3, 2], [1, 2, 5, 4, 3]])
    assert _error(logits, legal).tolist() == [0, 2, 4]


def test_the_step_goes_from_the_discs_side_to_the_other() -> None:
    """A stream with an axis per square, mine to yours; the head reads the moves of one flip off it.

    Only a step from the disc's own side to the other one makes the changed board's moves likely, so
    a sign turned round anywhere between the fit and the plan names every other move instead.
    """
    import torch

    from lensbench import load_model
    from lensbench.probes import ProbeData, board_probes, flip_study
    from lensbench.probes.boards.cases import flip_cases
    from lensbench.worlds.othello.rules import Position
    from lensbench.worlds.othello.vocabulary import square_name, token_of_square, vocabulary
    from tests.helpers import tiny

    n, width, d_vocab, site = 600, 40, len(vocabulary(6)), "blocks.1.resid_post"
    rng = np.random.default_rng(0)
    state = rng.integers(0, 3, (n, 36))  # empty, mine, yours
    x = 0.05 * rng.normal(size=(n, width))
    x[:, :36] += np.array([0.0, -1.0, 1.0])[state]
    words = np.array(["empty", "mine", "yours"])
    labels = {f"relative {square_name(s, 6)}": words[state[:, s]] for s in range(36)}
    probes = board_probes(
        ProbeData.from_arrays({site: x}, labels, docs=np.arange(n) // 5), kinds="relative"
    )

    module = tiny("llama", vocab_size=d_vocab, hidden_size=width)
    square_of = {int(t): s for s, t in enumerate(token_of_square(6)) if t >= 0}
    cases = flip_cases(60, 6, d_vocab, seed=0)
    first = {int(s): i for i, s in reversed(list(enumerate(cases.squares)))}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        for square, i in first.items():
            position = Position.start(6)
            for t in cases.tokens[i, 1 : cases.lengths[i]]:
                position = position.play(square_of[int(t)])
            away = 1.0 if position.discs[square] == position.side else -1.0  # mine becomes yours
            module.lm_head.weight[:, square] = away * torch.from_numpy(cases.after[i]).float()
    model = load_model(module, certify=False)

    found = flip_study(model, probes, layers=[1], alphas=(1.0,), n_cases=60, seed=0)
    mine = list(first.values())
    own = {bool(cases.to_yours[i]) for i in mine}
    assert own == {True, False}  # discs of both sides are turned
    assert len(mine) > 10
    assert found.errors[0, 0, mine].max() == 0
    assert found.errors[2, 0, mine].mean() > 2  # control: the direction of another square
    assert found.null[mine].mean() > 2  # control: no step


def test_a_small_study_runs_saves_and_refuses_other_models(model: Any, tmp_path: Any) -> None:
    import lensbench
    from lensbench import results
    from lensbench.errors import ConfigError, MismatchError
    from lensbench.probes import board_data, board_probes, flip_study

    data = board_data(model, n_games=60, sites=["blocks.2.resid_post"], min_per_class=1)
    probes = board_probes(data, kinds="relative")
    assert probes.sources == ("relative",)
    found = flip_study(model, probes, layers=[2], alphas=(1.0,), n_cases=16)
    assert results.load(found.save(tmp_path / "flips")) == found
    assert found.errors.shape == (3, 1, len(found.null))
    assert len(found.to_frame()) == 5
    assert {"probe", "null", "unedited"} <= set(found.summary())
    found.plot()
    with pytest.raises(ConfigError, match="fitted at layers"):
        flip_study(model, probes, layers=[4])
    other = lensbench.worlds.controls.reinitialised_twin(model, 1)
    with pytest.raises(MismatchError, match="fitted on"):
        flip_study(other, probes, layers=[2])


@pytest.fixture(scope="module")
def trained(model: Any) -> Any:
    from lensbench.probes import board_probes

    return board_probes(model, n_games=600, seed=0)


@pytest.mark.slow
def test_the_board_is_read_relative_to_the_mover(trained: Any) -> None:
    frame = trained.to_frame()
    best = frame.groupby("source")["accuracy"].max()
    assert best["relative"] > 0.90
    assert best["relative"] - best["absolute"] > 0.10
    assert best["relative"] - best["relative of twin"] > 0.15
    assert best["relative"] - frame["majority"].iloc[0] > 0.20
    at = frame[frame["source"] == "relative"].set_index("accuracy").sort_index().iloc[-1]
    assert at["recall_first"] > 0.80  # not by its empty squares alone
    assert at["recall_second"] > 0.80


@pytest.mark.slow
def test_discs_turned_over_in_the_stream_change_the_moves(model: Any, trained: Any) -> None:
    from lensbench.probes import flip_study

    found = flip_study(model, trained, n_cases=600, seed=0)
    probe, null = found.interval("probe"), found.interval("null")
    assert found.interval("unedited").mean < 1.0
    assert probe.high < null.low
    assert probe.mean < 0.7 * null.mean
    for control in ("random", "other square"):
        assert found.interval(control).mean > 0.9 * null.mean
