"""Sites and targets as users write them: grids, patterns, slips."""

from pathlib import Path
from typing import Any

import pytest
import torch


def _sweep(source: dict[str, Any] | None = None, **entry: Any) -> Any:
    from lensbench.saes.configs import SweepConfig

    base = {"architecture": "topk", "d_sae": 64, "k": 4}
    train = {"tokens": 4096}
    return SweepConfig.parse({"source": source or {}, "train": train, "sweep": [base | entry]})


def _ends(sweep: Any) -> list[Any]:
    return [c.sites or (c.site, c.target) for c in sweep.expand()]


def test_lists_of_sites_and_targets_are_pairs() -> None:
    from lensbench.errors import ConfigError

    two = _sweep(site=["a", "b"], target=["c", "d"], k=[4, 8])
    assert _ends(two) == [("a", "c"), ("b", "d"), ("a", "c"), ("b", "d")]
    assert [c.k for c in two.expand()] == [4, 4, 8, 8]  # pyright: ignore
    assert _ends(_sweep(site="a", target=["c", "d"])) == [("a", "c"), ("a", "d")]
    assert _ends(_sweep(target=["c"], site=["a"])) == [("a", "c")]
    with pytest.raises(ConfigError, match=r"2 sites and 3 targets; .* in pairs"):
        _sweep(site=["a", "b"], target=["c", "d", "e"])


def _expanded(offered: tuple[str, ...], **entry: Any) -> list[Any]:
    from lensbench.app.workflows.site_names import with_known_sites

    return _ends(with_known_sites(_sweep(**entry), offered))


LAYERS = tuple(f"blocks.{i}.{s}" for i in (0, 1, 2, 10) for s in ("mlp.in", "mlp_out"))


def test_stars_of_site_and_target_are_the_same_layer() -> None:
    from lensbench.errors import UnknownSiteError

    entry = {"site": "blocks.*.mlp.in", "target": "blocks.*.mlp_out"}
    pairs = [(f"blocks.{i}.mlp.in", f"blocks.{i}.mlp_out") for i in (0, 1, 2, 10)]
    assert _expanded(LAYERS, **entry) == pairs
    lacking = tuple(s for s in LAYERS if s != "blocks.1.mlp_out")
    with pytest.raises(UnknownSiteError, match=r"blocks\.1\.mlp_out"):
        _expanded(lacking, **entry)
    one = {"site": "blocks.0.mlp.in", "target": "blocks.*.mlp_out"}
    assert len(_expanded(LAYERS, **one)) == 4  # one site, every target


def test_one_pattern_can_name_all_sites_of_a_crosscoder() -> None:
    from lensbench.errors import ConfigError

    wanted = [tuple(s for s in LAYERS if s.endswith("mlp_out"))]
    assert _expanded(LAYERS, sites=["blocks.*.mlp_out"]) == wanted
    choice = [["blocks.*.mlp_out"], ["blocks.1*.mlp.in"]]
    assert _expanded(LAYERS, sites=choice) == [*wanted, ("blocks.1.mlp.in", "blocks.10.mlp.in")]
    with pytest.raises(ConfigError, match="two or more"):
        _expanded(LAYERS, sites=["blocks.0.mlp_out"])
    with pytest.raises(ConfigError, match="two or more"):
        _expanded(("blocks.0.mlp_out",), sites=["blocks.*.mlp_out"])


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"site": "a", "target": ""}, "target"),
        ({"site": "a", "objective": "kl", "downstream_coefficient": float("inf")}, "finite"),
        ({"sites": "ab"}, "sites"),
        ({"sites": [["a", "b"], "c"]}, "sites"),
        ({"sites": [[]]}, "two or more"),
        ({"source": {"store": "x", "stores": {"a": "y", "b": "z"}}}, "store or stores"),
    ],
)
def test_slips_are_refused(entry: dict[str, Any], why: str) -> None:
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=why):
        _sweep(**entry)


def test_one_site_under_two_names_is_no_crosscoder() -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    data = [{"blocks.0.mlp_out": torch.randn(32, 4), "blocks.0.mlp.in": torch.randn(32, 4)}] * 4
    entry = {"architecture": "topk", "d_sae": 16, "k": 2}
    entry |= {"sites": ["blocks.0.mlp_out", "blocks.0.hook_mlp_out"]}
    sweep = {"train": {"tokens": 96, "batch_size": 32}, "sweep": [entry]}
    with pytest.raises(ConfigError, match=r"blocks\.0\.mlp_out twice"):
        saes.train(data, sweep, device="cpu", progress=False)


def test_stores_are_found_again_from_another_folder(tmp_path: Path, monkeypatch: Any) -> None:
    from lensbench.app.workflows.sweeps import TrainRequest, read_sweep

    monkeypatch.chdir(tmp_path)
    text = (
        "source: {stores: {a: s1, b: 's3://bucket/s2'}}\ntrain: {tokens: 4096}\n"
        "sweep: [{architecture: topk, d_sae: 64, k: 4, sites: ['a:x', 'b:x']}]\n"
    )
    (tmp_path / "sweep.yaml").write_text(text)
    sweep = read_sweep(TrainRequest(config=Path("sweep.yaml")))
    assert sweep.source.stores == {"a": str(tmp_path / "s1"), "b": "s3://bucket/s2"}


@pytest.mark.parametrize(
    ("most", "batch", "context"), [(128, 4096, 128), (64, 1000, 50), (100, 4096, 64)]
)
def test_sequences_of_a_batch_are_as_long_as_they_can_be(
    most: int, batch: int, context: int
) -> None:
    from lensbench.app.workflows.training import _context
    from lensbench.errors import ConfigError

    assert _context(most, batch) == context
    with pytest.raises(ConfigError, match=f"multiple of {most}"):
        _context(most, 1009)
