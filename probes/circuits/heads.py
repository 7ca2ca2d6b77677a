"""Which heads look at the previous token, at earlier copies of the token, or behind them.

1. Targets of each query come from TransformerLens' detection patterns.
2. Score of a head: the attention it pays to a query's targets, averaged over queries that have any.
3. Controls: the same on the text in another order, scored where the targets were; the same on a
   re-initialised twin; and what even attention would score.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.models.transformer_lens.tool import load
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean
from lensbench.tokens import Tokens, TokensLike, as_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model

KINDS = ("previous_token", "duplicate_token", "induction")
"""Kinds of heads that are looked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadScores(Result):
    """Attention paid to what each kind of head looks at; 0 to 1, 95 % interval over sequences.

    ``shuffled`` (the text in another order) speaks for ``duplicate_token`` and ``induction``; a
    previous-token head does not care about it, so ``twin`` (random weights) speaks for that one.
    ``even`` is what attention spread evenly over all earlier tokens scores.
    """

    scores: Float[np.ndarray, "kinds layers heads"]
    low: Float[np.ndarray, "kinds layers heads"]
    high: Float[np.ndarray, "kinds layers heads"]
    shuffled: Float[np.ndarray, "kinds layers heads"]
    twin: Float[np.ndarray, "kinds layers heads"]
    even: Float[np.ndarray, " kinds"]
    n: int
    """Sequences."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per kind and head."""
        import pandas as pd

        kind, layer, head = (i.ravel() for i in np.indices(self.scores.shape))
        frame = pd.DataFrame({"kind": [KINDS[k] for k in kind], "layer": layer, "head": head})
        for name in ("scores", "low", "high", "shuffled", "twin"):
            frame[name.removesuffix("s")] = getattr(self, name).ravel()
        frame["even"], frame["n"] = self.even[kind], self.n
        frame.attrs["units"] = {"score": "attention, 0 to 1", "n": "sequences"}
        return frame

    def plot(self, kind: str | None = None) -> "go.Figure":
        """Layers by heads: a panel per kind, or one kind alone."""
        from lensbench.probes.circuits.panels import side_by_side

        if kind is not None:
            _check_kind(kind)
            return self._map(kind)
        return side_by_side(
            {name.replace("_", " "): self._map(name) for name in KINDS},
            title="Heads by what they attend to", subtitle=f"{self.n} sequences",
        )  # fmt: skip

    def _map(self, kind: str) -> "go.Figure":
        from lensbench.plots import heatmap
        from lensbench.probes.circuits.panels import label_cells, whole_numbers

        frame = self.to_frame()
        part = frame.loc[frame["kind"] == kind]
        part.attrs["units"] = frame.attrs["units"]
        figure = heatmap(
            part, x="head", y="layer", value="score", span=(0.0, 1.0), title=f"{kind} heads",
            hover_columns=("shuffled", "twin"), subtitle=f"{self.n} sequences",
        )  # fmt: skip
        n_layers, n_heads = self.scores.shape[1:]
        return label_cells(figure, whole_numbers(n_heads), whole_numbers(n_layers))

    def strongest(self, kind: str) -> tuple[int, int, float]:
        """Layer, head and score of the strongest head of a kind."""
        _check_kind(kind)
        table = self.scores[KINDS.index(kind)]
        layer, head = (int(i) for i in np.unravel_index(table.argmax(), table.shape))
        return layer, head, float(table[layer, head])

    def summary(self) -> dict[str, float]:
        """The strongest head of each kind beside the strongest of both controls."""
        found: dict[str, float] = {}
        for i, kind in enumerate(KINDS):
            found[kind] = float(self.scores[i].max())
            found[f"{kind}_shuffled"] = float(self.shuffled[i].max())
            found[f"{kind}_twin"] = float(self.twin[i].max())
        return found


def head_scores(
    model: "Model",
    tokens: "TokensLike | None" = None,
    *,
    rows: int = 16,
    length: int = 24,
    seed: int = 0,
) -> HeadScores:
    """Previous-token, duplicate-token and induction score of every head.

    Score = mean over queries q that have targets of sum_{k in targets(q)} A[q, k]: the token before
    q; earlier tokens equal to q; tokens behind those. Without ``tokens`` the text is ``rows``
    sequences of ``length`` random tokens, each twice in a row (a BOS token first, where the
    tokenizer has one), so that nothing but the repetition can be used.
    Targets are those of TransformerLens' ``detect_head``; its ``mul`` measure also divides by the
    queries that have none, so it cannot reach 1.
    Source: Olsson et al. 2022, arXiv:2209.11895; Wang et al. 2022, arXiv:2211.00593.

    Raises:
        ConfigError: no attention patterns, text without any target, or a context too short.

    Example:
        >>> found = probes.head_scores(model, rows=4, length=12)
    """
    start = time.time()
    batch = _repeated(model, rows, length, seed) if tokens is None else as_tokens(tokens)
    targets = _targets(batch)
    here = _measure(model, batch, targets)
    other = _measure(model, _shuffled(batch, seed), targets).mean(0)
    twin, note = _twin(model, batch, targets, seed)
    low, high = _interval(here, seed)
    mean = here.mean(0)
    values: dict[str, float] = {}
    for i, kind in enumerate(KINDS):
        values[f"{kind}_shuffled"] = float(other[i].max())
        values[f"{kind}_twin"] = float(twin[i].max())
    return HeadScores(
        scores=mean,
        low=low,
        high=high,
        shuffled=other,
        twin=twin,
        even=_even(targets),
        n=batch.n_rows,
        config={"rows": rows, "length": length, "seed": seed, "own_tokens": tokens is not None},
        controls=Controls(values, note),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.time() - start
        ),
    )


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"no kind of head {kind!r}; use one of {', '.join(KINDS)}")


