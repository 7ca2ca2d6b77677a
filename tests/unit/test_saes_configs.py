"""Sweep files: expansion, names, and what a wrong one says."""

from typing import Any

import pytest

TRAIN = {"tokens": 10_000, "batch": 100}


def _sweep(*entries: object, **source: object) -> object:
    from lensbench.saes.configs import SweepConfig

    return SweepConfig.parse({"source": source, "train": TRAIN, "sweep": list(entries)})


def test_lists_expand_to_their_product_and_entries_concatenate() -> None:
    sweep = _sweep(
        {"architecture": "topk", "d_sae": [64, 128], "k": [4, 8], "seed": [0, 1]},
        {"architecture": "relu", "d_sae": 64, "l1_coefficient": [1, 5]},
    )
    found = sweep.expand()
    assert len(found) == 2 * 2 * 2 + 2
    assert [(c.d_sae, c.k, c.seed) for c in found[:3]] == [(64, 4, 0), (64, 4, 1), (64, 8, 0)]
    assert len({c.name for c in found}) == len(found)
    assert found[0].name == "topk-64-k4-lr0.0032-s0"


def test_the_largest_seed_makes_a_decoder() -> None:
    import torch

    (config,) = _sweep({"architecture": "topk", "d_sae": 64, "k": 4, "seed": 2**63 - 1}).expand()
    torch.Generator().manual_seed(config.seed)


def test_names_tell_apart_what_labels_cannot() -> None:
    found = _sweep({"architecture": "topk", "d_sae": 64, "k": 4, "aux_k": [8, 16]}).expand()
    assert len({c.name for c in found}) == 2
    assert all(c.name.startswith("topk-64-k4") for c in found)


def test_the_site_of_the_source_is_the_default_and_several_sites_show_in_names() -> None:
    one = _sweep({"architecture": "topk", "d_sae": 64, "k": 4}, site="blocks.1.resid_post")
    assert one.expand()[0].site == "blocks.1.resid_post"
    two = _sweep(
        {"architecture": "topk", "d_sae": 64, "k": 4, "site": ["blocks.0.mlp_out", "ln_final"]}
    )
    assert [c.name.split("-")[0] for c in two.expand()] == ["blocks.0.mlp_out", "ln_final"]


def test_default_learning_rate_follows_the_width() -> None:
    from lensbench.saes.architectures import TopKConfig

    assert TopKConfig(d_sae=2**14).learning_rate == pytest.approx(2e-4)
    assert TopKConfig(d_sae=2**12).learning_rate == pytest.approx(4e-4)


def test_a_sweep_survives_yaml() -> None:
    import yaml

    from lensbench.saes.architectures import TopKConfig
    from lensbench.saes.configs import SweepConfig

    sweep = SweepConfig.of(TopKConfig(d_sae=64, k=4), tokens=1000, batch_size=10)
    again = SweepConfig.parse(yaml.safe_load(yaml.safe_dump(sweep.to_dict())))
    assert again == sweep
    assert again.fingerprint() == sweep.fingerprint()
    assert SweepConfig.of(TopKConfig(d_sae=64, k=5), tokens=1000, batch_size=10) != sweep


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"architecture": "topk", "d_sea": 64}, "Did you mean 'd_sae'"),
        ({"architecture": "tokp", "d_sae": 64}, "Did you mean 'topk'"),
        ({"architecture": "topk", "d_sae": 64, "k": 65}, "k must be in 1..d_sae=64, got 65"),
        ({"d_sae": 64}, "names no architecture"),
        ({"arch": "topk", "d_sae": 64}, "The key is 'architecture', not 'arch'"),
        ({"architectur": "topk", "d_sae": 64}, "not 'architectur'"),
        ({"architecture": "relu", "d_sae": 64, "k": 3}, "unknown key 'k'"),
        ({"architecture": "topk", "d_sae": 64, "k": 4, "seed": [0, 0]}, "listed twice"),
        ({"architecture": "topk", "d_sae": 64, "k": []}, "sweep[0].k is an empty list"),
        ({"architecture": "topk", "d_sae": 64, "k": 4, "site": []}, "sweep[0].site is an empty"),
        ({"architecture": "topk", "d_sae": 64, "k": 4, "seed": 2**63}, "seed: must be"),
        ({"architecture": "topk", "d_sae": 64, "k": 4, "seed": [0, -1]}, "seed: must be"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(entry: dict[str, object], says: str) -> None:
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        _sweep(entry)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"tokens": 10, "batch": 100}, "below one batch"),
        ({"tokens": 1000, "batch": 10, "warmup": 0.6, "decay": 0.5}, "at most 1"),
        ({"tokens": 1000, "batch": 10, "log_evry": 5}, "Did you mean 'log_every'"),
    ],
)
def test_wrong_training_settings_are_refused(train: dict[str, object], says: str) -> None:
    from lensbench.errors import ConfigError
    from lensbench.saes.configs import TrainConfig

    with pytest.raises(ConfigError) as caught:
        TrainConfig.parse(train)
    assert says in str(caught.value)


