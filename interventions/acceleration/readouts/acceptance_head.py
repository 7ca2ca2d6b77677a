"""The chance that a drafted token is kept, before the check (SpecDec++; Huang et al. 2024).

1. At every token of a text, draft Y ~ q from exit layer E; its label is ``min(1, p(Y)/q(Y))``, the
   chance of Leviathan's rule, p being the full model's distribution. Both are read from the store.
2. The draft layers run over the text in which each token is Y, or with probability ``mix`` that of
   the text (so that contexts look like drafts); the state at a token is the head's input.
3. The head (residual blocks ``x + SiLU(W x + b)`` with weights of their own, and a linear layer) is
   fitted where the token is Y, by binary cross-entropy with soft labels; a rejection weighs
   ``reject_weight`` times as much as an acceptance; the sum is divided by the weighted mass.
4. Decoding would stop once ``1 - prod a_i > h``: a chance of more than h that a draft is rejected.

The weight makes the head pessimistic by a known amount: where the chance is a, its optimum is
``a / (a + w (1 - a))``. ``AcceptanceHead.chance`` takes that back; the stopping rule uses the
weighted output, as the authors do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import check_exit, native
from lensbench.interventions.acceleration.readouts.acceptance_result import (
    AcceptanceReport,
    stopped_rounds,
)
from lensbench.interventions.acceleration.readouts.logistic import fit_logistic
from lensbench.interventions.acceleration.readouts.rows import (
    Document,
    documents,
    require_exits,
    split,
    states,
)
from lensbench.interventions.acceleration.sampling import Warp
from lensbench.models.base import Model
from lensbench.models.huggingface import NativeModel
from lensbench.results import Controls
from lensbench.stats import pearson

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


PENALTIES = (1.0, 0.1, 0.01)
"""Of the linear head; the held-back rows choose."""


@dataclass(frozen=True, eq=False)
class AcceptanceHead:
    """Residual blocks and a linear read-out on states of one width."""

    blocks: tuple[tuple[Float[Tensor, "d d"], Float[Tensor, " d"]], ...]
    readout: Float[Tensor, " d"]
    bias: float
    mean: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    """States are brought to mean 0 and variance 1 first."""
    reject_weight: float

    def __call__(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
        """Weighted output, the ``a`` of the stopping rule."""
        h = (x.float() - self.mean) / self.spread
        for weight, bias in self.blocks:
            h = h + nn.functional.silu(h @ weight + bias)
        return torch.sigmoid(h @ self.readout + self.bias)

    def chance(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
        """Chance of acceptance, ``w a / (1 + (w - 1) a)``: the output without its weight."""
        a, w = self(x), self.reject_weight
        return w * a / (1 + (w - 1) * a)


def fit_acceptance_head(
    x: Float[Tensor, "rows d"],
    p_acc: Float[Tensor, " rows"],
    *,
    reject_weight: float = 6.0,
    depth: int = 1,
    steps: int = 300,
    lr: float = 1e-3,
) -> AcceptanceHead:
    """Fit a linear head, then its residual blocks too, by Adam over all rows.

    Loss: ``sum(-p log a - w (1 - p) log(1 - a)) / sum(p + w (1 - p))``. The last tenth of the rows
    is held back: it chooses the penalty of the linear head and the step whose weights are kept,
    because labels are single draws, which a block of d^2 weights would learn by heart.

    Raises:
        ConfigError: shapes that do not fit, or labels outside [0, 1].

    Example:
        >>> head = acceleration.fit_acceptance_head(torch.randn(60, 8), torch.rand(60), steps=10)
    """
    if x.ndim != 2 or p_acc.shape != x.shape[:1] or not len(x):
        raise ConfigError(
            f"x must be [rows, d] and p_acc [rows], got {list(x.shape)} and {list(p_acc.shape)}"
        )
    if not bool(((p_acc >= 0) & (p_acc <= 1)).all()) or not bool(torch.isfinite(x).all()):
        raise ConfigError("p_acc must lie in [0, 1] and states must be finite")
    w, d = positive_number("reject_weight", reject_weight), x.shape[1]
    mean, spread = x.float().mean(0), x.float().std(0).clamp_min(1e-6)
    scaled, label = (x.float() - mean) / spread, p_acc.float()
    last = max(1, len(label) - len(label) // 10)
    held = slice(last, None) if last < len(label) else slice(None)
    blocks = [
        (torch.zeros(d, d), torch.zeros(d)) for _ in range(whole_number("depth", depth, least=0))
    ]

    def loss(rows: slice, readout: Tensor, bias: Tensor) -> Tensor:
        h, p = scaled[rows], label[rows]
        for weight, offset in blocks:
            h = h + nn.functional.silu(h @ weight + offset)
        out = h @ readout + bias
        logsigmoid = nn.functional.logsigmoid
        kept, lost = p * logsigmoid(out), w * (1 - p) * logsigmoid(-out)
        return -(kept + lost).sum() / (p + w * (1 - p)).sum()

    linear = [_linear(scaled[:last], label[:last], w, penalty) for penalty in PENALTIES]
    least, (readout, bias) = min(((float(loss(held, *one)), one) for one in linear), key=_first)
    weights = [readout, bias, *(t for block in blocks for t in block)]
    best = [tensor.clone() for tensor in weights]
    for tensor in weights:
        tensor.requires_grad_(True)
    optimiser = torch.optim.Adam(weights, lr=lr)
    for _ in range(whole_number("steps", steps, least=1) if depth else 0):
        with torch.enable_grad():
            optimiser.zero_grad()
            loss(slice(0, last), readout, bias).backward()  # pyright: ignore[reportUnknownMemberType] - torch's
        optimiser.step()
        with torch.no_grad():
            now = float(loss(held, readout, bias))
        if now < least:
            least, best = now, [tensor.detach().clone() for tensor in weights]
    readout, bias, *flat = best
    final = tuple(zip(flat[::2], flat[1::2], strict=True))
    return AcceptanceHead(final, readout, float(bias), mean, spread, w)


def _first(pair: tuple[float, Any]) -> float:
    return pair[0]


def _linear(x: Tensor, label: Tensor, w: float, penalty: float) -> tuple[Tensor, Tensor]:
    """The head without blocks: logistic regression on both classes' masses."""
    p = label.double().numpy()
    mass = p + w * (1 - p)
    found = fit_logistic(x.double().numpy(), p / mass, mass=mass, penalty=penalty)
    return torch.from_numpy(found.weight).float(), torch.tensor(found.bias).float()


