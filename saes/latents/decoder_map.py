"""A map of a dictionary: its decoder rows laid out in two dimensions.

1. Decoder rows get length 1; rows of zeros have no direction and no place.
2. PCA: the rows, centred, on their two axes of largest variance. UMAP: on unit rows with the cosine
   as distance, from a fixed seed (an optional package).
3. How far the map can be believed: of each latent's ten nearest by cosine, the share that are among
   its ten nearest on the map; beside it the same with the places dealt out at random.

Two axes hold little of hundreds: distances on the map are hints. For what is nearest to a latent
ask ``saes.nearest_latents``.
"""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from lensbench.arguments import whole_number
from lensbench.errors import BackendUnavailableError, ConfigError, UnknownNameError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.inputs import decoder_of, unit_rows
from lensbench.saes.latents.geometry import codec_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Method = Literal["pca", "umap"]
METHODS: tuple[Method, ...] = ("pca", "umap")
NEIGHBOURS = 10
SAMPLE = 400
"""Latents whose neighbours are compared, at most."""
UNMARKED = ("no label", "not starred", "fires", "False")
"""Values of a column that are drawn in grey, below the others."""
UNITS = {"density": "share of tokens"}
INSTALL = "pip install 'lensbench[umap]'"


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderMap(Result):
    """A place in two dimensions for every decoder row."""

    method: str
    places: Float[np.ndarray, "d_sae 2"]
    """NaN for rows of zeros."""
    variance: Float[np.ndarray, " axes"]
    """Share of the variance of the unit rows on each axis; empty for UMAP."""
    neighbours_kept: float
    """Share of the ten nearest by cosine that are among the ten nearest on the map, 0 to 1."""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    """Columns that colour the map, one value per latent."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per latent: its place, and the columns of ``facts``."""
        import pandas as pd

        frame = pd.DataFrame({"latent": np.arange(len(self.places)), "x": self.places[:, 0],
                              "y": self.places[:, 1]})  # fmt: skip
        for name, values in self.facts.items():
            frame[name] = list(values)
        axes = [f"{100 * v:.1f} % of the variance" for v in self.variance]
        frame.attrs["units"] = {**dict(zip(("x", "y"), axes, strict=False)), **UNITS}
        return frame

    def summary(self) -> dict[str, float]:
        """What of the directions the map keeps."""
        out = {"latents": float(np.isfinite(self.places).all(1).sum())}
        if len(self.variance):
            out["variance on both axes"] = float(self.variance.sum())
        return {**out, "neighbours kept": self.neighbours_kept}

    def plot(self, color: str = "") -> "go.Figure":
        """The map, coloured by a column of ``facts`` (the first where none is named).

        Raises:
            UnknownNameError: no such column.
        """
        from lensbench.plots import points

        color = color or next(iter(self.facts), "latent")
        if color != "latent" and color not in self.facts:
            raise UnknownNameError("column", color, known=list(self.facts))
        axis = "PC" if self.method == "pca" else "UMAP"
        kept, chance = self.neighbours_kept, next(iter(self.controls.values.values()))
        return points(
            self.to_frame(), x="x", y="y", color=color, key="latent",
            hover_columns=list(self.facts), log_color=color == "density", background=UNMARKED,
            labels={"x": f"{axis} 1", "y": f"{axis} 2"}, title="Decoder map",
            subtitle=f"neighbours kept {kept:.2f}; places at random {chance:.2f}",
        )  # fmt: skip


