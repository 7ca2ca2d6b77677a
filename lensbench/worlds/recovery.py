"""A dictionary scored against the atoms it should have found.

1. Cosines of decoder rows and atoms: MMCS both ways, Hungarian matchings, recovered share.
2. On fresh rows, the latent that fires with each atom: chosen on one half, scored on the other.
3. The same for random directions, and for the atoms of another world, as controls.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.worlds.controls import RandomDictionary, random_dictionary
from lensbench.worlds.matching import cosines, hungarian, mcc, uniqueness
from lensbench.worlds.superposition import Sample, SuperpositionWorld

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

UNITS = {
    "mmcs_atoms_to_latents": "cosine",
    "mmcs_latents_to_atoms": "cosine",
    "hungarian_cosine": "cosine",
    "mcc": "absolute cosine",
    "uniqueness": "atoms per latent",
    "recovered_share": "share of atoms",
    "best_latent_f1": "F1",
    "l0": "latents per row",
    "fvu": "share of variance",
}
"""Metric to unit; formulas: ``docs/methods.md``, "Worlds of known atoms"."""
RANDOM, OTHER = "random_dictionary", "other_atoms"
_CHUNK = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class AtomRecovery(Result):
    """How much of a world's atoms a dictionary found; controls hold every metric twice.

    ``controls.values`` has ``random_dictionary/<metric>`` (random directions, as many latents and
    as many active ones) and ``other_atoms/<metric>`` (a world of another seed's atoms as decoder).
    """

    units: ClassVar[dict[str, str]] = UNITS

    metrics: dict[str, float]
    threshold: float
    """Signed cosine from which an atom counts as recovered."""
    n_rows: int
    """Fresh rows: one half chooses each atom's best latent, the other half scores it."""
    n_latents: int
    rates: Float[np.ndarray, " n_atoms"]
    """Share of rows in which each atom fires."""
    cosine: Float[np.ndarray, " n_atoms"]
    """Largest signed cosine with any latent."""
    nearest: Int[np.ndarray, " n_atoms"]
    """That latent."""
    best_latent: Int[np.ndarray, " n_atoms"]
    """The latent whose firing says best whether the atom fires."""
    f1: Float[np.ndarray, " n_atoms"]
    """Its F1 on the other half; NaN where the atom does not fire there."""

    def value(self, metric: str) -> float:
        """One number.

        Raises:
            UnknownNameError: a metric that is not here.
        """
        if metric not in self.metrics:
            raise UnknownNameError("metric", metric, known=tuple(self.metrics))
        return self.metrics[metric]

    def summary(self) -> dict[str, float]:
        """Every metric."""
        return dict(self.metrics)

    def to_frame(self) -> pd.DataFrame:
        """One row per metric: value, unit, n, and the two controls."""
        import pandas as pd

        known = self.controls.values
        rows = [
            {
                "metric": name,
                "value": value,
                "unit": UNITS[name],
                "n": self._n(name),
                RANDOM: known.get(f"{RANDOM}/{name}", float("nan")),
                OTHER: known.get(f"{OTHER}/{name}", float("nan")),
            }
            for name, value in self.metrics.items()
        ]
        return pd.DataFrame(rows)

    def atoms_frame(self) -> pd.DataFrame:
        """One row per atom: firing rate, cosine, nearest latent, best latent and its F1."""
        import pandas as pd

        columns = {
            "atom": np.arange(len(self.cosine)),
            "rate": self.rates,
            "cosine": self.cosine,
            "nearest": self.nearest,
            "best_latent": self.best_latent,
            "f1": self.f1,
        }
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {"rate": "share of rows", "cosine": "cosine", "f1": "F1"}
        return frame

    def plot(self) -> go.Figure:
        """Each atom's cosine against how often it fires: rare atoms are missed first."""
        from lensbench import plots

        found = f"{self.metrics['recovered_share']:.0%} of {len(self.cosine)} atoms"
        return plots.scatter(
            self.atoms_frame(),
            x="rate",
            y="cosine",
            hover_columns=("atom", "nearest", "best_latent", "f1"),
            title="Atoms recovered",
            subtitle=f"{found} at cosine {self.threshold:g} or more; controls: {self.controls}",
            log_x=True,
        )

    def _n(self, metric: str) -> int:
        if metric in ("l0", "fvu"):
            return self.n_rows
        if metric in ("mmcs_latents_to_atoms", "uniqueness"):
            return self.n_latents
        if metric in ("hungarian_cosine", "mcc"):
            return min(self.n_latents, len(self.cosine))
        return int(np.isfinite(self.f1).sum()) if metric == "best_latent_f1" else len(self.cosine)


def recovery(
    dictionary: Any,
    world: SuperpositionWorld,
    *,
    n: int = 16_384,
    threshold: float = 0.9,
    seed: int = 1_000_003,
) -> AtomRecovery:
    """Score a dictionary against the atoms of its world, beside two controls.

    Args:
        dictionary: a ``Codec`` with ``W_dec`` ``[d_sae, d_model]``, or a run that holds one as
            ``sae``.
        world: the world it was trained on.
        n: fresh rows for F1, L0 and FVU.
        threshold: signed cosine from which an atom counts as recovered.
        seed: of the rows; take another than the training's.

    Raises:
        ConfigError: no decoder, too few rows, or a threshold outside (0, 1].
        MismatchError: a dictionary of another width.
    """
    began = time.monotonic()
    sae = getattr(dictionary, "sae", dictionary)
    decoder = getattr(sae, "W_dec", None)
    if decoder is None or not callable(getattr(sae, "encode", None)):
        raise ConfigError(
            "recovery needs a dictionary with encode, decode and W_dec [d_sae, d_model], got "
            f"{type(dictionary).__name__}; for bare directions use mmcs, hungarian or mcc"
        )
    if decoder.shape[-1] != world.config.d_model:
        raise MismatchError(
            f"the dictionary reads width {decoder.shape[-1]}, the world has d_model "
            f"{world.config.d_model}; score it on the world it was trained on"
        )
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold must lie in (0, 1], a cosine; got {threshold}")
    rows = world.sample(whole_number("n", n, least=2), seed=seed)
    mine = _scored(sae, world, rows, threshold)
    d_sae, k = decoder.shape[0], max(1, round(mine.metrics["l0"]))
    config = world.config
    other = SuperpositionWorld(config.model_copy(update={"seed": config.seed ^ 0x0DD}))
    controls = {
        RANDOM: random_dictionary(config.d_model, d_sae, min(k, d_sae), seed=seed),
        OTHER: RandomDictionary(other.atoms, min(k, config.n_atoms)),
    }
    values = {
        f"{name}/{metric}": value
        for name, control in controls.items()
        for metric, value in _scored(control, world, rows, threshold).metrics.items()
    }
    return AtomRecovery(
        metrics=mine.metrics,
        threshold=float(threshold),
        n_rows=n,
        n_latents=d_sae,
        rates=world.rates(),
        cosine=mine.cosine,
        nearest=mine.nearest,
        best_latent=mine.best,
        f1=mine.f1,
        config={"world": config.to_dict(), "n": n, "threshold": float(threshold), "seed": seed},
        provenance=record(seed=seed, seconds=time.monotonic() - began),
        controls=Controls(values, "same rows; as many active latents as the dictionary"),
    )


@dataclass(frozen=True)
class _Scores:
    metrics: dict[str, float]
    cosine: np.ndarray
    nearest: np.ndarray
    best: np.ndarray
    f1: np.ndarray


def _scored(sae: Any, world: SuperpositionWorld, rows: Sample, threshold: float) -> _Scores:
    decoder = sae.W_dec.detach().float().cpu()
    table = cosines(world.atoms, decoder)
    near = table.max(1)
    chosen, scored, l0, fvu = _counted(sae, rows)
    best = chosen.argmax(1)
    f1 = scored.gather(1, best[:, None])[:, 0].numpy()
    metrics = {
        "mmcs_atoms_to_latents": float(near.values.mean()),
        "mmcs_latents_to_atoms": float(table.amax(0).mean()),
        "hungarian_cosine": float(hungarian(world.atoms, decoder).cosine.mean()),
        "mcc": mcc(world.atoms, decoder),
        "uniqueness": uniqueness(decoder, world.atoms),
        "recovered_share": float((near.values >= threshold).double().mean()),
        "best_latent_f1": float(np.nanmean(f1)) if np.isfinite(f1).any() else float("nan"),
        "l0": l0,
        "fvu": fvu,
    }
    return _Scores(metrics, near.values.numpy(), near.indices.numpy(), best.numpy(), f1)


def _counted(sae: Any, rows: Sample) -> tuple[Tensor, Tensor, float, float]:
    """F1 of every (atom, latent) on both halves (NaN without positives), L0 and FVU on all rows."""
    x, truth = rows.activations, rows.codes > 0
    half = len(x) // 2
    tables: list[Tensor] = []
    active, error = 0.0, 0.0
    for part in (slice(0, half), slice(half, len(x))):
        hits = fired = 0
        for xs, ys in zip(x[part].split(_CHUNK), truth[part].split(_CHUNK), strict=True):
            acts = sae.encode(xs).detach().float().cpu()
            on = (acts != 0).float()
            hits, fired = hits + ys.float().T @ on, fired + on.sum(0)
            active += float(on.sum())
            error += float((xs - sae.decode(acts).detach().cpu()).double().square().sum())
        tables.append(_f1(torch.as_tensor(hits), torch.as_tensor(fired), truth[part]))
    variance = float((x - x.double().mean(0)).square().sum())
    return torch.nan_to_num(tables[0]), tables[1], active / len(x), error / variance


def _f1(
    hits: Float[Tensor, "atoms latents"],
    fired: Float[Tensor, " latents"],
    truth: Bool[Tensor, "rows atoms"],
) -> Float[Tensor, "atoms latents"]:
    """2 TP / (latent fires + atom fires); NaN for an atom that does not fire."""
    positives = truth.float().sum(0)[:, None]
    score = 2 * hits / (fired + positives)
    return torch.where(positives > 0, score, torch.full_like(score, float("nan")))
