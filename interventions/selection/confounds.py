"""What else tells two classes of entities apart: counts, lengths, frequencies, embeddings.

1. Every entity counts once, whatever the number of its prompts.
2. Each plain property gets an AUROC with an interval; so does a probe that sees nothing but the
   embeddings of the entity's tokens, cross-validated by entity.
3. A property whose interval leaves one half is a confound: what a latent finds may be that.
"""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from lensbench import provenance
from lensbench.arguments import whole, whole_number
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.interventions.selection.entities import EntityPrompts
from lensbench.interventions.selection.separation import acts_at
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.stats import auroc

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PROBE = "embedding probe"
FOLDS = 5
DRAWS = 2000
FAMILY = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfoundReport(Result):
    """AUROC of every plain property of the entities, first class against second."""

    classes: tuple[str, str]
    names: tuple[str, ...]
    auroc: Float[np.ndarray, " properties"]
    """Chance that an entity of the first class has more of it; 0.5 is no difference."""
    low: Float[np.ndarray, " properties"]
    high: Float[np.ndarray, " properties"]
    level: float
    """Of each interval; with all of them, 95 % together (Bonferroni)."""
    means: Float[np.ndarray, "2 properties"]
    """Mean of the property in each class; NaN of the probe, whose scores have no unit."""
    values: Float[np.ndarray, "properties entities"]
    """The property of each entity; of the probe its score when the entity was held out."""
    entities: tuple[str, ...]
    first: Bool[np.ndarray, " entities"]

    @property
    def confounded(self) -> tuple[str, ...]:
        """Properties that tell the classes apart.

        Their interval leaves 0.5; of the probe only above it, because where every part of a name is
        as frequent in both classes, holding an entity out makes its own class the rarer one.
        """
        return tuple(
            name
            for name, low, high in zip(self.names, self.low, self.high, strict=True)
            if low > 0.5 or (high < 0.5 and name != PROBE)
        )

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not self.confounded:
            return "no property of the names, and no probe of their embeddings, tells them apart"
        return f"confounded by {', '.join(self.confounded)}: a latent may have found that instead"

    def to_frame(self) -> "pd.DataFrame":
        """One row per property: AUROC with its interval, means, and whether it confounds."""
        import pandas as pd

        columns: dict[str, Any] = {"property": list(self.names), "auroc": self.auroc}
        columns |= {"low": self.low, "high": self.high}
        columns |= {f"mean_{c}": self.means[i] for i, c in enumerate(self.classes)}
        columns |= {"confounded": [name in self.confounded for name in self.names]}
        columns |= {f"n_{c}": int((self.first == (i == 0)).sum())
                    for i, c in enumerate(self.classes)}  # fmt: skip
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {"auroc": "0.5 is no difference"}
        return frame

    def summary(self) -> dict[str, float]:
        """AUROC of each property, and how many confound."""
        found = {name.replace(" ", "_"): float(v)
                 for name, v in zip(self.names, self.auroc, strict=True)}  # fmt: skip
        n = {"entities": float(len(self.entities))}
        return {**found, "confounded": float(len(self.confounded)), **n}

    def plot(self) -> "go.Figure":
        """A bar per property with its interval; the line at one half is no difference."""
        from lensbench.plots import bars

        figure = bars(
            self.to_frame(), x="property", y="auroc", low="low", high="high",
            title=f"{self.classes[0]} against {self.classes[1]}: AUROC of plain properties",
            subtitle=f"{self.verdict}; {len(self.entities)} entities; control: {self.controls}",
        )  # fmt: skip
        figure.add_hline(y=0.5, line={"dash": "dash", "width": 1.5, "color": "#8C8C8C"})
        return figure


