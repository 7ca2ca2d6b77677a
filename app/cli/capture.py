"""``lensbench capture``: run a model over text and keep its activations on disk."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, Progress, fields, for_people
from lensbench.app.cli.groups import ModelOption, RevisionOption, TextOption


def capture(
    model: ModelOption,
    text: TextOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the store.")],
    sites: Annotated[
        list[str] | None,
        typer.Option("--sites", help="Sites to keep: blocks.3.resid_post, several in a row."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="A named set of sites, such as resid.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            help="Stop when this many tokens were run; the row that reaches the limit is kept "
            "whole, so at most --context - 1 more are stored.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="pack (documents joined) or pad (one per row); default: pad for atlas:N, else "
            "pack.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens per row; default 128, or the model's own if less."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows per forward.")] = 16,
    dtype: Annotated[
        str, typer.Option("--dtype", help="float16, bfloat16 or float32.")
    ] = "float16",
    exclude: Annotated[
        str,
        typer.Option(
            "--exclude",
            help="Keep no rows of these token ids: 0,1,2,3, or special (those of the tokenizer).",
        ),
    ] = "",
    revision: RevisionOption = None,
) -> Answer:
    """Run --model over --text once and store the activations at --sites (or a --profile)."""
    from lensbench.app.workflows.capturing import capture_text, in_words

    progress = Progress("capture")
    facts = capture_text(
        model, text, sites=_split(sites), profile=profile, out=out, max_tokens=max_tokens,
        layout=layout, context=context, batch_size=batch_size, dtype=dtype, exclude=exclude,
        revision=revision, progress=progress,
    )  # fmt: skip
    progress.end()
    return Answer(facts, fields(for_people(in_words(facts))))


def _split(sites: list[str] | None) -> list[str] | None:
    if sites is None:
        return None
    return [part for site in sites for part in site.split(",") if part]
