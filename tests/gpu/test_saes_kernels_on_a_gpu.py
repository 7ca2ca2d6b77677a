"""The kernels as a GPU compiles them, the CUDA graphs, and what a step may not do: wait."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.saes_plain import plain_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
D, F, B = 768, 4096, 512


@pytest.fixture(scope="module", autouse=True)
def _float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture
def no_waits() -> Iterator[None]:
    """Any wait of the host for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def _x(seed: int = 0, n: int = B) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)).cuda()


def _group(kind: str = "topk", n: int = 1, **changes: Any) -> Any:
    from lensbench.saes.architectures import ARCHITECTURES
    from lensbench.saes.step.start import new_group

    settings = {"d_sae": F, "k": 32, "lr": 1e-3, "aux_k": 64} | changes
    configs: list[Any] = [ARCHITECTURES[kind](name=f"d{i}", seed=i, **settings) for i in range(n)]
    group = new_group(configs, "s", _x(), 1.0)
    group.b_dec.normal_(0, 0.3)
    return group


def _dense_codes(seed: int = 0) -> tuple[Tensor, Any]:
    from lensbench.saes.step.kernels import Codes

    rng = torch.Generator().manual_seed(seed)
    dense = torch.rand(B, F, generator=rng) * (torch.rand(B, F, generator=rng) < 0.01)
    dense[:, 5], dense[:, 7] = 0.0, 1.5  # never, always
    dense[3] = 0.0
    dense = dense.cuda()
    rows, columns = dense.nonzero(as_tuple=True)
    return dense, Codes.listed(dense[rows, columns], rows, columns, B, F)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [24, 520, 2304])
def test_products_equal_dense_ones(d: int, dtype: torch.dtype) -> None:
    from lensbench.saes.step import kernels

    dense, codes = _dense_codes()
    weight, x = torch.randn(F, d).cuda().to(dtype), torch.randn(B, d).cuda().to(dtype)
    grad = torch.randn(B, d).cuda()
    close = {"rtol": 1e-4, "atol": 1e-3}
    got = kernels.decode(codes, weight, torch.empty(B, d, device="cuda"))
    torch.testing.assert_close(got, dense @ weight.float(), **close)
    want = (grad @ weight.float().t())[codes.rows.long(), codes.columns.long()]
    torch.testing.assert_close(kernels.code_gradient(codes, grad, weight), want, **close)
    plan = kernels.Transposed.of(codes)
    outs = [
        kernels.weight_gradient(codes.values, plan, x, torch.empty(F, d, device="cuda"))
        for _ in range(2)
    ]
    torch.testing.assert_close(outs[0], dense.t() @ x.float(), **close)
    assert torch.equal(*outs)  # no atomics: the same bits
    sums = kernels.sorted_sums(plan, codes.values)
    torch.testing.assert_close(sums[0], dense.sum(0), **close)


@pytest.mark.parametrize("limit", [16, 100, 511, 512])
def test_a_latent_summed_in_pieces_has_the_same_gradient(limit: int) -> None:
    from lensbench.saes.step import kernels
    from lensbench.saes.step.gpu import products

    dense, codes = _dense_codes()
    plan, x = kernels.Transposed.of(codes), _x()
    pieces = products.Pieces.of(plan.starts, len(plan.order), limit)
    out = torch.full((F, D), torch.nan, device="cuda")
    products.weight_gradient(codes.values, plan.order, plan.rows, plan.starts, pieces, x, out)
    torch.testing.assert_close(out, dense.t() @ x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(300, 5), (4096, 32), (24576, 32), (131072, 64)])
