"""Resampling: dead latents go where the loss is, and a run with it resumes bit for bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

STEPS, BATCH, D, ATOMS = 300, 256, 24, 40


def _data(steps: int = STEPS) -> tuple[list[Tensor], Tensor]:
    rng = torch.Generator().manual_seed(0)
    atoms = torch.randn(ATOMS, D, generator=rng)
    atoms /= atoms.norm(dim=1, keepdim=True)
    batches: list[Tensor] = []
    for _ in range(steps):
        fires = torch.rand(BATCH, ATOMS, generator=rng) < 0.05
        batches.append((fires * (0.5 + torch.rand(BATCH, ATOMS, generator=rng))) @ atoms)
    return batches, atoms


def _sweep(**entry: Any) -> dict[str, Any]:
    train = {
        "tokens": STEPS * BATCH,
        "batch_size": BATCH,
        "checkpoint_every": 40,
        "engine": "dense",
    }
    own = {"d_sae": 64, "lr": 3e-3, "dead_after": 20 * BATCH, "aux_coefficient": 0.0}
    return {"train": train, "sweep": [own | entry]}


DYING = {"architecture": "relu", "l1_coefficient": 2.5, "penalty_warmup": 0.0}


def test_latents_that_never_fired_come_to_find_what_is_there() -> None:
    from lensbench.saes.architectures import ReLUConfig
    from lensbench.saes.step.engines import Stepper
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.start import new_group

    data, atoms = _data()
    found: dict[bool, tuple[float, float]] = {}
    for again in (False, True):
        shares = (0.1, 0.2, 0.3) if again else None
        own: Any = {"name": "x", "d_sae": 64, "aux_coefficient": 0.0, "resample_at": shares}
        group = new_group([ReLUConfig(l1_coefficient=1.0, **own)], "s", data[0], 1.0)
        group.b_enc[0, :48] = -100.0  # dead from the start; no gradient reaches them
        stepper = Stepper(group, "stacked")
        for step, x in enumerate(data):
            if step % 10 == 0:
                group.refresh_dead([5 * BATCH])
            stepper.step(x, [3e-3 * (1 - step / STEPS)], Now(step, STEPS))
        group.refresh_dead([20 * BATCH])
        cos = torch.nn.functional.cosine_similarity(group.W_dec[0][:, None], atoms[None], dim=2)
        mean = float(cos[~group.dead[0]].max(0).values.mean())
        found[again] = (float(group.dead[0].float().mean()), mean)
    assert found[False][0] >= 0.75  # control: they stay dead
    assert found[True][0] < 0.4
    assert found[True][1] > found[False][1] + 0.1


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "gated", "tied"])
@pytest.mark.parametrize("target", [False, True])
def test_a_dead_latent_takes_the_direction_of_a_token(kind: str, target: bool) -> None:
    from lensbench.saes.architectures import ARCHITECTURES
    from lensbench.saes.ends import Ends
    from lensbench.saes.step.resample import resample
    from lensbench.saes.step.rules.base import Now, Step
    from lensbench.saes.training.groups import started

    if kind == "tied" and target:
        pytest.skip("a tied dictionary is no transcoder")
    rng = torch.Generator().manual_seed(1)
    batch = {"a": torch.randn(32, D, generator=rng), "b": torch.randn(32, 10, generator=rng)}
    ends = {"site": "a", "target": "b"} if target else {"site": "a"}
    sparsity = {"k": 4} if kind == "topk" else {"target_l0": 4}
    more = {"aux_coefficient": 0.1}  # a loss that reads the list of dead latents
    config = ARCHITECTURES[kind](name="x", d_sae=48, **ends, **sparsity, **more)
    group = started([config], Ends.of(config), batch, {"a": 1.0, "b": 1.0})
    for moments in (group.first, group.second):
        for value in moments.values():
            value.fill_(0.5)
    group.dead[0, :5] = True
    group.state["since_fired"].fill_(100)
    before = {name: value.clone() for name, value in group.params.items()}
    x, y = group.seen(group.ends.x(batch), group.ends.y(batch))
    group.refresh_lists()
    read, goal = group.problem(group.own(0), x, y)
    own = group.own(slice(0, 1))
    pre = torch.baddbmm(own["b_enc"][:, None], read[None], own["W_enc"].transpose(1, 2))
    layout = group.rule.dense([config], pre)
    step = Step(config, layout, read[None], goal[None], own, Now(7, 100), group.centred)
    missing = -group.rule.flow(step).error[0]
    resample(group, 0, x, y, Now(7, 100))

    rows = group.W_enc[0, :5]
    cos = torch.nn.functional.cosine_similarity(rows[:, None], read[None], dim=2).max(1)
    assert float(cos.values.min()) > 0.9999
    assert len(set(cos.indices.tolist())) == 5  # no token twice
    outward = missing[cos.indices] if target else read[cos.indices]
    written = torch.nn.functional.cosine_similarity(group.W_dec[0, :5], outward, dim=1)
    assert float(written.min()) > 0.9999
    torch.testing.assert_close(group.W_dec[0].norm(dim=1), torch.ones(48))
    for name, value in group.params.items():
        if name not in ("b_dec", "W_skip"):
            assert torch.equal(value[0, 5:], before[name][0, 5:])
            assert not group.first[name][0, :5].any()
            assert not group.second[name][0, :5].any()
            assert bool((group.first[name][0, 5:] == 0.5).all())
    assert not group.dead.any()
    assert not len(group.dead_lists[0])
    assert bool((group.state["since_fired"][0, :5] == 0).all())
    if kind != "tied":
        living = before["W_enc"][0, 5:].norm(dim=1).mean()
        torch.testing.assert_close(rows.norm(dim=1), (0.2 * living).expand(5))


def test_tokens_of_large_loss_are_chosen() -> None:
    from lensbench.saes.architectures import ReLUConfig
    from lensbench.saes.step.resample import resample
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.start import new_group

    x = torch.randn(64, D, generator=torch.Generator().manual_seed(1))
    x[3] *= 30  # by far the largest loss
    group = new_group([ReLUConfig(name="x", d_sae=32, l1_coefficient=1.0)], "s", x, 1.0)
    group.b_enc.fill_(-1e9)  # nothing fires: the loss of a token is its distance from b_dec
    group.dead[0, :1] = True
    resample(group, 0, x, None, Now(5, 10))
    far = x[3] - group.b_dec[0]
    cos = torch.nn.functional.cosine_similarity(group.W_dec[0, :1], far[None], dim=1)
    assert float(cos.min()) > 0.999


def test_a_killed_run_ends_with_the_same_weights(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import StoppedError
    from lensbench.saes.training import trainer

    data, _ = _data()
    again = {"resample_at": [0.3, 0.5, 0.7]}
    (whole,) = saes.train(data, _sweep(**DYING, **again), device="cpu", progress=False)
    advance = trainer._Training._advance

    def cut(self: Any, batch: Any) -> None:
        if self._step == 140:
            raise StoppedError("killed")
        advance(self, batch)

    class Source:
        """A list with a position."""

        def __init__(self) -> None:
            self.at = 0

        def __iter__(self) -> Any:
            while self.at < len(data):
                self.at += 1
                yield data[self.at - 1]

        def state_dict(self) -> dict[str, int]:
            return {"at": self.at}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.at = state["at"]

    monkeypatch.setattr(trainer._Training, "_advance", cut)
    sweep, out = _sweep(**DYING, **again), tmp_path / "r"
    with pytest.raises(StoppedError):
        saes.train(Source(), sweep, out=out, device="cpu", progress=False)
    monkeypatch.undo()
    (back,) = saes.train(Source(), sweep, out=out, resume=True, device="cpu", progress=False)
    assert all((whole.weights[n] == back.weights[n]).all() for n in whole.weights)


def test_shares_outside_the_run_are_refused() -> None:
    from lensbench.errors import ConfigError
    from lensbench.saes.configs import SweepConfig

    for wrong in ([0.0], [1.0], [0.5, 2]):
        with pytest.raises(ConfigError, match="shares of the run"):
            SweepConfig.parse(_sweep(**DYING, resample_at=wrong))
