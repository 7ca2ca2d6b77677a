"""Capturing by names: model, text and folder as a user typed them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensbench.app.workflows.fitting import check_fits
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.stores import store_info
from lensbench.app.workflows.texts import find_text
from lensbench.errors import ConfigError

SPECIAL = "special"
"""Of ``exclude``: the special tokens of the model's own tokenizer."""


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
    exclude: str = "",
    revision: str | None = None,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Run ``model`` over ``text``, store what was asked for, and say what is there now.

    ``exclude``: ids whose rows are not kept, such as ``0,1,2``, or ``special``.

    Raises:
        LensbenchError: see ``lensbench.capture``.
    """
    from lensbench import capture

    if sites is None and profile is None:
        raise ConfigError("name what to keep: --sites blocks.3.resid_post ... or --profile resid")
    left_out = _ids_of(exclude)
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
        exclude_special=left_out,
        max_tokens=max_tokens,
        progress=tokens_done(progress, max_tokens),
    )
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    return {**store_info(out), **limit}


def _ids_of(exclude: str) -> bool | list[int]:
    """What ``lensbench.capture`` takes as ``exclude_special``."""
    if not exclude.strip() or exclude.strip() == SPECIAL:
        return bool(exclude.strip())
    from lensbench.app.workflows.patching import numbers

    return numbers(exclude, "--exclude") or False


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