def confounds(
    model: Model,
    prompts: EntityPrompts,
    *,
    counts: Any = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> ConfoundReport:
    """Can the classes be told apart without the model's knowledge?

    Token count; length of the name in characters; token frequency (mean over its tokens of
    ``log(1 + count)``); mean norm of the embeddings of its tokens; and a logistic regression (L2,
    C = 1, standardised) on their mean, scored on held-out entities. AUROC 0 to 1, with percentile
    bootstrap intervals over entities, drawn within each class. All of these add up over the parts
    of a name. What depends on the pair (the norm of the mean embedding, which holds the cosine of
    the parts) is no confound: it may be what the model learnt about the pair. Ours: a
    control for the study of Ferrando et al. 2024, arXiv:2411.14257.

    Args:
        model: whose embedding is read (site ``embed``).
        prompts: entities; where prompts of one differ, the first is taken.
        counts: how often each token occurs in ordinary text, ``{id: count}`` or an array by id;
            left out, frequency is not reported.
        folds: of the cross-validation.
        seed: of folds, bootstrap and the control.

    Raises:
        ConfigError: counts that are none.
        NotEnoughDataError: fewer entities of a class than folds.

    Example:
        >>> known = interventions.entities_of_pairs(model, pairs, "subject")
        >>> found = interventions.confounds(model, known, folds=2)
    """
    began = time.monotonic()
    folds, once = whole_number("folds", folds, least=2), _once(prompts)
    if min(once.first.sum(), (~once.first).sum()) < folds:
        raise NotEnoughDataError(
            f"{folds} folds need as many entities of each class, got {int(once.first.sum())} and "
            f"{int((~once.first).sum())}"
        )
    embedded, norms = _embedded(model, once)
    values = {
        "token count": np.array([len(at) for at in once.tokens], dtype=np.float64),
        "name length": np.array([len(name) for name in once.entity], dtype=np.float64),
    }
    if counts is not None:
        values["token frequency"] = _log_counts(once, counts)
    values["embedding norm"] = norms
    values[PROBE] = held_out_scores(embedded, once.first, folds, seed)
    level = 1 - FAMILY / len(values)
    found = [auroc_interval(v, once.first, level, seed) for v in values.values()]
    table = np.stack(list(values.values()))
    means = np.stack([table[:, once.first].mean(1), table[:, ~once.first].mean(1)])
    means[:, -1] = np.nan
    result = ConfoundReport(
        classes=prompts.classes, names=tuple(values),
        auroc=np.array([f[0] for f in found]), low=np.array([f[1] for f in found]),
        high=np.array([f[2] for f in found]), level=level, means=means, values=table,
        entities=once.entity, first=once.first,
        config={"folds": folds, "seed": seed, "counts": counts is not None},
    )  # fmt: skip
    moved = np.random.default_rng(seed).permutation(once.first)
    control = auroc(held_out_scores(embedded, moved, folds, seed), moved)
    seconds = time.monotonic() - began
    told = provenance.record(model=vars(model.card), seed=seed, seconds=seconds)
    note = "embedding probe of labels moved between entities"
    return replace(result, controls=Controls({"moved_labels": control}, note), provenance=told)


def auroc_interval(
    scores: Float[np.ndarray, " n"], first: Bool[np.ndarray, " n"], level: float, seed: int = 0
) -> tuple[float, float, float]:
    """AUROC with a percentile bootstrap that draws entities within each class."""
    own, other = scores[first], scores[~first]
    wins = np.sign(own[:, None] - other[None, :]) / 2 + 0.5  # 1 won, half tied, 0 lost
    rng = np.random.default_rng(seed)
    a = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=DRAWS)
    b = rng.multinomial(len(other), np.full(len(other), 1 / len(other)), size=DRAWS)
    drawn = ((a @ wins) * b).sum(1) / wins.size
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(wins.mean()), float(low), float(high)


def held_out_scores(
    x: Float[np.ndarray, "n d"], first: Bool[np.ndarray, " n"], folds: int, seed: int = 0
) -> Float[np.ndarray, " n"]:
    """Log odds of the first class of every entity by a probe that was fitted without it."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.empty(len(x))
    for fit, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, first):
        probe: Any = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
        with warnings.catch_warnings():  # an unfinished fit still ranks
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(x[fit], first[fit])
        found[held] = probe.decision_function(x[held])
    return found


def _once(prompts: EntityPrompts) -> EntityPrompts:
    """The first prompt of every entity."""
    seen: dict[str, int] = {}
    for i, name in enumerate(prompts.entity):
        seen.setdefault(name, i)
    return prompts.select(list(seen.values()))


def _embedded(
    model: Model, once: EntityPrompts
) -> tuple[Float[np.ndarray, "entities d"], Float[np.ndarray, " entities"]]:
    """Mean embedding of each entity's tokens, and the mean of their norms."""
    states = acts_at(model, once.rows, once.tokens, None, "embed").double().numpy()
    ends = np.cumsum([len(at) for at in once.tokens])
    parts = np.split(states, ends[:-1])
    norms = [float(np.linalg.norm(part, axis=1).mean()) for part in parts]
    return np.stack([part.mean(0) for part in parts]), np.array(norms)


def _log_counts(once: EntityPrompts, counts: Any) -> Float[np.ndarray, " entities"]:
    """Mean of ``log(1 + count)`` over each entity's tokens; a token not listed has none."""
    if isinstance(counts, Mapping):
        known: dict[int, float] = {}
        for token, count in counts.items():
            if (number := whole(token)) is None:
                raise ConfigError(f"counts must be by token id, got {token!r}")
            known[number] = float(count)
    else:
        table = np.asarray(counts)
        if table.ndim != 1 or table.dtype.kind not in "fiu":
            raise ConfigError("counts must be {token id: count}, or an array of counts by id")
        known = dict(enumerate(table.astype(float).tolist()))
    if any(not np.isfinite(c) or c < 0 for c in known.values()):
        raise ConfigError("counts must be finite and not negative")
    return np.array([
        float(np.mean([np.log1p(known.get(row[i], 0.0)) for i in at]))
        for row, at in zip(once.rows, once.tokens, strict=True)
    ])  # fmt: skip
