"""Each check of the certificate fails on a model that is broken in the way it looks for."""

from dataclasses import replace

import pytest
import torch

from tests.helpers import random_ids, tiny


def failed_checks(model) -> set[str]:
    return {c["name"] for c in model.certify(fresh=True).checks if not c["passed"]}


def broken(monkeypatch, **attributes):
    import lensbench
    from lensbench.models import attention

    model = lensbench.load_model(tiny("llama", seed=5), certify=False)
    assert failed_checks(model) == set()  # sound before it is broken
    for name, value in attributes.items():
        monkeypatch.setattr(attention, name, value)
    return model


def test_a_lost_causal_mask_is_caught(monkeypatch) -> None:
    model = broken(monkeypatch, _additive=lambda *_: None)
    assert {"causality, tapped", "taps"} <= failed_checks(model)


def test_positions_shifted_by_padding_are_caught(monkeypatch) -> None:
    # Learned positions, because rotary ones are relative: a shift of all of them moves nothing.
    import lensbench

    model = lensbench.load_model(tiny("gpt2", seed=5), certify=False)
    run_trunk = model.trunk._call_one

    def shifted(fed):
        columns = torch.arange(fed.positions.shape[1]) + 0 * fed.positions
        return run_trunk(fed if fed.kept else replace(fed, positions=columns))

    monkeypatch.setattr(model.trunk, "_call_one", shifted)
    assert "left padding" in failed_checks(model)


def test_a_wrong_head_width_is_caught(monkeypatch) -> None:
    from lensbench.models import edits

    index = edits._index

    def half_heads(x, edit, columns, *, attention):
        found = index(x, edit, columns, attention=attention)
        if edit.heads is None or attention:
            return found
        # Zeroing "head 1" zeroes head 0 instead, as a wrong d_head would.
        (rows, cols, heads), present = found
        return (rows, cols, heads * 0), present

    model = broken(monkeypatch)
    monkeypatch.setattr(edits, "_index", half_heads)
    assert "heads" in failed_checks(model)


def test_a_dead_site_and_a_dead_write_are_caught(monkeypatch) -> None:
    from lensbench.errors import UnknownSiteError
    from lensbench.models.session import Session

    model = broken(monkeypatch)
    tap = Session.tap

    def deaf(self, key, x, **more):
        out = tap(self, key, x, **more)
        return x if key == ("mlp_out", 1, "") else out

    monkeypatch.setattr(Session, "tap", deaf)
    assert "sites write" in failed_checks(model)
    monkeypatch.setattr(
        Session, "tap", lambda self, key, x: x if key[0] == "mlp_out" else tap(self, key, x)
    )
    with pytest.raises(UnknownSiteError, match="did not fire"):
        model.run(random_ids(), capture=["blocks.1.mlp_out"])


def test_a_cache_that_forgets_is_caught(monkeypatch) -> None:
    from lensbench.models import trunk

    def forgetful(past, mask, layers, architecture, config):
        del layers
        past.take()
        from lensbench.models.past import _new

        return _new(architecture, config), mask, 0

    model = broken(monkeypatch)
    monkeypatch.setattr(trunk, "open_past", forgetful)
    assert failed_checks(model) == {"cache"}


def test_an_unembedding_without_the_soft_cap_is_caught(monkeypatch) -> None:
    import lensbench

    model = lensbench.load_model(tiny("gemma2", seed=5), certify=False)
    monkeypatch.setattr(model.trunk.unembed, "_cap", None)
    assert "forward" in failed_checks(model)


def test_a_skipped_block_that_runs_is_caught(monkeypatch) -> None:
    from lensbench.models.session import Session

    model = broken(monkeypatch)
    block = Session.block

    def eager_block(self, layer, stack, run, pass_on, hidden):
        if layer in self.skips:
            self.layers_run += hidden.shape[0]
        return block(self, layer, stack, run, pass_on, hidden)

    monkeypatch.setattr(Session, "block", eager_block)
    assert "skipping" in failed_checks(model)


def sound(kind: str):
    import lensbench

    model = lensbench.load_model(tiny(kind, seed=5), certify=False)
    assert failed_checks(model) == set()  # sound before it is broken
    return model


