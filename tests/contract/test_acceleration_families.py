"""Predictions from a store hold on families that differ in positions, norms, heads and experts."""

import pytest

import lensbench
from lensbench.interventions.acceleration import acceleration_study, capture_own, method
from tests.helpers import random_ids, tiny

FAMILIES = (
    "gpt2", "gpt_neox", "opt", "gemma2", "mistral", "mixtral", "deepseek_v3", "bloom", "falcon",
    "falcon_new",
)  # fmt: skip
"""Learned, rotary and linear positions; parallel blocks; post-norms and caps; windows; experts."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_prediction_holds(family, tmp_path) -> None:
    model = lensbench.load_model(tiny(family, seed=3), certify=False)
    store = capture_own(model, random_ids(1, 7, seed=2), tmp_path / "store", 12)
    found = acceleration_study(
        model,
        store,
        [
            method("fixed_exit", exit_layer=1, draft=3),
            method("fixed_exit", exit_layer=2, draft=2),
            method("del", gamma_max=4),
            method("early_exit", threshold=0.2),
            method("shortgpt", delete=1),
            method("draft_and_verify", skips=[("attn", 1)]),
        ],
    )
    assert found.block_forwards == 0
    for row in found.verify(model).rows:
        assert row["held"] is True, (row["label"], row["held_note"])
        assert row["tested"] is (True if row["lossless"] else None)
        if row["method"] == "fixed_exit":
            assert row["layer_tokens"] == row["meas_layer_tokens"]
            assert row["kv_bytes"] == row["meas_kv_bytes"]
