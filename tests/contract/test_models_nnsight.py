"""The nnsight back end gives what the native one gives: every site, every operation, every family.

Weights are shared, everything else is reached by other code (traces here, hooks there), so the two
check each other. 1e-6 is the tolerance of the claim; on CPU the two are equal bit for bit.
"""

import random

import pytest
import torch

from tests.contract import test_models_contract as contract
from tests.helpers import FAMILY_NAMES, random_ids, tiny
from tests.zoo import ZOO

IDS = random_ids(3, 8, seed=1)
LIMIT = 1e-6


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def pair(request):
    """The same module behind both back ends."""
    import lensbench

    module = tiny(request.param, seed=3)
    native = lensbench.load_model(module, certify=False)
    return native, lensbench.load_model(module, backend="nnsight", certify=False)


def apart(a, b) -> float:
    """Largest absolute difference; a NaN on one side alone is an infinite one."""
    a, b = a.float(), b.float()
    same = (a == b) | (a.isnan() & b.isnan())
    return float((a - b).abs().nan_to_num(float("inf")).masked_fill(same, 0.0).max())


def worst(ours, theirs) -> float:
    """Largest difference over logits and captures."""
    assert list(ours.acts) == list(theirs.acts)
    found = [apart(ours.acts[name], theirs.acts[name]) for name in ours.acts]
    if ours.logits is not None:
        found.append(apart(ours.logits, theirs.logits))
    return max(found)


def test_every_site_equals_the_native_one(pair) -> None:
    native, traced = pair
    assert traced.sites() == native.sites()
    assert all(traced.width(s) == native.width(s) for s in native.sites())
    ours = native.run(IDS, capture=native.sites())
    theirs = traced.run(IDS, capture=traced.sites())
    assert worst(ours, theirs) <= LIMIT
    assert theirs.layers_run == ours.layers_run
    other = traced.run(random_ids(3, 8, seed=2), capture=traced.sites())
    assert worst(ours, other) > 1e-2  # control: another text


def random_op(rng: random.Random, site, shape: list[int], seed: int):
    """An operation of any kind that fits a selection of ``shape``; nothing that overflows."""
    from lensbench.ops import SetInSpan
    from lensbench.plan import Add, Call, Clamp, Project, Replace, Scale, Set, Zero

    torch.manual_seed(seed)
    d = shape[-1]
    if site.name.endswith(".scale"):
        mild = [Add(0.3), Set(1.7), Scale(rng.uniform(0.5, 3)), Clamp(low=2.0)]
        return rng.choice([*mild, Replace(torch.rand(shape) + 0.5), Call(torch.exp, "exp")])
    if site.name == "router.indices":
        return rng.choice([Set(0.0), Clamp(high=1.0), Call(lambda x: x.flip(-1), "flip")])
    if site.name.endswith(".scores"):  # the lowest float stands where attending is forbidden
        mild = [Add(torch.randn(d)), Set(torch.randn(d)), Scale(rng.uniform(0.2, 1)), Zero()]
        return rng.choice([*mild, Clamp(-3.0, 2.0), Replace(torch.randn(shape))])
    return rng.choice(
        [
            Add(torch.randn(d)),
            Set(torch.randn(d)),
            Scale(rng.uniform(-2, 3)),
            Zero(),
            Project(torch.randn(2, d), keep=rng.random() < 0.5),
            SetInSpan(torch.randn(2, d), torch.randn(d)),
            Clamp(low=-0.1, high=0.2),
            Replace(torch.randn(shape)),
            Call(lambda x: x.sin() + 0.1, "sin"),
        ]
    )


