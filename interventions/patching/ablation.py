"""Take places out of the clean run: by zeros, means, another prompt's state, or no context.

Zero ablation leaves the states a model was trained on; mean and resample ablation stay nearer to
them (Chan et al. 2022, causal scrubbing; Zhang & Nanda 2023, arXiv:2309.16042).
"""

from collections.abc import Callable, Sequence

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.interventions.patching.engine import Engine, Group
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.patching.whole import run_sweep
from lensbench.interventions.places import Each, Place, places
from lensbench.interventions.subspace.slices import SubspaceLike
from lensbench.interventions.values import (
    ABLATIONS,
    BY_QUERY,
    Ablation,
    Means,
    Solo,
    Values,
    Zeros,
    means_of,
    others,
    run_of,
    solo_of,
)
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import Site


def ablation_sweep(
    model: Model,
    pairs: PromptPairs,
    sites: str | Site | Sequence[str | Site] = "attn_out",
    *,
    how: Ablation = "mean",
    metric: MetricLike = "logit_diff",
    layers: Sequence[int] | None = None,
    positions: Each | Sequence[int | str] | None = "together",
    heads: Each | Sequence[int] = "each",
    dims: Sequence[int] | None = None,
    subspace: SubspaceLike | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> PatchingResult:
    """Take each place out of the clean run, one at a time.

    ``zero``: nothing; ``mean``: its mean over the clean prompts (and over tokens, with
    ``positions="together"``); ``resample``: its state in another clean prompt of the same length;
    ``solo``: its state with the token processed alone (behind BOS). The effect is 1 where nothing
    is lost and 0 where as much is lost as by the corrupted prompt. Other arguments as in
    :func:`patch_sweep`.

    Raises:
        NotEnoughDataError: ``mean`` and ``resample`` of a single prompt.
        ConfigError, UnknownNameError, UnknownSiteError: arguments that do not fit.

    Example:
        >>> found = interventions.ablation_sweep(model, pairs, "attn.z", how="mean")
        >>> found.controls
    """
    if how not in ABLATIONS:
        raise UnknownNameError("ablation", str(how), known=ABLATIONS)
    whole_number("batch_size", batch_size, least=1)
    whole_number("seed", seed, least=0)
    where = places(
        model, pairs, sites, layers=layers, positions=positions, heads=heads, dims=dims,
        subspace=subspace,
    )  # fmt: skip

    def values_of(some: PromptPairs, at: Sequence[Place]) -> Callable[[Group], tuple[Values, None]]:
        make = ablations(model, some, at, how, batch_size, seed)
        return lambda group: (make(group), None)

    sweep = Engine(model, pairs, where, how, as_metric(metric), batch_size, seed)
    return run_sweep(sweep, values_of, [])


def ablations(
    model: Model, pairs: PromptPairs, where: Sequence[Place], how: Ablation, size: int, seed: int
) -> Callable[[Group], Values]:
    """What places of a group are set to when they are taken out of the clean run."""
    if how == "zero":
        return lambda group: Zeros(group.pairs)
    lengths = {len(row) for row in pairs.clean_ids}
    keyed = next((p.site for p in where if p.site.spec.axes == BY_QUERY), None)
    if keyed is not None and how != "solo" and len(lengths) > 1:
        raise ConfigError(
            f"{keyed} has a number for every token that is looked at, and these prompts have "
            f"{min(lengths)} to {max(lengths)} tokens; select prompts of one length, or ablate "
            "with 'zero'"
        )
    if how == "mean":
        means = means_of(model, pairs, where, size)
        return lambda group: Means(means, group.pairs)
    if how == "solo":
        states = solo_of(model, pairs, where, size)
        return lambda group: Solo(states, group.pairs)
    other = others(len(pairs), seed)
    by_role = all(isinstance(p.position, str) for p in where)
    if not by_role and len(lengths) > 1:
        raise ConfigError(
            "resample ablation takes the state of another prompt token by token, and these have "
            f"{min(lengths)} to {max(lengths)} tokens; select prompts of one length, name roles "
            "(positions=[...]), or ablate with 'mean'"
        )
    read = list(dict.fromkeys(p.site for p in where))

    def resample(group: Group) -> Values:
        donors = pairs.select(other[group.rows])
        return run_of(model, donors.clean, donors, read)[0]

    return resample
