"""From activations to sparse codes: one dense product, then exact selection.

The dense product either is the answer (``dense``) or only says where to look (``screened``):
a bfloat16 product, four to eight times cheaper on hardware that has it, gives pre-activations with
a proven error bound; every latent that could be among the largest is then computed in float32.
Nothing is approximate in the result. See :func:`screen_bound` for the bound. On a GPU, and where
products are taken in bfloat16, it is always the answer; a GPU selects without a wait for the host.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.saes.step import gpu, kernels
from lensbench.saes.step.kernels import Codes
from lensbench.saes.step.precision import Precision, in_bf16
from lensbench.saes.step.selection import GROUP, above, group_maxima, top_k
from lensbench.saes.step.whole import Whole

PAD = 32
"""Extra columns of the screening product; the first carries the bias."""
MAX_CANDIDATES = 1 / 16
"""Share of latents per token above which screening is given up for a batch."""
FIRST_GUESS_ROWS = 32
GUESS_BELOW = 0.9


@dataclass
class Workspace:
    """Buffers that are reused from step to step, and where the search for a cut begins."""

    buffers: dict[tuple[str, tuple[int, ...]], Tensor] = field(
        default_factory=dict[tuple[str, tuple[int, ...]], Tensor]
    )
    guesses: dict[str, float] = field(default_factory=dict[str, float])
    precision: Precision = "float32"
    """In which dense products of the steps are taken."""
    whole: Whole = field(default_factory=Whole)
    """What lies in other processes."""

    def get(
        self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """An uninitialised buffer; the same memory for the same name and shape."""
        key = (name, shape)
        if key not in self.buffers:
            self.buffers[key] = torch.empty(shape, device=like.device, dtype=dtype or like.dtype)
        return self.buffers[key]


def pre_activations(x: Tensor, weight: Tensor, bias: Tensor, space: Workspace) -> Tensor:
    """``x @ weight^T + bias`` for every latent, as float32."""
    out = space.get("pre", (len(x), len(weight)), x)
    if in_bf16():
        return out.copy_(_product(x, weight, bias, space))
    return torch.addmm(bias, x, weight.t(), out=out)


def _product(x: Tensor, weight: Tensor, bias: Tensor, space: Workspace) -> Tensor:
    """The same in the numbers that products are taken in."""
    if not in_bf16():
        return pre_activations(x, weight, bias, space)
    half = torch.bfloat16
    left = space.get("half.x", tuple(x.shape), x, half).copy_(x)
    right = space.get("half.w", tuple(weight.shape), x, half).copy_(weight)
    out = space.get("half.pre", (len(x), len(weight)), x, half)
    return torch.addmm(bias.to(half), left, right.t(), out=out)


def top_k_codes(
    x: Tensor, weight: Tensor, bias: Tensor, k: int, space: Workspace, *, screened: bool
) -> Codes:
    """The ``k`` largest pre-activations of every token, negative ones as zero."""
    if gpu.runs_triton(x.device):
        from lensbench.saes.step.gpu import select

        values, indices = select.top_k(_product(x, weight, bias, space), k)
        return Codes.fixed(values, indices, len(weight))
    found = _screen_rows(x, weight, bias, k, space) if screened else None
    if found is None:
        values, indices = top_k(pre_activations(x, weight, bias, space), k)
        return Codes.fixed(values.relu_(), indices, len(weight))
    exact = _exact(found, x, weight, bias)
    padded = x.new_full((len(x), int(found.starts.diff().max())), -torch.inf)
    slot = torch.arange(len(exact)) - found.starts.long()[found.rows]
    padded[found.rows, slot] = exact
    values, where = torch.topk(padded, k, dim=1, sorted=False)
    indices = found.columns[found.starts[:-1, None].long() + where]
    return Codes.fixed(values.relu_(), indices, len(weight))


def batch_top_k_codes(
    x: Tensor, weight: Tensor, bias: Tensor, k: int, space: Workspace, key: str, *, screened: bool
) -> Codes:
    """The ``k * len(x)`` largest positive pre-activations of the batch (all, if there are fewer).

    A guess of the smallest one kept (nine tenths of the last) makes a short list that is checked
    to be long enough. The same latents are kept whatever the guess, but where it is too low for the
    screen they are computed by the dense product, which may differ in the last bit.
    """
    whole = space.whole
    wanted = k * whole.tokens(len(x))
    if gpu.runs_triton(x.device) and not whole.shared:
        from lensbench.saes.step.gpu import select

        values, columns, rows, starts = select.batch_top_k(_product(x, weight, bias, space), wanted)
        return Codes(values, columns, starts, rows, len(weight))
    pre = None if screened else pre_activations(x, weight, bias, space)
    screen = _Screen.of(x, weight, bias, space) if screened else None
    if key not in space.guesses:
        few = x[:FIRST_GUESS_ROWS]
        sample = torch.addmm(bias, few, weight.t()).relu_().view(-1)
        some = min(k * len(few), len(sample))
        space.guesses[key] = whole.guess(float(torch.topk(sample, some, sorted=False)[0].min()))
    guess = _finite(space.guesses[key])
    while True:
        if screen is None:
            assert pre is not None  # one of the two is made
            rows, columns = above(pre, pre.new_full((len(x), 1), max(guess, 1e-30)))
            found, values = (rows, columns), pre[rows, columns]
        else:
            # Coarse values could be negative there; a bound that is NaN bounds nothing.
            if not guess > float(screen.bound.max()):
                screen, pre = None, pre_activations(x, weight, bias, space)
                continue
            rows, columns = screen.above(torch.full((len(x),), guess))
            listed = Codes.listed(x.new_zeros(len(rows)), rows, columns, len(x), len(weight))
            found, values = (rows, columns), _exact(listed, x, weight, bias)
        if whole.count(int((values >= guess).sum())) >= wanted or guess <= 0:
            break
        guess = guess / 2 if guess > 1e-20 else 0.0
    cut = whole.cut(values, wanted)
    space.guesses[key] = _finite(float(cut)) * GUESS_BELOW
    kept = (values >= cut) & (values > 0)
    return Codes.listed(values[kept], found[0][kept], found[1][kept], len(x), len(weight))


def _finite(guess: float) -> float:
    """Where a search may begin: from infinity, halving would never arrive anywhere."""
    return max(0.0, guess) if math.isfinite(guess) else 0.0


def positive_codes(pre: Tensor, mask: Bool[Tensor, "tokens d_sae"]) -> Codes:
    """Every positive pre-activation."""
    rows, columns = mask.nonzero(as_tuple=True)
    return Codes.listed(pre[rows, columns], rows, columns, *pre.shape)


def screen_bound(
    x: Float[Tensor, "tokens d"],
    coarse: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "d_sae d"],
    weight_error: Float[Tensor, "d_sae d"],
    bias: Float[Tensor, " d_sae"],
) -> Float[Tensor, " tokens"]:
    """Largest error of a bfloat16 pre-activation before its own rounding, by token.

    With ``x = c + l`` and ``w = v + m``, where ``c`` and ``v`` are the rounded parts:
    ``|x.w - c.v| <= |l||w| + |c||m|`` (Cauchy-Schwarz, largest norms over latents); a bias errs by
    at most ``2^-8 |b|``; summing d products in float32 adds at most about ``d 2^-23 |c||w|``. The
    last two are doubled.
    """
    summing = x.shape[1] * 2.0**-22
    longest, off = weight.norm(dim=1).max(), weight_error.norm(dim=1).max()
    lost, kept = (x - coarse).norm(dim=1), coarse.norm(dim=1)
    return longest * lost + (off + summing * longest) * kept + 2.0**-7 * bias.abs().max() + 1e-30


@dataclass(frozen=True)
class _Screen:
    """Coarse pre-activations as int16: bfloat16 bits of positive numbers sort like integers."""

    bits: Int[Tensor, "tokens d_sae"]
    bound: Float[Tensor, " tokens"]
    maxima: Int[Tensor, "tokens groups"] | None

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor, space: Workspace) -> "_Screen":
        d, half = x.shape[1], torch.bfloat16
        left = space.get("screen.x", (len(x), d + PAD), x, half)
        right = space.get("screen.w", (len(weight), d + PAD), x, half)
        left[:, :d], left[:, d], left[:, d + 1 :] = x, 1.0, 0.0
        right[:, :d], right[:, d], right[:, d + 1 :] = weight, bias, 0.0
        coarse = space.get("screen.pre", (len(x), len(weight)), x, half)
        torch.mm(left, right.t(), out=coarse)
        error = space.get("screen.error", tuple(weight.shape), x).copy_(right[:, :d]).sub_(weight)
        bits = coarse.view(torch.int16)
        bound = screen_bound(x, left[:, :d].float(), weight, error, bias)
        return cls(bits, bound, group_maxima(bits) if bits.shape[1] % GROUP == 0 else None)

    def above(self, cut: Float[Tensor, " tokens"]) -> tuple[Tensor, Tensor]:
        """Rows and columns of a superset of the latents whose exact value is at least ``cut``.

        ``cut`` must be above ``bound``: the bits of negative numbers do not sort.
        """
        lowest = cut - self.bound
        lowest = lowest - lowest.abs() * 2.0**-8  # the coarse value was itself rounded
        bits = (lowest.clamp(min=0.0).view(torch.int32) >> 16).to(torch.int16)  # rounds down
        return above(self.bits, bits[:, None], self.maxima)


def _screen_rows(x: Tensor, weight: Tensor, bias: Tensor, k: int, space: Workspace) -> Codes | None:
    """Candidates for each token's top k; None where the bound does not narrow them enough."""
    n, d_sae = len(x), len(weight)
    if d_sae % (GROUP * GROUP) or d_sae // (GROUP * GROUP) < 2 * k:
        return None
    screen = _Screen.of(x, weight, bias, space)
    assert screen.maxima is not None  # d_sae is a multiple of the group
    # The k-th largest of group maxima is at most the k-th largest of all.
    floor = torch.topk(group_maxima(screen.maxima), k, dim=1, sorted=False)[0].amin(1)
    if int(floor.min()) <= 0:
        return None
    coarse = (floor.to(torch.int32) << 16).view(torch.float32)
    cut = coarse * (1 - 2.0**-8) - screen.bound  # at most the exact k-th largest
    if float((cut - screen.bound).min()) <= 0:
        return None
    rows, columns = screen.above(cut)
    if len(rows) > MAX_CANDIDATES * n * d_sae:
        return None
    return Codes.listed(x.new_zeros(len(rows)), rows, columns, n, d_sae)


def _exact(found: Codes, x: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, " nnz"]:
    return kernels.code_gradient(found, x, weight) + bias[found.columns]
