"""Neurons decoded by their weights: planted tokens are found, unrelated models agree by chance."""

from typing import Any

import numpy as np
import pytest
import torch

import lensbench
from lensbench import results
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.models.matrices import ends_of, vectors_of
from lensbench.plan import Set, edit
from lensbench.probes import decode_neurons, neuron_agreement
from tests.helpers import FAMILY_NAMES, random_ids, tiny
from tests.zoo import DECODERS, ENCODERS, EXPERTS, WITHOUT_INTERFACE

V, D, M, LAYERS = 200, 64, 128, 3
PLANTED, TOKEN = (1, 40), 17
IDS = random_ids(1, 6, seed=1)


def llama(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=M, num_hidden_layers=LAYERS,
        num_attention_heads=4, tie_word_embeddings=False, max_position_embeddings=32,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def planted(side: str) -> Any:
    """One neuron whose vector is 20 times the unembedding's row of one token."""
    hf = llama(0)
    layer, neuron = PLANTED
    mlp = hf.model.layers[layer].mlp
    with torch.no_grad():
        hf.lm_head.weight.normal_()
        row = hf.lm_head.weight[TOKEN]
        if side == "down":
            mlp.down_proj.weight[:, neuron] = 20 * row
        else:
            getattr(mlp, f"{side}_proj").weight[neuron] = 20 * row
    return lensbench.load_model(hf, certify=False)


@pytest.mark.parametrize("side", ["down", "up", "gate"])
def test_a_planted_neuron_decodes_to_its_token_and_no_other_does(side: Any) -> None:
    table = decode_neurons(planted(side), side)
    frame = table.to_frame()
    best = table.specialised(0.9)
    assert [(int(best["layer"].iloc[0]), int(best["neuron"].iloc[0]))] == [PLANTED]
    assert len(best) == 1
    assert (
        table.top_ids[frame.index[(frame["layer"] == 1) & (frame["neuron"] == 40)][0], 0] == TOKEN
    )
    assert table.top_prob[:, 0].max() > 0.999
    assert np.sort(table.top_prob[:, 0])[-2] < 0.1
    assert table.random_prob[(table.layer == 1) & (table.neuron == 40)] > 0.1  # long, but nothing's
    other = {"down": "up", "up": "gate", "gate": "down"}[side]
    assert decode_neurons(planted(side), other).top_prob[:, 0].max() < 0.1  # type: ignore[arg-type]


def test_rows_of_one_length_hide_no_token_behind_a_long_row() -> None:
    """A token with a huge unembedding row is first for many; not so by rows of one length."""
    hf = llama(1)
    with torch.no_grad():
        hf.lm_head.weight[3] *= 100
    model = lensbench.load_model(hf, certify=False)
    shares = {
        kind: float((decode_neurons(model, table=kind).top_ids[:, 0] == 3).mean())
        for kind in ("raw", "rows")
    }
    assert shares["raw"] > 0.4
    assert shares["rows"] < 0.05
    raw = decode_neurons(model).to_frame()
    assert int(raw["shared_by"].max()) == round(shares["raw"] * len(raw))


def test_an_offset_shared_by_all_rows_changes_nothing_about_their_mean() -> None:
    """It changes no raw logit difference either, but the directions of rows of one length."""
    hf = llama(2)
    before = {kind: _first(hf, kind) for kind in ("raw", "rows", "centred")}
    with torch.no_grad():
        hf.lm_head.weight += 10 * torch.nn.functional.normalize(torch.randn(D), dim=0)
    assert (_first(hf, "raw") == before["raw"]).mean() > 0.99
    assert (_first(hf, "centred") == before["centred"]).mean() > 0.99
    assert (_first(hf, "rows") == before["rows"]).mean() < 0.9


def _first(hf: Any, table: Any) -> np.ndarray:
    return decode_neurons(lensbench.load_model(hf, certify=False), table=table).top_ids[:, 0]


def test_unrelated_models_agree_by_chance_and_a_model_with_itself() -> None:
    a, b = (decode_neurons(lensbench.load_model(llama(s), certify=False)) for s in (3, 4))
    found = neuron_agreement(a, b).summary()
    assert found["same"] == pytest.approx(found["chance"], abs=0.01)
    assert found["uniform"] == pytest.approx(1 / V)
    again = neuron_agreement(a, a)
    assert again.summary()["same"] == 1
    assert again.summary()["chance"] < 0.05
    mixed = llama(3)
    with torch.no_grad():
        for layer in mixed.model.layers:
            layer.mlp.down_proj.weight[:, : M // 2] = torch.randn(D, M // 2)
    half = decode_neurons(lensbench.load_model(mixed, certify=False))
    assert neuron_agreement(a, half).summary()["same"] == pytest.approx(0.5, abs=0.02)


def test_chance_counts_popular_tokens() -> None:
    from lensbench.probes.lenses.neurons.agreement import _chance

    x, y = np.array([0, 0, 0, 1]), np.array([0, 0, 2, 3])
    assert _chance(x, y) == pytest.approx((0.75 * 0.5) + 0.25 * 0)
    drawn = np.random.default_rng(0)
    shuffled = np.mean([(x == drawn.permutation(y)).mean() for _ in range(4000)])
    assert _chance(x, y) == pytest.approx(shuffled, abs=0.02)


@pytest.mark.parametrize("kind", [*FAMILY_NAMES, *DECODERS, *WITHOUT_INTERFACE, *EXPERTS])
def test_vectors_are_what_the_model_reads_and_writes(kind: str) -> None:
    """down: what mlp_out gains when a neuron is set from 0 to 1; up, gate: what mlp.in gives it."""
    model = lensbench.load_model(tiny(kind, seed=3), certify=False)
    for layer in range(model.n_layers):
        down = vectors_of(model, "down", layer)
        if down is None:
            assert kind in EXPERTS
            continue
        site, out = f"blocks.{layer}.mlp.post", f"blocks.{layer}.mlp_out"
        family = model.layout.architecture.stacks[""]  # type: ignore[attr-defined]
        post_norm = family.mlp_out not in ("mlp", "fc2") and "norm" in family.mlp_out
        if post_norm:
            continue  # what is added to the stream was normed after
        off, on = (
            model.run(IDS, edit(site, Set(v), dims=[5]), out, logits="none").acts[out]
            for v in (0.0, 1.0)
        )
        torch.testing.assert_close((on - off)[0, -1], down[5], rtol=0, atol=2e-4)
        for side in ("up", "gate"):
            rows = vectors_of(model, side, layer)  # type: ignore[arg-type]
            name = f"blocks.{layer}.mlp.{side}"
            if rows is None or name not in map(str, model.sites()):
                continue
            acts = model.run(IDS, capture=[f"blocks.{layer}.mlp.in", name], logits="none").acts
            x, y = acts[f"blocks.{layer}.mlp.in"][0], acts[name][0]
            torch.testing.assert_close(y[1] - y[0], rows @ (x[1] - x[0]), rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", [*FAMILY_NAMES, *DECODERS, "bloom", "gpt_neo", "falcon"])
def test_the_gain_is_that_of_the_final_norm(kind: str) -> None:
    """For states of one denominator, gained vectors times the table give the model's logits."""
    hf = tiny(kind, seed=3)
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.ndim == 1 and ("norm" in name or "ln_f" in name):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=gen))
    model = lensbench.load_model(hf, certify=False)
    if getattr(hf.config, "final_logit_softcapping", None):
        pytest.skip("logits are capped after the table")
    ends = ends_of(model)
    x = torch.randn(2, model.card.d_model, generator=gen)
    x = x - x.mean(-1, keepdim=True)
    x = x / x.pow(2).mean(-1, keepdim=True).sqrt()  # both norms divide by 1
    logits = model.unembed(x)
    ours = ends.through(x, norm=True) @ ends.table.T
    torch.testing.assert_close(logits[1] - logits[0], ours[1] - ours[0], rtol=2e-3, atol=2e-3)


def test_bad_requests_are_refused_in_words(tmp_path: Any) -> None:
    model = planted("down")
    with pytest.raises(UnknownNameError, match=r"no side of a neuron named 'dwn'.*'down'"):
        decode_neurons(model, "dwn")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="no table named 'row'"):
        decode_neurons(model, table="row")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"layers must be in 0\.\.2"):
        decode_neurons(model, layers=[3])
    with pytest.raises(ConfigError, match=r"k must be in 1\.\.200"):
        decode_neurons(model, k=201)
    with pytest.raises(ConfigError, match="encoder"):
        decode_neurons(lensbench.load_model(tiny(next(iter(ENCODERS)), seed=0), certify=False))
    with pytest.raises(ConfigError, match=r"interventions\.experts"):
        decode_neurons(lensbench.load_model(tiny("mixtral", seed=0), certify=False))
    table = decode_neurons(model)
    with pytest.raises(MismatchError, match="made differently"):
        neuron_agreement(table, decode_neurons(model, "up"))
    with pytest.raises(MismatchError, match="not the same ones"):
        neuron_agreement(table, decode_neurons(model, layers=[0]))
    with pytest.raises(UnknownNameError, match="first token of a neuron"):
        table.writes("no such token")
    assert results.load(table.save(tmp_path / "t")) == table
    assert table.plot().data
    assert table.plot(0.5).data
    assert neuron_agreement(table, table).plot().data
