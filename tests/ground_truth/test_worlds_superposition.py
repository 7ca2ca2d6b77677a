"""Worlds of known atoms: what is drawn is what the config says, and known effects appear.

Thresholds, written before the first run (widths, rates and coefficients were chosen on other seeds;
for the U-shape, whose middle is what is asked, on this one). U-shape: the best L1
coefficient has MMCS (atoms to latents) above .9, and a tenth and ten times of the middle one
are both worse by .2. Absorption:
P(main | parent alone) > .95, P(main | parent and child) < .05, the child's decoder within .1 of
(.71, .71). Controls: without a hierarchy both probabilities are within .05 of each other; a
Matryoshka dictionary on the world with one has both above .95.
"""

from typing import Any

import pytest
import torch

from lensbench.worlds.matching import hungarian, mcc, mmcs, uniqueness
from lensbench.worlds.recovery import AtomRecovery, recovery
from lensbench.worlds.superposition import SuperpositionConfig, SuperpositionWorld, parent_child

SMALL = SuperpositionConfig(d_model=32, n_atoms=64, l0=3.0)
BATCH = 512


def train(
    world: SuperpositionWorld, entries: list[dict[str, Any]], steps: int, **shared: Any
) -> Any:
    from lensbench import saes

    sweep = {
        "train": {"tokens": steps * BATCH, "batch_size": BATCH, "engine": "dense"},
        "sweep": [shared | entry for entry in entries],
    }
    return saes.train(world.source(seed=1), sweep, device="cpu", progress=False)


class Truth:
    """The dictionary that recovers a world exactly: its atoms, and codes by looking them up."""

    def __init__(self, world: SuperpositionWorld, seed: int, n: int) -> None:
        self.W_dec, self._offset = world.atoms, world.offset
        rows = world.sample(n, seed=seed)
        self._codes = {x.numpy().tobytes(): c for x, c in zip(*rows, strict=True)}

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._codes[row.numpy().tobytes()] for row in x])

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts @ self.W_dec + self._offset


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"profile": "power_law", "exponent": 0.7},
        {"profile": "decay", "decay": 0.95},
        {"correlation": 0.6, "group_size": 8},
        {"hierarchy": ((1, 0), (2, 1), (9, 0)), "l0": 12.0},
        {"hierarchy": ((1, 0), (2, 1), (9, 0)), "l0": 12.0, "correlation": 0.5, "group_size": 8},
    ],
    ids=["flat", "power law", "decay", "correlated", "hierarchy", "correlated hierarchy"],
)
def test_atoms_fire_as_often_as_the_world_says(more: dict[str, Any]) -> None:
    world = SuperpositionWorld({"d_model": 8, "n_atoms": 32, "l0": 2.0} | more)
    n = 60_000
    seen = (world.sample(n, seed=5).codes > 0).double().mean(0)
    rates = torch.from_numpy(world.rates())
    # Five standard errors over 32 atoms and six worlds: chance of a false alarm 1e-4.
    assert ((seen - rates).abs() < 5 * (rates * (1 - rates) / n).sqrt() + 1e-9).all()


def test_rates_of_a_correlated_hierarchy_need_the_integral() -> None:
    more = {"hierarchy": ((1, 0),), "l0": 3.2, "correlation": 0.7}
    world = SuperpositionWorld({"d_model": 8, "n_atoms": 32} | more)
    assert world.rates()[1] > 3 * 0.1**2  # the product of the two, as without a correlation


def test_rows_are_what_the_codes_say() -> None:
    world = SuperpositionWorld(SMALL.model_copy(update={"offset": 2.0, "strength": (0.2, 0.4)}))
    x, codes = world.sample(3000, seed=2)
    torch.testing.assert_close(x, codes @ world.atoms + world.offset, rtol=1e-5, atol=1e-5)
    assert float(world.offset.norm()) == pytest.approx(2.0, rel=1e-5)
    torch.testing.assert_close(world.atoms.norm(dim=1), torch.ones(64))
    on = codes[codes > 0]
    assert 0.2 <= float(on.min()) < 0.21
    assert 0.39 < float(on.max()) <= 0.4
    noisy = SuperpositionWorld(world.config.model_copy(update={"noise": 0.1}))
    y, same = noisy.sample(3000, seed=2)
    assert torch.equal(same, codes)
    assert float((y - x).std()) == pytest.approx(0.1, rel=0.02)


def test_correlation_makes_atoms_of_a_group_fire_together_and_no_others() -> None:
    config = {"d_model": 8, "n_atoms": 16, "l0": 2.4, "correlation": 0.6, "group_size": 4}
    on = (SuperpositionWorld(config).sample(60_000).codes > 0).double().T
    seen = torch.corrcoef(on)
    inside = torch.block_diag(*[torch.ones(4, 4)] * 4).bool() & ~torch.eye(16).bool()
    assert float(seen[inside].min()) > 0.25
    assert float(seen[~inside & ~torch.eye(16).bool()].abs().max()) < 0.03


def test_children_fire_only_with_their_parents() -> None:
    world = SuperpositionWorld({"d_model": 8, "n_atoms": 8, "l0": 3, "hierarchy": ((1, 0), (2, 1))})
    on = world.sample(20_000).codes > 0
    assert not bool((on[:, 1] & ~on[:, 0]).any())
    assert not bool((on[:, 2] & ~on[:, 1]).any())
    assert bool((on[:, 0] & ~on[:, 1]).any())


