"""The source of a superposition world: endless, the same for any batch size, resumed exactly."""

import json
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.errors import ConfigError, MismatchError, UnknownSiteError
from lensbench.protocols import ActivationSource
from lensbench.worlds.superposition import SuperpositionConfig, SuperpositionWorld
from lensbench.worlds.superposition_source import SuperpositionSource

WORLD = SuperpositionWorld({"d_model": 4, "n_atoms": 6, "l0": 2.0, "noise": 0.1, "offset": 1.0})
SITE = "activations"


class Killed(BaseException):
    """Like a kill: nothing catches it."""


def rows(source: Any, size: int, n: int) -> torch.Tensor:
    return torch.cat([b[SITE] for b in islice(source.batches(size), n)])


def test_it_is_an_activation_source() -> None:
    source = WORLD.source()
    assert isinstance(source, ActivationSource)
    assert (source.sites, source.width(SITE)) == ((SITE,), 4)
    with pytest.raises(UnknownSiteError, match="known: activations"):
        source.width("blocks.0.resid_post")
    batch = next(source.batches(5))[SITE]
    assert (tuple(batch.shape), batch.dtype) == ((5, 4), torch.float32)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 2500), min_size=1, max_size=4), seed=st.integers(0, 2**40))
def test_rows_do_not_depend_on_batch_sizes(sizes: list[int], seed: int) -> None:
    source = WORLD.source(seed=seed)
    got = torch.cat([next(source.batches(size))[SITE] for size in sizes])
    assert torch.equal(got, WORLD.sample(sum(sizes), seed=seed).activations)


@settings(max_examples=25, deadline=None)
@given(done=st.integers(0, 9), size=st.integers(1, 700), then=st.integers(1, 700))
def test_resume_is_exact(done: int, size: int, then: int) -> None:
    source = WORLD.source(seed=4)
    list(islice(source.batches(size), done))
    state = json.loads(json.dumps(source.state_dict()))
    expected = rows(source, then, 4)
    other = WORLD.source(seed=5)
    next(other.batches(3))
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert torch.equal(rows(other, then, 4), expected)


def test_seeds_and_worlds_give_other_rows() -> None:
    twin = SuperpositionWorld(WORLD.config)
    assert torch.equal(twin.sample(50).activations, WORLD.sample(50).activations)
    assert not torch.equal(WORLD.sample(50, seed=1).codes, WORLD.sample(50).codes)
    other = SuperpositionWorld(WORLD.config.model_copy(update={"seed": 1}))
    assert not torch.equal(other.atoms, WORLD.atoms)
    assert other.fingerprint != WORLD.fingerprint


def test_a_position_of_another_world_is_refused() -> None:
    source = WORLD.source()
    with pytest.raises(MismatchError, match="with world 'elsewhere'"):
        source.load_state_dict({**source.state_dict(), "world": "elsewhere"})
    with pytest.raises(ConfigError, match="batch_size must be a whole number of at least 1"):
        next(source.batches(0))


def test_training_on_it_stops_and_resumes_bit_for_bit(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes

    train = {"tokens": 40 * 64, "batch_size": 64, "engine": "dense", "checkpoint_every": 10}
    sweep = {"train": train, "sweep": [{"architecture": "topk", "d_sae": 8, "k": 2, "lr": 1e-2}]}
    options: dict[str, Any] = {"device": "cpu", "progress": False}
    (whole,) = saes.train(WORLD.source(seed=3), sweep, **options)
    read, asked = SuperpositionSource._rows, iter(range(1000))

    def killed(source: SuperpositionSource, wanted: int) -> torch.Tensor:
        if next(asked) == 25:
            raise Killed
        return read(source, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(SuperpositionSource, "_rows", killed)
        with pytest.raises(Killed):
            saes.train(WORLD.source(seed=3), sweep, out=tmp_path, **options)
    assert "step_20" in {p.name for p in tmp_path.rglob("step_*")}
    (rest,) = saes.train(WORLD.source(seed=3), sweep, out=tmp_path, resume=True, **options)
    assert torch.equal(whole.sae.W_dec, rest.sae.W_dec)
    assert torch.equal(whole.sae.W_enc, rest.sae.W_enc)
    (other,) = saes.train(WORLD.source(seed=2), sweep, **options)
    assert not torch.equal(whole.sae.W_dec, other.sae.W_dec)  # control: the rows matter


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"n_atoms": 9, "orthogonal": True}, "9 orthogonal atoms do not fit d_model 4"),
        ({"l0": 7.0}, "firing probability 1.17; lower l0"),
        ({"profile": "power_law", "l0": 3.0}, "choose a flatter profile"),
        ({"strength": (2.0, 1.0)}, "strength needs 0 < low <= high"),
        ({"hierarchy": ((1, 0), (0, 1))}, "runs in a circle"),
        ({"hierarchy": ((1, 0), (1, 2))}, "atom 1 has the parents 0 and 2"),
        ({"hierarchy": ((6, 0),)}, r"atoms are 0 \.\. 5"),
        ({"corelation": 0.5}, "Did you mean 'correlation'"),
        ({"correlation": 1.0}, "correlation"),
    ],
)
def test_impossible_worlds_are_refused(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SuperpositionWorld({"d_model": 4, "n_atoms": 6, "l0": 2.0} | bad)


def test_a_config_survives_json() -> None:
    config = SuperpositionConfig.parse({"d_model": 4, "n_atoms": 6, "hierarchy": [[1, 0]]})
    assert SuperpositionConfig.parse(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.illtyped
def test_what_cannot_be_scored_is_refused() -> None:
    from lensbench.worlds.controls import random_dictionary
    from lensbench.worlds.matching import mmcs
    from lensbench.worlds.recovery import recovery

    with pytest.raises(ConfigError, match="needs a dictionary with encode, decode and W_dec"):
        recovery(WORLD.atoms, WORLD)
    with pytest.raises(MismatchError, match="reads width 5, the world has d_model 4"):
        recovery(random_dictionary(5, 8, 2), WORLD)
    good = random_dictionary(4, 8, 2)
    with pytest.raises(ConfigError, match="threshold must lie"):
        recovery(good, WORLD, threshold=90.0)
    with pytest.raises(ConfigError, match="n must be a whole number of at least 2"):
        recovery(good, WORLD, n=1)
    with pytest.raises(MismatchError, match="of one width"):
        mmcs(WORLD.atoms, torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="mmcs_atoms_to_latents"):
        recovery(good, WORLD, n=100).value("mmcs")
