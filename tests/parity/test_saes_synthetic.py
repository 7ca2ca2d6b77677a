"""SAELens' synthetic world as referee: the same data, tokens, width and k for both trainers.

40 sparse features in 24 dimensions. Both dictionaries are scored by SAELens' own
``eval_sae_on_synthetic_data`` on fresh samples. Ours must recover at least as well as theirs
(mean correlation coefficient, less 0.02 for chance of the seeds) and must not with shuffled data.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

D, N, K, BATCH, STEPS = 24, 40, 3, 512, 900

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def world() -> tuple[Any, Any]:
    from sae_lens.synthetic import ActivationGenerator, FeatureDictionary

    torch.manual_seed(0)
    features = FeatureDictionary(N, D)
    return features, ActivationGenerator(N, K / N, std_firing_magnitudes=0.3)


def _batches(world: tuple[Any, Any], seed: int, *, shuffled: bool = False) -> list[Tensor]:
    from sae_lens.synthetic import SyntheticActivationIterator

    torch.manual_seed(seed)
    data = SyntheticActivationIterator(*world, batch_size=BATCH)
    batches = [next(data).detach() for _ in range(STEPS)]
    if not shuffled:
        return batches
    order = torch.rand(BATCH, D).argsort(0)  # each dimension on its own: no feature is left
    return [x.gather(0, order) for x in batches]


def _ours(batches: list[Tensor], lr: float) -> Any:
    from lensbench import saes

    sweep = {
        "train": {"tokens": STEPS * BATCH, "batch_size": BATCH, "engine": "dense"},
        "sweep": [{"architecture": "topk", "d_sae": N, "k": K, "lr": lr}],
    }
    return saes.train(batches, sweep, device="cpu", progress=False)[0].sae


def _theirs(world: tuple[Any, Any], lr: float) -> Any:
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.synthetic import train_toy_sae

    torch.manual_seed(1)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=N, k=K))
    train_toy_sae(sae, *world, training_samples=STEPS * BATCH, batch_size=BATCH, lr=lr)
    return sae


def _score(world: tuple[Any, Any], sae: Any) -> Any:
    from sae_lens.synthetic import eval_sae_on_synthetic_data

    torch.manual_seed(99)
    return eval_sae_on_synthetic_data(sae, *world, num_samples=20_000)


def _as_theirs(sae: Any, folder: Any) -> Any:
    import sae_lens

    from lensbench import saes

    return sae_lens.SAE.load_from_disk(saes.save(sae, folder))


def test_ours_recovers_the_synthetic_features_as_well_as_sae_lens(
    world: tuple[Any, Any], tmp_path: Any
) -> None:
    rates = (1e-3, 3e-3, 1e-2)
    batches = _batches(world, 1)
    ours = [_score(world, _as_theirs(_ours(batches, lr), tmp_path / str(lr))) for lr in rates]
    theirs = [_score(world, _theirs(world, lr)) for lr in rates]
    mine, best = max(r.mcc for r in ours), max(r.mcc for r in theirs)
    assert mine > 0.9
    assert mine > best - 0.02
    assert max(r.sae_l0 for r in ours) <= K
    noise = _ours(_batches(world, 1, shuffled=True), 3e-3)
    control = _score(world, _as_theirs(noise, tmp_path / "noise"))
    assert control.mcc < mine - 0.2
