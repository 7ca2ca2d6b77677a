"""Clamped training against the same loop written out by hand, and what clamps must leave alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lensbench.errors import ConfigError, NonFiniteError
from lensbench.interventions import (
    ClampCopy,
    ClampMatch,
    ClampOffset,
    Exemplars,
    Sequences,
    attention_only,
    train_clamped,
)
from lensbench.interventions.training.train import _Loop
from lensbench.models.loading import load_model
from lensbench.plan import Call, Plan, edit
from lensbench.results import load

DATA = Exemplars(n_classes=6, n_labels=3, noise=0.1)
SMALL: dict[str, Any] = {"steps": 4, "batch_size": 8, "evaluate_every": 2, "held_out": 16}
HEADS, WIDTH = 2, 8


def make(seed: int) -> Any:
    return attention_only(DATA.d_vocab, d_model=WIDTH, n_heads=HEADS, seed=seed)


def trained(clamps: dict[str, Any], **changes: Any) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The result, and the weights of every run at its end."""
    kept: dict[str, dict[str, Any]] = {}

    def keep(run: str, _seed: int, _step: int, model: Any) -> None:
        kept[run] = {n: p.detach().clone() for n, p in model.module.named_parameters()}

    found = train_clamped(make, DATA, clamps, watch=keep, **(SMALL | changes))
    return found, kept


def by_hand(change: Any) -> Any:
    """A model whose attention is written out; ``change(layer, pattern)`` gives the one used."""
    from transformers import AttentionInterface

    def attention(module, query, key, value, _mask, scaling=None, **_):
        later = torch.ones(query.shape[-2], key.shape[-2]).triu(1).bool()
        scores = (query @ key.mT * scaling).masked_fill(later, -torch.inf)
        pattern = change(module.layer_idx, scores.softmax(-1))
        return (pattern @ value).transpose(1, 2).contiguous(), pattern

    AttentionInterface.register("by_hand", attention)
    module = make(0).eval()
    module.set_attn_implementation("by_hand")
    return module


def batches(step: int) -> Sequences:
    return _Loop(make, DATA, 0, 2, False, 1e-3, 8, lambda: False).draw(8, 1, step)


def learned_by_hand(change: Any) -> dict[str, Any]:
    module = by_hand(change)
    adam = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    for step in range(SMALL["steps"]):
        batch = batches(step)
        assert batch.noise is not None
        code = F.one_hot(batch.tokens, DATA.d_vocab) + batch.noise
        logits = module(inputs_embeds=code @ module.model.embed_tokens.weight).logits
        adam.zero_grad()
        F.cross_entropy(logits[:, -1], batch.targets[:, -1]).backward()
        adam.step()
    return module.state_dict()


def previous(layer: int, pattern: torch.Tensor) -> torch.Tensor:
    if layer:
        return pattern
    perfect = torch.eye(5).roll(-1, 1)
    perfect[-1], perfect[0] = torch.eye(5)[3], torch.eye(5)[0]
    perfect[1:4] = torch.eye(5)[:3]
    return torch.stack([pattern[:, 0], perfect.expand(len(pattern), 5, 5)], dim=1)


@pytest.mark.parametrize(
    ("clamps", "change"),
    [({}, lambda _, pattern: pattern), ({"previous": ClampOffset(0, 1)}, previous)],
    ids=["unclamped", "previous token"],
)
def test_training_gives_the_weights_of_the_loop_written_out(clamps, change) -> None:
    _, kept = trained(clamps)
    ours, theirs = kept[list(kept)[-1]], learned_by_hand(change)
    start = make(0).state_dict()
    moved = max(float((ours[n] - start[n]).abs().max()) for n in ours)
    apart = max(float((ours[n] - theirs[n]).abs().max()) for n in ours)
    assert moved > 3e-3
    assert apart < moved / 100  # Adam divides by tiny gradients, so rounding shows


def test_a_clamped_pattern_sends_nothing_to_its_queries_and_keys() -> None:
    _, kept = trained({"match": ClampMatch(1, 0)})
    start, size = make(0).state_dict(), WIDTH // HEADS
    for part in ("q", "k"):
        name = f"model.layers.1.self_attn.{part}_proj.weight"
        assert torch.equal(kept["match"][name][:size], start[name][:size])  # the clamped head
        assert not torch.equal(kept["match"][name][size:], start[name][size:])
        assert not torch.equal(kept["unclamped"][name][:size], start[name][:size])
    values = "model.layers.1.self_attn.v_proj.weight"
    assert not torch.equal(kept["match"][values][:size], start[values][:size])
    assert not torch.equal(
        kept["match"]["model.embed_tokens.weight"], start["model.embed_tokens.weight"]
    )


def test_the_pattern_is_what_was_set_in_every_pass() -> None:
    seen: list[tuple[bool, torch.Tensor, torch.Tensor]] = []
    clamp = ClampMatch(1, 0)

    def watched(sequences: Sequences) -> Plan:
        def look(pattern: torch.Tensor) -> torch.Tensor:
            seen.append((torch.is_grad_enabled(), pattern[:, 0, -1].detach(), sequences.right))
            return pattern

        return clamp(sequences) + edit("blocks.1.attn.pattern", Call(look, "look"), heads=[0])

    trained({"match": watched}, heads_alone=False)
    assert [grad for grad, *_ in seen].count(True) == SMALL["steps"]
    for _, last, right in seen:
        assert torch.equal(last, F.one_hot(right, 5).float())


