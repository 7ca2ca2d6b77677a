"""The Triton kernels, by Triton's interpreter on a CPU, against plain torch and autograd.

What a GPU compiles from the same source is compared in tests/gpu; here it is compiled, not run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.parity import test_saes_autograd as written
from tests.parity import test_saes_bf16 as bf16

pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for CUDA)")
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 from the start"
)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32 sums in another order


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take the way of a GPU; the interpreter runs its kernels on tensors of the CPU."""
    from lensbench.saes.step import gpu

    monkeypatch.setattr(gpu, "runs_triton", lambda _: True)
    monkeypatch.setattr(written, "F", 32)  # the interpreter takes about a millisecond per latent
    monkeypatch.setattr(written, "B", 8)


def _codes(tokens: int, d_sae: int, seed: int = 0) -> Any:
    """A list with empty tokens, one that fires often, and latents that never do."""
    from lensbench.saes.step.kernels import Codes

    rng = torch.Generator().manual_seed(seed)
    dense = torch.rand(tokens, d_sae, generator=rng)
    dense[torch.rand(tokens, d_sae, generator=rng) < 0.9] = 0.0
    dense[:, 5], dense[:, 7] = 0.0, 1.5
    dense[3] = 0.0
    rows, columns = dense.nonzero(as_tuple=True)
    return dense, Codes.listed(dense[rows, columns], rows, columns, tokens, d_sae)


