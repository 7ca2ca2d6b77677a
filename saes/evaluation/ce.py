"""What a dictionary costs the model: cross entropy and KL with the site replaced, measured live.

Do not use it to compare dictionaries of different sites by their raw CE; compare the recovered
shares, each against its own ablations. The steps, numbered in the body:

1. The layers below the site run once per sequence, for all dictionaries together.
2. Clean, zero-ablated, mean-ablated and each reconstructed state are stacked into one batch.
3. The layers above the site run once on that batch.
4. Logits are taken in small pieces; CE and KL(clean || edited) are summed per document.

A transcoder reads another site than the one that is replaced: both are taken in the pass of step 1,
so what it reads is the model's own. Only stored positions are replaced; elsewhere (padding,
positions the store left out) the model's own state stays, so its error term is kept there. Sites
other than the residual stream go through ``Model.run_many`` with one plan per state, sequence by
sequence.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.models.base import Model
from lensbench.plan import Plan, Replace, edit
from lensbench.protocols import Codec
from lensbench.saes.evaluation.sums import Measured, Sums, bootstrap_documents
from lensbench.saes.evaluation.written import written
from lensbench.sites import Site
from lensbench.tokens import Tokens

ABLATIONS = ("zero", "mean")
_LOGITS_AT_ONCE = 1 << 24  # floats: 64 MiB


@dataclass(frozen=True)
class Sequences:
    """A batch to score: tokens, the document of each, and which positions are replaced."""

    tokens: Tokens
    docs: Int[np.ndarray, "batch pos"]
    kept: Bool[Tensor, "batch pos"]
    scored: Bool[Tensor, "batch pos"] | None = None
    """Positions whose prediction may be scored; left out: all."""


@dataclass
class LossSums:
    """Sums over scored tokens by document, and what they cost to compute."""

    states: tuple[str, ...]
    """``clean``, ``zero``, ``mean``, then one per dictionary."""
    by_doc: dict[int, Float[np.ndarray, " columns"]] = field(default_factory=dict)
    """Per document: tokens, then CE per state, then KL per state (nats, summed)."""
    layers_run: int = 0
    """Layer-forwards (blocks times rows) that really ran."""
    layers_separate: int = 0
    """What one evaluation per dictionary runs: clean, zero, mean and reconstructed, in full."""
    layers_separate_shared: int = 0
    """The same, if each of those evaluations ran the layers below the site once."""
    layers_controls: int = 0
    """What the states of controls ran beside that; in none of the other three."""

    def add(
        self, docs: Int[np.ndarray, " tokens"], columns: Float[np.ndarray, "columns tokens"]
    ) -> None:
        """Add the values of single tokens to the sums of their documents."""
        unique, index = np.unique(docs, return_inverse=True)
        table = np.stack([np.bincount(index, c, len(unique)) for c in columns], 1)
        for doc, values in zip(unique.tolist(), table, strict=True):
            self.by_doc[doc] = self.by_doc.get(doc, 0.0) + values

    @property
    def ratio(self) -> float:
        """Layer-forwards run, over those of separate evaluations."""
        return self.layers_run / max(self.layers_separate, 1)

    def columns(self) -> Sums:
        """``tokens``, ``ce/<state>`` and ``kl/<state>``: one sum per document."""
        names = ["tokens", *(f"ce/{s}" for s in self.states), *(f"kl/{s}" for s in self.states)]
        table = np.stack([self.by_doc[d] for d in sorted(self.by_doc)])
        return dict(zip(names, table.T, strict=True))

    def per_token(self, column: str, *, seed: int = 0) -> Measured:
        """Mean over tokens of a column, nats, with its interval over documents."""
        sums = self.columns()
        return bootstrap_documents(sums, lambda s: s[column] / s["tokens"], seed=seed)

    def recovered(self, quantity: str, state: str, baseline: str, *, seed: int = 0) -> Measured:
        """``ce`` or ``kl`` recovered against an ablation, with its interval over documents.

        The ratio of :func:`~lensbench.saes.evaluation.metrics.ce_recovered`, on sums over the same
        tokens.
        """

        def share(s: Sums) -> Float[np.ndarray, " draws"]:
            worst = s[f"{quantity}/{baseline}"]
            cost = worst - s[f"{quantity}/clean"]
            # Where the ablation helps, the ratio would praise a dictionary for harm.
            safe = np.where(cost > 0, cost, np.nan)
            return (worst - s[f"{quantity}/{state}"]) / safe

        return bootstrap_documents(self.columns(), share, seed=seed)


@torch.no_grad()
def live_losses(
    model: Model,
    site: str | Site,
    codecs: Sequence[Codec],
    batches: Iterable[Sequences],
    mean: Float[Tensor, " d_model"],
    *,
    names: Sequence[str] = (),
    score_first: bool = False,
    reads: str | Site | None = None,
    n_controls: int = 0,
) -> LossSums:
    """CE and KL under every dictionary of one site and under both ablations; see the module.

    Args:
        model: runs live.
        site: what is replaced, and what ``mean`` is of.
        codecs: dictionaries that write ``site``.
        batches: what to run.
        mean: of the site.
        names: of the states of the dictionaries; left out: their numbers.
        score_first: also score the prediction made at each sequence's first real token (BOS).
        reads: the site that the dictionaries read; left out: ``site``.
        n_controls: how many of the codecs, the last ones, are controls (counted apart).
    """
    site = Site.parse(site)
    source = site if reads is None else Site.parse(reads)
    names = tuple(names) or tuple(str(i) for i in range(len(codecs)))
    sums = LossSums(("clean", *ABLATIONS, *names))
    for batch in batches:
        wanted = list(dict.fromkeys((site, source)))
        out = model.run(batch.tokens, capture=wanted, logits="none")  # 1
        clean, read = out.acts[site], out.acts[source]
        x = read[batch.kept.to(read.device)].flatten(1)
        states = _states(clean, batch.kept.to(clean.device), x, codecs, mean)  # 2
        sums.layers_run += out.layers_run
        start = _continues_at(site)
        if start is not None:
            top = _run_above(model, states, start, batch.tokens, sums, n_controls)  # 3
            score = _Scorer(batch, sums, score_first)
            for rows in _pieces(batch.tokens, model.card.d_vocab):
                score.add(rows, (model.unembed(top[i, rows]) for i in range(len(states))))  # 4
        else:
            _run_elsewhere(model, site, states, batch, sums, score_first, n_controls)
        n = len(codecs) - n_controls
        _count_separate(sums, model.n_layers, n, batch.tokens.n_rows, out.layers_run)
    return sums


def _states(
    clean: Tensor,
    kept: Tensor,
    x: Float[Tensor, "tokens d_in"],
    codecs: Sequence[Codec],
    mean: Tensor,
) -> Float[Tensor, "states ..."]:
    """Clean, zero, mean, reconstructions: the site's value under each, kept positions replaced."""
    y = clean[kept].flatten(1)
    rebuilt = [torch.zeros_like(y), mean.to(y).expand_as(y)]
    for codec in codecs:
        rebuilt.append(_rebuilt(codec, x).to(y))
    stack = clean.repeat(len(rebuilt) + 1, *(1,) * clean.ndim)
    for i, values in enumerate(rebuilt, 1):
        stack[i, kept] = values.view(-1, *clean.shape[2:])
    return stack


