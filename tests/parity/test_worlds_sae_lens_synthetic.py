"""SAELens' synthetic module on our atoms and our rows gives our numbers.

Tolerance 1e-5 (theirs are float32 products); a wrong matching moves mcc by more than 1e-2.
"""

from typing import Any

import pytest
import torch

from lensbench.worlds.matching import mcc, uniqueness
from lensbench.worlds.recovery import recovery
from lensbench.worlds.superposition import SuperpositionWorld

pytestmark = pytest.mark.filterwarnings("ignore")


class _Rows:
    """Our codes in the place of their generator."""

    def __init__(self, codes: torch.Tensor) -> None:
        self._codes = codes

    def sample(self, n: int) -> torch.Tensor:
        return self._codes[:n]


@pytest.mark.parametrize("d_sae", [24, 40, 56], ids=["narrower", "as wide", "wider"])
def test_the_numbers_of_eval_sae_on_synthetic_data(d_sae: int) -> None:
    from sae_lens.synthetic import FeatureDictionary, eval_sae_on_synthetic_data

    from lensbench.worlds.controls import RandomDictionary

    world = SuperpositionWorld({"d_model": 24, "n_atoms": 40, "l0": 3.0})
    rng = torch.Generator().manual_seed(d_sae)
    # Near-atoms, noise and flipped signs: matchings with something to get wrong.
    picked = world.atoms[torch.randint(40, (d_sae,), generator=rng)]
    rows = picked + 0.25 * torch.randn(d_sae, 24, generator=rng)
    rows = rows / rows.norm(dim=1, keepdim=True) * (1 - 2 * (torch.arange(d_sae) % 3 == 0)[:, None])
    theirs = FeatureDictionary(40, 24, initializer=None)
    theirs.feature_vectors.data = world.atoms.clone()
    codec: Any = RandomDictionary(rows, 3)
    object.__setattr__(codec, "eval", lambda: codec)  # theirs switches to evaluation mode
    with torch.no_grad():
        said = eval_sae_on_synthetic_data(
            codec, theirs, _Rows(world.sample(4000, seed=8).codes), num_samples=4000
        )
    ours = recovery(RandomDictionary(rows, 3), world, n=4000, seed=8)
    assert ours.value("mcc") == pytest.approx(said.mcc, abs=1e-5)
    assert ours.value("uniqueness") == pytest.approx(said.uniqueness, abs=1e-9)
    assert ours.value("l0") == pytest.approx(said.sae_l0, abs=1e-5)
    assert 1 - ours.value("fvu") == pytest.approx(said.explained_variance, abs=1e-5)
    assert mcc(rows, world.atoms) == pytest.approx(said.mcc, abs=1e-5)
    assert uniqueness(rows, world.atoms) == said.uniqueness
    # Control: the greedy matching, or the signed one, is another number.
    assert abs(ours.value("hungarian_cosine") - said.mcc) > 1e-2
    assert abs(ours.value("mmcs_latents_to_atoms") - said.mcc) > 1e-2