def random_edit(rng: random.Random, site, value, seed: int):
    """An edit of one site with a random selection of rows, positions, heads and dims."""
    from lensbench.plan import edit

    axes = site.spec.axes.split()
    where, shape = {}, list(value.shape)
    limits = {"rows": 0, "positions": axes.index("query") if "query" in axes else 1}
    if "head" in axes:
        limits["heads"] = axes.index("head")
    if axes[-1] != "key":
        limits["dims"] = len(axes) - 1
    for name, axis in limits.items():
        if rng.random() < 0.5:
            chosen = sorted(rng.sample(range(shape[axis]), rng.randint(1, min(3, shape[axis]))))
            where[name] = chosen
            shape[axis] = len(chosen)
    if site.spec.axes.startswith("batch head") and ("heads" in where) < ("positions" in where):
        shape[1] = value.shape[1]
    return edit(site, random_op(rng, site, shape, seed), **where)


def check_random_edits(native, traced, *, needed: float) -> None:
    rng = random.Random(0)
    clean = native.run(IDS, capture=native.sites())
    watched = [s for s in native.sites() if s.name in ("resid_post", "mlp_out", "attn_out")]
    moved = 0
    sites = [s for s in native.sites() if s.spec.writable]
    for index, site in enumerate(sites):
        plan = random_edit(rng, site, clean.acts[site], index)
        ours, theirs = native.run(IDS, plan, watched), traced.run(IDS, plan, watched)
        assert worst(ours, theirs) <= LIMIT, str(plan)
        assert not ours.logits.isnan().any(), str(plan)
        moved += apart(ours.logits, clean.logits) > 1e-4
    assert moved > needed * len(sites)  # control: the edits do something (some miss the last layer)


def test_random_edits_at_every_site_equal_the_native_ones(pair) -> None:
    check_random_edits(*pair, needed=0.8)


@pytest.mark.parametrize("kind", ZOO)
def test_the_other_architectures_equal_the_native_back_end_at_every_site(kind) -> None:
    import lensbench

    module = tiny(kind, seed=3)
    native = lensbench.load_model(module, certify=False)
    traced = lensbench.load_model(module, backend="nnsight", certify=False)
    test_every_site_equals_the_native_one((native, traced))
    # The decoder of two stacks has one token here, whose attention has nothing to choose from.
    check_random_edits(native, traced, needed=0.5)
    if native.layout.architecture.two_stacks:
        check_skips_of_two_stacks(native, traced)


def check_skips_of_two_stacks(native, traced) -> None:
    from lensbench.plan import skip_layers

    for layers in ([0], [1], [0, 2]):
        ours, theirs = (m.run(IDS, skip_layers(layers)) for m in (native, traced))
        assert worst(ours, theirs) <= LIMIT
        assert ours.layers_run == theirs.layers_run


def test_several_edits_at_once_and_two_of_one_site_equal_the_native_ones(pair) -> None:
    native, traced = pair
    from lensbench.plan import Plan

    rng = random.Random(1)
    clean = native.run(IDS, capture=native.sites())
    sites = [s for s in native.sites() if s.spec.writable]
    for trial in range(6):
        chosen = rng.choices(sites, k=4)
        chosen.append(chosen[0])
        plan = Plan()
        for k, site in enumerate(chosen):
            plan += random_edit(rng, site, clean.acts[site], 10 * trial + k)
        ours, theirs = native.run(IDS, plan), traced.run(IDS, plan)
        assert worst(ours, theirs) <= LIMIT, str(plan)
        less = traced.run(IDS, Plan(plan.edits[:1]))
        assert apart(less.logits, ours.logits) > 1e-4  # control: the others count