@dataclass(frozen=True, eq=False)
class _Rows:
    x: Tensor
    label: Tensor
    top: Tensor
    """The draft's probability of the token: what a head must beat."""
    doc: np.ndarray


def acceptance_head(
    store: "ActivationStore",
    model: Model,
    exit_layer: int,
    *,
    warp: Warp = Warp(temperature=1.0),  # noqa: B008
    reject_weight: float = 6.0,
    mix: float = 0.15,
    depth: int = 1,
    thresholds: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    least: int = 2,
    most: int = 20,
    test: float = 0.5,
    max_documents: int | None = 64,
    seed: int = 0,
) -> tuple[AcceptanceHead, AcceptanceReport]:
    """Fit the head for one exit layer on some documents and judge it on the others.

    Held-out texts have drafts only (``mix`` 0), so that every start has its following drafts.
    Labels are chances in the context of the text, where a live draft stands in its own.

    Args:
        store: whole documents with the stream after ``exit_layer`` and after all layers.
        model: native; runs its first ``exit_layer`` layers once over every document.
        exit_layer: layers of the draft, 1 to L - 1.
        warp: makes p and q from logits; greedy labels are 0 or 1.
        reject_weight: of a rejection beside an acceptance.
        mix: share of tokens of the text's own among the drafts that are fitted on.
        depth: residual blocks.
        thresholds: h of the stopping rule.
        least: tokens drafted at least.
        most: tokens drafted at most.
        test: share of documents held out.
        max_documents: documents read; None for all.
        seed: of draws, split and fit.

    Raises:
        ConfigError: a setting out of range.
        MissingDataError: the store lacks one of the two streams.
        NotEnoughDataError: fewer than two documents.

    Example:
        >>> found = acceleration.acceptance_head(own, early, exit_layer=2)
    """
    runnable = native(model)
    check_exit(exit_layer, model.n_layers, full=False)
    if not 0 <= mix < 1 or not 1 <= least <= most:
        raise ConfigError(
            f"mix must be in [0, 1) and 1 <= least <= most, got {mix}, {least}, {most}"
        )
    if not thresholds or not all(0 < h < 1 for h in thresholds):
        raise ConfigError(f"thresholds are chances between 0 and 1, got {list(thresholds)}")
    store.check_model(model.card)
    require_exits(store, [exit_layer, model.n_layers])
    docs = documents(store, most=max_documents)
    fit, held = split(docs, test, seed)
    rng = torch.Generator().manual_seed(seed)
    train = _rows(store, runnable, [docs[i] for i in fit], exit_layer, warp, mix, rng)
    tested = _rows(store, runnable, [docs[i] for i in held], exit_layer, warp, 0.0, rng)
    settings: dict[str, Any] = {"reject_weight": reject_weight, "depth": depth}
    head = fit_acceptance_head(train.x, train.label, **settings)
    moved = train.label[torch.randperm(len(train.label), generator=rng)]
    control = fit_acceptance_head(train.x, moved, **settings)
    label = tested.label.double().numpy()
    raw = head(tested.x).double().numpy()
    other = pearson(control.chance(tested.x).double().numpy(), label)
    rounds = [stopped_rounds(raw, label, tested.doc, h, least, most) for h in thresholds]
    report = AcceptanceReport(
        raw=raw, chance=head.chance(tested.x).double().numpy(), label=label,
        draft_probability=tested.top.double().numpy(), doc=tested.doc,
        exit_layer=exit_layer, n_layers=model.n_layers, thresholds=tuple(map(float, thresholds)),
        rounds=np.array(rounds),
        n_fit=len(train.label),
        controls=Controls(
            {"moved_labels_correlation": other},
            "correlation with the label of a head fitted to moved labels",
        ),
        config={**settings, "seed": seed, "mix": mix, "most": most, "warp": vars(warp)},
        provenance=provenance.record(model=vars(model.card), seed=seed, store=store),
    )  # fmt: skip
    return head, report


