"""What can still be read on accelerated models, beside controls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lensbench.errors import UnknownNameError
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = ("acceleration", "condition", "readout", "site", "measure")
UNITS = {
    "agreement": "share of tokens", "kl": "KL(full ‖ accelerated) [nats]",
    "jaccard": "0 to 1", "f1": "0 to 1",
    "correlation": "-1 to 1", "fvu": "share of variance", "effect_full": "read-out's units",
    "effect": "read-out's units", "effect_kept": "1 is the full effect",
    "effect_cosine": "-1 to 1", "shift_full": "read-out's units", "shift": "read-out's units",
    "reconstruction_fvu_full": "share of variance", "reconstruction_fvu": "share of variance",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Readability(Result):
    """Every read-out on every accelerated model, against the same read-out on the full model.

    Conditions: ``clean``, and with a steer ``steered`` (both models steered) and ``effect`` (what
    the steer moves on either). Beside each value: ``random``, the mean over models that lack as
    many layers before the site, drawn at random; ``shuffled``, the accelerated model's states dealt
    to other tokens. Intervals: 95 % bootstrap over documents.
    """

    rows: tuple[tuple[str, str, str, str, str], ...]
    """Acceleration, condition, readout, site, measure."""
    value: Float[np.ndarray, " rows"]
    low: Float[np.ndarray, " rows"]
    high: Float[np.ndarray, " rows"]
    random: Float[np.ndarray, " rows"]
    shuffled: Float[np.ndarray, " rows"]
    skipped_before: Float[np.ndarray, " rows"]
    """Blocks that do not run before the site; where 0 and nothing is edited, nothing can change."""
    n_documents: int
    n_tokens: int
    headline: Mapping[str, str]
    """Readout -> the measure that stands for it."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per acceleration, condition, read-out, site and measure."""
        import pandas as pd

        frame = pd.DataFrame(list(self.rows), columns=list(COLUMNS))
        for name in ("value", "low", "high", "random", "shuffled", "skipped_before"):
            frame[name] = getattr(self, name)
        frame["n_documents"], frame["n_tokens"] = self.n_documents, self.n_tokens
        frame.attrs["units"] = {"value": "see measure", "skipped_before": "blocks"} | UNITS
        return frame

    def of(
        self, acceleration: str, readout: str, condition: str = "clean", site: str | None = None
    ) -> dict[str, float]:
        """The measures of one read-out on one accelerated model, by name.

        Raises:
            UnknownNameError: no such acceleration, read-out, condition or site.
        """
        asked = {"acceleration": acceleration, "condition": condition, "readout": readout}
        chosen = list(range(len(self.rows)))
        for column, wanted in asked.items():
            at = COLUMNS.index(column)
            known = list(dict.fromkeys(self.rows[i][at] for i in chosen))
            if wanted not in known:
                raise UnknownNameError(column, wanted, known=known)
            chosen = [i for i in chosen if self.rows[i][at] == wanted]
        sites = list(dict.fromkeys(self.rows[i][3] for i in chosen))
        if site is None and len(sites) == 1:
            site = sites[0]
        if site not in sites:
            raise UnknownNameError("site", str(site), known=sites)
        return {self.rows[i][4]: float(self.value[i]) for i in chosen if self.rows[i][3] == site}

    def headlines(self, condition: str = "clean") -> "pd.DataFrame":
        """One row per acceleration, read-out and site: its headline measure."""
        chosen = [r[1] == condition and r[4] == self.headline[r[2]] for r in self.rows]
        frame = self.to_frame()
        units = frame.attrs["units"]
        frame = frame.loc[np.array(chosen, dtype=bool)]
        frame = frame.assign(
            at=[f"{r[2]} @ {r[3]}" for r, c in zip(self.rows, chosen, strict=True) if c]
        )
        frame.attrs["units"] = units
        return frame.reset_index(drop=True)

    def plot(self, condition: str = "clean") -> "go.Figure":
        """The headline measure of every read-out on every accelerated model, with both controls."""
        import pandas as pd

        from lensbench.plots import bars

        frame = self.headlines(condition)
        names = [f"{a}: {b}" for a, b in zip(frame["acceleration"], frame["at"], strict=True)]
        parts = [frame.assign(at=names, states="accelerated")]
        for control in ("random", "shuffled"):
            parts.append(
                parts[0].assign(value=frame[control], low=np.nan, high=np.nan, states=control)
            )
        return bars(
            pd.concat(parts), x="at", y="value", color="states", low="low", high="high",
            hover_columns=["measure", "skipped_before"],
            title="What can still be read on the accelerated model",
            subtitle=f"1 reads as on the full model; n = {self.n_tokens:,} tokens; 95 % over "
            f"{self.n_documents:,} documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Worst and mean headline measure, the controls' means, and the least effect kept."""
        own = np.array([r[2] == "model output" for r in self.rows])
        clean = np.array([r[1] == "clean" and r[4] == self.headline[r[2]] for r in self.rows])
        kept = self.value[[r[4] == "effect_kept" for r in self.rows]]
        found = {
            "worst": _of(np.min, self.value[clean & ~own]),
            "mean": _of(np.mean, self.value[clean & ~own]),
            "random": _of(np.mean, self.random[clean & ~own]),
            "shuffled": _of(np.mean, self.shuffled[clean & ~own]),
        }
        return found | ({"least_effect_kept": _of(np.min, kept)} if len(kept) else {})


def _of(what: Callable[[Any], Any], values: Any) -> float:
    """Of the values there are; NaN where there is none."""
    there = values[~np.isnan(values)]
    return float(what(there)) if len(there) else float("nan")
