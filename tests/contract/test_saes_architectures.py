"""What every architecture promises; a new one is tested by being in ``ARCHITECTURES``."""

from pathlib import Path
from typing import Any

import pytest
import torch

D, F, BATCH = 12, 64, 32


def _kinds() -> list[str]:
    from lensbench.saes.architectures import ARCHITECTURES

    return list(ARCHITECTURES)


def _batches(n: int) -> list[torch.Tensor]:
    """Sums of a few of 24 directions: something that a dictionary can learn."""
    rng = torch.Generator().manual_seed(77)
    truth = torch.randn(24, D, generator=rng)
    weights = torch.rand(n, BATCH, 24, generator=rng)
    return list((weights * (torch.rand(weights.shape, generator=rng) < 0.1)) @ truth)


def _sweep(kind: str, steps: int, engine: str = "dense", **changes: Any) -> dict[str, Any]:
    from lensbench.saes.architectures import ARCHITECTURES

    own: dict[str, Any] = {"k": 4} if "k" in ARCHITECTURES[kind].model_fields else {}
    entry = {"architecture": kind, "d_sae": F, "lr": 1e-2, "name": "it"} | own | changes
    train = {"tokens": steps * BATCH, "batch_size": BATCH, "engine": engine, "log_every": 5}
    return {"train": train, "sweep": [entry]}


def _train(kind: str, steps: int = 60, **changes: Any) -> Any:
    from lensbench import saes

    sweep = _sweep(kind, steps, **changes)
    return saes.train(_batches(steps), sweep, device="cpu", progress=False)[0]


@pytest.fixture(params=_kinds())
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_training_lowers_the_loss_and_keeps_decoder_rows_at_unit_length(kind: str) -> None:
    run = _train(kind)
    assert run.history["loss"][-1] < 0.9 * run.history["loss"][0]
    torch.testing.assert_close(run.sae.W_dec.norm(dim=1), torch.ones(F), rtol=0, atol=1e-5)
    still = _train(kind, lr=1e-30)  # control: without a learning rate nothing gets better
    # Of the reconstruction: what a steered penalty costs changes without any learning.
    assert still.history["fvu"][-1] > 0.9 * still.history["fvu"][0]


def test_it_is_a_codec_whose_sparse_and_dense_forms_agree(kind: str) -> None:
    from lensbench.protocols import Codec

    sae = _train(kind, 20).sae
    assert isinstance(sae, Codec)
    x = _batches(1)[0]
    acts = sae.encode(x)
    assert acts.shape == (BATCH, sae.d_sae)
    assert bool((acts >= 0).all())
    values, indices = sae.encode_sparse(x)
    dense = torch.zeros_like(acts).scatter_add_(1, indices, values)
    torch.testing.assert_close(dense, acts)
    torch.testing.assert_close(sae.decode_sparse(values, indices), sae.decode(acts))
    torch.testing.assert_close(sae(x), sae.decode(acts))
    assert sae.encode(x[:0]).shape == (0, sae.d_sae)


@pytest.mark.parametrize("engine", ["screened", "stacked"])
def test_every_engine_gives_the_same_dictionary(kind: str, engine: str) -> None:
    dense, other = (_train(kind, 5, lr=1e-3, engine=e) for e in ("dense", engine))
    # The encoder is left out: where a latent fires alone, its gradient at the tied start is zero up
    # to rounding, and Adam makes a whole step of the rounding.
    for name in ("W_dec", "b_dec"):
        difference = abs(dense.weights[name] - other.weights[name])
        assert difference.mean() < 2e-6  # five steps move them by 5e-3
    assert dense.history["fvu"][-1] == pytest.approx(other.history["fvu"][-1], rel=1e-4)


def test_saved_loaded_and_told_apart(kind: str, tmp_path: Path) -> None:
    from lensbench import results, saes

    run = _train(kind, 10)
    saes.save(run.sae, tmp_path / "dictionary")
    again = saes.load(tmp_path / "dictionary")
    x = _batches(1)[0]
    assert torch.equal(again.encode(x), run.sae.encode(x))
    assert again.config == run.sae.config
    run.save(tmp_path / "result")
    assert results.load(tmp_path / "result") == run
    assert results.load(tmp_path / "result") != _train(kind, 10, seed=1)


def test_the_history_says_what_the_dictionary_does(kind: str) -> None:
    run = _train(kind)
    history = run.history
    assert list(history["step"]) == list(range(5, 61, 5))
    assert bool((history["fvu"] >= 0).all())
    assert bool((history["l0"] >= 0).all())
    if "k" in run.config:
        assert bool((history["l0"] <= run.config["k"]).all())
    assert 0.0 <= history["dead_fraction"][-1] <= 1.0
    assert set(run.summary()) == {"loss", "fvu", "l0", "dead_fraction"}


