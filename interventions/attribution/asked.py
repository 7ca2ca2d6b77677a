"""What a check of estimates may be asked: the same model, pairs and metric."""

from typing import TYPE_CHECKING

from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.metrics import METRICS, MetricLike
from lensbench.results import Result

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.prompts.pairs import PromptPairs


def belongs(result: Result, model: "Model", pairs: "PromptPairs") -> None:
    """Refuse another model, or other pairs, than the estimates are of.

    Raises:
        MismatchError: one of the two.
    """
    if pairs.fingerprint() != result.config["pairs"]:
        raise MismatchError(
            "these are not the pairs that were attributed; give the same ones. On other pairs "
            "attribute again, or patch the places themselves: patch_sweep(model, pairs, sites)"
        )
    known = result.provenance.model.get("fingerprint")
    if model.card.fingerprint != known:
        raise MismatchError(
            f"the estimates are of a model with fingerprint {known}; this one has "
            f"{model.card.fingerprint}. Attribute again with this model"
        )


def known_metric(name: str, metric: MetricLike | None) -> MetricLike:
    """The metric of estimates, or the function that is given again.

    Raises:
        ConfigError: the metric was a function, and is not given again.
    """
    if metric is not None:
        return metric
    if name not in METRICS:
        raise ConfigError(f"metric {name!r} is a function of yours: verify(metric=...)")
    return name