def test_skips_stops_and_the_layers_that_ran_equal_the_native_ones(pair) -> None:
    native, traced = pair
    from lensbench import Plan
    from lensbench.plan import skip_layers

    last = f"blocks.{native.n_layers - 1}.resid_post"
    cases = [
        (skip_layers([1]), ["blocks.1.resid_pre", "blocks.1.resid_post"], "all"),
        (skip_layers([0, 2]), [last], "all"),
        (Plan(stop=1), ["blocks.0.resid_post"], "last"),
        (Plan(), ["blocks.1.attn.z"], "none"),
        (Plan(), ["blocks.1.resid_pre"], "none"),
        (Plan(), ["embed"], "none"),
        (Plan(), [last], "last"),
    ]
    for plan, capture, mode in cases:
        ours = native.run(IDS, plan, capture, logits=mode)
        theirs = traced.run(IDS, plan, capture, logits=mode)
        assert worst(ours, theirs) <= LIMIT, (plan, capture)
        assert theirs.layers_run == ours.layers_run, (plan, capture)
    whole = traced.run(IDS, capture=[last])  # control: the skip was not for nothing
    assert apart(whole.acts[last], traced.run(IDS, skip_layers([0, 2]), [last]).acts[last]) > 1e-2


def test_padding_many_plans_decoding_and_layers_equal_the_native_ones(pair) -> None:
    native, traced = pair
    from lensbench import Tokens
    from lensbench.plan import Add, Plan, Scale, Zero, edit, skip_layers

    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1, :3] = False
    padded = Tokens(IDS, mask)
    plan = edit("blocks.1.attn_out", Zero(), positions=[2, -1])
    assert worst(native.run(padded, plan), traced.run(padded, plan)) <= LIMIT
    plans = [
        edit("blocks.2.resid_pre", Add(torch.arange(32.0)), positions=[-1]),
        edit("blocks.1.attn.z", Scale(2.0), heads=[1]),
        skip_layers([1]) + edit("blocks.2.mlp_out", Zero()),
        Plan(),
    ]
    ours, theirs = (m.run_many(IDS[:1], plans, ["blocks.2.resid_post"]) for m in pair)
    assert worst(ours, theirs) <= LIMIT
    assert ours.layers_run == theirs.layers_run
    assert apart(theirs.logits[0], theirs.logits[3]) > 1e-3  # control: the plans differ
    for change in plans:
        new = [m.generate(IDS[:1], change, 5, stop_ids=[]) for m in pair]
        assert new[0] == new[1]
    h = native.run(IDS, capture=["blocks.1.resid_pre"]).acts["blocks.1.resid_pre"]
    positions = torch.tensor([[0, 1, 2, 5, 6, 7, 9, 11]]).expand(3, -1)
    for given in (None, positions):
        a, b = (m.run_layers(h, 1, 3, positions=given)[0] for m in pair)
        assert apart(a, b) <= LIMIT
    assert apart(native.unembed(h), traced.unembed(h)) <= LIMIT


def test_gradients_equal_the_native_ones(pair) -> None:
    traced = pair[1]
    capture = ["blocks.0.resid_post", "blocks.1.attn.z", "blocks.2.mlp.post", "blocks.2.ln2.scale"]
    found = []
    for model in pair:
        out = model.run(IDS, capture=capture, grad=True)
        found.append(torch.autograd.grad(out.logits[:, -1, 7].sum(), list(out.acts.values())))
    for a, b in zip(*found, strict=True):
        assert apart(a, b) <= LIMIT * max(1.0, float(a.abs().max()))
        assert float(b.abs().max()) > 0
    with pytest.raises(RuntimeError, match="does not require grad"):  # control: not asked for
        traced.run(IDS).logits.sum().backward()


def test_its_certificate_passes(pair) -> None:
    certificate = pair[1].certify(fresh=True)
    assert certificate.passed, certificate.to_frame().to_string()


@pytest.fixture(scope="module")
def model(pair):
    return pair[1]


test_run_many_starts_late = contract.test_run_many_equals_separate_runs_and_starts_late
test_generation = contract.test_generate_under_a_plan_equals_full_forwards
test_left_padding = contract.test_left_padding_moves_nothing_and_positions_ignore_it
test_finite_differences = contract.test_run_layers_and_unembed_give_gradients_when_asked
test_refusals = contract.test_run_layers_refuses_shapes_that_do_not_fit
