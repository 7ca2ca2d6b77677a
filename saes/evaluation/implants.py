"""Does training find a direction that we put there ourselves? A curve of recovery over strength.

Known unit directions are added to real activations, each on its own few rows; a dictionary is
trained on the result, and a direction counts as found when a decoder row has a cosine of at least
0.9 with it. Strength 0 is the control: the same directions and rows, nothing added.

Use it to ask what a recipe (data, width, sparsity, steps) can find at all. It does not say that the
latents of a real model are features.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.controls import own_seed
from lensbench.stats import bootstrap_mean
from lensbench.worlds.controls import implant_directions, recovered_share

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Fit = Callable[[Float[Tensor, "tokens d_model"]], Any]
"""Trains a dictionary on activations and gives back something with ``W_dec``."""
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImplantRecovery(Result):
    """How well each implanted direction is matched by a decoder row, at every strength."""

    strengths: Float[np.ndarray, " strengths"]
    """Length of what was added, in medians of the activation norm."""
    best_cosine: Float[np.ndarray, "strengths directions"]
    """Largest cosine of a decoder row with the direction."""
    share: Float[np.ndarray, "strengths 3"]
    """Share of directions with a cosine of at least ``threshold``: value, low, high."""
    threshold: float
    fraction: float
    """Share of the rows that received each direction."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per strength: recovered share with its interval over directions."""
        import pandas as pd

        frame = pd.DataFrame(self.share, columns=["recovered", "low", "high"])
        frame.insert(0, "strength", self.strengths)
        frame["n"] = self.best_cosine.shape[1]
        frame["mean_best_cosine"] = self.best_cosine.mean(1)
        frame.attrs["units"] = {
            "strength": "median activation norm",
            "recovered": "share of directions",
        }
        return frame

    def summary(self) -> dict[str, float]:
        """Recovered share at every strength."""
        return {
            f"recovered at {s:g}": float(v)
            for s, v in zip(self.strengths, self.share[:, 0], strict=True)
        }

    def plot(self) -> "go.Figure":
        """Recovered share over strength."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(),
            x="strength",
            y="recovered",
            low="low",
            high="high",
            title="Implanted directions recovered",
            subtitle=f"n={self.best_cosine.shape[1]} directions; control: {self.controls}",
        )


def implant_recovery(
    fit: Fit,
    acts: Float[Tensor, "tokens d_model"],
    *,
    n: int = 16,
    strengths: Sequence[float] = STRENGTHS,
    fraction: float = 0.01,
    threshold: float = 0.9,
    seed: int = 0,
) -> ImplantRecovery:
    """Implant ``n`` directions at every strength, train with ``fit``, and count what came back.

    The same directions and rows are used at every strength. Intervals resample directions.

    Raises:
        ConfigError: no strength 0, which is the control, or directions that do not fit the rows.

    Example:
        >>> entry = {"architecture": "topk", "d_sae": 64, "k": 4}
        >>> config = {"train": {"tokens": 2000, "batch": 250}, "sweep": [entry]}
        >>> def fit(acts):
        ...     batches = list(acts.split(250)) * 2
        ...     return saes.train(batches, config, progress=False)[0].sae
        >>> found = saes.implant_recovery(fit, x, n=4, strengths=(0.0, 1.0))
    """
    if 0.0 not in strengths:
        raise ConfigError(f"strengths must hold 0, the control without implant; got {strengths}")
    began, cosines, shares = time.perf_counter(), list[np.ndarray](), list[list[float]]()
    places = own_seed(seed, "implants")
    for strength in strengths:
        changed, implant = implant_directions(acts, n, strength, fraction=fraction, seed=places)
        decoder = fit(changed).W_dec.detach().float().cpu()
        unit = torch.nn.functional.normalize(decoder, dim=-1)
        best = (implant.directions.cpu() @ unit.T).amax(1)
        hits = (best >= threshold).double().numpy()
        around = bootstrap_mean(hits, seed=seed)
        share = recovered_share(decoder, implant.directions.cpu(), threshold=threshold)
        shares.append([share, around.low, around.high])
        cosines.append(best.numpy())
    without = shares[list(strengths).index(0.0)][0]
    return ImplantRecovery(
        strengths=np.array(strengths, np.float64),
        best_cosine=np.stack(cosines),
        share=np.array(shares),
        threshold=threshold,
        fraction=fraction,
        config={"n": n, "fraction": fraction, "threshold": threshold, "seed": seed},
        controls=Controls({"without implant": without}),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def fit_with(dictionary: Any, *, tokens: int, batch_size: int = 512, seed: int = 0) -> Fit:
    """A ``fit`` that trains one dictionary of this config on shuffled rows, epoch after epoch."""
    from lensbench.saes.configs import SweepConfig

    sweep = SweepConfig.of(dictionary, tokens=tokens, batch_size=batch_size)

    def fit(acts: Float[Tensor, "tokens d_model"]) -> Any:
        from lensbench.saes.training.trainer import train

        if len(acts) < batch_size:
            raise ConfigError(
                f"{len(acts)} rows do not fill one batch of {batch_size}; lower batch_size, or "
                "take more rows"
            )
        (run,) = train(_batches(acts, batch_size, seed), sweep, progress=False)
        return run.sae

    return fit


def _batches(
    acts: Float[Tensor, "tokens d_model"], batch_size: int, seed: int
) -> Iterator[Float[Tensor, "batch d_model"]]:
    gen = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(acts), generator=gen)
        for start in range(0, len(acts) - batch_size + 1, batch_size):
            yield acts[order[start : start + batch_size]]
