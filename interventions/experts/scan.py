"""Every single expert, one at a time: what becomes of a behaviour without it (or with it forced).

The exhaustive answer that a ranking only guesses at. A prompt none of whose tokens chose an expert
is not run without it: it would not change by one bit.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.experts.behaviour import (
    Behaviour,
    NextToken,
    described,
    labels_of,
    target_of,
)
from lensbench.interventions.experts.maps import RoutingMaps, routing
from lensbench.interventions.experts.plans import Expert, force, reroute, suppress
from lensbench.interventions.experts.rows import (
    Prompts,
    Rows,
    batch_of,
    batches,
    moe_layers,
    rows_of,
)
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.progress import each
from lensbench.results import Result
from lensbench.stats import Interval, wilson

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

How = Literal["suppress", "reroute", "force"]
_MAKE = {"suppress": suppress, "reroute": reroute, "force": force}


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertScan(Result):
    """Rate of the target label under an intervention on every single expert."""

    how: str
    target: str
    layers: Int[np.ndarray, " layers"]
    hits: Int[np.ndarray, "layers experts"]
    """Prompts with the target label under the intervention."""
    changed: Int[np.ndarray, "layers experts"]
    """Prompts whose label changed, to whatever."""
    shift: Float[np.ndarray, "layers experts"]
    """Mean change of log p(target), nats; NaN where the behaviour reads more than one token."""
    load: Float[np.ndarray, "layers experts"]
    clean_hits: int
    n: int
    """Prompts."""

    def clean(self) -> Interval:
        """Rate of the target label with nothing changed."""
        return wilson(self.clean_hits, self.n)

    @property
    def effect(self) -> Float[np.ndarray, "layers experts"]:
        """Rate minus clean rate, -1 to 1."""
        return (self.hits - self.clean_hits) / self.n

    def ranked(self) -> tuple[Expert, ...]:
        """Experts by the size of their effect on the rate, ties by the shift of log p."""
        soft = np.abs(np.nan_to_num(self.shift)).ravel()
        order = np.lexsort((-soft, -np.abs(self.effect).ravel()))
        size = self.hits.shape[1]
        return tuple((int(self.layers[i // size]), int(i % size)) for i in order)

    def rank_of(self, expert: Expert) -> int:
        """Place of an expert in :meth:`ranked`, from 1.

        Raises:
            ConfigError: an expert that was not scanned.
        """
        pair = (int(expert[0]), int(expert[1]))
        if pair not in self.ranked():
            raise ConfigError(
                f"expert {pair} was not scanned: layers {self.layers.tolist()}, experts "
                f"0..{self.hits.shape[1] - 1}"
            )
        return self.ranked().index(pair) + 1

    def to_frame(self) -> "pd.DataFrame":
        """One row per expert, strongest first: rate with its interval, effect, load."""
        import pandas as pd

        at = {int(layer): i for i, layer in enumerate(self.layers)}
        rows: list[dict[str, float | int]] = []
        for rank, (layer, expert) in enumerate(self.ranked(), 1):
            here = (at[layer], expert)
            rate = wilson(int(self.hits[here]), self.n)
            rows.append({
                "rank": rank, "layer": layer, "expert": expert, "rate": rate.mean,
                "low": rate.low, "high": rate.high, "effect": float(self.effect[here]),
                "shift": float(self.shift[here]), "changed": int(self.changed[here]),
                "load": float(self.load[here]), "n": self.n,
            })  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {
            "rate": f"share labelled {self.target}", "effect": "rate - clean rate",
            "shift": "nats", "load": "share of slots", "n": "prompts",
        }  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """The strongest expert and its effect, the median effect, the clean rate, prompts."""
        layer, expert = self.ranked()[0]
        return {
            "layer": float(layer),
            "expert": float(expert),
            "effect": float(self.effect.ravel()[np.abs(self.effect).argmax()]),
            "median_effect": float(np.median(self.effect)),
            "rate_clean": self.clean().mean,
            "experts": float(self.hits.size),
            "prompts": float(self.n),
        }

    def plot(self) -> "go.Figure":
        """Effect of every expert, layers by experts."""
        from lensbench.plots import heatmap

        reach = float(np.abs(self.effect).max()) or 1.0
        return heatmap(
            self.to_frame(), x="expert", y="layer", value="effect", span=(-reach, reach),
            diverging=True, hover_columns=("rate", "low", "high", "shift", "load", "n"),
            title=f"{self.how} one expert at a time: {self.target}",
            subtitle=f"{self.n} prompts, clean rate {self.clean()}",
        )  # fmt: skip


def expert_scan(
    model: Model,
    prompts: Prompts,
    behaviour: Behaviour,
    *,
    target: str | None = None,
    how: How = "suppress",
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> ExpertScan:
    """Suppress (or reroute, or force) every single expert, and measure the behaviour each time.

    Args:
        model: a mixture of experts.
        prompts: texts or token ids.
        behaviour: as in :func:`expert_study`. A :class:`NextToken` runs many experts to a batch.
        target: the label that is counted; left out, the last in sorted order.
        how: the intervention.
        layers: only these; left out, every layer with a router.
        batch_size: rows in one forward pass.
        seed: kept with the result; nothing is drawn.

    Raises:
        ConfigError, UnknownNameError: a model without experts, layers without a router, or a label
            that no prompt has.

    Example:
        >>> refused = experts.NextToken({"refused": desk_refusals}, other="answered")
        >>> scan = experts.expert_scan(moe, desk_ids, refused, target="refused", layers=[1])
    """
    refuse_no_model(model)
    began = time.monotonic()
    if how not in _MAKE:
        raise UnknownNameError("intervention", str(how), known=tuple(_MAKE))
    model.require_next_token("expert_scan")
    chosen, rows = _layers(model, layers), rows_of(model, prompts)
    whole_number("batch_size", batch_size, least=1)
    before = np.array(labels_of(behaviour, model, rows, Plan()))
    target = target_of(before, target)
    maps = routing(model, rows, batch_size=batch_size)
    work = _Scan(model, rows, behaviour, before, target, how, batch_size)
    shape = (len(chosen), model.card.n_experts)
    hits, changed, shift = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape)
    for at, layer in enumerate(each(chosen, "experts", "layer")):
        found = work.layer(layer, _touched(maps, layer, how))
        hits[at], changed[at], shift[at] = found
    within = [maps.layers.tolist().index(layer) for layer in chosen]
    return ExpertScan(
        how=how, target=target, layers=np.array(chosen), hits=hits, changed=changed, shift=shift,
        load=maps.load[within], clean_hits=int((before == target).sum()), n=len(rows),
        config={"behaviour": described(behaviour), "how": how, "target": target},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip


def _layers(model: Model, layers: Sequence[int] | None) -> list[int]:
    known = moe_layers(model)
    if layers is None:
        return list(known)
    for layer in layers:
        if whole(layer) not in known:
            raise ConfigError(f"layers must be of those with a router, {list(known)}; got {layer}")
    return [int(layer) for layer in layers]


def _touched(maps: RoutingMaps, layer: int, how: str) -> np.ndarray:
    """``[prompts, experts]``: where an intervention can change anything."""
    chosen = maps.counts[:, maps.layers.tolist().index(layer)] > 0
    return np.ones_like(chosen) if how == "force" else chosen


@dataclass(frozen=True)
class _Scan:
    model: Model
    rows: Rows
    behaviour: Behaviour
    before: np.ndarray
    target: str
    how: How
    batch_size: int

    def layer(self, layer: int, touched: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hits, changed labels and mean shift of every expert of a layer."""
        if isinstance(self.behaviour, NextToken) and self.target in self.behaviour.ids:
            labels, shift = self._read(layer, touched, self.behaviour)
        else:
            labels, shift = self._asked(layer, touched), np.full(touched.shape[1], np.nan)
        hits = (labels == self.target).sum(0)
        return hits, (labels != self.before[:, None]).sum(0), shift

    def _asked(self, layer: int, touched: np.ndarray) -> np.ndarray:
        labels = np.repeat(self.before[:, None].astype(object), touched.shape[1], 1)
        for expert in range(touched.shape[1]):
            some = np.flatnonzero(touched[:, expert])
            if len(some):
                plan = _MAKE[self.how]((layer, expert))
                said = labels_of(self.behaviour, self.model, [self.rows[i] for i in some], plan)
                labels[some, expert] = said
        return labels

    def _read(
        self, layer: int, touched: np.ndarray, behaviour: NextToken
    ) -> tuple[np.ndarray, np.ndarray]:
        """Many experts to a batch; row pairs of one prompt share the blocks before the layer."""
        labels = np.repeat(self.before[:, None].astype(object), touched.shape[1], 1)
        shift = np.zeros(touched.shape)
        todo = [(int(p), int(e)) for p, e in np.argwhere(touched)]
        for part in batches(len(todo), self.batch_size):
            pairs = [todo[i] for i in part]
            # Clean rows stand in the same batch: padding rounds both alike.
            prompts = list(dict.fromkeys(p for p, _ in pairs))
            plans = [Plan()] * len(prompts) + [_MAKE[self.how]((layer, e)) for _, e in pairs]
            rows = [self.rows[p] for p in prompts] + [self.rows[p] for p, _ in pairs]
            logits = self.model.run_many(
                batch_of(self.model, rows), plans, logits="last", batch_size=2 * self.batch_size
            ).logits
            assert logits is not None
            log_p = behaviour.log_prob(logits[:, -1], self.target).double().cpu().numpy()
            own = dict(zip(prompts, log_p, strict=False))
            said = behaviour.of(logits[len(prompts) :, -1])
            for (p, e), label, value in zip(pairs, said, log_p[len(prompts) :], strict=True):
                labels[p, e], shift[p, e] = label, value - own[p]
        return labels, shift.mean(0)
