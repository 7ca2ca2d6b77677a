"""What a search for separating latents found, beside what relabelled prompts give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentSeparation(Result):
    """Firing frequencies of every latent in two classes of prompts, and its general scores."""

    site: str
    classes: tuple[str, str]
    groups: tuple[str, ...]
    frequency: Float[np.ndarray, "2 groups latents"]
    """Share of prompts on which the latent fires, by class and group."""
    n: Int[np.ndarray, "2 groups"]
    """Prompts by class and group."""
    n_entities: Int[np.ndarray, " 2"]
    score: Float[np.ndarray, "2 latents"]
    """``min_g (f_own,g - f_other,g)`` for each class, -1 to 1; NaN where the latent was dropped."""
    p: Float[np.ndarray, "2 latents"]
    """Of the greatest score over all latents and both classes."""
    null: Float[np.ndarray, "permutations 2"]
    """Greatest score of each class under each relabelling."""
    kept: Bool[np.ndarray, " latents"]
    """False where the latent fires on too many background tokens."""
    background: Float[np.ndarray, " latents"]
    """Share of background tokens on which it fires; NaN without a background."""
    threshold: float
    """A latent fires above this."""

    @property
    def line(self) -> float:
        """Score that 5 % of relabellings reach by their best latent: the null line."""
        return float(np.quantile(self.null.max(1), 1 - LEVEL))

    @property
    def signed(self) -> Float[np.ndarray, " latents"]:
        """General score, positive for the first class, negative for the second, 0 for neither."""
        return np.fmax(self.score[0], 0) - np.fmax(self.score[1], 0)

    def side(self, name: str) -> int:
        """Number of a class.

        Raises:
            UnknownNameError: no such class.
        """
        if name not in self.classes:
            raise UnknownNameError("class", str(name), known=self.classes)
        return self.classes.index(name)

    def top(self, k: int = 1, side: str | None = None) -> tuple[int, ...]:
        """The k latents of greatest general score for a class (left out: the first one).

        Raises:
            NotEnoughDataError: fewer latents were kept.
        """
        row = self.score[self.side(self.classes[0] if side is None else side)]
        k = whole_number("k", k, least=1)
        if k > self.kept.sum():
            raise NotEnoughDataError(f"{k} latents asked for, {int(self.kept.sum())} were kept")
        order = np.argsort(-np.where(self.kept, row, -np.inf), kind="stable")
        return tuple(int(i) for i in order[:k])

    def significant(self, side: str, level: float = LEVEL) -> tuple[int, ...]:
        """Latents of a class whose p, corrected for all latents, is below ``level``, best first."""
        i = self.side(side)
        found = np.flatnonzero(self.p[i] < level)
        return tuple(int(j) for j in found[np.argsort(-self.score[i][found], kind="stable")])

    def neutral(
        self, n: int, *, within: float = 0.05, seed: int = 0, exclude: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """``n`` random latents that fire here and as often in both classes: a fair control.

        In every group ``|f_a - f_b| <= within``; latents that never fire are left out, because a
        step along them is a step along nothing the model uses.

        Raises:
            ConfigError: a ``within`` that is no number of at least 0.
            NotEnoughDataError: fewer such latents.
        """
        if isinstance(within, str | bool) or not hasattr(within, "__float__") or not within >= 0:
            raise ConfigError(f"within must be a number of at least 0, got {within!r}")
        difference = np.abs(self.frequency[0] - self.frequency[1]).max(0)
        fires = self.frequency.max((0, 1)) > 0
        pool = np.flatnonzero(self.kept & fires & (difference <= within))
        pool = pool[~np.isin(pool, list(exclude))]
        if len(pool) < n:
            raise NotEnoughDataError(
                f"only {len(pool)} latents fire and differ by at most {within} in every group, and "
                f"{n} are needed; raise within, or ask for fewer"
            )
        return tuple(int(i) for i in np.random.default_rng(seed).choice(pool, n, replace=False))

    def to_frame(self) -> "pd.DataFrame":
        """One row per latent and group: both frequencies and their difference; scores and p.

        ``general``, ``p_<class>`` and ``background`` are those of the latent, whatever the group.
        """
        import pandas as pd

        a, b = (f"f_{name}" for name in self.classes)
        parts: list[Any] = []
        for g, name in enumerate(self.groups):
            columns: dict[str, Any] = {"latent": np.arange(len(self.kept)), "group": name}
            columns |= {a: self.frequency[0, g], b: self.frequency[1, g]}
            columns |= {"separation": self.frequency[0, g] - self.frequency[1, g]}
            columns |= {f"n_{c}": self.n[i, g] for i, c in enumerate(self.classes)}
            columns |= {"general": np.where(self.kept, self.signed, np.nan)}
            columns |= {f"p_{c}": self.p[i] for i, c in enumerate(self.classes)}
            parts.append(pd.DataFrame(columns | {"background": self.background}))
        frame = pd.concat(parts, ignore_index=True)
        share = "share of prompts"
        frame.attrs["units"] = {a: share, b: share, "separation": share, "general": share,
                                "background": "share of background tokens"}  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """Best latent of each class with its score and p, and the null line."""
        found: dict[str, float] = {}
        for i, name in enumerate(self.classes):
            best = self.top(1, name)[0]
            found |= {f"{name}_latent": float(best), f"{name}_score": float(self.score[i, best]),
                      f"{name}_p": float(self.p[i, best])}  # fmt: skip
        counts = {"null_line": self.line, "latents": float(self.kept.sum())}
        return {**found, **counts, "entities": float(self.n_entities.sum())}

    def plot(self) -> "go.Figure":
        """Frequency in the one class against the other, and the general score's null line.

        Every latent at (mean frequency over groups and classes, general score); lines are what 5 %
        of relabellings reach with their best latent.
        """
        import pandas as pd

        from lensbench.plots import points

        shown = {"latent": np.arange(len(self.kept)), "frequency": self.frequency.mean((0, 1)),
                 "score": np.where(self.kept, self.signed, np.nan),
                 "p": np.fmin(self.p[0], self.p[1])}  # fmt: skip
        frame = pd.DataFrame(shown)
        frame["beyond chance"] = np.where(frame["p"] < LEVEL, "p < .05", "within chance")
        frame.attrs["units"] = {"frequency": "share of prompts", "score": "share of prompts"}
        n = ", ".join(f"{c} {m}" for c, m in zip(self.classes, self.n_entities, strict=True))
        figure = points(
            frame, x="frequency", y="score", color="beyond chance", key="latent",
            hover_columns=("p",), background=("within chance",),
            title=f"{self.classes[0]} (above 0) against {self.classes[1]} (below) at {self.site}",
            subtitle=f"n = {int(self.n_entities.sum())} entities ({n}); {len(self.groups)} groups; "
            "dashed: null of the maximum",
        )  # fmt: skip
        for y in (self.line, -self.line):
            figure.add_hline(y=y, line={"dash": "dash", "width": 1.5, "color": "#8C8C8C"})
        return figure
