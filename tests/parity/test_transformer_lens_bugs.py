"""TransformerLens as it comes, beside lensbench: its objects loaded, its known bugs caught.

Each bug is shown first (if a newer TransformerLens mends it, the demonstration fails and the guard
can go), then what stands in its way here.
"""

import warnings

import pytest
import torch

from tests.helpers import random_ids, tiny

IDS = random_ids(2, 8, seed=1)


def raw_bridge(module):
    """A bridge as a user of TransformerLens builds it from a module in memory."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_bridge_from_module(
            module, architecture=type(module).__name__, hf_config=module.config, tokenizer=None
        )


def hooked(cfg):
    """A HookedTransformer, without being told that 4.0 will have none."""
    from transformer_lens import HookedTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer(cfg)


def times_zero(x, hook):
    del hook
    return x * 0


def hooked_gpt2(module, *, fold: bool):
    """The same weights in TransformerLens' own implementation, made without the hub."""
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    c = module.config
    cfg = HookedTransformerConfig(
        n_layers=c.n_layer,
        d_model=c.n_embd,
        n_ctx=c.n_positions,
        d_head=c.n_embd // c.n_head,
        n_heads=c.n_head,
        d_mlp=4 * c.n_embd,
        d_vocab=c.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=c.layer_norm_epsilon,
        device="cpu",
    )
    model = hooked(cfg)
    # load_and_process_state_dict folds into the tensors it is given.
    state = {k: v.clone() for k, v in convert_gpt2_weights(module, cfg).items()}
    on = {"fold_ln": fold, "center_writing_weights": fold, "center_unembed": fold}
    model.load_and_process_state_dict(state, fold_value_biases=fold, **on)
    return model.eval()


def gap(a, b) -> float:
    return float((a - b).detach().abs().max())


def test_a_hooked_transformer_is_loaded_and_equals_the_transformers_model_at_every_site() -> None:
    import lensbench
    from lensbench.plan import Scale, edit

    module = tiny("gpt2", seed=3)
    native = lensbench.load_model(module, certify=False)
    model = lensbench.load_model(hooked_gpt2(module, fold=False))
    assert model.card.backend == "transformer_lens"
    assert model.certify().passed
    sites = model.sites()
    missing = {s.name for s in set(native.sites()) - set(sites)}
    assert missing == {"ln_final", "mlp.in"}  # norms are read before their gain there
    ours, theirs = model.run(IDS, capture=sites), native.run(IDS, capture=sites)
    for name in ours.acts:
        a, b = ours.acts[name], theirs.acts[name]
        seen = (a > -1e4) & (b > -1e4)
        assert gap(a[seen], b[seen]) < 1e-4, name
    plan = edit("blocks.1.attn.v", Scale(-1.0), heads=[2], positions=[1, -2])
    edited = native.run(IDS, plan).logits
    assert gap(model.run(IDS, plan).logits, edited) < 1e-4
    assert gap(edited, theirs.logits) > 1e-2  # control
    assert model.generate([[5, 9, 7]], plan, 5) == native.generate([[5, 9, 7]], plan, 5)


def test_a_folded_hooked_transformer_passes_its_certificate_and_keeps_the_probabilities() -> None:
    import lensbench

    module = tiny("gpt2", seed=3)
    native = lensbench.load_model(module, certify=False)
    model = lensbench.load_model(hooked_gpt2(module, fold=True))
    assert "ln_final" in map(str, model.sites())
    ours, theirs = model.run(IDS).logits, native.run(IDS).logits
    assert gap(ours.log_softmax(-1), theirs.log_softmax(-1)) < 1e-4
    assert gap(ours, theirs) > 1e-2  # control: the logits themselves are moved by folding
    assert model.card.fingerprint != native.card.fingerprint


def test_a_hooked_transformer_with_rotary_and_grouped_keys_passes_its_certificate() -> None:
    from transformer_lens import HookedTransformerConfig

    import lensbench

    torch.manual_seed(0)
    sizes = {"n_layers": 2, "d_model": 32, "n_ctx": 32, "d_head": 8, "n_heads": 4, "d_vocab": 61}
    cfg = HookedTransformerConfig(
        **sizes,
        d_mlp=48,
        n_key_value_heads=2,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=8,
        final_rms=True,
        device="cpu",
    )
    root = hooked(cfg)
    for parameter in root.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = lensbench.load_model(root)
    assert model.certify().passed
    assert {"attn.q", "attn.k", "mlp.gate", "mlp.up"} <= {s.name for s in model.sites()}
    assert model.heads("blocks.0.attn.v") == 2