def test_other_runs_leave_the_unclamped_one_as_it_is() -> None:
    alone, only = trained({})
    beside, kept = trained({"copy": ClampCopy(1, 0)}, controls={"itself": ClampOffset(0, 0, 0)})
    assert np.array_equal(alone.values[0], beside.values[0])
    assert all(torch.equal(only["unclamped"][n], p) for n, p in kept["unclamped"].items())
    assert beside.runs == ("unclamped", "copy", "itself")
    assert np.array_equal(beside.values[1, :, 2:4, 0], alone.values[0, :, :2, 0])  # the same start


def test_measures_are_those_of_the_clamped_model() -> None:
    found, _ = trained({"match": ClampMatch(1, 0), "offset": ClampOffset(0, 1)})
    assert (found.series("strength", 1, 0)[found.run("match")] == 1).all()
    assert (found.series("previous token", 0, 1)[found.run("offset")] == 1).all()
    assert found.best_head("strength", 1).shape == (3, 1, 3)
    free, clamped = found.series("free loss"), found.series("loss")
    assert np.array_equal(free[0], clamped[0])
    assert not np.array_equal(free[1], clamped[1])
    start = clamped[:, 0, 0]
    assert np.abs(start - np.log(DATA.d_vocab)).max() < 0.1  # nothing is known yet
    assert found.values.shape == (3, 1, 4 + 4 * 4, 3)


def test_a_head_that_does_all_scores_alone_what_the_model_scores() -> None:
    one = Exemplars(n_classes=6, n_labels=3, noise=0.0)
    found = train_clamped(
        lambda seed: attention_only(9, d_model=8, n_heads=1, seed=seed), one, {}, **SMALL
    )
    assert np.array_equal(found.series("only head", 1, 0), found.series("accuracy"))


def test_copying_reads_the_last_logits_from_the_pattern() -> None:
    model, batch = load_model(make(0), certify=False), DATA(8, 3)
    plan = ClampMatch(1, 0)(batch) + ClampCopy(1, 0)(batch)
    logits = model.run(batch.tokens, plan).logits
    assert logits is not None
    assert torch.equal(logits[:, -1].argmax(-1), batch.targets[:, -1])
    torch.testing.assert_close(logits[:, -1].amax(-1), torch.zeros(8), atol=1e-5, rtol=0)


def test_sequences_can_be_solved_from_their_context_only() -> None:
    batch, again = DATA(500, 1), DATA(500, 1)
    assert torch.equal(batch.tokens, again.tokens)
    assert not torch.equal(batch.tokens, DATA(500, 2).tokens)
    assert batch.right is not None
    assert batch.wrong is not None
    rows = torch.arange(500)
    assert torch.equal(batch.tokens[rows, batch.right], batch.targets[:, -1])
    assert torch.equal(batch.tokens[rows, batch.right - 1], batch.tokens[:, -1])
    assert bool((batch.tokens[rows, batch.wrong] != batch.targets[:, -1]).all())
    assert bool((batch.tokens[rows, batch.wrong - 1] != batch.tokens[:, -1]).all())
    assert 200 < int((batch.right == 1).sum()) < 300
    shares = torch.bincount(batch.targets[:, -1] - DATA.n_classes) / 500
    assert bool((shares - 1 / 3).abs().max() < 0.07)


def test_the_result_comes_back_from_disk_and_draws(tmp_path) -> None:
    found, _ = trained({"match": ClampMatch(1, 0)}, controls={"half": ClampMatch(1, 0, 0.5)})
    assert load(found.save(tmp_path)) == found
    assert len(found.plot("strength", 1, 0).data) == 3
    means = found.series("loss").mean((1, 2))
    assert found.controls.values == {"half/relative_loss": pytest.approx(means[2] / means[0])}
    with pytest.raises(ConfigError, match="strength"):
        found.series("strenght", 1, 0)
    with pytest.raises(ConfigError, match="kept for"):
        found.series("strength", 5, 0)


@pytest.mark.parametrize(
    ("clamps", "changes", "says"),
    [
        ({"x": 3}, {}, "a clamp is a Plan"),
        ({"x": lambda _: None}, {}, "which gave None"),
        ({"x": Plan(stop=1)}, {}, "stops early"),
        ({"unclamped": Plan()}, {}, "used twice"),
        ([Plan()], {}, "must be a dict"),
        ({"x": ClampOffset(0, 9)}, {}, "2 heads"),
        ({}, {"steps": 0}, "steps must be"),
        ({}, {"lr": 0}, "lr must be"),
        ({}, {"seeds": ()}, "at least one"),
    ],
)
def test_what_cannot_be_trained_is_refused(clamps, changes, says) -> None:
    with pytest.raises(ConfigError, match=says):
        train_clamped(make, DATA, clamps, **(SMALL | changes))


def test_runs_that_would_differ_in_more_than_their_clamp_are_refused() -> None:
    module, calls = make(0), iter(range(99))
    one = {"match": ClampMatch(1, 0)}
    with pytest.raises(ConfigError, match="other weights"):
        train_clamped(lambda _: module, DATA, one, **SMALL)
    with pytest.raises(ConfigError, match="other sequences"):
        train_clamped(make, lambda n, _: DATA(n, next(calls)), one, **SMALL)
    with pytest.raises(ConfigError, match="must give Sequences"):
        train_clamped(make, lambda n, seed: DATA(n, seed).tokens, one, **SMALL)


def test_a_run_that_diverges_is_no_result() -> None:
    with pytest.raises(NonFiniteError, match="lower lr"):
        train_clamped(make, DATA, {}, **(SMALL | {"lr": 1e30}))
