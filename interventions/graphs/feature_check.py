"""Shares beside the model: take a part out where it is written, see what the latent then reads.

1. The largest parts and others at random, biases and what lies behind a latent left out.
2. Held: patterns, norm scales and all other writes stay; the removal reaches the latent only along
   its path of heads. All is linear then, so the change is minus the share.
3. Free: the same removal with nothing held. What differs from the share is what moved attention,
   norms, MLPs and other paths do.
4. Control: the shares of other parts.
"""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.attribution.check import correlation
from lensbench.interventions.graphs.check import shares_of
from lensbench.interventions.graphs.feature_parts import BIAS, HEAD, SKIP
from lensbench.interventions.graphs.feature_result import FeatureAttribution
from lensbench.interventions.graphs.feature_taken import lost_without
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.stats import missed_among, most_missed, pick

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCheck(Result):
    """Shares, and what the latent's pre-activation loses without them, held and free."""

    names: tuple[str, ...]
    chosen: tuple[str, ...]
    """``top`` or ``random``."""
    node: Int[np.ndarray, " tried"]
    share: Float[np.ndarray, " tried"]
    held: Float[np.ndarray, " tried"]
    """Lost with everything but the path held."""
    free: Float[np.ndarray, " tried"]
    """Lost in the model as it is."""
    other: Float[np.ndarray, " tried"]
    """The control: another part's share."""
    value: float
    """The pre-activation: removals count as shares of its size."""
    large: float
    """From which share of it on a removal counts as large."""
    n_small: int
    """Parts outside the top that were called small, tried or not."""

    def correlation(
        self, measured: str = "free", kind: str = "spearman", *, only: str | None = None
    ) -> float:
        """Of the shares with what was lost ``held`` or ``free``; NaN below three parts.

        Raises:
            ConfigError: neither of the two.
        """
        if measured not in ("held", "free"):
            raise ConfigError(f"measured is 'held' or 'free', got {measured!r}")
        keep = np.array([only is None or c == only for c in self.chosen], dtype=bool)
        return correlation(self.share[keep], getattr(self, measured)[keep], kind)

    @property
    def error(self) -> float:
        """Largest ``|share - held|``: rounding."""
        return float(np.abs(self.share - self.held).max())

    @property
    def gap(self) -> float:
        """``sum |free - share| / sum |share|``: what direct shares leave out; NaN if all are 0."""
        size = float(np.abs(self.share).sum())
        return float(np.abs(self.free - self.share).sum()) / size if size > 0 else float("nan")

    @property
    def missed(self) -> tuple[int, int]:
        """Random parts called small whose free removal does much; how many were called small."""
        size = np.full(len(self.share), self.value)
        said, done = shares_of(self.share, size), shares_of(self.free, size)
        return missed_among(said, done, self.chosen, self.large)

    @property
    def missed_bound(self) -> float:
        """Upper 95 % bound on the share of large changes among all parts called small."""
        return most_missed(*self.missed, self.n_small)

    def to_frame(self) -> "pd.DataFrame":
        """One row per part that was taken out."""
        import pandas as pd

        frame = pd.DataFrame({"part": self.names, "chosen": self.chosen, "share": self.share,
                              "held": self.held, "free": self.free})  # fmt: skip
        frame.attrs["units"] = dict.fromkeys(("share", "held", "free"), "pre-activation")
        return frame

    def summary(self) -> dict[str, float]:
        """Rank correlations over all, top and random parts; error when held; gap when free."""
        return {
            "spearman_held": self.correlation("held"), "spearman_free": self.correlation(),
            "spearman_free_top": self.correlation(only="top"),
            "spearman_free_random": self.correlation(only="random"),
            "spearman_control": correlation(self.other, self.held, "spearman"),
            "error_held": self.error, "gap_free": self.gap,
            "missed": float(self.missed[0]), "called_small": float(self.missed[1]),
            "missed_bound": self.missed_bound, "parts": float(len(self.share)),
        }  # fmt: skip

    def plot(self) -> "go.Figure":
        """Shares against what was lost in the model as it is."""
        from lensbench.plots import scatter

        return scatter(
            self.to_frame(), x="free", y="share", color="chosen", hover_columns=("part", "held"),
            title="Shares beside what the latent loses without them",
            subtitle=f"free: rank correlation {self.correlation():.2f}, gap {self.gap:.0%}; "
            f"held: off by {self.error:.1g}; control: {self.controls}",
        )  # fmt: skip


def check_features(
    model: Model, found: FeatureAttribution, top: int = 20, random: int = 20, *,
    large: float = 0.1, seed: int = 0,
) -> FeatureCheck:  # fmt: skip
    """See :meth:`FeatureAttribution.verify`.

    Raises:
        ConfigError: no part, or none asked for.
        MismatchError: shares of another model.
    """
    began, large = time.monotonic(), positive_number("large", large)
    known = found.provenance.model.get("fingerprint")
    if known != model.card.fingerprint:
        raise MismatchError(f"the shares are of a model with fingerprint {known}, this one has "
                            f"{model.card.fingerprint}; attribute again")  # fmt: skip
    pool = candidates(found)
    order = pool[np.argsort(-np.abs(found.share[pool]), kind="stable")]
    top, random = (whole_number(n, v, least=0) for n, v in (("top", top), ("random", random)))
    if not len(order):
        raise ConfigError("there is no part that could be taken out: all are biases")
    picked, chosen = pick(order, top, random, seed)
    lost = {held: lost_without(model, found, picked, held=held) for held in (True, False)}
    wrong = np.random.default_rng(seed).permutation(picked)
    rest = found.share[order[top:]]
    small = np.abs(shares_of(rest, np.full(len(rest), found.value))) < large
    done = FeatureCheck(
        names=tuple(found.names[i] for i in picked), chosen=chosen, node=picked,
        share=found.share[picked], held=lost[True], free=lost[False], other=found.share[wrong],
        value=found.value, large=large, n_small=int(small.sum()),
        config={"top": top, "random": random, "seed": seed, **found.config},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip
    note = "rank correlation of what was lost (held) with the shares of other parts"
    score = correlation(done.other, done.held, "spearman")
    return replace(done, controls=Controls({"other_parts": score}, note))


def candidates(found: FeatureAttribution) -> Int[np.ndarray, " some"]:
    """Parts that can be taken out: no biases, and nothing that acts through a latent."""
    out = [i for i, kind in enumerate(found.node_kind) if kind not in (BIAS, SKIP)
           and all(found.node_kind[p] == HEAD for p in found.path(i)[1:])]  # fmt: skip
    return np.array(out, dtype=np.int64)
