"""Transcoders and crosscoders on data whose features are known.

Thresholds: dictionaries-and-circuits (exclusive latents: relative decoder norm below .05 or above
.95; shared: .3 to .7; directions: cosine .97).
"""

from typing import Any

import pytest
import torch
from torch import Tensor

STEPS, BATCH = 600, 256


def _unit(n: int, d: int, rng: torch.Generator) -> Tensor:
    rows = torch.randn(n, d, generator=rng)
    return rows / rows.norm(dim=1, keepdim=True)


def _features(n: int, rate: float, rng: torch.Generator) -> Tensor:
    fires = torch.rand(BATCH, n, generator=rng) < rate
    return fires * (0.75 + 0.5 * torch.rand(BATCH, n, generator=rng))


def _train(data: list[dict[str, Tensor]], **entry: Any) -> Any:
    from lensbench import saes

    train = {"tokens": STEPS * BATCH, "batch_size": BATCH}
    sweep = {"train": train, "sweep": [{"lr": 3e-3, **entry}]}
    (run,) = saes.train(data, sweep, device="cpu", progress=False)
    return run.coder


# --- crosscoders: ten features of both sites, five of each alone


def _two_sites(*, misaligned: bool = False) -> tuple[list[dict[str, Tensor]], Tensor]:
    rng = torch.Generator().manual_seed(0)
    a, b = _unit(20, 32, rng), _unit(20, 32, rng)
    a[15:], b[10:15] = 0.0, 0.0
    data: list[dict[str, Tensor]] = []
    for _ in range(STEPS):
        acts = _features(20, 0.1, rng)
        data.append({"a": acts @ a, "b": (acts @ b).roll(7 * misaligned, 0)})
    return data, torch.cat([a, b], 1)


@pytest.fixture(scope="module")
def crosscoder() -> Any:
    return _train(_two_sites()[0], architecture="batchtopk", d_sae=32, k=2, sites=["a", "b"])


def _found(coder: Any, true: Tensor) -> tuple[Tensor, Tensor]:
    cos = torch.nn.functional.cosine_similarity(coder.W_dec[:, None], true[None], dim=2)
    best = cos.max(0)
    return best.values, coder.relative_norms()[best.indices, 1]


def test_a_crosscoder_finds_what_is_shared_and_what_is_not(crosscoder: Any) -> None:
    cos, share = _found(crosscoder, _two_sites()[1])
    assert float(cos.min()) > 0.97
    assert 0.3 < float(share[:10].min()) <= float(share[:10].max()) < 0.7
    assert float(share[10:15].max()) < 0.05
    assert float(share[15:].min()) > 0.95


def test_sites_of_other_tokens_share_nothing() -> None:
    """Control: the second site's rows belong to other tokens."""
    data, true = _two_sites(misaligned=True)
    coder = _train(data, architecture="batchtopk", d_sae=64, k=4, sites=["a", "b"])
    cos, _ = _found(coder, true)
    assert float(cos[:10].max()) < 0.9  # no latent writes a shared pair
    alone = torch.cat([torch.cat([true[:15, :32], torch.zeros(15, 32)], 1)])
    assert float(_found(coder, alone)[0].mean()) > 0.9


def test_its_report_counts_them(crosscoder: Any) -> None:
    from lensbench import saes

    report = saes.compare_sites(crosscoder)
    acts = crosscoder.encode(crosscoder.join(_two_sites()[0][0]))
    alive = int((acts > 0).any(0).sum())
    assert alive >= 20
    found = report.summary()
    assert found["shared"] >= 10
    assert found["only a"] >= 5
    assert found["only b"] >= 5
    # Directions of one latent at two sites are unrelated here, and so is the control's.
    assert abs(found["median cosine of shared latents"]) < 0.5
    assert "shuffled" in str(report.controls)


def test_the_second_site_is_the_end_at_one() -> None:
    from lensbench import saes

    W_dec = torch.zeros(3, 4)
    W_dec[0, :2], W_dec[1, 2:], W_dec[2] = 1.0, 1.0, 1.0
    coder = saes.Crosscoder(
        W_enc=torch.zeros(4, 3),
        b_enc=torch.zeros(3),
        W_dec=W_dec,
        b_dec=torch.zeros(4),
        activation="relu",
        sites=("a", "b"),
        widths=(2, 2),
        scales=(1.0, 3.0),
    )
    assert saes.compare_sites(coder).relative_norm.tolist() == pytest.approx([0, 1, 0.75])
    assert saes.compare_sites(coder, "b", "a").relative_norm.tolist() == pytest.approx([1, 0, 0.25])
    assert saes.compare_sites(coder).groups().tolist() == ["only a", "only b", "between"]


# --- transcoders: y is a function of the features of x


def _in_and_out(kind: str) -> tuple[list[dict[str, Tensor]], Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    u, v = _unit(40, 32, rng), _unit(40, 24, rng)
    linear = torch.randn(32, 24, generator=rng) / 32**0.5
    data: list[dict[str, Tensor]] = []
    for _ in range(STEPS):
        acts = _features(40, 0.05, rng)
        x, y = acts @ u + 1.0, acts @ v - 0.5
        if kind == "linear":
            x = torch.randn(BATCH, 32, generator=rng)
            y = x @ linear + 2.0
        if kind == "shuffled":
            y = y[torch.randperm(BATCH, generator=rng)]
        data.append({"in": x, "out": y})
    return data, v, linear


def _fvu(coder: Any, batch: dict[str, Tensor]) -> float:
    y = batch["out"]
    return float((coder(batch["in"]) - y).square().sum() / (y - y.mean(0)).square().sum())


ENDS = {"site": "in", "target": "out", "d_sae": 64}


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu", "p_anneal"])
def test_a_transcoder_writes_the_known_directions(kind: str) -> None:
    data, v, _ = _in_and_out("sparse")
    sparsity = {"k": 2} if "topk" in kind else {"target_l0": 2}
    coder = _train(data, architecture=kind, **ENDS, **sparsity)
    cos = torch.nn.functional.cosine_similarity(coder.W_dec[:, None], v[None], dim=2)
    assert float(cos.max(0).values.mean()) > 0.95
    assert _fvu(coder, data[0]) < 0.3


def test_a_transcoder_of_shuffled_outputs_explains_nothing() -> None:
    data, _, _ = _in_and_out("shuffled")
    coder = _train(data, architecture="topk", k=2, **ENDS)
    fresh, _, _ = _in_and_out("sparse")
    assert _fvu(coder, fresh[-1]) > 0.8


def test_a_skip_connection_takes_what_is_linear() -> None:
    data, _, linear = _in_and_out("linear")
    skip = _train(data, architecture="topk", k=2, skip_connection=True, **ENDS)
    plain = _train(data, architecture="topk", k=2, **ENDS)
    assert _fvu(skip, data[0]) < 0.02
    assert _fvu(plain, data[0]) > 0.2  # control
    assert float((skip.W_skip - linear).norm() / linear.norm()) < 0.15
