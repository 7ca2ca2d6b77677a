"""Stores of experts, encoders, encoder-decoders and recurrent models hold what a run gives."""

import pytest
import torch

import lensbench
from lensbench.errors import ConfigError
from tests.helpers import random_ids, tiny

IDS = random_ids(5, 9, seed=1)
ROUTING = ("router.logits", "router.weights", "router.indices", "experts.out")


def stored(kind: str, tmp_path, **what):
    model = lensbench.load_model(tiny(kind), certify=False)
    store = lensbench.capture(
        model, IDS, out=tmp_path / kind, context=9, layout="pad", dtype="float32", **what
    )
    return model, store


@pytest.mark.parametrize(
    ("kind", "sites"),
    [
        ("mixtral", [f"blocks.1.{n}" for n in ROUTING]),
        ("deepseek_v3", ["blocks.1.attn.q", "blocks.1.attn.z", "blocks.2.experts.shared_out"]),
        ("bert", ["blocks.1.resid_mid", "blocks.2.attn.pattern"]),
        ("mamba", ["blocks.1.ssm.post", "blocks.2.resid_post"]),
        ("t5", ["encoder.blocks.1.resid_post", "encoder.ln_final"]),
        ("bart", ["encoder.blocks.0.attn.z", "encoder.blocks.1.resid_mid"]),
    ],
)
def test_rows_are_what_a_run_gives(kind, sites, tmp_path) -> None:
    model, store = stored(kind, tmp_path, sites=sites)
    acts = model.run(IDS, capture=sites, logits="none").acts
    rows = next(store.source(sites, shuffle=False).batches(5 * 9))
    for site in sites:
        x = acts[site]
        expected = x.transpose(1, 2) if site.endswith("pattern") else x
        shown = rows[site].reshape(5 * 9, -1)
        torch.testing.assert_close(
            shown, expected.reshape(5 * 9, -1).to(shown.dtype), rtol=0, atol=1e-5
        )
    assert store.verify() == []


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_profiles_of_an_encoder_decoder_are_of_its_encoder(kind, tmp_path) -> None:
    _, store = stored(kind, tmp_path, profile="resid")
    assert [s for s in store.sites if s.startswith("encoder.")] == list(store.sites)
    model = lensbench.load_model(tiny(kind), certify=False)
    with pytest.raises(ConfigError, match="what one text decides"):
        lensbench.capture(model, IDS, ["decoder.blocks.0.resid_post"], out=tmp_path / "no")


def test_a_model_without_a_limit_gets_the_usual_context(tmp_path) -> None:
    model = lensbench.load_model(tiny("mamba"), certify=False)
    assert model.card.n_ctx == 0
    store = lensbench.capture(model, IDS, ["blocks.0.resid_post"], out=tmp_path / "s")
    assert store.n_tokens > 0


def test_latents_of_another_dictionary_are_not_taken_for_those_that_are_stored(tmp_path) -> None:
    from lensbench.errors import MismatchError
    from tests.splice_helpers import random_sae

    model = lensbench.load_model(tiny("llama"), certify=False)
    site, out = "blocks.1.resid_post", tmp_path / "s"
    first, second = (model.with_saes([random_sae(site, 32, seed=i)]) for i in (0, 1))
    latents = f"{site}.sae.acts"
    options = {"out": out, "context": 9, "layout": "pad", "dtype": "float32"}
    store = lensbench.capture(first, IDS, [latents], **options)
    assert lensbench.capture(first, IDS, [latents], **options).n_tokens == store.n_tokens
    with pytest.raises(
        MismatchError, match=r"holds blocks\.1\.resid_post\.sae\.acts of dictionary"
    ):
        lensbench.capture(second, IDS, [latents], **options)


def test_a_capture_that_keeps_no_token_is_an_error(tmp_path) -> None:
    model = lensbench.load_model(tiny("llama"), certify=False)
    with pytest.raises(ConfigError, match="no token was kept"):
        lensbench.capture(
            model, IDS, ["embed"], out=tmp_path / "s", layout="pad", positions=slice(0, 0)
        )