@interpreted
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("d", [24, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_equal_dense_ones(d: int, dtype: torch.dtype) -> None:
    from lensbench.saes.step import kernels

    tokens, d_sae = 21, 40
    dense, codes = _codes(tokens, d_sae)
    weight = torch.randn(d_sae, d).to(dtype)
    grad, x = torch.randn(tokens, d), torch.randn(tokens, d).to(dtype)
    got = kernels.decode(codes, weight, torch.empty(tokens, d))
    torch.testing.assert_close(got, dense @ weight.float(), **CLOSE)
    control = codes.with_values(codes.values * (torch.arange(len(codes.values)) != 8))
    other = kernels.decode(control, weight, torch.empty(tokens, d))
    assert float((other - got).abs().max()) > 1e-2

    want = (grad @ weight.float().t())[codes.rows.long(), codes.columns.long()]
    torch.testing.assert_close(
        kernels.code_gradient(codes, grad, weight), want, rtol=1e-5, atol=1e-4
    )
    plan = kernels.Transposed.of(codes)
    got = kernels.weight_gradient(codes.values, plan, x, torch.full((d_sae, d), torch.nan))
    torch.testing.assert_close(got, dense.t() @ x.float(), rtol=1e-5, atol=1e-4)
    assert (
        got[5] == 0
    ).all()  # a latent that never fires has a row of zeros, not of what was there

    sums = kernels.sorted_sums(plan, codes.values, codes.values.square())
    torch.testing.assert_close(sums, torch.stack([dense.sum(0), dense.square().sum(0)]), **CLOSE)


@interpreted
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("limit", [1, 4, 19, 20])
def test_a_latent_summed_in_pieces_has_the_same_gradient(limit: int) -> None:
    from lensbench.saes.step import kernels
    from lensbench.saes.step.gpu import products

    dense, codes = _codes(21, 40)
    x, plan = torch.randn(21, 24), kernels.Transposed.of(codes)
    pieces = products.Pieces.of(plan.starts, len(plan.order), limit)
    counts = (dense > 0).sum(0)
    wanted = sum(-(-int(c) // limit) for c in counts if c > limit)
    assert int((pieces.owner < 40).sum()) == wanted <= len(pieces.owner)
    assert int(counts.max()) == 20
    assert (wanted == 0) == (limit >= 20)
    out = torch.full((40, 24), torch.nan)
    products.weight_gradient(codes.values, plan.order, plan.rows, plan.starts, pieces, x, out)
    torch.testing.assert_close(out, dense.t() @ x, rtol=1e-5, atol=1e-5)


def _hard_rows(n: int, block: int) -> Tensor:
    x = torch.randn(10, n, generator=torch.Generator().manual_seed(3))
    x[1] = -x[1].abs()  # nothing is positive
    x[2, 3:] = -1.0  # fewer than k are
    x[3] = 1.0  # all are equal
    x[4, ::block] = 5.0 + torch.arange(len(x[4, ::block]))  # the largest crowd into one group
    x[5] = torch.where(x[5] > 0, 1e30, x[5])
    x[6, n // 2] = torch.inf
    x[7, n // 3] = torch.nan
    # Few groups hold all that is positive, more than there is room for, the largest last.
    x[9] = torch.where(torch.arange(n) % 64 < 7, torch.arange(n) + 1.0, -1.0)
    return x


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "k", "block"), [(300, 5, 16), (500, 8, 64), (70, 17, 64)])
def test_the_largest_of_every_row_are_found(n: int, k: int, block: int, dtype: torch.dtype) -> None:
    from lensbench.saes.step.gpu import select

    x = _hard_rows(n, block).to(dtype)
    values, columns = select.top_k(x, k, block=block)
    positive = x.float().relu()
    for row in range(len(x)):
        want = positive[row].topk(k).values
        torch.testing.assert_close(values[row].sort().values, want.sort().values, equal_nan=True)
        fires = (values[row] > 0) | values[row].isnan()
        own = columns[row][fires].long()
        torch.testing.assert_close(positive[row, own], values[row][fires], equal_nan=True)
        assert len(own.unique()) == len(own)
    assert columns.min() >= 0
    assert columns.max() < n
    assert columns[3].sort().values.tolist() == list(range(k))  # of equal ones, the first


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", [1, 700, 2600, None])
def test_the_largest_of_a_batch_are_found(wanted: int | None, dtype: torch.dtype) -> None:
    """``None``: a hundred more than are positive, so that zeros must fill the list."""
    from lensbench.saes.step.gpu import select

    x = _hard_rows(300, 16)[[0, 1, 2, 3, 4, 5, 6, 8]].to(dtype)
    least = 1e-40 if dtype == torch.float32 else 1e-37  # the interpreter drops smaller bfloat16
    x = torch.cat([x, torch.full((1, 300), least).to(dtype)])  # positive, if only just
    positive = x.float().relu()
    wanted = int((positive > 0).sum()) + 100 if wanted is None else wanted
    values, columns, rows, starts = select.batch_top_k(x, wanted, block=64)
    want = positive.flatten().topk(wanted).values
    torch.testing.assert_close(values.sort().values, want.sort().values)
    assert torch.equal(positive[rows.long(), columns.long()], values)
    assert len((rows.long() * 300 + columns).unique()) == wanted
    assert starts.tolist() == [int((rows < r).sum()) for r in range(len(x) + 1)]


@interpreted
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("dead", [0, 20])
@pytest.mark.parametrize("variant", ["topk", "batchtopk", "matryoshka"])
def test_gradients_by_the_kernels_equal_autograd(variant: str, dead: int) -> None:
    group = written._group(variant, dead=dead)
    plain = written._leaves(group)
    loss = written._plain(group, plain, written._x())
    loss.backward()
    ours = written._ours(group, "dense", written._x())
    assert float(ours.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert written._worst(ours, plain) < 3e-5
    torch.testing.assert_close(
        ours.along, (ours.of["W_dec"] * group.W_dec[0]).sum(1), rtol=1e-4, atol=1e-5
    )


@interpreted
@pytest.mark.usefixtures("on_gpu")
def test_gradients_by_the_kernels_in_bf16_are_autograds_up_to_rounding() -> None:
    from lensbench.saes.step.precision import products_in

    group = written._group("topk")
    x = bf16._clear_tokens(group, torch.cat([written._x(seed) for seed in range(40)]))[:12]
    with products_in("bf16"):
        ours = written._ours(group, "dense", x)
    leaves = written._leaves(group)
    written._plain(group, leaves, x).backward()
    assert 1e-4 < bf16._off(ours, leaves) < bf16.TOLERANCE
    assert {value.dtype for value in ours.of.values()} == {torch.float32}


class _NoWaits(TorchDispatchMode):
    """Refuses operations whose result, or its size, the host would have to wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name = func.overloadpacket._qualified_op_name.split("::")[1]
        flags = (torch.bool, torch.uint8)
        where = args[1] if name.startswith(("index", "_index_put", "_unsafe_index")) else ()
        masks = [i for i in where if isinstance(i, Tensor) and i.dtype in flags] if where else []
        sized = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")
        if name in waits or masks or sized:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@interpreted
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("variant", ["topk", "batchtopk", "matryoshka"])
def test_a_step_of_fixed_k_never_waits_for_the_device(
    variant: str, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: Matryoshka, whose parts are found by looking, does; it is stacked on a GPU."""
    from lensbench.saes.step import engines, update
    from lensbench.saes.step.gpu import product_kernels, selection_kernels
    from lensbench.saes.step.looped import Looped
    from lensbench.saes.step.precision import products_in
    from lensbench.saes.step.rules.base import Now

    class _Unwatched:  # the interpreter itself reads every number on the host
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Any:
            assert all(type(n) is int for n in grid)

            def launch(*args: Any, **shape: Any) -> None:
                with _disable_current_modes():
                    self.kernel[grid](*args, **shape)

            return launch

    for module in (product_kernels, selection_kernels):
        for name, kernel in list(vars(module).items()):
            if not name.startswith("_") and hasattr(kernel, "run"):
                monkeypatch.setattr(module, name, _Unwatched(kernel))
    group, looped = written._group(variant, dead=20), Looped(screened=False)

    def step() -> None:
        found = looped.one(group, 0, written._x(), Now())
        assert found is not None
        update.apply(group, 0, found, torch.tensor(1e-3), len(written._x()), Now())

    with products_in(precision), _NoWaits():
        if variant == "matryoshka":
            with pytest.raises(AssertionError, match="nonzero waits"):
                step()
        else:
            step()
    assert engines.waits_for_nothing(group) == (variant != "matryoshka")


COMPILE = """
import sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lensbench.saes.step.gpu import product_kernels as p, selection_kernels as s

POINTERS = dict(values="*fp32", columns="*i32", starts="*i32", out="*fp32", order="*i64",
    rows="*i32", owner="*i32", piece_ends="*i32", partial="*fp32", scratch="*i32", prefix="*i32",
    table="*i32", cut="*i32", above="*i32", equal="*i32", ties="*i32", total="i64")
SIZES = dict(BLOCK_K=8, BLOCK_E=8, BLOCK_D=512, BLOCK=2048, ROOM=128, ABOVE=15, BELOW=7, BINS=256)
for number in ("bf16", "fp32"):
    pointers = POINTERS | dict.fromkeys(("weight", "x", "grad"), "*" + number)
    sizes = SIZES | {"SHIFT": 16 if number == "bf16" else 0}
    for kernel in (p.decode_rows, p.dot_rows, p.gather_latents, p.gather_pieces, p.add_pieces,
                   p.sum_latents, s.row_top_k, s.histogram, s.row_counts, s.write_rows):
        fixed = {name: sizes[name] for name in kernel.arg_names if name in sizes}
        types = {name: "constexpr" if name in fixed else pointers.get(name, "i32")
                 for name in kernel.arg_names}
        made = triton.compile(ASTSource(kernel, signature=types, constexprs=fixed),
                              target=GPUTarget("cuda", int(sys.argv[1]), 32))
        Path(sys.argv[2], f"{kernel.__name__}-{number}.cubin").write_bytes(made.asm["cubin"])
"""


@pytest.mark.parametrize("capability", [90, pytest.param(80, marks=pytest.mark.slow)])
def test_every_kernel_compiles_for_a_gpu_without_spilling(capability: int, tmp_path: Path) -> None:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    if not (tools / "cuobjdump").exists():
        pytest.skip("this build of Triton has no tools for CUDA")
    env = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    script = tmp_path / "compile.py"
    script.write_text(COMPILE, encoding="utf-8")
    subprocess.run([sys.executable, script, str(capability), tmp_path], check=True, env=env)
    made = sorted(tmp_path.glob("*.cubin"))
    assert len(made) == 20
    for file in made:
        told = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file], check=True, capture_output=True, text=True
        ).stdout
        stack = re.findall(r"STACK:(\d+)", told)
        assert stack, told
        assert set(stack) == {"0"}, f"{file.name} spills: {told}"
