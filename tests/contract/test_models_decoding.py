"""Every family: edits at positions that come later or never, and gradients at every site."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from lensbench import load_model
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.plan import Add, Call, Clamp, Plan, Scale, Set, Zero, edit, skip_layers
from tests.helpers import D_VOCAB, FAMILY_NAMES, random_ids, tiny
from tests.zoo import DECODERS, ENCODERS, EXPERTS, RECURRENT, WITHOUT_INTERFACE

CAUSAL = [*FAMILY_NAMES, *EXPERTS, *DECODERS, *WITHOUT_INTERFACE, *RECURRENT]


@pytest.fixture(scope="module", params=CAUSAL)
def model(request: pytest.FixtureRequest) -> Any:
    return load_model(tiny(request.param, seed=3), certify=False)


def _present(plan: Plan, n_tokens: int) -> Plan:
    """The plan without the positions that do not exist yet."""
    edits = []
    for one in plan.edits:
        assert one.positions is not None
        left = tuple(p for p in one.positions if p < n_tokens)
        edits += [replace(one, positions=left)] if left else []
    return Plan(tuple(edits))


def _slow(model: Any, prompt: list[int], plan: Plan, steps: int) -> list[int]:
    """Greedy decoding by full forwards, without a cache."""
    tokens = list(prompt)
    for _ in range(steps):
        out = model.run(torch.tensor([tokens]), _present(plan, len(tokens)), logits="last")
        tokens.append(int(out.logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def with_its_like(model: Any, site: str) -> str:
    """The site, or the one that stands for it where the architecture lacks it."""
    known = {s.name for s in model.sites() if s.layer == 1}
    like = {"attn.z": "ssm.post", "attn.v": "resid_post", "mlp.post": "mlp_out"}
    found = site if site in known else like[site]
    return found if found in known else "ssm.in"


@pytest.mark.parametrize("site", ["resid_pre", "attn.z", "attn.v", "mlp.post"])
def test_positions_that_come_later_are_edited_when_they_come(model: Any, site: str) -> None:
    prompts = random_ids(2, 7, seed=8).tolist()
    prompts[1] = prompts[1][:3]
    site = with_its_like(model, site)
    size = model.width(f"blocks.1.{site}")
    push = Add(4 * torch.randn(size, generator=torch.Generator().manual_seed(1)))
    heads = [1] if site.startswith("attn") else None
    plan = edit(f"blocks.1.{site}", push, positions=[0, 4, 9], heads=heads)
    found = model.generate(prompts, plan, max_new_tokens=6, stop_ids=[])
    assert found == [_slow(model, p, plan, 6) for p in prompts]
    ids = torch.tensor(prompts[:1])  # control: the edit does something
    moved = model.run(ids, _present(plan, 7)).logits - model.run(ids).logits
    assert float(moved.abs().max()) > 1e-3


def test_a_past_takes_edits_of_its_own_positions_and_of_the_new_ones(model: Any) -> None:
    from lensbench.models.base import Past

    ids = random_ids(1, 7, seed=9)
    plan = edit("blocks.1.resid_pre", Add(torch.linspace(-3, 3, 32)), positions=[2, 5])
    whole = model.run(ids, plan).logits
    past = model.run(ids[:, :4], _present(plan, 4), past=Past()).past
    if model.layout.architecture.recurrent:
        with pytest.raises(ConfigError, match="one token at a time, not 3"):
            model.run(ids[:, 4:], plan, past=past)
        return
    rest = model.run(ids[:, 4:], plan, past=past).logits
    torch.testing.assert_close(rest, whole[:, 4:], atol=2e-5, rtol=1e-5)
    assert float((whole - model.run(ids).logits).abs().max()) > 0.01  # control


@pytest.mark.parametrize("plan", [Plan(stop=0), skip_layers([0, 1, 2])], ids=["stop", "skips"])
def test_decoding_goes_on_where_no_layer_runs(model: Any, plan: Plan) -> None:
    from lensbench.models.base import Past

    ids = random_ids(1, 5, seed=6)
    past = model.run(ids[:, :4], plan, past=Past()).past
    rest = model.run(ids[:, 4:], plan, past=past).logits
    torch.testing.assert_close(rest, model.run(ids, plan).logits[:, 4:])


def test_gradients_of_every_site_are_those_of_adding_there() -> None:
    """d logits / d site along a direction, against what adding a little of it does."""
    for kind in (*FAMILY_NAMES, *EXPERTS, *DECODERS, *WITHOUT_INTERFACE, *ENCODERS):
        module = tiny(kind, seed=4).double()
        if kind in EXPERTS:  # transformers' grouped kernel knows no float64
            module.set_experts_implementation("eager")
        model = load_model(module, certify=False)
        ids = random_ids(1, 6, seed=3)
        for site in (s for s in model.sites() if s.layer in (1, None) and s.name != "logits"):
            # Router logits are read after their use; indices are whole numbers.
            if site.name not in ("router.logits", "router.indices"):
                _one_gradient(model, ids, site, kind)


def _one_gradient(model: Any, ids: torch.Tensor, site: Any, kind: str) -> None:
    out = model.run(ids, capture=[site], grad=True)
    x = out.acts[site]
    target = torch.randn(out.logits.shape, generator=torch.Generator().manual_seed(2)).double()
    (grad,) = torch.autograd.grad((out.logits * target).sum(), x, allow_unused=True)
    assert grad is not None, f"{kind} {site}: not in the graph"
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).double()
    step = step.tril() if site.name in ("attn.scores", "attn.pattern") else step
    # Routing jumps where two experts change places: a shorter step stays on one side.
    eps = (
        1e-3 if kind in EXPERTS else 5e-3
    ) * float(  # not less: patterns and norms are made in float32, as in transformers
        x.detach().abs().median().clamp_min(0.1)
    )
    up, down = (
        (model.run(ids, edit(site, Add(sign * eps * step))).logits * target).sum()
        for sign in (1, -1)
    )
    expected = float((up - down) / (2 * eps))
    # A random direction gives a product of about the gradient's length: 2 % of it may be lost.
    gap = abs(float((grad * step).sum()) - expected)
    assert gap < 0.02 * float(grad.norm()), f"{kind} {site}: {gap} of {float(grad.norm())}"


def test_what_the_logits_argument_says_is_what_comes(model: Any) -> None:
    ids = random_ids(2, 5, seed=1)
    whole = model.run(ids).logits
    last = model.run(ids, capture="logits", logits="last")
    assert last.logits.shape == (2, 1, D_VOCAB)
    assert torch.equal(last.acts["logits"], model.run(ids, capture=["logits"]).logits)
    torch.testing.assert_close(last.logits[:, 0], whole[:, -1])
    none = model.run(ids, capture=["logits"], logits="none")
    assert none.logits is None
    torch.testing.assert_close(none.acts["logits"], whole)
    out = "ssm_out" if model.layout.architecture.recurrent else "mlp_out"
    plans = [edit(f"blocks.0.{out}", Zero()), edit(f"blocks.2.{out}", Zero())]
    for size in (1, 2):
        many = model.run_many(ids, plans, capture=["logits"], logits="last", batch_size=size)
        assert many.logits.shape == (2, 1, D_VOCAB)
        assert many.acts["logits"].shape == (2, 5, D_VOCAB)
    with pytest.raises(UnknownNameError, match="Did you mean 'last'"):
        model.run(ids, logits="lst")


@pytest.mark.parametrize(
    "op",
    [
        Add(torch.ones(3, 1, 32)),
        Set(torch.ones(31)),
        Add(torch.ones(31)),
        Call(lambda x: x[:, :1, :5], "cuts"),
        Call(lambda _: None, "forgets"),
    ],
    ids=repr,
)
def test_a_value_that_does_not_fit_is_refused_by_name(op: Any) -> None:
    model = load_model(tiny("llama", seed=3), certify=False)
    for where in ({}, {"positions": [1]}):
        with pytest.raises(ConfigError, match=r"at blocks\.1\.mlp_out: a selection of shape"):
            model.run(random_ids(2, 5), edit("blocks.1.mlp_out", op, **where))


def test_a_function_that_writes_in_place_moves_nothing_that_was_captured() -> None:
    model = load_model(tiny("llama", seed=3), certify=False)
    ids = random_ids(1, 5)
    clean = model.run(ids, capture=["embed"]).acts["embed"]
    plan = edit("blocks.0.resid_pre", Call(lambda x: x.mul_(2), "doubles"))
    assert torch.equal(model.run(ids, plan, capture=["embed"]).acts["embed"], clean)


def test_a_clamp_has_to_clamp_something() -> None:
    with pytest.raises(ConfigError, match="low, high, or both"):
        Clamp()
    with pytest.raises(ConfigError, match="low <= high"):
        Clamp(2.0, 1.0)


def test_plans_of_scalars_and_arrays_are_data_too() -> None:
    import numpy as np

    for value in (torch.tensor(2.0), np.float32(2), np.arange(3.0), 2):
        plan = edit("blocks.0.mlp_out", Scale(value))
        assert Plan.from_json(plan.to_json()).fingerprint() == plan.fingerprint()
    assert hash(edit("embed", Add(1))) == hash(edit("embed", Add(1.0)))


def test_captures_can_be_asked_for_without_an_error() -> None:
    model = load_model(tiny("llama", seed=3), certify=False)
    acts = model.run(random_ids(1, 4), capture="blocks.1.resid_post").acts
    assert "blocks.1.hook_resid_post" in acts
    assert "embed" not in acts
    assert "nonsense" not in acts
    assert acts.get("embed") is None
    assert acts.get("blocks.1.resid_post") is acts["blocks.1.resid_post"]


def test_a_model_in_training_mode_is_refused() -> None:
    module = tiny("gpt2", seed=3)
    model = load_model(module, certify=False)
    module.train()
    with pytest.raises(ConfigError, match="training mode"):
        model.run(random_ids(1, 4))
    module.eval()
    assert model.run(random_ids(1, 4)).logits is not None


def test_a_copied_model_skips_and_captures_by_itself(model: Any) -> None:
    ids, other = random_ids(1, 5), copy.deepcopy(model)
    plan = skip_layers([1])
    expected = model.run(ids, plan, capture=["blocks.2.resid_post"])
    found = other.run(ids, plan, capture=["blocks.2.resid_post"])
    assert torch.equal(found.logits, expected.logits)
    assert found.layers_run == 2
    with torch.no_grad():
        next(other.module.parameters()).add_(1.0)
    assert torch.equal(model.run(ids, plan).logits, expected.logits)  # the original is apart


def test_other_settings_make_another_model(tmp_path: Any) -> None:
    from lensbench import capture

    site = "blocks.2.resid_post"
    first = tiny("mistral", seed=3)
    second = type(first)(copy.deepcopy(first.config)).eval()
    second.config.sliding_window = None
    second.load_state_dict(first.state_dict())
    a, b = (load_model(m, certify=False) for m in (first, second))
    ids = random_ids(2, 12)
    assert not torch.allclose(a.run(ids).logits, b.run(ids).logits)
    assert a.card.fingerprint != b.card.fingerprint
    assert a.certify() is not b.certify()
    capture(a, ids, [site], out=tmp_path / "s")
    with pytest.raises(MismatchError, match="model fingerprint"):
        capture(b, ids, ["blocks.0.resid_post"], out=tmp_path / "s")
    same = load_model(copy.deepcopy(a).module, certify=False)  # control
    assert same.card.fingerprint == a.card.fingerprint


def test_a_dtype_is_not_ignored_for_a_model_in_memory() -> None:
    with pytest.raises(ConfigError, match="in memory is float32, not bfloat16"):
        load_model(tiny("llama"), dtype="bfloat16")
    with pytest.raises(UnknownNameError):
        load_model(tiny("llama"), dtype="bfloat17")
    assert load_model(tiny("llama").double()).card.dtype == "float64"