@pytest.mark.parametrize("kind", ["gpt_oss", "t5"])
def test_sinks_and_position_biases_that_are_left_out_are_caught(monkeypatch, kind: str) -> None:
    from lensbench.models import attention

    model = sound(kind)
    if kind == "gpt_oss":
        monkeypatch.setattr(attention, "_softmax", lambda scores, *_: scores.softmax(-1))
    else:
        opened = attention._open_attention

        def without(*args, **kwargs):
            return opened(*args, **{k: v for k, v in kwargs.items() if k != "position_bias"})

        monkeypatch.setattr(attention, "_open_attention", without)
    # gpt-oss attends in the open everywhere, T5 only where it is tapped.
    assert {"gpt_oss": "forward", "t5": "taps"}[kind] in failed_checks(model)


def test_heads_of_latent_attention_cut_at_the_wrong_width_are_caught(monkeypatch) -> None:
    """Zeroing "head 1" of DeepSeek-V3 by the rotary width takes half of head 0 instead."""
    from lensbench.models.session import Session

    model, tap = sound("deepseek_v3"), Session.tap

    def halves(self, key, x, **more):
        if key[0] != "attn.z":
            return tap(self, key, x, **more)
        return tap(self, key, x.reshape(*x.shape[:2], -1, x.shape[-1] // 2)).reshape(x.shape)

    monkeypatch.setattr(Session, "tap", halves)
    assert failed_checks(model) == {"heads"}


def test_an_encoder_that_looks_back_only_is_caught(monkeypatch) -> None:
    from transformers.integrations import sdpa_attention

    model, kernel = sound("bert"), sdpa_attention.sdpa_attention_forward

    def causal(*args, **kwargs):
        return kernel(*args, **kwargs | {"is_causal": True})

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", causal)
    assert "sees the whole text" in failed_checks(model)


@pytest.mark.parametrize("name", ["router.weights", "router.indices", "experts.out"])
def test_an_edit_of_the_routing_that_does_nothing_is_caught(monkeypatch, name: str) -> None:
    from lensbench.models import mixture
    from lensbench.models.session import Session

    model, tap, routing = sound("mixtral"), Session.tap, mixture.edit_routing

    def deaf(self, key, x, **more):
        out = tap(self, key, x, **more)
        return x if key[0] == name else out

    def deaf_routing(session, key, given, rule):
        weights, indices = routing(session, key, given, rule)
        return (given[1], given[2]) if name == "router.weights" else (weights, indices)

    monkeypatch.setattr(Session, "tap", deaf)
    monkeypatch.setattr(mixture, "edit_routing", deaf_routing)
    assert failed_checks(model) == {"sites write"}


def test_a_state_that_is_not_carried_on_is_caught(monkeypatch) -> None:
    from transformers.cache_utils import LinearAttentionLayer

    model = sound("mamba")
    monkeypatch.setattr(LinearAttentionLayer, "update_recurrent_state", lambda *given: given[1])
    assert failed_checks(model) == {"cache"}


def test_a_failed_certificate_stops_the_load(monkeypatch) -> None:
    import lensbench
    from lensbench.errors import ModelError
    from lensbench.models import attention, certificate

    monkeypatch.setattr(attention, "_additive", lambda *_: None)
    monkeypatch.setattr(certificate, "_CACHE", {})
    with pytest.raises(ModelError, match="causality") as caught:
        lensbench.load_model(tiny("llama", seed=6))
    assert "certify=False" in str(caught.value)


def test_the_certificate_is_kept_by_fingerprint() -> None:
    import lensbench

    model = lensbench.load_model(tiny("llama", seed=7))
    assert model.certify() is lensbench.load_model(tiny("llama", seed=7)).certify()
    assert model.certify() is not lensbench.load_model(tiny("llama", seed=8)).certify()


@pytest.mark.parametrize("kind", ["gemma2", "llama"])
def test_attention_of_our_own_is_held_against_the_one_the_model_came_with(
    monkeypatch, kind: str
) -> None:
    import lensbench
    from lensbench.models import attention

    module = tiny(kind, seed=5)
    module.set_attn_implementation("eager")
    model = lensbench.load_model(module, certify=False)
    assert failed_checks(model) == set()
    scores = attention._additive

    def tripled(layer, mask, x):
        x.mul_(3)  # every score, in place: attention in the open is wrong, but runs
        return scores(layer, mask, x)

    monkeypatch.setattr(attention, "_additive", tripled)
    assert "forward" in failed_checks(model)