def _repeated(model: "Model", rows: int, length: int, seed: int) -> Tokens:
    card, tokenizer = model.card, model.tokenizer
    bos = getattr(tokenizer, "bos_token_id", None)
    n = 2 * length + (bos is not None)
    if rows < 1 or length < 2 or (card.n_ctx and n > card.n_ctx):
        raise ConfigError(
            f"{rows} rows of {length} tokens twice make {n} tokens a row; the context has "
            f"{card.n_ctx}, and length must be at least 2"
        )
    special: set[int] = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or []}
    plain = torch.tensor([i for i in range(card.d_vocab) if i not in special])
    rng = torch.Generator().manual_seed(seed)
    # Without repetition inside the half, where the vocabulary allows it.
    order = torch.stack([torch.randperm(len(plain), generator=rng) for _ in range(rows)])
    index = order[:, torch.arange(length) % len(plain)]
    half = plain[index]
    whole = torch.cat((half, half), 1)
    if bos is not None:
        whole = torch.cat((torch.full((rows, 1), int(bos)), whole), 1)
    return Tokens(whole)


def _targets(batch: Tokens) -> Float[np.ndarray, "rows kinds query key"]:
    """Which keys each kind of head looks at, of real tokens only."""
    detector = load("head_detector")
    rows: list[Tensor] = []
    for ids, real in zip(batch.ids.cpu(), batch.real.cpu(), strict=True):
        found = [getattr(detector, f"get_{k}_head_detection_pattern")(ids[None]) for k in KINDS]
        rows.append(torch.stack(found).float() * (real[:, None] & real))
    targets = torch.stack(rows).numpy()
    if not targets.any(axis=(0, 2, 3)).all():
        missing = [k for i, k in enumerate(KINDS) if not targets[:, i].any()]
        raise ConfigError(
            f"no token of this text has a target for {', '.join(missing)}; pass text that repeats "
            "tokens, or no tokens at all"
        )
    return targets


def _measure(
    model: "Model", batch: Tokens, targets: np.ndarray
) -> Float[np.ndarray, "rows kinds layers heads"]:
    """Mean attention to the targets; a row without any for a kind takes the others' mean."""
    sites = [s for s in model.sites() if s.name == "attn.pattern" and s.stack == ""]
    if not sites:
        raise ConfigError(f"model {model.card.name!r} has no attention patterns to score")
    acts = model.run(batch, capture=sites, logits="none").acts
    layers = [acts[s].float().cpu().numpy() for s in sites]
    has: Any = targets.any(-1)
    paid = [np.einsum("bhqk,bcqk->bchq", a, targets) for a in layers]
    n = has.sum(-1)
    sums = np.stack([p.sum(-1) for p in paid], axis=2)  # queries without a target pay nothing
    means = sums / np.maximum(n, 1)[:, :, None, None]
    known = (n > 0)[:, :, None, None]
    others = (means * known).sum(0) / known.sum(0)
    return np.where(known, means, others)


def _interval(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % bounds of every mean over the first axis, by a bootstrap over sequences."""
    flat = rows.reshape(len(rows), -1)
    found = [bootstrap_mean(column, n_boot=300, seed=seed) for column in flat.T]
    low, high = (np.array([getattr(i, end) for i in found]) for end in ("low", "high"))
    return low.reshape(rows.shape[1:]), high.reshape(rows.shape[1:])


def _even(targets: np.ndarray) -> Float[np.ndarray, " kinds"]:
    seen = np.arange(1, targets.shape[-1] + 1)
    paid: Any = targets.sum(-1) / seen
    has: Any = targets.any(-1)
    return (paid * has).sum((0, 2)) / has.sum((0, 2))


def _shuffled(batch: Tokens, seed: int) -> Tokens:
    """Each row's real tokens in another order."""
    rng = torch.Generator().manual_seed(seed + 1)
    ids = batch.ids.clone()
    for row, real in enumerate(batch.real):
        place = real.nonzero()[:, 0]
        mixed = torch.randperm(len(place), generator=rng).to(place.device)
        ids[row, place] = batch.ids[row, place[mixed]]
    return Tokens(ids, batch.mask)


def _twin(model: "Model", batch: Tokens, targets: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    from lensbench.worlds.controls import reinitialised_twin

    note = "strongest head on the text in another order, and of a re-initialised twin"
    if model.card.backend == "transformer_lens":
        shape = (len(KINDS), model.n_layers, model.card.n_heads)
        return np.full(shape, np.nan), f"{note} (none: TransformerLens objects are not made anew)"
    return _measure(reinitialised_twin(model, seed), batch, targets).mean(0), note
