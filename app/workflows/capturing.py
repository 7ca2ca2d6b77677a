"""Capturing by names: model, text and folder as a user typed them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensbench.app.workflows.fitting import check_fits
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.stores import store_info
from lensbench.app.workflows.texts import find_text
from lensbench.errors import ConfigError


def capture_text(
    model: str,
    text: str,
    *,
    out: Path,
    sites: Sequence[str] | None = None,
    profile: str | None = None,
    max_tokens: int | None = None,
    layout: str | None = None,
    context: int | None = None,
    batch_size: int = 16,
    dtype: str = "float16",
    revision: str | None = None,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Run ``model`` over ``text``, store what was asked for, and say what is there now.

    Raises:
        LensbenchError: see ``lensbench.capture``.
    """
    from lensbench import capture

    if sites is None and profile is None:
        raise ConfigError("name what to keep: --sites blocks.3.resid_post ... or --profile resid")
    documents = find_text(text)  # before the model, which takes longer to find wrong
    refuse_unknown_sites(model, revision, sites, profile)
    opened = open_model(model, revision)
    check_fits(opened, text)
    capture(
        opened,
        documents,
        sites,
        profile=profile,  # pyright: ignore[reportArgumentType] - checked by capture
        out=out,
        layout=layout,  # pyright: ignore[reportArgumentType] - checked by capture
        context=context,
        dtype=dtype,
        batch_size=batch_size,
        max_tokens=max_tokens,
        progress=tokens_done(progress, max_tokens),
    )
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    return {**store_info(out), **limit}


def refuse_unknown_sites(
    model: str, revision: str | None, sites: Sequence[str] | None, profile: str | None
) -> None:
    """Refuse a site before any weight is read, where the model's config tells which it has.

    Raises:
        UnknownSiteError, ConfigError: see ``lensbench.capture``.
    """
    from lensbench.harvest.sites import chosen_of
    from lensbench.models.on_paper import sites_on_paper

    known = sites_on_paper(model, revision)
    if known is not None:
        chosen_of(known, model, sites, profile)


def in_words(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of :func:`capture_text` for people: one value a line, the limit explained."""
    shown = {k: v for k, v in facts.items() if k != "max_tokens"}
    limit, tokens = facts.get("max_tokens"), facts["tokens"]
    if limit is not None and tokens > limit:
        shown["tokens"] = f"{tokens:,} (whole rows; limit {limit:,})"
    return {**shown, "sites": ", ".join(site["site"] for site in facts["sites"])}


def tokens_done(
    progress: Callable[..., None] | None, total: int | None
) -> Callable[[int], None] | None:
    """A capture's count of tokens as a line of progress; the last row may pass ``total``."""
    if progress is None:
        return None
    if total is None:
        return lambda n: progress(tokens=n)
    return lambda n: progress(tokens=min(n, total), total_tokens=total)