def test_an_array_job_takes_every_nth_dictionary_under_the_same_names() -> None:
    sweep = _sweep({"architecture": "topk", "d_sae": 64, "k": [1, 2, 3, 4, 5]})
    whole = [c.name for c in sweep.expand()]
    parts = [[c.name for c in sweep.part(i, 2).expand()] for i in range(2)]
    assert parts == [whole[0::2], whole[1::2]]
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match="0 to 1"):
        sweep.part(2, 2)


def test_schedule_rises_stays_and_falls() -> None:
    from lensbench.saes.step.schedule import rate

    found = [rate(step, 100, 0.1, 0.2) for step in range(100)]
    assert found[0] == pytest.approx(0.1)
    assert found[9] == found[50] == found[80] == 1.0
    assert found[99] == pytest.approx(0.05)
    assert [rate(s, 10, 0.0, 0.0) for s in range(10)] == [1.0] * 10
    assert min(found) > 0


@pytest.mark.parametrize(
    ("section", "guess"),
    [
        ({"train": {"tokens": 512, "bach_size": 4}}, "batch_size"),
        ({"source": {"sites": "x"}, "train": {"tokens": 512}}, "site"),
    ],
)
def test_a_misspelt_key_of_a_section_is_compared_with_that_section(
    section: dict[str, Any], guess: str
) -> None:
    from lensbench.errors import ConfigError
    from lensbench.saes.configs import SweepConfig

    entry = {"architecture": "topk", "d_sae": 32, "k": 3}
    with pytest.raises(ConfigError, match=f"Did you mean '{guess}'"):
        SweepConfig.parse({**section, "sweep": [entry]})


@pytest.mark.parametrize("value", [0.5, 3, None, [float("nan")], [0.5, 0.25], ["a"]], ids=str)
def test_prefixes_that_are_none_are_refused_with_what_is_allowed(value: Any) -> None:
    from lensbench.errors import ConfigError
    from lensbench.saes.configs import SweepConfig

    entry = {"architecture": "matryoshka", "d_sae": 64, "prefixes": value}
    with pytest.raises(ConfigError, match="prefixes"):
        SweepConfig.parse({"train": {"tokens": 4096}, "sweep": [entry]})


def test_a_list_of_prefixes_is_one_value_and_a_list_of_lists_a_choice() -> None:
    from lensbench.saes.configs import SweepConfig

    entry = {"architecture": "matryoshka", "d_sae": 64, "k": 4}
    for prefixes, n in (([0.25, 0.5], 1), ([[0.25], [0.5]], 2)):
        sweep = {"train": {"tokens": 4096}, "sweep": [entry | {"prefixes": prefixes}]}
        assert len(SweepConfig.parse(sweep).expand()) == n