def _rebuilt(codec: Codec, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_out"]:
    """Reconstruction, computed where the codec's weights are and as they are stored."""
    x = x.to(getattr(codec, "W_dec", _at_least_float32(x)))
    return written(codec, codec.encode(x), x)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _continues_at(site: Site) -> int | None:
    """The block that reads this site as its whole input, where there is one."""
    if site.layer is None or site.stack:
        return None
    return {"resid_pre": site.layer, "resid_post": site.layer + 1}.get(site.name)


def _run_above(
    model: Model, states: Tensor, start: int, tokens: Tokens, sums: LossSums, n_controls: int
) -> Tensor:
    n = len(states)
    h = states.flatten(0, 1)
    if start == model.n_layers:
        return states
    mask = None if tokens.mask is None else tokens.mask.to(h.device).repeat(n, 1)
    h, _ = model.run_layers(h, start, model.n_layers, mask=mask)
    each = (model.n_layers - start) * tokens.n_rows
    sums.layers_run += each * (n - n_controls)
    sums.layers_controls += each * n_controls
    return h.view(states.shape)


def _run_elsewhere(
    model: Model,
    site: Site,
    states: Tensor,
    batch: Sequences,
    sums: LossSums,
    score_first: bool,
    n_controls: int,
) -> None:
    """Step 3 for sites inside a block: edits from data, one sequence at a time."""
    score = _Scorer(batch, sums, score_first)
    for row in range(batch.tokens.n_rows):
        real = batch.tokens.real[row]
        ids = Tokens(batch.tokens.ids[row : row + 1, real])
        plans = [Plan(), *(edit(site, Replace(s[row : row + 1, real])) for s in states[1:])]
        own = len(plans) - n_controls
        out = model.run_many(ids, plans[:own])
        sums.layers_run += out.layers_run
        assert out.logits is not None
        full = out.logits.new_zeros(len(plans), batch.tokens.n_pos, out.logits.shape[-1])
        full[:own, real] = out.logits
        if n_controls:  # in a call of their own, so that what they cost is known
            beside = model.run_many(ids, plans[own:])
            sums.layers_controls += beside.layers_run
            assert beside.logits is not None
            full[own:, real] = beside.logits
        score.add(slice(row, row + 1), (logits[None] for logits in full))


def _count_separate(sums: LossSums, n_layers: int, n: int, rows: int, below: int) -> None:
    sums.layers_separate += n * 4 * n_layers * rows
    sums.layers_separate_shared += n * (below + 4 * (n_layers * rows - below))


def _pieces(tokens: Tokens, d_vocab: int) -> Iterator[slice]:
    step = max(1, _LOGITS_AT_ONCE // (tokens.n_pos * d_vocab))
    for start in range(0, tokens.n_rows, step):
        yield slice(start, start + step)


class _Scorer:
    """Adds the losses of some rows of a batch, state by state, to the sums of their documents."""

    def __init__(self, batch: Sequences, sums: LossSums, score_first: bool) -> None:
        ids, real = batch.tokens.ids, batch.tokens.real
        scored = torch.zeros_like(real)
        scored[:, :-1] = real[:, :-1] & real[:, 1:]
        if not score_first:
            scored &= batch.tokens.positions() > 0
        scored = scored.cpu()
        if batch.scored is not None:
            scored &= batch.scored.cpu()
        self._targets = torch.cat([ids[:, 1:], ids[:, -1:]], 1).cpu()
        self._scored, self._docs, self._sums = scored, batch.docs, sums

    def add(self, rows: slice, logits: Iterable[Float[Tensor, "batch pos d_vocab"]]) -> None:
        """Take in the logits of ``rows``, one tensor per state, the clean one first."""
        scored = self._scored[rows]
        ce: list[Tensor] = []
        kl: list[Tensor] = []
        clean: Tensor | None = None
        for state in logits:
            logp = _at_least_float32(state[scored.to(state.device)]).log_softmax(-1)
            targets = self._targets[rows][scored].to(logp.device)
            clean = logp if clean is None else clean
            ce.append(-logp.gather(-1, targets[:, None])[:, 0].double().cpu())
            kl.append((clean.exp() * (clean - logp)).sum(-1).double().cpu())
        columns = [torch.ones(int(scored.sum())).double(), *ce, *kl]
        self._sums.add(self._docs[rows][scored.numpy()], torch.stack(columns).numpy())
