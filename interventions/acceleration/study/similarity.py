"""How much each layer, span of layers and half of a layer turns the stream; read from a store.

Block influence, angular distance and AdaSkip's similarities are guesses of what a deletion would
cost (class ``proxy``): they are reported beside the measured damage, never instead of it. Computed
in float64, because arccos near 1 loses half the digits and float32 cosines exceed 1.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lensbench import provenance
from lensbench.interventions.acceleration.skipping.adaskip import HalfSimilarity
from lensbench.interventions.acceleration.study.own import require_stream
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

_TILE = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class SimilarityTable(Result):
    """Similarities of the stream before and after layers; nothing was run to make it."""

    influence: Float[np.ndarray, " layers"]
    """BI_l = 1 - mean cos(h_l, h_(l+1)) over all tokens, h_l entering layer l; 0 changes nothing.
    Source: Men et al. 2024 (ShortGPT)."""
    angular: Float[np.ndarray, "layers spans"]
    """arccos(cos(h_l, h_(l+n))) / pi of the last token, mean over documents; column n layers,
    NaN past the last layer. Source: Gromov et al. 2024."""
    halves: Float[np.ndarray, "2 layers"]
    """Mean cosine around attention (row 0) and MLP (row 1); NaN without ``resid_mid``."""
    ratios: Float[np.ndarray, "2 layers"]
    """Norm after over norm before the half, Frobenius over all tokens."""
    n_tokens: int
    n_docs: int

    def half_similarity(self) -> HalfSimilarity:
        """What :func:`adaskip_route` chooses by."""
        return HalfSimilarity(self.halves, self.ratios)

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer."""
        import pandas as pd

        layers = np.arange(len(self.influence))
        frame = pd.DataFrame(
            {
                "layer": layers,
                "influence": self.influence,
                "angular": self.angular[layers, 1],
                "attn_similarity": self.halves[0],
                "mlp_similarity": self.halves[1],
                "attn_ratio": self.ratios[0],
                "mlp_ratio": self.ratios[1],
                "n": self.n_tokens,
            }
        )
        frame.attrs["units"] = {"influence": "1 - cosine", "angular": "angle / pi", "n": "tokens"}
        return frame

    def angular_frame(self) -> "pd.DataFrame":
        """One row per span: first layer, number of layers, distance."""
        import pandas as pd

        start, n = np.nonzero(np.isfinite(self.angular))
        found = pd.DataFrame({"layer": start, "span": n, "angular": self.angular[start, n]})
        found.attrs["units"] = {"angular": "angle / pi", "span": "layers"}
        return found

    def summary(self) -> dict[str, float]:
        """The least and the most influential layer, and the control."""
        return {
            "least_influence": float(self.influence.min()),
            "least_layer": float(self.influence.argmin()),
            "most_influence": float(self.influence.max()),
            **{name: float(v) for name, v in self.controls.values.items()},
        }

    def plot(self) -> "go.Figure":
        """Angular distance of every span of layers."""
        from lensbench.plots import heatmap

        return heatmap(
            self.angular_frame(), x="span", y="layer", value="angular",
            title="How far a span of layers turns the stream",
            subtitle=f"last token of {self.n_docs} documents",
            labels={"layer": "first layer", "span": "number of layers"},
        )  # fmt: skip


def similarity_table(
    store: "ActivationStore", model: Model, *, max_tokens: int | None = None, seed: int = 0
) -> SimilarityTable:
    """Block influence, angular distances and AdaSkip's similarities from stored states.

    Control: one minus the cosine of the stream of each token with that of a random other token at
    the middle layer; a layer far below it hardly turns the stream.

    Raises:
        MissingDataError: the store lacks the stream of some layer.
        MismatchError: states of another model.

    Example:
        >>> table = acceleration.similarity_table(own, early)
    """
    began = time.monotonic()
    store.check_model(model.card)
    require_stream(store, model.n_layers)
    n_layers = model.n_layers
    docs = store.index().doc_ids
    if max_tokens is not None:
        docs = docs[: max(1, int(max_tokens))]
    n = len(docs)
    last = np.flatnonzero(np.append(docs[1:] != docs[:-1], True))
    mids = all(str(Site("resid_mid", i)) in store.sites for i in range(n_layers))
    cosines, halves, squares = np.zeros(n_layers), np.zeros((2, n_layers)), np.zeros((3, n_layers))
    ends = np.stack([_states(store, site, last) for site in _stream(n_layers)])
    for start in range(0, n, _TILE):
        rows = np.arange(start, min(start + _TILE, n))
        before = _states(store, _stream(n_layers)[0], rows)
        for layer in range(n_layers):
            after = _states(store, Site("resid_post", layer), rows)
            cosines[layer] += _cosine(before, after).sum()
            if mids:
                mid = _states(store, Site("resid_mid", layer), rows)
                halves[:, layer] += _cosine(before, mid).sum(), _cosine(mid, after).sum()
                squares[:, layer] += [float((x * x).sum()) for x in (before, mid, after)]
            before = after
    norms = np.sqrt(squares)
    absent = np.full((2, n_layers), np.nan)
    return SimilarityTable(
        influence=1 - cosines / n,
        angular=_angles(ends),
        halves=halves / n if mids else absent,
        ratios=norms[1:] / norms[:-1] if mids else absent,
        n_tokens=n,
        n_docs=len(last),
        config={"store": store.url, "seed": seed},
        controls=_control(store, n_layers, n, seed),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began, store=store
        ),
    )


def angular_distance(
    a: Float[np.ndarray, "... d_model"], b: Float[np.ndarray, "... d_model"]
) -> Float[np.ndarray, "..."]:
    """arccos(cos(a, b)) / pi in [0, 1], in float64 with the cosine clamped to [-1, 1]."""
    return np.arccos(np.clip(_cosine(a, b), -1.0, 1.0)) / np.pi


def _angles(ends: Float[np.ndarray, "places docs d_model"]) -> np.ndarray:
    n_layers = len(ends) - 1
    found = np.full((n_layers, n_layers + 1), np.nan)
    for start in range(n_layers):
        for n in range(n_layers - start + 1):
            found[start, n] = angular_distance(ends[start], ends[start + n]).mean() if n else 0.0
    return found


def _control(store: "ActivationStore", n_layers: int, n: int, seed: int) -> Controls:
    rows = np.random.default_rng(seed).permutation(n)[: min(n, 512)]
    middle = _states(store, Site("resid_post", n_layers // 2), rows)
    other = float(1 - _cosine(middle, np.roll(middle, 1, 0)).mean()) if n > 1 else float("nan")
    return Controls({"other_token": other}, note="1 - cosine of a random other token's stream")


def _stream(n_layers: int) -> list[Site]:
    return [Site("resid_pre", 0), *(Site("resid_post", i) for i in range(n_layers))]


def _states(store: "ActivationStore", site: Site, rows: np.ndarray) -> np.ndarray:
    return store.rows(site, rows).astype(np.float64)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the last axis; two states of length 0 are equal."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = (a * b).sum(-1)
    return np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), 1.0)