def test_a_misspelt_hook_name_that_transformer_lens_ignores_is_an_error_here() -> None:
    import lensbench
    from lensbench.errors import UnknownSiteError
    from lensbench.plan import Zero, edit

    bridge = raw_bridge(tiny("llama", seed=3))
    clean = bridge(IDS)
    silent = bridge.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_pots", times_zero)])
    assert gap(silent, clean) == 0.0  # the bug: nothing is said
    model = lensbench.load_model(bridge)
    for name in (
        "blocks.1.hook_resid_pots",
        "blocks.1.attn.hook_result",
        "blocks.9.hook_resid_post",
    ):
        with pytest.raises(UnknownSiteError):
            model.run(IDS, capture=name)
    with pytest.raises(UnknownSiteError, match="resid_post"):
        edit("blocks.1.hook_resid_pots", Zero())
    plan = edit("blocks.1.hook_resid_post", Zero())
    assert gap(model.run(IDS, plan).logits, clean) > 1e-2  # control: spelled right


def test_a_deepseek_bridge_on_sdpa_that_sees_the_future_is_refused() -> None:
    import lensbench
    from lensbench.errors import ModelError
    from lensbench.models.transformer_lens import to_transformer_lens

    module = tiny("deepseek_v3", seed=3, attn_implementation="sdpa")
    native = lensbench.load_model(tiny("deepseek_v3", seed=3), certify=False)
    module.set_attn_implementation("sdpa")
    bridge = raw_bridge(module)
    other = IDS.clone()
    other[:, -1] = (other[:, -1] + 1) % 61
    assert gap(bridge(IDS)[:, :-1], bridge(other)[:, :-1]) > 1e-2  # the bug
    with pytest.raises(ModelError, match="causality"):
        lensbench.load_model(bridge)
    lens = to_transformer_lens(native)  # eager is set before the bridge is built
    assert gap(lens.run(IDS).logits, native.run(IDS).logits) < 1e-4


def test_heads_that_are_not_the_models_are_withheld() -> None:
    import lensbench
    from lensbench.errors import ConfigError, UnknownSiteError
    from lensbench.models.transformer_lens import to_transformer_lens
    from lensbench.plan import Zero, edit

    native = lensbench.load_model(tiny("deepseek_v3", seed=3), certify=False)
    lens = to_transformer_lens(native)

    def zero(x, hook):
        del hook
        x[:, :, 1] = 0
        return x

    theirs = lens.root.run_with_hooks(IDS, fwd_hooks=[("blocks.1.attn.hook_z", zero)])
    right = native.run(IDS, edit("blocks.1.attn.z", Zero(), heads=[1])).logits
    assert gap(theirs, right) > 1e-3  # the bug: its head 1 is a part of head 0
    with pytest.raises(UnknownSiteError, match="its heads are not the model's"):
        lens.run(IDS, edit("blocks.1.attn.z", Zero(), heads=[1]))
    with pytest.raises(UnknownSiteError, match=r"experts\.out"):
        lens.run(IDS, capture="blocks.1.experts.out")
    with pytest.raises(ConfigError, match="per head"):
        lens.head_weights(0)


def test_building_a_bridge_leaves_transformers_as_it_was() -> None:
    import transformers.models.gemma2.modeling_gemma2 as gemma2
    import transformers.models.gemma3.modeling_gemma3 as gemma3

    import lensbench
    from lensbench.models.transformer_lens import to_transformer_lens
    from lensbench.models.transformer_lens.tool import unpatched

    before = gemma2.eager_attention_forward, gemma3.eager_attention_forward
    to_transformer_lens(lensbench.load_model(tiny("llama", seed=3), certify=False))
    assert (gemma2.eager_attention_forward, gemma3.eager_attention_forward) == before
    with unpatched():
        raw_bridge(tiny("llama", seed=3))
        wrapper = "transformer_lens" in gemma2.eager_attention_forward.__module__
        assert wrapper or gemma2.eager_attention_forward is not before[0]  # the bug
    assert gemma2.eager_attention_forward is before[0]