def test_the_forecast_counts_what_is_learnt(kind: str) -> None:
    from lensbench import saes
    from lensbench.saes.configs import SweepConfig
    from lensbench.saes.step.start import new_group

    sweep = SweepConfig.parse(_sweep(kind, 5))
    group = new_group(sweep.expand(), "s", _batches(1)[0], 1.0)
    learnt = sum(value.numel() for value in group.params.values())
    assert saes.plan_memory(sweep, D).parameters == learnt


class _Stopping:
    """The batches, with a position; Ctrl-C after some of them."""

    def __init__(self, steps: int, stop: int | None = None) -> None:
        self._batches, self._stop, self._at = _batches(steps), stop, 0

    def __iter__(self) -> Any:
        import signal

        while self._at < len(self._batches):
            self._at += 1
            if self._at == self._stop:
                signal.raise_signal(signal.SIGINT)
            yield self._batches[self._at - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"at": self._at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._at = int(state["at"])


def test_an_interrupted_run_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    """Stopped where p falls, where L0 is steered and where the threshold moves; to the last bit."""
    from lensbench import saes
    from lensbench.errors import StoppedError

    sweep, steps = _sweep(kind, 60), 60
    whole = saes.train(_Stopping(steps), sweep, device="cpu", progress=False)[0]
    with pytest.raises(StoppedError):
        saes.train(_Stopping(steps, 29), sweep, out=tmp_path, device="cpu", progress=False)
    run = saes.train(
        _Stopping(steps), sweep, out=tmp_path, resume=True, device="cpu", progress=False
    )[0]
    for name, value in whole.weights.items():
        assert (value == run.weights[name]).all(), name
    assert list(whole.history["l0"]) == list(run.history["l0"])


def test_one_that_diverges_leaves_its_neighbour_alone(kind: str) -> None:
    """Two of a group, one with a learning rate that overflows; and the same one alone."""
    from lensbench import saes

    sweep = _sweep(kind, 20, "stacked", name="good")
    entry = sweep["sweep"][0] | {"lr": 1e-3}
    both = sweep | {"sweep": [entry, entry | {"name": "bad", "lr": 1e30, "seed": 1}]}
    good, bad = saes.train(_batches(20), both, device="cpu", progress=False)
    (alone,) = saes.train(_batches(20), sweep | {"sweep": [entry]}, device="cpu", progress=False)
    assert (good.status, alone.status) == ("finished", "finished")
    for name, value in good.weights.items():
        assert abs(value - alone.weights[name]).mean() < 1e-6, name
    assert bad.status == "diverged"


@pytest.mark.parametrize("aim", [1.0, F / 2, float(F)])
def test_any_allowed_target_can_be_started_with(kind: str, aim: float) -> None:
    from lensbench.saes.architectures import ARCHITECTURES, Penalised

    if not issubclass(ARCHITECTURES[kind], Penalised):
        pytest.skip("its L0 is set, not steered to")
    penalties = ("step", "quadratic", "tanh") if kind == "jumprelu" else (None,)
    for penalty in penalties:
        change = {"penalty": penalty} if penalty else {}
        run = _train(kind, 10, target_l0=aim, **change)
        assert run.status == "finished"


@pytest.mark.parametrize("engine", ["dense", "stacked"])
def test_members_of_a_group_keep_their_own_settings(kind: str, engine: str) -> None:
    """Two that differ in every setting a group may mix equal the same two trained alone."""
    from lensbench import saes
    from lensbench.saes.architectures import ARCHITECTURES, FixedK

    fields = ARCHITECTURES[kind].model_fields
    first: dict[str, Any] = {"name": "a", "lr": 1e-3, "aux_coefficient": 0.1, "dead_after": 64}
    other: dict[str, Any] = {
        "name": "b", "lr": 3e-3, "seed": 1, "clip": 0.1, "aux_coefficient": 0.01, "aux_k": 3,
        "dead_after": 256,
    }  # fmt: skip
    if issubclass(ARCHITECTURES[kind], FixedK):
        first, other = first | {"k": 3}, other | {"k": 6}
        if "threshold_rate" in fields:
            other = other | {"threshold_rate": 0.5}
    else:
        first, other = first | {"target_l0": 4.0}, other | {"target_l0": 9.0, "steer_over": 0.1}
    sweep = _sweep(kind, 40, engine)
    base = {k: v for k, v in sweep["sweep"][0].items() if k in ("architecture", "d_sae")}
    entries = [base | first, base | other]
    together = saes.train(_batches(40), sweep | {"sweep": entries}, device="cpu", progress=False)
    for entry, run in zip(entries, together, strict=True):
        (alone,) = saes.train(
            _batches(40), sweep | {"sweep": [entry]}, device="cpu", progress=False
        )
        assert run.history["l0"] == pytest.approx(alone.history["l0"], rel=1e-2)
        assert run.history["fvu"] == pytest.approx(alone.history["fvu"], rel=1e-2)
        for name, value in alone.weights.items():
            assert abs(value - run.weights[name]).mean() < 1e-3, name
