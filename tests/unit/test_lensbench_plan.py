import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.ops import SetInSpan
from lensbench.plan import (
    Add,
    Call,
    Clamp,
    Edit,
    Op,
    Plan,
    Project,
    Replace,
    Scale,
    Set,
    Zero,
    edit,
    skip_layers,
)
from lensbench.sites import Site

NUMBER = st.floats(-5, 5, allow_nan=False, width=32)
OP = st.one_of(
    st.builds(Add, NUMBER),
    st.builds(lambda v: Set(torch.tensor(v)), st.lists(NUMBER, min_size=1, max_size=4)),
    st.builds(Scale, NUMBER),
    st.just(Zero()),
    st.builds(
        lambda n: Project(torch.randn(n, 4, generator=torch.Generator().manual_seed(n))),
        st.integers(1, 3),
    ),
    st.builds(Clamp, NUMBER, st.none()),
    st.builds(
        lambda n, v: SetInSpan(torch.randn(n, 4, generator=torch.Generator().manual_seed(n)), v),
        st.integers(1, 3),
        NUMBER,
    ),
)
PLAN = st.builds(
    Plan,
    st.lists(
        st.builds(
            Edit, st.just(Site("resid_post", 1)), OP, st.none(), st.sampled_from([None, (0, -1)])
        ),
        max_size=3,
    ).map(tuple),
    st.frozensets(st.integers(0, 9), max_size=3),
    st.none() | st.integers(0, 9),
)


@pytest.mark.illtyped
@given(PLAN)
def test_json_round_trip_keeps_equality_hash_and_fingerprint(plan: Plan) -> None:
    back = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert back == plan
    assert hash(back) == hash(plan)
    assert back.fingerprint() == plan.fingerprint()


@pytest.mark.illtyped
@given(PLAN, PLAN)
def test_sum_holds_both_and_the_empty_plan_is_neutral(a: Plan, b: Plan) -> None:
    total = a + b
    assert total.edits == a.edits + b.edits
    assert total.skips == a.skips | b.skips
    assert a + Plan() == a == Plan() + a


