"""What suppressing and forcing some experts did to a behaviour, beside matched random experts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.errors import UnknownNameError
from lensbench.interventions.experts.maps import RoutingMaps
from lensbench.interventions.experts.ranking import ExpertRanking
from lensbench.results import Result
from lensbench.standing import Standing, standing
from lensbench.stats import Interval, bootstrap_mean, wilson

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertReport(Result):
    """A behaviour under each condition, on prompts that had no part in finding the experts.

    ``rate`` is the share of test prompts labelled ``target``; intervals are Wilson's, 95 %.

    Example:
        >>> says = experts.NextToken({"refused": desk_refusals}, other="answered")
        >>> found = experts.expert_study(moe, desk_ids, says, target="refused", top=1, random=2)
        >>> figure, newly = found.plot(), found.newly()
    """

    conditions: tuple[str, ...]
    """``clean``, ``suppressed``, ``forced``, then ``suppressed random 1``, ..."""
    target: str
    classes: tuple[str, ...]
    labels: Int[np.ndarray, "conditions tests"]
    """Number of the label in ``classes``, of every test prompt under every condition."""
    experts: Int[np.ndarray, "experts 2"]
    """``(layer, expert)``, best first."""
    forced: Int[np.ndarray, "forced 2"]
    """Those of them that were forced: at most ``top_k`` of one layer fit into a token's slots."""
    random: Int[np.ndarray, "draws experts 2"]
    """Matched on layer, number and routing load."""
    test_rows: Int[np.ndarray, " tests"]
    find_rows: Int[np.ndarray, " finds"]
    """Prompts that the experts were found on; empty where they were given."""
    texts: tuple[str, ...]
    """The test prompts."""
    kl: Float[np.ndarray, "conditions neutral"]
    """Mean over tokens of KL(clean || edited) on neutral prompts, nats."""
    loss: Float[np.ndarray, "conditions neutral"]
    """Mean of -log p of the neutral prompts' own tokens, nats; NaN for a prompt of one token."""
    changed: Bool[np.ndarray, "conditions neutral"]
    """Whether the greedy answer to a neutral prompt differs from the clean one."""
    n_predicted: Int[np.ndarray, " neutral"]
    neutral_from: str
    """Where the neutral prompts come from."""
    maps: RoutingMaps
    """Routing of the prompts that the experts were found on (of all, where they were given)."""
    ranking: ExpertRanking | None = None

    def rate(self, condition: str = "clean") -> Interval:
        """Share of test prompts with the target label, with Wilson's interval."""
        hits = self._hits(condition)
        return wilson(int(hits.sum()), len(hits))

    def relative_change(self, condition: str = "suppressed") -> float:
        """``(rate - clean rate) / clean rate``; NaN where the clean rate is 0."""
        clean = self.rate().mean
        return (self.rate(condition).mean - clean) / clean if clean > 0 else float("nan")

    def standing(self, how: str = "suppressed") -> Standing:
        """The rate under ``suppressed`` or ``forced`` among the random experts' under the same.

        Raises:
            NotEnoughDataError: a study without random experts.
        """
        drawn = [self.rate(c).mean for c in self._draws(how)]
        return standing(self.rate(how).mean, drawn, self.rate().mean)

    def newly(self, condition: str = "suppressed") -> np.ndarray:
        """Test prompts that get the target label under a condition and did not before."""
        return self._rows(self._hits(condition) & ~self._hits("clean"))

    def no_longer(self, condition: str = "suppressed") -> np.ndarray:
        """Test prompts that had the target label and lose it under a condition."""
        return self._rows(self._hits("clean") & ~self._hits(condition))

    def perplexity(self, condition: str = "clean") -> float:
        """``exp`` of the mean loss per token of all neutral prompts; >= 1."""
        loss, n = self.loss[self._at(condition)], self.n_predicted
        known = np.isfinite(loss) & (n > 0)
        if not known.any():
            return float("nan")
        return float(np.exp((loss[known] * n[known]).sum() / n[known].sum()))

    def confusion(self, condition: str = "suppressed") -> "pd.DataFrame":
        """Labels before (rows) against labels under a condition (columns), in test prompts."""
        import pandas as pd

        pair = zip(self.labels[0], self.labels[self._at(condition)], strict=True)
        grid = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        for before, after in pair:
            grid[before, after] += 1
        return pd.DataFrame(grid, index=[*self.classes], columns=[*self.classes])

    def changed_prompts(self, condition: str = "suppressed") -> "pd.DataFrame":
        """Every test prompt whose label a condition changed: its text, before, after."""
        import pandas as pd

        at = self._at(condition)
        moved = np.flatnonzero(self.labels[at] != self.labels[0])
        return pd.DataFrame(
            [{"prompt": int(self.test_rows[i]), "text": self.texts[i],
              "before": self.classes[self.labels[0, i]], "after": self.classes[self.labels[at, i]]}
             for i in moved],
            columns=["prompt", "text", "before", "after"],
        )  # fmt: skip

    def experts_frame(self) -> "pd.DataFrame":
        """One row per found expert: rank, load, differential, p, and with whom it fires.

        ``partner`` is the found expert of the same layer that most of its tokens share.
        """
        import pandas as pd

        layers, load, both = self.maps.layers.tolist(), self.maps.load, self.maps.coactivation
        rows: list[dict[str, Any]] = []
        for rank, (layer, expert) in enumerate(self.experts.tolist(), 1):
            at = layers.index(layer)
            mates = [e for other, e in self.experts.tolist() if other == layer and e != expert]
            mate = max(mates, key=lambda e: np.nan_to_num(both[at, expert, e]), default=None)
            row = {"rank": rank, "layer": layer, "expert": expert, "load": load[at, expert]}
            if self.ranking is not None:
                number = self.ranking.classes.index(self.target)
                row |= {"differential": self.ranking.differential[number, at, expert],
                        "p": self.ranking.p[number, at, expert]}  # fmt: skip
            shared = float("nan") if mate is None else both[at, expert, mate]
            rows.append({**row, "partner": -1 if mate is None else mate, "shared": shared})
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"load": "share of slots", "shared": "share of its tokens"}
        return frame

    def to_frame(self) -> "pd.DataFrame":
        """One row per condition: the rate with its interval, who changed, and collateral change."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for at, name in enumerate(self.conditions):
            rate, kl = self.rate(name), bootstrap_mean(self.kl[at])
            rows.append({
                "condition": name, "rate": rate.mean, "low": rate.low, "high": rate.high,
                "n": rate.n, "relative_change": self.relative_change(name),
                "newly": len(self.newly(name)), "no_longer": len(self.no_longer(name)),
                "kl": kl.mean, "kl_low": kl.low, "kl_high": kl.high,
                "perplexity": self.perplexity(name),
                "neutral_changed": float(self.changed[at].mean()), "n_neutral": kl.n,
            })  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {
            "rate": f"share labelled {self.target}", "n": "test prompts",
            "kl": "KL(clean ‖ steered) [nats]",
            "relative_change": "of the clean rate", "n_neutral": "neutral prompts",
            "newly": "count of test prompts", "no_longer": "count of test prompts",
            "neutral_changed": "share of neutral prompts",
        }  # fmt: skip
        return frame

    def _html_body(self) -> str:
        """The conditions, then the experts that they are about."""
        from lensbench.plots.tables import html_table

        return html_table(self.to_frame()) + html_table(self.experts_frame(), caption="Experts")

    def shown(self) -> "pd.DataFrame":
        """What :meth:`plot` draws: rates of random sets as one row, from the lowest to the highest.

        Columns ``condition``, ``rate``, ``low``, ``high`` and ``n``.
        """
        import pandas as pd

        frame = self.to_frame()
        columns = ["condition", "rate", "low", "high", "n"]
        rows = frame.loc[frame["condition"].isin(self._named()), columns].to_dict("records")
        for how in ("suppressed", "forced") if len(self.random) else ():
            drawn = frame.loc[frame["condition"].isin(self._draws(how)), "rate"]
            rows.append({"condition": f"random {how}", "rate": drawn.mean(), "low": drawn.min(),
                         "high": drawn.max(), "n": len(self.test_rows)})  # fmt: skip
        found = pd.DataFrame(rows, columns=columns)
        found.attrs.update(frame.attrs)
        return found

    def summary(self) -> dict[str, float]:
        """Rates, relative change beside the random experts' mean, and collateral change.

        ``_share``: of the test prompts (:meth:`to_frame` counts them).
        """
        found = {f"rate_{name}": self.rate(name).mean for name in self._named()}
        found["relative_change"] = self.relative_change()
        random = [self.relative_change(n) for n in self._draws("suppressed")]
        found |= {"relative_change_random": float(np.mean(random))} if random else {}
        at = self._at("suppressed")
        return {
            **found,
            "newly_share": len(self.newly()) / len(self.test_rows),
            "no_longer_share": len(self.no_longer()) / len(self.test_rows),
            "kl": float(self.kl[at].mean()),
            "perplexity_ratio": self.perplexity("suppressed") / self.perplexity(),
            "neutral_changed": float(self.changed[at].mean()),
            "experts": float(len(self.experts)),
            "tests": float(len(self.test_rows)),
        }

    def plot(self) -> "go.Figure":
        """Rate of the target label under every condition, with intervals."""
        from lensbench.plots import bars

        return bars(
            self.shown(), x="condition", y="rate", low="low", high="high", hover_columns=("n",),
            unit=f"share labelled {self.target}",
            title=f"{self.target}: {len(self.experts)} experts",
            subtitle=f"n = {len(self.test_rows)} test prompts · random: mean, lowest to highest of "
            f"{len(self.random)} sets · control: {self.controls}",
        )  # fmt: skip

    def _named(self) -> tuple[str, ...]:
        return tuple(c for c in self.conditions if "random" not in c)

    def _draws(self, how: str) -> list[str]:
        return [c for c in self.conditions if c.startswith(f"{how} random")]

    def _at(self, condition: str) -> int:
        if condition not in self.conditions:
            raise UnknownNameError("condition", condition, known=self.conditions)
        return self.conditions.index(condition)

    def _hits(self, condition: str) -> np.ndarray:
        return self.labels[self._at(condition)] == self.classes.index(self.target)

    def _rows(self, mask: Sequence[bool] | np.ndarray) -> np.ndarray:
        return self.test_rows[np.flatnonzero(mask)]
