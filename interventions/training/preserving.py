"""Ablation that keeps what later heads attend to: what a part gives to values, not to matching.

1. A first pass without the ablation stores the attention patterns.
2. In the second, the ablation is done, and every pattern computed after it is that of the first.

What is lost is then lost through values (OV) only; the rest of a plain ablation's loss went through
later queries and keys (QK). Source: Singh et al. 2024, arXiv:2404.07129.
"""

from dataclasses import replace

from lensbench.errors import ConfigError
from lensbench.models.base import Model
from lensbench.plan import Edit, Plan, Replace, as_plan
from lensbench.sites import Site
from lensbench.tokens import TokensLike

_MATCHING = ("attn.q", "attn.k", "attn.scores", "attn.pattern")
_OPENED = ("attn.v", "attn.z")


def preserve_patterns(
    model: Model,
    tokens: TokensLike,
    plan: Plan,
    *,
    under: Plan = Plan(),  # noqa: B008 - frozen value
) -> Plan:
    """``plan`` with all attention patterns after its first edit as they are without it.

    The plan that is returned holds patterns ``[batch, head, query, key]`` of these ``tokens`` and
    is run on them: ``model.run(tokens, preserve_patterns(model, tokens, edit("blocks.0.attn.z",
    Zero(), heads=[2])))``. An empty plan comes back as ``under``.

    Args:
        model: any back end that reaches ``attn.pattern``.
        tokens: what both passes read.
        plan: the ablation; it must not itself edit queries, keys, scores or patterns.
        under: what holds in both passes, such as a clamp; the answer includes it.

    Raises:
        ConfigError: the plan edits what makes patterns, which would be undone.
        UnknownSiteError: attention of the model is out of reach.

    Source: Singh et al. 2024, arXiv:2404.07129.

    Example:
        >>> tokens = model.tokens(text)
        >>> plan = interventions.steer(interventions.latent_direction(model, run, 3), 4.0)
        >>> frozen = interventions.preserve_patterns(model, tokens, plan)
    """
    if undone := [e for e in as_plan(plan).edits if e.site.name in _MATCHING]:
        raise ConfigError(
            f"{undone[0].site} makes attention patterns, which would be kept as they were: the "
            "edit would do nothing. Edit attn.v, attn.z or a stream, or run the plan as it is"
        )
    sites = _kept(model, plan)
    if not sites:
        return under + plan
    # The first pass ends at the last pattern: what holds behind it has no part in it.
    before = replace(under, edits=tuple(e for e in under.edits if e.site <= sites[-1]))
    # Attention that the second pass opens is opened here too: kernels round otherwise.
    opened = {Site("attn.pattern", e.site.layer) for e in plan.edits if e.site.name in _OPENED}
    acts = model.run(tokens, before, capture=sorted({*sites, *opened}), logits="none").acts
    kept = tuple(Edit(site, Replace(acts[site].detach())) for site in sites)
    return Plan(kept) + under + plan


def _kept(model: Model, plan: Plan) -> list[Site]:
    """Patterns that are computed after the first change, and that are still computed."""
    edited = [e.site for e in plan.edits]
    firsts = [min(edited)] if edited else []
    firsts += [Site("resid_pre", min(plan.skips))] if plan.skips else []
    if not firsts:
        return []
    gone = plan.skips | set(
        range(model.n_layers if plan.stop is None else plan.stop, model.n_layers)
    )
    model.require_next_token("keeping attention patterns")
    return [
        site
        for site in model.sites()
        if site.name == "attn.pattern" and site > min(firsts) and site.layer not in gone
    ]
