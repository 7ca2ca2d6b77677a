"""A spliced model against SAELens' HookedSAETransformer: same GPT-2 weights, same dictionaries.

Tolerance 1e-4 on logits of order 10 (two implementations of three blocks, float32); the edits
move them by more than 0.1. In SAELens the error is cut from the graph, so only gradients of latents
are compared (and of the last of two splices: the earlier one's pass through the later error here).
"""

from typing import Any

import pytest
import torch

from tests.helpers import random_ids, tiny
from tests.splice_helpers import random_sae

pytestmark = pytest.mark.filterwarnings("ignore")  # what sae_lens and its imports warn about
TOLERANCE = 1e-4
IDS = random_ids(2, 9, seed=2)
FIRST, SECOND = "blocks.0.attn.z", "blocks.1.resid_post"
FIRST_HOOK, SECOND_HOOK = "blocks.0.attn.hook_z", "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours and theirs, with the same two dictionaries and the error term kept."""
    import sae_lens
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    import lensbench
    from lensbench import saes

    module = tiny("gpt2", seed=1)
    config = HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=64, d_head=8, n_heads=4, d_vocab=61, act_fn="gelu_new",
        eps=module.config.layer_norm_epsilon, normalization_type="LN", seed=0,
    )  # fmt: skip
    theirs = sae_lens.HookedSAETransformer(config)
    theirs.load_state_dict(convert_gpt2_weights(module, config), strict=False)
    dictionaries = [random_sae(FIRST, seed=1, activation="relu"), random_sae(SECOND, seed=2)]
    folder = tmp_path_factory.mktemp("saes")
    for i, sae in enumerate(dictionaries):
        saes.save(sae, folder / str(i))
        theirs.add_sae(sae_lens.SAE.load_from_disk(folder / str(i)), use_error_term=True)
    return lensbench.load_model(module, certify=False).with_saes(dictionaries), theirs


def test_unedited_logits_and_all_parts_are_the_same(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    names = [f"{h}.hook_sae_{p}" for h in (FIRST_HOOK, SECOND_HOOK) for p in ("acts_post", "error")]
    names += [f"{SECOND_HOOK}.hook_sae_recons"]
    out = ours.run(IDS, capture=names)
    with torch.no_grad():
        logits, cache = theirs.run_with_cache(IDS)
    torch.testing.assert_close(out.logits, logits, rtol=0, atol=TOLERANCE)
    for name in names:
        found = cache[name].flatten(2)
        torch.testing.assert_close(out.acts[name], found, rtol=0, atol=TOLERANCE, msg=name)
        assert float(found.abs().max()) > 0.1


@pytest.mark.parametrize(("site", "hook"), [(FIRST, FIRST_HOOK), (SECOND, SECOND_HOOK)])
def test_ablating_and_pinning_latents_gives_the_same_logits(
    pair: tuple[Any, Any], site: str, hook: str
) -> None:
    from lensbench.plan import Set, Zero, edit

    ours, theirs = pair
    latents = f"{site}.sae.acts"
    live = int(ours.run(IDS, capture=latents).acts[latents][1, 5].argmax())

    def ablate(acts: torch.Tensor, hook: Any) -> torch.Tensor:
        del hook
        acts = acts.clone()
        acts[..., live] = 0
        acts[:, 3, 9] = 2.5
        return acts

    plan = edit(latents, Zero(), dims=[live]) + edit(latents, Set(2.5), positions=[3], dims=[9])
    out = ours.run(IDS, plan).logits
    name = f"{hook}.hook_sae_acts_post"
    with torch.no_grad():
        logits = theirs.run_with_hooks(IDS, fwd_hooks=[(name, ablate)])
    torch.testing.assert_close(out, logits, rtol=0, atol=TOLERANCE)
    assert float((out - ours.run(IDS).logits).abs().max()) > 0.1  # control: it does something
    elsewhere = ours.run(IDS, edit(latents, Zero(), dims=[(live + 1) % 64])).logits
    assert float((elsewhere - logits).abs().max()) > 0.1  # control: another latent


def test_gradients_of_latents_are_the_same(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    name = f"{SECOND_HOOK}.hook_sae_acts_post"
    out = ours.run(IDS, capture=name, grad=True)
    (grad,) = torch.autograd.grad(out.logits[:, -1, 7].sum(), [out.acts[name]])
    kept: dict[str, torch.Tensor] = {}

    def keep(acts: torch.Tensor, hook: Any) -> None:
        del hook
        acts.retain_grad()
        kept["acts"] = acts

    logits = theirs.run_with_hooks(IDS, fwd_hooks=[(name, keep)])
    logits[:, -1, 7].sum().backward()
    torch.testing.assert_close(grad, kept["acts"].grad, rtol=1e-4, atol=TOLERANCE)
    assert float(grad.abs().max()) > 0.1


def test_what_sae_lens_loads_from_us_is_what_was_spliced(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    assert sorted(theirs.acts_to_saes) == [FIRST_HOOK, SECOND_HOOK]
    assert [s.site.transformer_lens for s in ours.splices] == [FIRST_HOOK, SECOND_HOOK]


def test_without_the_error_the_logits_are_those_of_sae_lens_too(pair: tuple[Any, Any]) -> None:
    kept, theirs = pair
    ours = kept.inner.with_saes([s.codec for s in kept.splices], error="drop")
    dictionaries = list(theirs.acts_to_saes.values())
    with torch.no_grad():
        logits = theirs.run_with_saes(IDS, saes=dictionaries, use_error_term=False)
    torch.testing.assert_close(ours.run(IDS).logits, logits, rtol=0, atol=TOLERANCE)
    assert float((kept.run(IDS).logits - logits).abs().max()) > 0.1  # control: the error matters
