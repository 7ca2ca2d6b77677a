"""Pattern-preserving ablation: the two passes written out, and a circuit whose wiring is known."""

from typing import Any

import pytest
import torch

from lensbench.errors import ConfigError
from lensbench.interventions import preserve_patterns
from lensbench.models.loading import load_model
from lensbench.plan import Plan, Scale, Zero, edit, skip_layers
from tests.helpers import tiny
from tests.induction_circuit import PREVIOUS, induction_model, induction_pairs

TOKENS = torch.arange(12).reshape(2, 6) % 7 + 3
ABLATION = edit("blocks.0.attn.z", Zero(), heads=[2])


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(tiny("llama"), certify=False)


def two_passes(z_of: int) -> torch.Tensor:
    """Logits with head ``z_of`` of block 0 zeroed and all patterns kept, in plain transformers."""
    from transformers import AttentionInterface

    kept: dict[int, torch.Tensor] = {}
    second: list[bool] = []

    def attention(module, query, key, value, _mask, scaling=None, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        later = torch.ones(query.shape[-2], key.shape[-2]).triu(1).bool()
        pattern = (query @ key.mT * scaling).masked_fill(later, -torch.inf).softmax(-1)
        pattern = kept.setdefault(module.layer_idx, pattern)  # of the first pass, in both
        z = (pattern @ value).transpose(1, 2).clone()
        if second and module.layer_idx == 0:
            z[:, :, z_of] = 0
        return z.contiguous(), pattern

    AttentionInterface.register("two_passes", attention)
    module = tiny("llama").eval()
    module.set_attn_implementation("two_passes")
    with torch.no_grad():
        module(TOKENS)
        second.append(True)
        return module(TOKENS).logits


def test_it_is_the_two_passes_written_out(model) -> None:
    ours = model.run(TOKENS, preserve_patterns(model, TOKENS, ABLATION)).logits
    theirs, plain = two_passes(2), model.run(TOKENS, ABLATION).logits
    effect = float((plain - model.run(TOKENS).logits).abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=effect / 1000)
    assert float((plain - ours).abs().max()) > effect / 100  # control: patterns do change
    assert float((two_passes(1) - ours).abs().max()) > effect / 100  # control: another head


def test_with_nothing_ablated_nothing_changes(model) -> None:
    assert preserve_patterns(model, TOKENS, Plan()) == Plan()
    # Opened layers add up in another order than the fused kernel: open those of the clean run too.
    opened = [f"blocks.{layer}.attn.pattern" for layer in range(3)]
    clean = model.run(TOKENS, capture=opened).logits
    same = edit("blocks.0.attn.z", Scale(1.0), heads=[2])
    kept = model.run(TOKENS, preserve_patterns(model, TOKENS, same)).logits
    assert torch.equal(kept, clean)


def test_what_works_through_matching_is_not_lost_and_through_values_is() -> None:
    circuit, pairs = load_model(induction_model(), certify=False), induction_pairs()
    answers = torch.tensor(pairs.answer)

    def right(plan: Plan) -> float:
        logits = circuit.run(pairs.clean, plan, logits="last").logits
        assert logits is not None
        return float((logits[:, -1].argmax(-1) == answers).double().mean())

    before = edit(f"blocks.{PREVIOUS[0]}.attn.z", Zero(), heads=[PREVIOUS[1]])
    copies = edit("blocks.1.attn.z", Zero(), heads=[2])
    assert right(Plan()) == 1
    assert right(before) < 0.5
    assert right(preserve_patterns(circuit, pairs.clean, before)) == 1  # it only serves matching
    assert right(preserve_patterns(circuit, pairs.clean, copies)) < 0.5  # it writes the answer


def test_values_streams_skips_and_clamps_keep_the_later_patterns(model) -> None:
    sites = ["blocks.1.attn.pattern", "blocks.2.attn.pattern"]
    clean = model.run(TOKENS, capture=sites).acts
    for plan in (
        edit("blocks.0.attn.v", Zero()),
        edit("blocks.1.resid_pre", Scale(0.5)),
        skip_layers([0]),
    ):
        kept = model.run(TOKENS, preserve_patterns(model, TOKENS, plan), capture=sites).acts
        plain = model.run(TOKENS, plan, capture=sites).acts
        for site in sites:
            torch.testing.assert_close(kept[site], clean[site], rtol=0, atol=1e-5)
        assert max(float((plain[s] - clean[s]).abs().max()) for s in sites) > 1e-2
    under = edit("blocks.0.attn.z", Scale(2.0), heads=[0])
    clamped = model.run(TOKENS, under, capture=sites).acts
    both = preserve_patterns(model, TOKENS, ABLATION, under=under)
    kept = model.run(TOKENS, both, capture=sites).acts
    assert torch.equal(kept[sites[1]], clamped[sites[1]])


def test_an_edit_that_would_be_undone_is_refused(model) -> None:
    with pytest.raises(ConfigError, match="would do nothing"):
        preserve_patterns(model, TOKENS, edit("blocks.0.attn.q", Zero()))
