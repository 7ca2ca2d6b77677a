"""Which sites to capture, the shape of their rows, and which of them share their bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lensbench.errors import ConfigError, UnknownNameError, UnknownSiteError
from lensbench.models.base import Model
from lensbench.sites import PATTERN_AXES, Site
from lensbench.store.manifest import SiteEntry
from lensbench.tokens import Tokens

Profile: TypeAlias = Literal["sae", "resid", "full"]
PROFILES: dict[str, tuple[str, ...]] = {
    "sae": (),
    "resid": ("resid_pre", "resid_mid", "resid_post"),
    "full": ("resid_pre", "resid_mid", "resid_post", "attn.pattern", "mlp.post"),
}
"""Site names captured at every layer; ``sae`` means exactly the sites that are named."""


def resolve(
    model: Model, sites: str | Site | Sequence[str | Site] | None, profile: str | None
) -> tuple[Site, ...]:
    """The sites of ``profile`` and those named (``*`` matches layers), in execution order.

    Raises:
        UnknownSiteError: a site this model has not.
        ConfigError: nothing named.
    """
    return chosen_of(model.sites(), model.card.name, sites, profile)


def chosen_of(
    known: Sequence[Site],
    name: str,
    sites: str | Site | Sequence[str | Site] | None,
    profile: str | None,
) -> tuple[Site, ...]:
    """The same of the sites that the model ``name`` has, which need not be open.

    Raises:
        UnknownSiteError, ConfigError: as :func:`resolve`.
    """
    if profile is not None and profile not in PROFILES:
        raise UnknownNameError("profile", profile, known=tuple(PROFILES))
    # Of an encoder and a decoder, a text alone decides what is in the encoder.
    have = tuple(s for s in known if s.stack == "encoder") or tuple(known)
    chosen = {s for s in have if s.name in PROFILES[profile or "sae"]}
    named = [sites] if isinstance(sites, (str, Site)) else list(sites or ())
    for text in named:
        chosen |= _matching(text, have, known, name)
    if not chosen:
        raise ConfigError(
            "no sites named; pass sites=['blocks.3.resid_post', ...] or profile='resid' or 'full'"
        )
    return tuple(sorted(chosen))


def _matching(
    text: str | Site, have: tuple[Site, ...], known: Sequence[Site], model: str
) -> set[Site]:
    if isinstance(text, str) and "*" in text:
        found = {s for s in have if fnmatchcase(str(s), text)}
    else:
        found = {Site.parse(text)} & set(have)
    if found:
        return found
    if "*" not in str(text) and Site.parse(text) in known:
        raise ConfigError(
            f"a store holds what one text decides, which of {model!r} is the encoder; "
            f"for {text} call model.run(Tokens(ids, mask, decoder_ids), capture=...)"
        )
    raise UnknownSiteError(str(text), known=[str(site) for site in have])


def row_entry(model: Model, site: Site, context: int) -> SiteEntry:
    """Shape of one row of a site, and the dictionary it is of where it is part of one.

    Raises:
        ConfigError: attention scores, which are not finite.
    """
    return replace(_shape(model, site, context), source=model.source_of(site))


def _shape(model: Model, site: Site, context: int) -> SiteEntry:
    """An attention pattern has a row per query, with ``context`` keys a head."""
    axes = site.spec.axes
    if site.name == "attn.scores":
        raise ConfigError(
            f"{site} is minus infinity under the causal mask and cannot be stored; capture "
            f"{Site('attn.pattern', site.layer, site.stack)}, its softmax"
        )
    if axes == PATTERN_AXES:
        return SiteEntry((model.heads(site), context), "head key")
    width = model.width(site)
    if "head" in axes.split():
        return SiteEntry((model.heads(site), width), "head d_head")
    if "slot" in axes.split()[:-1]:
        return SiteEntry((model.card.top_k, width), "slot d_model")
    return SiteEntry((width,), axes.split()[-1])


def as_rows(site: Site, acts: Tensor, entry: SiteEntry) -> Tensor:
    """``[batch * pos, width]`` from what ``Model.run`` captured."""
    if site.spec.axes == PATTERN_AXES:
        acts = acts.transpose(1, 2)
        acts = torch.nn.functional.pad(acts, (0, entry.shape[-1] - acts.shape[-1]))
    return acts.reshape(-1, entry.width)


def candidates(wanted: Iterable[Site], stored: Iterable[Site]) -> dict[Site, Site]:
    """Sites that may equal one that is captured or stored anyway: a block's input, above all."""
    wanted = tuple(wanted)
    there = {*wanted, *stored}
    pairs: dict[Site, Site] = {}
    for site in wanted:
        if site.name != "resid_pre" or site.layer is None:
            continue
        before = Site("resid_post", site.layer - 1, site.stack) if site.layer else Site("embed")
        if before in there:
            pairs[site] = before
    return pairs


def proven(model: Model, tokens: Tokens, pairs: dict[Site, Site]) -> dict[Site, Site]:
    """Those of ``pairs`` that are equal, bit for bit, on ``tokens``."""
    if not pairs:
        return {}
    acts = model.run(tokens, capture=sorted({*pairs, *pairs.values()}), logits="none").acts
    return {a: b for a, b in pairs.items() if torch.equal(acts[a], acts[b])}