def test_the_truth_scores_one_and_its_controls_do_not() -> None:
    world = SuperpositionWorld(SMALL.model_copy(update={"offset": 1.0}))
    score = recovery(Truth(world, 7, 4096), world, n=4096, seed=7)
    ones = ("mmcs_atoms_to_latents", "mmcs_latents_to_atoms", "hungarian_cosine", "mcc")
    for metric in (*ones, "recovered_share", "best_latent_f1", "uniqueness"):
        assert score.value(metric) == pytest.approx(1.0, abs=1e-6)
        if metric != "uniqueness":
            assert score.controls.values[f"random_dictionary/{metric}"] < 0.6
            assert score.controls.values[f"other_atoms/{metric}"] < 0.6
    assert score.value("fvu") == pytest.approx(0.0, abs=1e-9)
    assert score.value("l0") == pytest.approx(3.0, rel=0.1)
    assert (score.best_latent == range(64)).all()


def test_directions_and_signs_are_not_mixed_up() -> None:
    atoms = torch.eye(4)
    one_of_each = torch.stack([atoms[0], atoms[0], atoms[1], -atoms[2]])
    assert mmcs(atoms, one_of_each) == pytest.approx(0.5)  # atoms 0 and 1 are found
    assert mmcs(one_of_each, atoms) == pytest.approx(0.75)  # the flipped latent is not an atom
    assert mcc(one_of_each, atoms) == pytest.approx(0.75)  # sign does not count, sharing does
    assert uniqueness(one_of_each, atoms) == pytest.approx(0.75)
    signed = hungarian(atoms, one_of_each)
    assert float(signed.cosine.sum()) == pytest.approx(2.0)
    # One-to-one: the best partner of both rows is the same; the sum decides, not the first come.
    a, b = torch.tensor([[1.0, 0.1], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert hungarian(a, b).b.tolist() == [1, 0]


def test_mmcs_over_the_l1_coefficient_has_its_best_in_the_middle() -> None:
    world = SuperpositionWorld(SMALL)
    coefficients = (0.1, 1.0, 2.0, 10.0)
    entries = [{"architecture": "relu", "l1_coefficient": c} for c in coefficients]
    runs = train(world, entries, 600, d_sae=64, lr=1e-2)
    scores = [recovery(run, world, n=4096) for run in runs]
    found = [s.value("mmcs_atoms_to_latents") for s in scores]
    best = max(found[1:-1])
    assert best > 0.9
    assert found[0] < best - 0.2
    assert found[-1] < best - 0.2
    l0 = [s.value("l0") for s in scores]
    assert l0 == sorted(l0, reverse=True)
    for score in scores:
        assert score.controls.values["random_dictionary/mmcs_atoms_to_latents"] < 0.5
        assert score.controls.values["other_atoms/mmcs_atoms_to_latents"] < 0.5


def _absorption(run: Any, world: SuperpositionWorld) -> tuple[float, float, list[float]]:
    """P(main | parent alone), P(main | both), and the child latent's (parent, child) decoder."""
    x, codes = world.sample(8192, seed=9)
    fires, on = run.sae.encode(x) > 0, codes > 0
    alone, both = on[:, 0] & ~on[:, 1], on[:, 0] & on[:, 1]
    hits = (fires & alone[:, None]).sum(0)
    main = int((2 * hits / (fires.sum(0) + alone.sum())).argmax())
    parts = run.sae.W_dec @ world.atoms.T
    child = parts[int(parts[:, 1].argmax()), :2].tolist()
    return float(fires[alone, main].float().mean()), float(fires[both, main].float().mean()), child


def test_with_l1_the_child_absorbs_its_parent_and_without_hierarchy_it_does_not() -> None:
    """Sixteen seeds: where one run ends hangs on how the machine rounds, what most do does not."""
    world = parent_child()
    free = SuperpositionWorld(world.config.model_copy(update={"hierarchy": ()}))
    seeds = range(40, 56)
    entries = [{"architecture": "relu", "l1_coefficient": 1.0, "seed": s} for s in seeds]
    absorbed, children = [], []
    for each in (world, free):
        told = [_absorption(run, each) for run in train(each, entries, 1000, d_sae=12, lr=3e-3)]
        absorbed.append(sum(alone - both > 0.5 for alone, both, _ in told))
        children.append(torch.tensor([child for *_, child in told]).median(0).values.tolist())
    assert absorbed[0] >= 14
    assert absorbed[1] <= 4  # control: by chance less than once in 1000 were the two worlds alike
    assert children[0] == pytest.approx([0.71, 0.71], abs=0.1)
    assert children[1] == pytest.approx([0.0, 1.0], abs=0.1)


def test_with_matryoshka_the_parent_is_not_absorbed() -> None:
    """A latent per atom, a prefix of one per root, k the atoms per row, rounded.

    Not at any width: with 12 latents, 3 of 5 seeds still absorbed (seeds 20 to 24). The seeds here
    are those of no trial. In most runs the child then has no latent of its own: what is gained is
    a parent that can be trusted, not a child.
    """
    world = parent_child()
    shared = {"architecture": "matryoshka", "k": 2, "prefixes": ((7 / 8,),)}
    entries = [shared | {"seed": s} for s in (30, 31, 32)]
    for run in train(world, entries, 1000, d_sae=8, lr=3e-3):
        alone, both, _ = _absorption(run, world)
        assert alone > 0.95
        assert both > 0.95


def test_a_saved_recovery_comes_back_equal_and_draws(tmp_path: Any) -> None:
    from lensbench.results import load

    world = SuperpositionWorld({"d_model": 8, "n_atoms": 12, "l0": 2.0, "strength": [1, 1]})
    score = recovery(Truth(world, 3, 512), world, n=512, seed=3)
    assert load(score.save(tmp_path)) == score
    assert isinstance(score, AtomRecovery)
    frame = score.to_frame()
    assert list(frame["metric"]) == list(score.summary())
    assert frame[["random_dictionary", "other_atoms"]].notna().all().all()
    assert len(score.atoms_frame()) == 12
    assert score.plot().data
