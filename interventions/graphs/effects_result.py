"""Effects of latents and errors on a metric of prompt pairs, and the circuits that follow."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.attribution.gradients import Question
from lensbench.interventions.attribution.methods import RULES, Path, Rule
from lensbench.interventions.attribution.nodes import other_question, strangers_of
from lensbench.interventions.graphs.effects import (
    BASES,
    ERROR,
    Base,
    Found,
    Part,
    effects,
    listed,
    spliced,
)
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.interventions.values import groups, run_of
from lensbench.models.base import Model
from lensbench.models.spliced import SplicedModel
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.interventions.attribution.check import AttributionCheck

METHODS = ("ig", "atp")


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentEffects(Result):
    """What a metric owes to every latent and error; above 0 where the node raises it.

    An estimate is no measurement: :meth:`verify` takes single nodes out, and
    :func:`lensbench.interventions.circuit_curve` runs circuits.
    """

    task: str
    metric: str
    unit: str
    base: str
    """What a node without its effect is: ``corrupted`` or ``zero``."""
    method: str
    sites: tuple[str, ...]
    site: Int[np.ndarray, " nodes"]
    """Number of the site."""
    latent: Int[np.ndarray, " nodes"]
    """Number in the dictionary; -1 for the error."""
    values: Float[np.ndarray, "nodes pairs"]
    """Summed over tokens, in the metric's unit."""
    other: Float[np.ndarray, "some pairs"]
    """The control: the same towards another pair's answer. Empty where there is none."""
    rise: Float[np.ndarray, "sites pairs"]
    """What the effects of a site should add up to."""
    clean: Float[np.ndarray, " pairs"]

    @property
    def names(self) -> tuple[str, ...]:
        """``blocks.3.resid_post #17``, or ``... error``."""
        return names_of(self.sites, self.site, self.latent)

    @property
    def effect(self) -> Float[np.ndarray, " nodes"]:
        """Mean over prompts."""
        return self.values.mean(1, dtype=np.float64)

    @property
    def completeness_gap(self) -> Float[np.ndarray, " sites"]:
        """By site ``(mean sum of effects - mean rise) / mean |rise|``; 0 for an exact integral."""
        return gaps(self.values, self.site, self.rise)

    def strongest(self) -> Int[np.ndarray, " nodes"]:
        """Numbers of the nodes, largest mean effect first, whatever its sign."""
        return np.argsort(-np.abs(self.effect), kind="stable")

    def circuit(self, n: int) -> Bool[np.ndarray, " nodes"]:
        """The ``n`` nodes of largest mean effect.

        Raises:
            ConfigError: more nodes than there are.
        """
        if whole_number("n", n, least=0) > len(self.latent):
            raise ConfigError(f"{len(self.latent)} nodes differ from their base, asked for {n}")
        kept = np.zeros(len(self.latent), dtype=bool)
        kept[self.strongest()[:n]] = True
        return kept

    def to_frame(self) -> "pd.DataFrame":
        """One row per node, largest first."""
        import pandas as pd

        order = self.strongest()
        site = np.array(self.sites, dtype=object)[self.site]
        frame = pd.DataFrame({
            "node": np.array(self.names, dtype=object)[order], "site": site[order],
            "layer": [Site.parse(s).layer for s in site[order]], "latent": self.latent[order],
            "effect": self.effect[order], "n": self.values.shape[1],
        })  # fmt: skip
        frame.attrs["units"] = {"effect": self.unit, "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Nodes, the largest effect, the share of errors, and the worst gap of the integral."""
        size = np.abs(self.effect)
        total = float(size.sum())
        errors = float(size[self.latent == ERROR].sum())
        return {
            "nodes": float(len(size)), "strongest": float(self.effect[self.strongest()[0]]),
            "error_share": errors / total if total > 0 else float("nan"),
            "completeness_gap": float(np.abs(self.completeness_gap).max()),
            "prompts": float(self.values.shape[1]),
        }  # fmt: skip

    def plot(self, top: int = 20) -> "go.Figure":
        """The largest effects."""
        from lensbench.plots import bars

        return bars(
            self.to_frame().head(top), x="node", y="effect", hover_columns=("n",),
            title=f"{self.task}: latents and errors, {self.method} from {self.base}",
            subtitle=f"{self.metric}, n = {len(self.clean)} prompts; gap of the integral at most "
            f"{np.abs(self.completeness_gap).max():.1%}; control: {self.controls}",
        )  # fmt: skip

    def verify(
        self, model: Model, pairs: PromptPairs, saes: Any = None, *, top: int = 10,
        random: int = 20, large: float = 0.1, metric: MetricLike | None = None,
        batch_size: int = 16, seed: int = 0,
    ) -> "AttributionCheck":  # fmt: skip
        """Set the ``top`` nodes and ``random`` others to their base, one by one, and compare.

        Changes are shares of the way to the run in which every latent and error is at its base.

        Args:
            model: the one the effects are of.
            pairs: the same prompts.
            saes: the same dictionaries; left out, those spliced in already.
            top: nodes of largest effect.
            random: nodes drawn without replacement from all others.
            large: what counts as a large change, as such a share.
            metric: the function, where the metric was one of your own.
            batch_size: prompts in one pass.
            seed: of the draw.

        Raises:
            MismatchError: another model, other pairs or other dictionaries.
            ConfigError: numbers that do not fit; a metric of your own that is not given again.
        """
        from lensbench.interventions.graphs.effects_check import check_latents

        return check_latents(
            self, model, pairs, saes, top=top, random=random, large=large, metric=metric,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip


def names_of(sites: tuple[str, ...], site: np.ndarray, latent: np.ndarray) -> tuple[str, ...]:
    """``blocks.3.resid_post #17``, or ``... error``."""
    last = ["error" if n == ERROR else f"#{n}" for n in latent]
    return tuple(f"{sites[s]} {name}" for s, name in zip(site, last, strict=True))


def gaps(values: np.ndarray, site: np.ndarray, rise: np.ndarray) -> Float[np.ndarray, " sites"]:
    """By site ``(mean sum of effects - mean rise) / mean |rise|``; NaN where nothing rises."""
    total = np.array([values[site == s].sum(0, dtype=np.float64) for s in range(len(rise))])
    size = np.abs(rise).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size > 1e-12, (total - rise).mean(1) / size, np.nan)


def latent_effects(
    model: Model, pairs: PromptPairs, saes: Any = None, *, base: Base = "corrupted",
    method: Literal["ig", "atp"] = "ig", metric: MetricLike = "logit_diff", steps: int = 10,
    rule: Rule = "midpoint", batch_size: int = 16, seed: int = 0,
) -> LatentEffects:  # fmt: skip
    """Estimate what the metric of clean prompts owes to every latent and error of dictionaries.

    ``effect = sum over tokens of (a - a_base) . slope``, the slope's mean over ``steps`` points on
    the way of a site's latents and error from their state to the base (``ig``), or at their state
    (``atp``). Source: Marks et al. 2024, arXiv:2403.19647, who integrate each site alike.

    Args:
        model: any back end that gives gradients.
        pairs: from :mod:`lensbench.prompts`; aligned token by token.
        saes: autoencoders as in ``model.with_saes``; left out, those spliced in already.
        base: ``corrupted``: the state in the corrupted run; ``zero``: nothing.
        method: see above.
        metric: a name of :data:`lensbench.interventions.metrics.METRICS` or a function that can be
            differentiated; of the KL, which is flat at the clean run, only the integral says much.
        steps: points of the integral.
        rule: ``midpoint``, or ``left`` ends of the steps, from the clean state on.
        batch_size: prompts (times points) in one pass.
        seed: of the control, which asks for another pair's answer.

    Raises:
        ConfigError, UnknownNameError: arguments that do not fit; a metric without gradient.
        MismatchError: pairs or dictionaries of another model.
        NonFiniteError: NaN in a state or a gradient.

    Example:
        >>> found = interventions.latent_effects(
        ...     model, pairs, {"blocks.3.resid_post": run}, steps=2
        ... )
    """
    refuse_no_model(model)
    began = time.monotonic()
    for kind, name, known in (("base", base, BASES), ("method", method, METHODS),
                              ("rule", rule, RULES)):  # fmt: skip
        if name not in known:
            raise UnknownNameError(kind, str(name), known=known)
    chosen = as_metric(metric)
    if not chosen.differentiable:
        raise ConfigError(f"metric {chosen.name!r} has no gradient; 'logit_diff' or 'loss' have")
    model.require_next_token("a circuit of latents")
    check_pairs(model, pairs)
    with_saes = spliced(model, saes)
    size = whole_number("batch_size", batch_size, least=1)
    points = Path(whole_number("steps", steps, least=1), rule)
    path = points if method == "ig" else Path(1, "left")
    strangers = strangers_of(pairs, seed)
    found: list[Found] = []
    for rows in groups(len(pairs), size):
        of = [pairs.select(rows)] + ([] if strangers is None else [pairs.select(strangers[rows])])
        asked = [Question(chosen, p, run_of(with_saes, p.clean, p, [])[1]) for p in of]
        other = of[0].corrupted if base == "corrupted" else None
        found.append(effects(with_saes, Part(of[0].clean, asked, other), path, size))
    nodes = listed(found)
    strange = nodes.values[1] if strangers is not None else np.zeros((0, len(pairs)))
    return LatentEffects(
        task=pairs.task, metric=chosen.name, unit=chosen.unit, base=base, method=method,
        sites=nodes.sites, site=nodes.site, latent=nodes.latent, values=nodes.values[0],
        other=strange, rise=rises(found), clean=torch.cat([f.clean for f in found]).cpu().numpy(),
        controls=other_question(nodes.values[0], strange),
        config={"pairs": pairs.fingerprint(), "base": base, "method": method, "seed": seed,
                "steps": path.steps, "rule": path.rule, "dictionaries": sources(with_saes)},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip


def rises(found: list[Found]) -> Float[np.ndarray, "sites prompts"]:
    """What the effects of each site should add up to, for all prompts."""
    return np.array([torch.cat([f.rise[s] for f in found]).cpu().numpy() for s in found[0].rise])


def sources(model: SplicedModel) -> dict[str, str]:
    """Fingerprints of the dictionaries by site."""
    return {str(s.site): model.source_of(f"{s.site}.sae.acts") for s in model.splices}