def test_selection_finds_the_largest(n: int, k: int, dtype: torch.dtype) -> None:
    from lensbench.saes.step.gpu import select

    x = torch.randn(64, n, generator=torch.Generator().manual_seed(n)).cuda().to(dtype)
    x[1] = -x[1].abs()
    x[2, 3:] = -1.0
    x[3] = 1.0
    x[4] = torch.where(torch.arange(n, device="cuda") % 2048 < k - 1, x[4].abs() + 1, -1.0)
    positive = x.float().relu()
    values, columns = select.top_k(x, k)
    want = positive.topk(k).values.sort(1).values
    torch.testing.assert_close(values.sort(1).values, want, rtol=0, atol=0)
    fires = values > 0
    assert torch.equal(positive.gather(1, columns.long())[fires], values[fires])
    values, columns, rows, starts = select.batch_top_k(x, 64 * k)
    want = positive.flatten().topk(64 * k).values.sort().values
    torch.testing.assert_close(values.sort().values, want, rtol=0, atol=0)
    assert torch.equal(positive[rows.long(), columns.long()], values)
    assert int(starts[-1]) == 64 * k


@pytest.mark.parametrize("dead", [0, 200])
@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_gradients_equal_autograd(kind: str, dead: int) -> None:
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.rules.base import Now

    group = _group(kind)
    group.dead[:, :dead] = True
    group.refresh_lists()
    leaves = {name: p[0].clone().requires_grad_() for name, p in group.params.items()}
    plain_loss(leaves, group.configs[0], _x(1), group.dead[0]).backward()
    ours = Looped(screened=False).one(group, 0, _x(1), Now())
    assert ours is not None
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        off = (ours.of[name] - leaf.grad).abs().max() / leaf.grad.abs().max()
        assert float(off) < 1e-4, name


def _run(graphs: bool, precision: Any, kind: str = "topk", **changes: Any) -> tuple[Any, list[str]]:
    from lensbench.saes.step.encode import Workspace
    from lensbench.saes.step.engines import Stepper
    from lensbench.saes.step.rules.base import Now

    group, said = _group(kind, 2, **changes), list[str]()
    stepper = Stepper(group, "dense", Workspace(precision=precision), said.append)
    assert (stepper.graphs is not None) == (kind != "matryoshka")
    if not graphs:
        stepper.graphs = None
    for step in range(12):
        if step in (6, 9):  # the list of dead latents changes
            group.dead[0, : 10 * step] = True
            group.refresh_lists()
        stepper.step(_x(step), [2**-10 * (12 - step), 2**-12], Now(step, 12))
    return group, said


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_steps_from_graphs_are_the_steps_bit_for_bit(kind: str, precision: str) -> None:
    (eager, _), (graphed, said) = (_run(graphs, precision, kind) for graphs in (False, True))
    assert said == []
    for i in range(2):
        for name, value in eager.tensors(i).items():
            assert torch.equal(value, graphed.tensors(i)[name]), name


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_a_step_never_waits_for_the_device(kind: str, precision: Any) -> None:
    from lensbench.saes.step import update
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.precision import products_in
    from lensbench.saes.step.rules.base import Now

    torch.cuda.set_sync_debug_mode("default")
    group, x, looped = _group(kind), _x(), Looped(screened=False)
    torch.cuda.set_sync_debug_mode("error")
    with products_in(precision):
        for _ in range(2):
            found = looped.one(group, 0, x, Now())
            assert found is not None
            update.apply(group, 0, found, 1e-3, B, Now())


def test_bf16_explains_as_much_and_its_gradients_are_close() -> None:
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.precision import products_in
    from lensbench.saes.step.rules.base import Now

    group = _group()
    full = Looped(screened=False).one(group, 0, _x(1), Now())
    assert full is not None
    whole, sse = full.of["W_dec"].clone(), float(full.sse)
    with products_in("bf16"):
        half = Looped(screened=False).one(group, 0, _x(1), Now())
    assert half is not None
    assert float(half.sse) == pytest.approx(sse, rel=0.01)
    cosine = torch.nn.functional.cosine_similarity(
        half.of["W_dec"].flatten(), whole.flatten(), dim=0
    )
    assert 0.9 < float(cosine) < 1 - 1e-7  # a few of the entries are others


def test_the_engine_is_measured_and_named() -> None:
    from lensbench.saes.step.encode import Workspace
    from lensbench.saes.step.engines import choose

    _, told = choose(_group(), _x(), Workspace(precision="bf16"))
    assert "stacked" in told
    assert "after the encoder at d_sae / k = 128" in told
