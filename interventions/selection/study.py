"""From latents that tell two classes apart to what they do: find on one half, steer the other.

1. Entities are halved; the separation of the first half selects latents for each class.
2. Random latents that fire as often in both classes stand beside them.
3. On the other half each latent's decoder row is added at the entity's tokens, every row scaled to
   one length, or taken out of the state there.
4. A metric of the last logits, and the attention of given heads from the last token to the entity,
   are compared with the clean run.
"""

import time
from collections.abc import Sequence
from typing import Any

from lensbench.arguments import whole_number
from lensbench.interventions.metrics import MetricLike
from lensbench.interventions.selection.entities import EntityPrompts
from lensbench.interventions.selection.separation import entity_separation
from lensbench.interventions.selection.stepping import arms_of, asked_of, steered_study
from lensbench.interventions.selection.study_result import SelectionStudy
from lensbench.models.base import Model
from lensbench.sites import Site


def selection_study(
    model: Model,
    prompts: EntityPrompts,
    site: str | Site,
    codec: Any = None,
    *,
    metric: MetricLike,
    strengths: Sequence[float] = (0.5, 1.0, 2.0),
    ablate_sites: str | Site | Sequence[str | Site] | None = None,
    top: int = 1,
    random: int = 10,
    within: float = 0.05,
    heads: Sequence[tuple[int, int]] = (),
    token: int = -1,
    background: Any = None,
    batch_size: int = 64,
    seed: int = 0,
    **settings: Any,
) -> SelectionStudy:
    """Select latents on half of the entities, steer prompts about the others along them.

    Adding: ``x_t <- x_t + strength * scale * w / |w|`` at the entity's tokens, with w the decoder
    row (of a neuron: its own axis) and ``scale`` the median length of the state there; ablating:
    ``x_t <- x_t - (x_t . w) w / |w|^2``. Source: Ferrando et al. 2024, arXiv:2411.14257.

    Args:
        model: any back end.
        prompts: see :func:`entity_prompts`.
        site: where latents are read and added.
        codec: a dictionary; None for the site's own numbers.
        metric: a name of ``METRICS``, a :class:`Metric` such as :func:`answer_entropy`, or a
            function of :class:`Ends`; those about answers need ``prompts.answer`` (and ``foil``).
        strengths: of the added steps, in lengths of the state.
        ablate_sites: where directions are taken out; left out, at ``site``.
        top: latents selected for each class.
        random: control latents.
        within: they differ by at most this in every group.
        heads: ``(layer, head)`` behind the site whose attention to the entity is reported.
        token: the entity's token at which latents are read, -1 the last.
        background: see :func:`entity_separation`.
        batch_size: most rows in one forward pass.
        seed: of halves, permutations and controls.
        settings: of :func:`separation`.

    Raises:
        ConfigError: strengths, heads or a metric that do not fit.
        NotEnoughDataError: too few entities, or too few neutral latents.
        NonFiniteError: NaN in the metric.

    Example:
        >>> found = interventions.selection_study(
        ...     model,
        ...     entities,
        ...     "blocks.3.resid_post",
        ...     run,
        ...     metric=interventions.answer_entropy(),
        ...     random=1,
        ...     within=1.0,
        ... )
    """
    began = time.monotonic()
    whole_number("random", random, least=1)
    asked = asked_of(
        model, prompts, site, metric=metric, strengths=strengths, heads=heads,
        ablate_sites=ablate_sites, batch_size=batch_size,
    )  # fmt: skip
    find, test = prompts.halves(seed)
    found = entity_separation(
        model, find, site, codec, token=token, background=background, batch_size=batch_size,
        seed=seed, **settings,
    )  # fmt: skip
    top = whole_number("top", top, least=1)
    arms = arms_of(model, site, codec, found, top, random, within, seed)
    config = {"top": top, "random": random, "within": within, "token": token}
    return steered_study(model, test, found, arms, asked, config, seed, began)
