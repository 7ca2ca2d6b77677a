"""What probes refuse, what they choose on, and what summaries say of figures that are missing."""

from typing import Any

import numpy as np
import pytest

from lensbench.errors import ConfigError, NotEnoughDataError


def rows(n: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


# ---- means of what is partly missing ------------------------------------------------------------
def test_a_mean_with_values_missing_is_none_and_says_how_many() -> None:
    from lensbench.stats import told

    assert told("a", np.array([1.0, 3.0])) == {"a": 2.0}
    found = told("a", np.array([1.0, np.nan, 3.0, np.inf]))
    assert np.isnan(found.pop("a"))
    assert found == {"a_defined": 2.0, "a_undefined": 2.0}
    assert told("a", np.array([1.0, np.nan, 3.0]), np.max)["a_defined"] == 3.0
    assert np.isnan(list(told("a", np.array([np.nan])).values())[:2]).all()
    assert np.isnan(told("a", np.array([]))["a"])


def test_summaries_of_probes_say_which_figures_are_missing() -> None:
    """A number has no control task here, so no mean of it speaks for both labels."""
    from lensbench.probes import ProbeData, probe_sweep

    x, n = rows(300), 300
    tokens = np.arange(n) % 7
    labels = {"sign": x[:, 0] > 0, "size": x[:, 1]}
    data = ProbeData.from_arrays(x, labels, docs=np.arange(n) // 3, tokens=tokens)
    alone = probe_sweep(data, "sign", methods="ridge", n_boot=20)
    assert not [name for name in alone.summary() if "undefined" in name]
    column = dict(alone.columns) | {"control_task": np.full(len(alone), np.nan)}
    from dataclasses import replace

    assert "mean_control_task" not in replace(alone, columns=column).summary()
    both = probe_sweep(data, methods="ridge", n_boot=20)
    gone = dict(both.columns) | {"control_task": np.array([0.5, np.nan])}
    summary = replace(both, columns=gone).summary()
    assert np.isnan(summary["mean_control_task"])
    assert summary["mean_control_task_defined"] == 0.5
    assert summary["mean_control_task_undefined"] == 1.0


def test_summaries_of_codelengths_say_which_figures_are_missing() -> None:
    """The online code has no posterior means, so no accuracy."""
    from lensbench.probes.information.result import Codelengths

    columns = {name: np.array([1.0, 2.0]) for name in Codelengths.COLUMNS}
    columns |= {"accuracy": np.array([0.8, np.nan]), "control_task": np.full(2, np.nan)}
    at = (("blocks.0.resid_post", "y", "variational", 0), ("blocks.0.resid_post", "y", "online", 0))
    summary = Codelengths(at=at, columns=columns).summary()
    assert summary["compression"] == 1.5
    assert np.isnan(summary["accuracy"])
    assert summary["accuracy_defined"] == 0.8
    assert summary["accuracy_undefined"] == 1.0
    assert "control_task" not in summary  # there is none at all


def test_summaries_of_anisotropy_say_which_sites_have_none() -> None:
    from lensbench.probes import anisotropy

    found = anisotropy({"x": rows(200), "equal": np.ones((200, 4))}).summary()
    for name in ("mean_all", "max_all"):
        assert np.isnan(found[name])
        assert 0 < found[f"{name}_defined"] < 1
        assert found[f"{name}_undefined"] == 1.0
    whole = anisotropy({"x": rows(200)}).summary()
    assert 0 < whole["mean_all"] < 1
    assert not [name for name in whole if "undefined" in name]


# ---- what is refused ----------------------------------------------------------------------------
def test_too_few_rows_for_an_intrinsic_dimension_are_refused() -> None:
    from lensbench.probes import gride, intrinsic_dimension, two_nn

    for n in (5, 49):
        for ask in (two_nn, gride, lambda x: two_nn(x, "regression")):
            with pytest.raises(NotEnoughDataError, match=rf"{n} distinct rows .* at least 50"):
                ask(rows(n))
        with pytest.raises(
            NotEnoughDataError, match=rf"{n} rows are left, 50 are needed .*a seventh"
        ):
            intrinsic_dimension(rows(n), scales=(1,))
    twice = np.concatenate([rows(40), rows(40)])
    with pytest.raises(
        NotEnoughDataError, match=r"40 distinct rows of 80; 50 are needed .*a seventh"
    ):
        intrinsic_dimension(twice, scales=(1,))
    assert np.isfinite(intrinsic_dimension(rows(50), scales=(1,)).to_frame()["dimension"]).all()
    with pytest.raises(NotEnoughDataError, match="130 are needed"):
        intrinsic_dimension(rows(129), scales=(64,))


def test_outputs_longer_than_the_decoders_context_are_refused() -> None:
    import lensbench
    from lensbench.probes import decoder_lens
    from tests.helpers import random_ids, tiny

    for kind, context in (("t5", 512), ("bart", 64)):
        model = lensbench.load_model(tiny(kind), certify=False)
        with pytest.raises(ConfigError, match=rf"context of {context} tokens.*at most"):
            decoder_lens(model, random_ids(2, 5), max_new_tokens=10**6, controls=False)
    translator = lensbench.load_model("atlas-translate", certify=False)
    text = ["French : Lily sees the night ."]
    with pytest.raises(ConfigError, match="at most 63"):
        decoder_lens(translator, text, max_new_tokens=64, controls=False)
    assert decoder_lens(translator, text, max_new_tokens=63, layers=[6], controls=False)


def test_a_model_of_games_is_no_model_of_text() -> None:
    import lensbench
    from lensbench.probes import hd_study

    model = lensbench.load_model("othello", certify=False)
    with pytest.raises(ConfigError, match=r"does not know .* no model of this text"):
        hd_study(model, n_train=50, n_test=20)


# ---- what is chosen on what ---------------------------------------------------------------------
def test_no_row_of_the_eraser_chooses_the_penalty_of_the_probe_on_new_rows() -> None:
    from lensbench.probes import ProbeData
    from lensbench.probes.erasure.check import SHARES, _later

    x = rows(400)
    data = ProbeData.from_arrays(x, {"y": x[:, 0] > 0}, docs=np.arange(400) // 4)
    split = data.split(3, SHARES)
    later = _later(data, split, 3)
    assert (later.test == split.test).all()
    assert not (later.train | later.validation)[split.train].any()
    assert ((later.train | later.validation) == split.validation).all()
    docs: list[Any] = [set(data.docs[part].tolist()) for part in (later.train, later.validation)]
    assert not docs[0] & docs[1]
    assert len(docs[0]) > len(docs[1]) > 0
    single = ProbeData.from_arrays(
        x[:12], {"y": np.tile([True, False], 6)}, docs=np.arange(12) // 4, min_per_class=1
    )
    with pytest.raises(NotEnoughDataError, match="cannot be dealt"):
        _later(single, single.split(0, SHARES), 0)