def test_content_decides_equality() -> None:
    assert edit("blocks.1.resid_post", Add(torch.ones(3))) == edit(
        "blocks.1.hook_resid_post", Add(torch.ones(3))
    )
    assert edit("blocks.1.resid_post", Add(torch.ones(3))) != edit(
        "blocks.1.resid_post", Add(torch.zeros(3))
    )
    assert Add(1.0) != Set(1.0)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Add(2.0), [3.0, 4.0, 5.0]),
        (Set(torch.tensor([7.0, 8.0, 9.0])), [7.0, 8.0, 9.0]),
        (Scale(torch.tensor([0.0, 1.0, 2.0])), [0.0, 2.0, 6.0]),
        (Zero(), [0.0, 0.0, 0.0]),
        (Clamp(1.5, 2.5), [1.5, 2.0, 2.5]),
        (Project(torch.tensor([[2.0, 0.0, 0.0]])), [0.0, 2.0, 3.0]),
        (
            Project(torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]), keep=True),
            [1.0, 2.0, 0.0],
        ),
        (SetInSpan(torch.tensor([[0.0, 3.0, 0.0]]), 7.0), [1.0, 7.0, 3.0]),
        (SetInSpan(torch.tensor([0.0, 2.0, 2.0]), 0.0), [1.0, -0.5, 0.5]),
        (SetInSpan(torch.zeros(1, 3), 7.0), [1.0, 2.0, 3.0]),
        (SetInSpan(torch.ones(1, 3), 9.0).set_to(torch.tensor([3.0, 3.0, 0.0])), [1.0, 2.0, 3.0]),
    ],
)
def test_operations(op: Op, expected: list[float]) -> None:
    torch.testing.assert_close(op.apply(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([expected]))


def test_replace_refuses_another_shape() -> None:
    with pytest.raises(ConfigError, match="use Set"):
        Replace(torch.ones(3)).apply(torch.ones(2, 3))


def test_a_call_is_marked_and_cannot_be_read_back() -> None:
    plan = edit("blocks.0.attn_out", Call(lambda x: x * 2, "double"))
    assert not plan.reproducible
    assert edit("blocks.0.attn_out", Zero()).reproducible
    with pytest.raises(ConfigError, match="double"):
        Plan.from_json(plan.to_json())


def test_impossible_edits_are_refused() -> None:
    with pytest.raises(ConfigError, match="no heads"):
        edit("blocks.0.resid_post", Zero(), heads=[0])
    with pytest.raises(ConfigError, match="empty selection"):
        edit("blocks.0.resid_post", Zero(), positions=[])
    with pytest.raises(ConfigError, match="counted from 0"):
        skip_layers([-1])
    with pytest.raises(UnknownNameError, match="Did you mean 'Scale'"):
        Plan.from_json({"edits": [{"site": "embed", "op": "Scal"}], "skips": [], "stop": None})


SITE = "blocks.0.resid_post"
HERE: Any = Edit(Site.parse(SITE), Zero())


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Plan(skips=("blocks.1",)), r"skips.*whole numbers.*'blocks\.1'"),
        (lambda: Plan(skips="12"), r"skips.*skips=\(2, 5\).*'12'"),
        (lambda: Plan(skips=3), r"skips.*got 3"),
        (lambda: Plan(skips=(1.5,)), r"skips.*got 1\.5"),
        (lambda: Plan(skips=(True,)), r"skips.*got True"),
        (lambda: Plan(skips=[[1]]), r"skips.*got \[1\]"),
        (lambda: Plan(stop="3"), r"stop.*or None.*got '3'"),
        (lambda: Plan(stop=1.0), r"stop.*got 1\.0"),
        (lambda: Plan(edits=HERE), r"edits=\(Edit\("),
        (lambda: Plan([SITE]), r"edits.*Edit.*got 'blocks\.0\.resid_post'"),
        (lambda: Plan([edit(SITE, Zero())]), r"edits.*Edit.*add plans up"),
        (lambda: Plan(None), r"edits.*got None"),
        (lambda: skip_layers(3), r"skips.*got 3"),
        (lambda: skip_layers("12"), r"skips.*got '12'"),
        (lambda: skip_layers([SITE]), r"skips.*got 'blocks\.0\.resid_post'"),
        (lambda: edit(3, Zero()), r"site.*'blocks\.3\.resid_post'.*got 3"),
        (lambda: Edit(None, Zero()), r"site.*got None"),
        (lambda: edit([SITE], Zero()), r"site.*got \['blocks"),
        (lambda: edit(SITE, Zero), r"op.*Zero\(\)"),
        (lambda: edit(SITE, 0.0), r"op.*Set.*got 0\.0"),
        (lambda: edit(SITE, Zero(), rows="1"), r"rows.*rows=\(0, 2\).*got '1'"),
        (lambda: edit(SITE, Zero(), rows=1), r"rows.*got 1"),
        (lambda: edit(SITE, Zero(), positions=[-1.5]), r"positions.*got -1\.5"),
        (lambda: edit(SITE, Zero(), dims=[True, False]), r"dims.*got True"),
        (lambda: edit(SITE, Zero(), dims=torch.tensor([True, False])), r"dims.*got tensor"),
        (lambda: edit(SITE, Zero(), dims=np.array([0.0])), r"dims.*got "),
        (lambda: edit(SITE, Zero(), positions=[None]), r"positions.*got None"),
    ],
)  # fmt: skip
def test_what_is_no_edit_site_layer_or_selection_is_named(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.illtyped
def test_whole_numbers_of_every_library_are_taken() -> None:
    assert Plan(skips=np.array([1, 2])).skips == frozenset({1, 2})
    assert Plan(skips=torch.tensor([1]), stop=np.int64(4)) == Plan(skips=frozenset({1}), stop=4)
    assert json.dumps(Plan(stop=np.int64(4)).to_json())
    assert edit(SITE, Zero(), dims=torch.arange(2)) == edit(SITE, Zero(), dims=range(2))
    assert Plan(iter([HERE])).edits == (HERE,)


def test_str_reads_as_a_sentence() -> None:
    plan = edit("blocks.3.attn.z", Zero(), heads=[1]) + skip_layers([2]) + Plan(stop=5)
    assert str(plan) == "blocks.3.attn.z heads=(1,) <- Zero()\nskip layers [2]\nstop before layer 5"
    assert str(Plan()) == "empty plan"


def test_plans_add_up_in_a_sum_and_nothing_else_does() -> None:
    parts = [edit("blocks.1.mlp_out", Zero()), skip_layers([2]), Plan(stop=4)]
    assert sum(parts) == sum(parts, Plan()) == parts[0] + parts[1] + parts[2]
    assert sum([parts[0]]) == parts[0]
    for other in (1, 0.5, False, None, "", parts[0].edits[0]):
        with pytest.raises(ConfigError, match="plan must be a Plan"):
            other + parts[0]  # pyright: ignore[reportOperatorIssue] - on purpose
