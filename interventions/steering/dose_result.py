"""What a dose curve found: effect, cost and fluency of every step, beside controls as long."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from lensbench.errors import UnknownNameError
from lensbench.interventions.steering.matching import at_level
from lensbench.results import Result
from lensbench.stats import bootstrap_mean
from lensbench.words import spelled

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Axis = Literal["strength", "kl"]
MEASURES = ("effect", "success", "kl", "perplexity")
KL = "KL(clean ‖ steered) [nats]"
TAILS = (0.025, 0.975)
_BARE = str.maketrans("", "", "[]'")
"""Signs of a list's spelling, which no reader needs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SteeringResult(Result):
    """Every direction at every strength, on every prompt.

    A step has the length ``strength * scale``, whatever its direction; ``scale`` is the median
    length of the state at the steered tokens, so 1 is a step as long as the state itself.

    Example:
        >>> states = interventions.contrast_states(model, pairs, "blocks.3.resid_post")
        >>> found = interventions.dose_curve(model, states.mean_difference(), pairs, [0.0, 1.0])
        >>> figure = found.plot("effect", "kl")
    """

    columns_shown = ("kind", "direction", "strength", "effect", "success", "kl",
                     "perplexity", "directions", "n")  # fmt: skip

    task: str
    metric: str
    unit: str
    above: float
    """A prompt is a success where its effect is above this."""
    at: str
    """Which tokens were steered."""
    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    """``direction``, ``random`` or ``shuffled``."""
    sites: tuple[str, ...]
    scale: Float[np.ndarray, " directions"]
    """Median length of the clean state at the steered tokens, in units of the site."""
    norms: Float[np.ndarray, " directions"]
    """Length of the direction as it was given: ``coefficient = strength * scale / norm``."""
    strengths: Float[np.ndarray, " strengths"]
    effect: Float[np.ndarray, "directions strengths prompts"]
    kl: Float[np.ndarray, "directions strengths prompts"]
    """``KL(clean || steered)``, mean over the prompt's tokens, nats."""
    nll: Float[np.ndarray, "directions strengths prompts"]
    """Mean ``-log p`` of the steered continuation under the unsteered model, nats per token; NaN
    where nothing was generated."""
    clean: Float[np.ndarray, " prompts"]
    clean_nll: Float[np.ndarray, " prompts"]
    unshuffled: tuple[str, ...] = ()
    """Of each direction why it has no controls of shuffled labels; empty where it has."""

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.clean)

    @property
    def undefined(self) -> tuple[str, ...]:
        """Controls that there are none of, in words, with the directions they are missing for."""
        names: dict[str, list[str]] = {}
        for label, why in zip(self.labels, self.unshuffled, strict=False):
            if why:
                names.setdefault(why, []).append(label)
        return tuple(f"{why} ({', '.join(which)})" for why, which in names.items())

    @property
    def controlled(self) -> str:
        """The controls, and what is not defined."""
        return "; ".join([str(self.controls), *self.undefined])

    def rows_of(self, kind: str) -> np.ndarray:
        """Numbers of the directions of a kind."""
        return np.flatnonzero(np.array(self.kinds) == kind)

    def to_frame(self) -> "pd.DataFrame":
        """One row per direction and strength, and one per kind of control and strength.

        Bounds of a direction are 95 % intervals over prompts (percentile bootstrap); those of
        controls are the central 95 % of the directions' means, over ``directions`` of them.
        ``perplexity = exp(mean nll)``.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i in self.rows_of("direction"):
            rows += [self._row(int(i), j) for j in range(len(self.strengths))]
        for kind in ("random", "shuffled"):
            for site in dict.fromkeys(np.array(self.sites)[self.rows_of(kind)].tolist()):
                same = [int(i) for i in self.rows_of(kind) if self.sites[i] == site]
                rows += [self._band(kind, site, same, j) for j in range(len(self.strengths))]
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {
            "effect": self.unit, "kl": KL, "strength": "lengths of the state",
            "success": "share", "perplexity": "per token, unsteered model", "n": "prompts",
        }  # fmt: skip
        return frame

    def _row(self, i: int, j: int) -> dict[str, Any]:
        effect, kl = bootstrap_mean(self.effect[i, j]), bootstrap_mean(self.kl[i, j])
        row = self._place("direction", self.labels[i], i, j, 1)
        row |= {"effect": effect.mean, "low": effect.low, "high": effect.high}
        row |= {"success": self._success(self.effect[i, j])}
        row |= {"kl": kl.mean, "kl_low": kl.low, "kl_high": kl.high}
        nll = self.nll[i, j]
        if np.isfinite(nll).all():
            found = bootstrap_mean(nll)
            bounds = np.exp([found.mean, found.low, found.high])
        else:
            bounds = np.full(3, np.nan)
        return {**row, **dict(zip(("perplexity", "ppl_low", "ppl_high"), bounds, strict=True))}

    def _band(self, kind: str, site: str, same: list[int], j: int) -> dict[str, Any]:
        row = self._place(kind, f"{kind} ({len(same)})", same[0], j, len(same))
        means = {
            "effect": self.effect[same, j].mean(-1),
            "kl": self.kl[same, j].mean(-1),
            "perplexity": np.exp(self.nll[same, j].mean(-1)),
        }
        names = {"effect": ("low", "high"), "kl": ("kl_low", "kl_high"),
                 "perplexity": ("ppl_low", "ppl_high")}  # fmt: skip
        row |= {"success": self._success(self.effect[same, j])}
        for name, values in means.items():
            row[name] = float(values.mean())
            row |= dict(zip(names[name], np.quantile(values, TAILS), strict=True))
        return row | {"site": site}

    def _place(self, kind: str, label: str, i: int, j: int, n: int) -> dict[str, Any]:
        step = float(self.strengths[j] * self.scale[i])
        return {"kind": kind, "direction": label, "site": self.sites[i],
                "strength": float(self.strengths[j]), "step": step,
                "coefficient": step / float(self.norms[i]) if n == 1 else np.nan,
                "n": self.n, "directions": n}  # fmt: skip

    def _success(self, effect: np.ndarray) -> float:
        return float((effect > self.above).mean())

    def matched(self) -> "pd.DataFrame":
        """Every dose beside the controls *at the same KL*: is the effect more than its cost buys?

        Each control's curve is followed from no step on, on the same side, to where its mean KL
        first reaches that of the dose; effect and success there are interpolated linearly. Controls
        that never get there are left out, and ``reached`` says how many did. ``p`` is one-sided, on
        the side to which the step should move the effect: ``(1 + number of controls with at least
        this effect) / (1 + reached)``, of negative strengths with at most this effect; NaN where
        none reached.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i in self.rows_of("direction"):
            for j in np.flatnonzero(self.strengths):
                none = i < len(self.unshuffled) and self.unshuffled[i]
                for kind in ("random",) if none else ("random", "shuffled"):
                    same = [k for k in self.rows_of(kind) if self.sites[k] == self.sites[i]]
                    if same:
                        rows.append(self._matched(int(i), int(j), kind, same))
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"effect": self.unit, "kl": KL, "success": "share"}
        return frame

    def _matched(self, i: int, j: int, kind: str, same: list[Any]) -> dict[str, Any]:
        level = float(self.kl[i, j].mean())
        side = np.sign(self.strengths) == np.sign(self.strengths[j])
        order = np.flatnonzero(side)[np.argsort(np.abs(self.strengths[side]))]
        effects, successes = np.full(len(same), np.nan), np.full(len(same), np.nan)
        for row, k in enumerate(same):
            kl = np.concatenate([[0.0], self.kl[k, order].mean(-1)])
            effect = np.concatenate([[self.clean.mean()], self.effect[k, order].mean(-1)])
            share = [self._success(self.clean), *(self._success(e) for e in self.effect[k, order])]
            effects[row] = at_level(kl, effect, level)
            successes[row] = at_level(kl, np.array(share), level)
        there = np.isfinite(effects)
        own = float(self.effect[i, j].mean())
        reached = int(there.sum())
        low, high = np.quantile(effects[there], TAILS) if reached else (np.nan, np.nan)
        way = float(np.sign(self.strengths[j]))  # a step back should lower the effect
        beaten = int((way * effects[there] >= way * own).sum())
        return {
            "direction": self.labels[i], "site": self.sites[i],
            "strength": float(self.strengths[j]), "kl": level, "effect": own,
            "success": self._success(self.effect[i, j]), "control": kind,
            "control_effect": float(effects[there].mean()) if reached else np.nan,
            "control_low": float(low), "control_high": float(high),
            "control_success": float(successes[there].mean()) if reached else np.nan,
            "reached": reached, "directions": len(same),
            "p": (1 + beaten) / (1 + reached) if reached else np.nan, "n": self.n,
        }  # fmt: skip

    def summary(self) -> dict[str, float]:
        """The first direction at its strongest step, the controls there, and the clean run."""
        j = int(np.argmax(np.abs(self.strengths)))
        found = {
            "clean": float(self.clean.mean()),
            "effect": float(self.effect[0, j].mean()),
            "success": self._success(self.effect[0, j]),
            "strength": float(self.strengths[j]),
            "kl": float(self.kl[0, j].mean()),
        }
        if np.isfinite(self.nll[0, j]).all():
            found["perplexity"] = float(np.exp(self.nll[0, j].mean()))
            found["clean_perplexity"] = float(np.exp(self.clean_nll.mean()))
        counts = {f"{kind}_directions": float(len(self.rows_of(kind)))
                  for kind in ("random", "shuffled")}  # fmt: skip
        return {**found, **counts, "prompts": float(self.n)}

    def __repr__(self) -> str:
        """The headline numbers, and which control is not defined."""
        return Result.__repr__(self)[:-1] + "".join(f"; {w}" for w in self.undefined) + ")"

    def plot(self, y: str = "effect", x: Axis = "strength") -> "go.Figure":
        """One measure against the strength, or against KL, with bands of the controls.

        Raises:
            UnknownNameError: another measure or axis.
        """
        from lensbench.interventions.metrics import said
        from lensbench.plots import lines

        bounds = {"effect": ("low", "high"), "kl": ("kl_low", "kl_high"),
                  "perplexity": ("ppl_low", "ppl_high"), "success": (None, None)}  # fmt: skip
        if y not in bounds:
            raise UnknownNameError("measure", str(y), known=MEASURES)
        if x not in ("strength", "kl"):
            raise UnknownNameError("axis", str(x), known=("strength", "kl"))
        low, high = bounds[y]
        name = said(self.metric) if y == "effect" else spelled(y)
        return lines(
            self.to_frame(), x=x, y=y, color="direction", low=low, high=high,
            hover_columns=("site", "step", "n", "directions"),
            title=f"{self.task}: {name} under steering",
            subtitle=f"steps of equal length at {self.at.translate(_BARE)}, {self.n} prompts; "
            f"control: {self.controlled}",
        )  # fmt: skip
