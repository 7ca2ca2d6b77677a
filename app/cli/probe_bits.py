"""``lensbench probe erase`` and ``codelength``: how much of a label is there, and taking it out."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every draw.")]
StoreOption = Annotated[Path, typer.Option("--store", help="Activations of a text.")]
RowsOption = Annotated[int, typer.Option("--max-rows", help="Rows to read.")]
LabelFileOption = Annotated[
    Path | None,
    typer.Option(
        "--label-file",
        help="Your own labels as JSON: by name a list of true and false, one for each stored row "
        "or document.",
    ),
]


def erase(
    store: StoreOption,
    label: Annotated[str, typer.Option("--label", help="Label to erase.")],
    site: Annotated[
        str | None, typer.Option("--site", help="Site; may be left out where there is one.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Label that should stay (may be repeated); default: all."),
    ] = None,
    label_file: LabelFileOption = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="leace, orthogonal or oracle (may be repeated)."),
    ] = None,
    max_rows: RowsOption = 20_000,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Erase a label and fit fresh probes before and after, beside erasures that must miss it."""
    from lensbench.app.workflows.telling import ERASED, RowsAsk
    from lensbench.app.workflows.telling import erase as erased

    names = () if not keep else tuple(dict.fromkeys([label, *keep]))
    ask = RowsAsk(store, label_file, () if site is None else (site,), names, max_rows)
    facts = erased(
        ask, label, methods=tuple(methods or ("leace", "orthogonal")), seed=seed, out=out
    )
    told = {**facts["summary"], "control": facts["control"]}
    told |= {"saved": facts["saved"], **facts["erasers"]} if "saved" in facts else {}
    head = f"{facts['erased']} erased at {facts['site']}\n\n"
    return Answer(facts, f"{head}{table(facts['rows'], ERASED)}\n\n{fields(told)}")


def codelength(
    store: StoreOption,
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", help="Label (may be repeated); default: all of the text."),
    ] = None,
    sites: Annotated[
        list[str] | None, typer.Option("--site", help="Site (may be repeated); default: all.")
    ] = None,
    label_file: LabelFileOption = None,
    codes: Annotated[
        list[str] | None, typer.Option("--code", help="variational or online (may be repeated).")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Splits of the documents.")] = 1,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Of the variational code; default: by its size.")
    ] = None,
    max_rows: RowsOption = 20_000,
    top: Annotated[int, typer.Option("--top", min=0, help="Codes to print, best first.")] = 20,
    out: OutOption = None,
) -> Answer:
    """Count the bits that labels take given activations, beside random and shuffled labels."""
    from lensbench.app.workflows.telling import CODED, RowsAsk, code

    ask = RowsAsk(store, label_file, tuple(sites or ()), tuple(labels or ()), max_rows)
    facts = code(
        ask, codes=tuple(codes or ("variational",)), seeds=seeds, epochs=epochs, top=top, out=out
    )
    told = {**facts["summary"], "control": facts["control"]}
    told |= {"saved": facts["saved"]} if "saved" in facts else {}
    return Answer(facts, f"{table(facts['rows'], CODED)}\n\n{fields(told)}")