def decoder_map(
    dictionary: Any,
    *,
    method: Method = "pca",
    facts: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> DecoderMap:
    """Lay the decoder rows of a dictionary out in two dimensions; see the module for the steps.

    neighbours kept = mean over latents of |N_cos(i) & N_map(i)| / 10, 0 to 1, over at most 400
    latents; a map of random places keeps about 10 / (n - 1), which is measured beside it.
    Source: Bricken et al. 2023 (UMAP of decoder directions); McInnes et al. 2018, arXiv:1802.03426.

    Args:
        dictionary: anything with ``W_dec``, a run, or decoder rows ``[d_sae, d_model]``.
        method: ``pca``, or ``umap`` where ``umap-learn`` is installed.
        facts: columns to colour by and to show, one value per latent: density, label ...
        seed: of UMAP and of the sample.

    Raises:
        ConfigError: another method, no decoder, fewer than three directions, or a column of another
            length.
        BackendUnavailableError: UMAP without its package; says how to install it.

    Example:
        >>> figure = saes.decoder_map(run).plot()
    """
    began = time.perf_counter()
    if method not in METHODS:
        raise UnknownNameError("method", str(method), known=METHODS)
    whole_number("seed", seed, least=0)
    rows = unit_rows(decoder_of(codec_of(dictionary)))  # 1
    columns = {str(k): _column(str(k), v, len(rows)) for k, v in (facts or {}).items()}
    known = np.flatnonzero(np.isfinite(rows).all(1))
    if len(known) < 3:
        raise ConfigError(f"a map needs at least 3 directions; this dictionary has {len(known)}")
    places = np.full((len(rows), 2), np.nan)
    variance = np.zeros(0)
    if method == "pca":  # 2
        places[known], variance = principal(rows[known])
    else:
        places[known] = _umap(rows[known], seed)
    rng = np.random.default_rng(own_seed(seed, "decoder map"))
    kept = neighbours_kept(rows[known], places[known], rng)  # 3
    chance = neighbours_kept(rows[known], rng.permutation(places[known]), rng)
    return DecoderMap(
        method=method,
        places=places,
        variance=variance,
        neighbours_kept=kept,
        facts=columns,
        config={"method": method, "seed": seed},
        controls=Controls({"neighbours kept, places at random": chance}),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def has_umap() -> bool:
    """Whether the optional package is installed."""
    found = find_spec("umap")
    return found is not None and found.origin is not None  # no folder that happens to be so called


def principal(
    rows: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " 2"]]:
    """Rows on their two axes of largest variance, and the share of the variance on each.

    An axis points where its largest loading is positive, so that a map looks the same every time.
    """
    centred = rows - rows.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(2)])
    top = np.pad(values[::-1][:2], (0, max(0, 2 - len(values))))
    total = float(np.clip(values, 0, None).sum())
    return centred @ (axes * signs), np.clip(top, 0, None) / (total or np.nan)


def neighbours_kept(
    rows: Float[np.ndarray, "n d"], places: Float[np.ndarray, "n 2"], rng: np.random.Generator
) -> float:
    """Share of the nearest unit rows by cosine that are also the nearest on the map."""
    k = min(NEIGHBOURS, len(rows) - 1)
    rows, places = rows.astype(np.float32), places.astype(np.float32)
    chosen = rng.permutation(len(rows))[:SAMPLE]
    cosine = rows[chosen] @ rows.T
    square = (places**2).sum(1)
    away = square[chosen, None] + square[None] - 2 * places[chosen] @ places.T
    cosine[np.arange(len(chosen)), chosen] = -np.inf
    away[np.arange(len(chosen)), chosen] = np.inf
    near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    drawn = np.argpartition(away, k - 1, axis=1)[:, :k]
    same = [len(np.intersect1d(a, b)) for a, b in zip(near, drawn, strict=True)]
    return float(np.mean(same)) / k


def _umap(rows: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    if not has_umap():
        raise BackendUnavailableError(
            f"UMAP needs the package umap-learn, which is not installed; do: {INSTALL}. "
            "method='pca' needs nothing"
        )
    with warnings.catch_warnings():  # of its own dependencies, and of a seed taking one thread
        warnings.simplefilter("ignore")
        from umap import UMAP  # pyright: ignore[reportMissingImports] - optional

        fit: Any = UMAP(n_neighbors=min(15, len(rows) - 1), metric="cosine", random_state=seed,
                        init="random" if len(rows) < 20 else "spectral")  # fmt: skip
        return np.asarray(fit.fit_transform(rows.astype(np.float32)), np.float64)


def _column(name: str, values: Any, n: int) -> Any:
    if name in ("latent", "x", "y"):
        raise ConfigError(f"a column of the map is called {name!r} already; choose another name")
    array = np.asarray(values)
    if array.shape != (n,):
        raise ConfigError(f"{name!r} must have one value per latent ({n}), got {list(array.shape)}")
    return array if array.dtype.kind in "fiub" else tuple(str(v) for v in values)