def _rows(
    store: "ActivationStore",
    model: NativeModel,
    docs: Sequence[Document],
    exit_layer: int,
    warp: Warp,
    mix: float,
    rng: torch.Generator,
) -> _Rows:
    """Drafts of every token but the first of each document: input, label, owner."""
    x, label, top, owner = list[Tensor](), list[Tensor](), list[Tensor](), list[np.ndarray]()
    for number, doc in enumerate(docs):
        rows = doc.rows[:-1]
        q = warp(model.unembed(states(store, exit_layer, rows)).float().cpu())
        p = warp(model.unembed(states(store, model.n_layers, rows)).float().cpu())
        drafted = torch.multinomial(q.double(), 1, generator=rng)
        chance = (p.gather(1, drafted) / q.gather(1, drafted)).clamp(max=1.0).squeeze(1)
        text = torch.from_numpy(doc.ids)
        own = torch.rand(len(rows), generator=rng) < mix
        mixed = torch.where(own, text[1:], drafted.squeeze(1))
        ids = torch.cat((text[:1], mixed))[None].to(model.device)
        runner = model.layers(len(text))
        h = runner.run(runner.embed(ids, 0), 0, exit_layer, 0)[0, 1:].float().cpu()
        same = mixed == drafted.squeeze(1)
        x.append(h[same])
        label.append(chance[same])
        top.append(q.gather(1, drafted).squeeze(1)[same])
        owner.append(np.full(int(same.sum()), number))
    return _Rows(torch.cat(x), torch.cat(label), torch.cat(top), np.concatenate(owner))