def test_folding_value_biases_through_sinks_is_left_out_and_would_be_caught(monkeypatch) -> None:
    import lensbench
    from lensbench.errors import ModelError
    from lensbench.models.transformer_lens import convert, to_transformer_lens

    native = lensbench.load_model(tiny("gpt_oss", seed=3), certify=False)
    lens = to_transformer_lens(native, fold=True)
    ours, theirs = (m.run(IDS).logits.log_softmax(-1) for m in (lens, native))
    assert gap(ours, theirs) < 1e-4

    def careless(bridge, values) -> None:
        del values
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bridge.enable_compatibility_mode(disable_warnings=True)

    monkeypatch.setattr(convert, "_fold", careless)
    with pytest.raises(ModelError, match="log probabilities"):
        to_transformer_lens(native, fold=True)


def test_a_bridge_that_computes_something_else_is_refused(monkeypatch) -> None:
    import lensbench
    from lensbench.errors import ModelError
    from lensbench.models.transformer_lens import convert, to_transformer_lens

    # TransformerLens takes a sequential Falcon for one with parallel branches.
    with pytest.raises(ModelError, match="against the native back end"):
        to_transformer_lens(lensbench.load_model(tiny("falcon_serial"), certify=False))
    build = convert._build

    def slightly_off(module, architecture, name):
        with torch.no_grad():
            module.model.layers[1].mlp.down_proj.weight *= 1.01
        return build(module, architecture, name)

    native = lensbench.load_model(tiny("llama", seed=3), certify=False)
    to_transformer_lens(native)
    monkeypatch.setattr(convert, "_build", slightly_off)
    with pytest.raises(ModelError, match=r"blocks\.1\.resid_post"):
        to_transformer_lens(native)


def test_values_that_transformer_lens_only_shows_are_not_edited() -> None:
    import lensbench
    from lensbench.errors import ConfigError, UnknownSiteError
    from lensbench.models.transformer_lens import to_transformer_lens
    from lensbench.plan import Zero, edit

    native = lensbench.load_model(tiny("opt", seed=3), certify=False)
    lens = to_transformer_lens(native)
    clean = lens.root(IDS)
    hooks = [("blocks.1.attn.hook_pattern", times_zero)]
    assert gap(lens.root.run_with_hooks(IDS, fwd_hooks=hooks), clean) == 0.0  # the bug
    plan = edit("blocks.1.attn.pattern", Zero())
    assert gap(native.run(IDS, plan).logits, clean) > 1e-2
    with pytest.raises(ConfigError, match="edits do nothing"):
        lens.run(IDS, plan)
    with pytest.raises(UnknownSiteError, match="not what softmax reads"):
        lens.run(IDS, capture="blocks.1.attn.scores")
    pattern = "blocks.1.attn.pattern"
    assert gap(lens.run(IDS, capture=pattern).acts[pattern],
               native.run(IDS, capture=pattern).acts[pattern]) < 1e-5  # fmt: skip


def test_the_module_itself_is_left_as_it_was() -> None:
    import lensbench
    from lensbench.models.transformer_lens import to_transformer_lens

    module = tiny("gpt2", seed=3)
    native = lensbench.load_model(module, certify=False)
    names = [name for name, _ in module.named_modules()]
    before = native.run(IDS, capture=native.sites())
    to_transformer_lens(native, fold=True)
    assert [name for name, _ in module.named_modules()] == names
    after = native.run(IDS, capture=native.sites())
    assert all(torch.equal(after.acts[n], before.acts[n]) for n in before.acts)


def test_removing_transformer_lens_is_named(monkeypatch) -> None:
    import sys

    import lensbench
    from lensbench.errors import BackendUnavailableError
    from lensbench.models.transformer_lens import to_transformer_lens

    for name in [n for n in sys.modules if n.split(".")[0] == "transformer_lens"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(BackendUnavailableError, match="pip install"):
        to_transformer_lens(lensbench.load_model(tiny("llama"), certify=False))
