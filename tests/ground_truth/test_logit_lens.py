"""The logit lens: at the last layer it is the model; on shuffled states it is nothing.

Seeds and thresholds were written before the first run. The model is a tiny random Llama whose norm
weights are random too; the store is float32, so that the last layer can be compared exactly.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    import lensbench

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.4,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    for name, weight in module.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    model = lensbench.load_model(module)
    ids = torch.randint(3, 50, (24, 12), generator=torch.Generator().manual_seed(1))
    store = lensbench.capture(
        model, ids, profile="resid", out=tmp_path_factory.mktemp("store") / "s",
        layout="pad", dtype="float32", batch_size=4, context=64,
    )  # fmt: skip
    return model, store


def test_the_last_layer_is_the_model_exactly(bench: tuple[Any, Any]) -> None:
    from lensbench.probes.lenses.logit import UnembedReadout

    model, store = bench
    read = UnembedReadout(model)
    for batch in store.sequences():
        logits = model.run(batch.tokens).logits
        rows = batch.rows.reshape(-1)
        resid = torch.from_numpy(store.rows("blocks.2.resid_post", rows))
        torch.testing.assert_close(
            read(resid.view(*batch.rows.shape, -1), 2), logits, rtol=0, atol=0
        )


def test_trajectory_ends_at_the_model_and_its_cross_entropy(bench: tuple[Any, Any]) -> None:
    from lensbench.probes.lenses.logit import METRICS, logit_lens

    model, store = bench
    result = logit_lens(store, model, max_tokens=10_000)
    names = list(METRICS)
    assert result.layers == (0, 1, 2)
    assert (result.n_docs, result.n_tokens) == (24, 24 * 11)
    assert result.mean[names.index("kl_to_final"), -1] == 0
    assert result.mean[names.index("agreement"), -1] == 1
    assert result.mean[names.index("kl_to_final"), 0] > 0.05, "an early layer is not the model"
    losses = []
    for batch in store.sequences():
        logp = model.run(batch.tokens).logits.log_softmax(-1)
        losses.append(-logp[:, :-1].gather(2, batch.tokens.ids[:, 1:, None]))
    direct = torch.cat(losses).mean().item()
    np.testing.assert_allclose(result.mean[names.index("cross_entropy"), -1], direct, rtol=1e-5)


def test_shuffled_states_lose_the_agreement(bench: tuple[Any, Any]) -> None:
    from lensbench.probes.lenses.logit import METRICS, logit_lens

    model, store = bench
    result = logit_lens(store, model, max_tokens=10_000)
    agree = list(METRICS).index("agreement")
    assert result.shuffled[agree, -1] < 0.25
    assert result.shuffled[list(METRICS).index("kl_to_final"), -1] > 0.5
    assert result.controls.values["shuffled_states"] == result.shuffled[agree, 1]


def test_measure_matches_the_formulas_by_hand() -> None:
    from lensbench.probes.lenses.logit import METRICS, measure

    q = torch.tensor([[0.5, 0.25, 0.25]])
    p = torch.tensor([[0.25, 0.5, 0.25]])
    found = dict(zip(METRICS, measure(q.log(), p.log(), torch.tensor([2])), strict=True))
    log = np.log
    expected = {
        "entropy": 1.5 * log(2),
        "kl_to_final": 0.25 * log(0.25 / 0.5) + 0.5 * log(0.5 / 0.25),
        "agreement": 0.0,
        "target_prob": 0.25,
        "target_rank": 2.0,
        "cross_entropy": log(4),
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, abs=1e-6), name


def test_whole_documents_are_drawn_and_targets_stay_inside(bench: tuple[Any, Any]) -> None:
    from lensbench.probes.lenses.logit import _draw

    _, store = bench
    index = store.index()
    rows, targets, docs = _draw(store, max_tokens=30, seed=3)
    counts = np.unique(docs, return_counts=True)[1]
    assert list(counts) == [11, 11, 11], "30 tokens need three documents of 11"
    assert (index.token_ids[rows + 1] == targets).all()
    assert (index.doc_ids[rows + 1] == docs).all()


def test_another_model_and_a_store_without_the_last_layer_are_refused(
    bench: tuple[Any, Any], tmp_path: Path
) -> None:
    from transformers import LlamaForCausalLM

    import lensbench
    from lensbench.errors import MismatchError, MissingDataError
    from lensbench.probes.lenses.logit import logit_lens

    model, store = bench
    torch.manual_seed(9)
    other = lensbench.load_model(LlamaForCausalLM(model.module.config), certify=False)
    with pytest.raises(MismatchError):
        logit_lens(store, other)
    short = lensbench.capture(
        model, [[3, 4, 5]], ["blocks.0.resid_post"], out=tmp_path / "s", context=64
    )
    with pytest.raises(MissingDataError, match=r"blocks\.2\.resid_post"):
        logit_lens(short, model)


def test_results_come_back_from_disk_and_draw_themselves(
    bench: tuple[Any, Any], tmp_path: Path
) -> None:
    from lensbench import results
    from lensbench.errors import ConfigError
    from lensbench.probes.lenses.grid import lens_grid
    from lensbench.probes.lenses.logit import logit_lens

    model, store = bench
    lens = logit_lens(store, model, max_tokens=50)
    grid = lens_grid(store, model, document=2)
    for name, result in (("lens", lens), ("grid", grid)):
        assert results.load(result.save(tmp_path / name)) == result
        assert len(result.plot().data) >= 1
    band = lens.plot("entropy").data[0]  # drawn up along one bound and back along the other
    frame = lens.to_frame().query("metric == 'entropy' and states == 'model'")
    assert band.fill == "toself"
    assert list(band.y) == [*frame["high"], *frame["low"][::-1]]
    with pytest.raises(ConfigError, match="no lens metric"):
        lens.plot("entropie")
    assert grid.tokens[1:] == grid.targets[:-1], "column i is the prediction made at token i"
    frame = grid.to_frame()
    assert len(frame) == 3 * 11
    assert (frame[frame["layer"] == 2]["kl_to_final"] == 0).all()
    with pytest.raises(ConfigError, match="fewer than two"):
        lens_grid(store, model, document=999)
