"""``lensbench probe codes | angles | lengths | aligned | flips``: shape, and what follows it."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, table
from lensbench.app.cli.groups import ModelOption, OutOption, RevisionOption, SeedOption, TextOption
from lensbench.app.cli.results import result_answer

StoresOption = Annotated[
    list[Path], typer.Option("--store", help="Activations of one text (may be repeated).")
]
LabelFileOption = Annotated[
    Path | None,
    typer.Option(
        "--label-file",
        help="Your own labels as JSON: by name a list of true and false, one for each stored row "
        "or document.",
    ),
]
RowsOption = Annotated[int, typer.Option("--max-rows", min=2, help="Rows to read.")]


def codes(
    stores: StoresOption,
    label: Annotated[str, typer.Option("--label", help="Label that is read off the codes.")],
    sites: Annotated[
        list[str], typer.Option("--site", help="Units, such as blocks.3.mlp.post. Repeatable.")
    ],
    controls: Annotated[
        list[Path] | None,
        typer.Option("--control", help="Store of a control, such as a twin's. Repeatable."),
    ] = None,
    label_file: LabelFileOption = None,
    max_rows: RowsOption = 4000,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Read units as hash codes (on or off): how redundant, and how well a label is read off."""
    from lensbench.app.workflows.shapes_more import LabelAsk
    from lensbench.app.workflows.shapes_more import codes as read

    ask = LabelAsk(tuple(stores), (label,), label_file, max_rows, seed)
    facts = read(ask, sites, controls=tuple(controls or ()), out=out)
    shown = ("source", "site", "regime", "redundancy", "redundancy_independent", "knn", "logistic",
             "majority", "knn_shuffled_labels", "bits", "n")  # fmt: skip
    return result_answer(facts, shown)


def angles(
    stores: StoresOption,
    site: Annotated[str, typer.Option("--site", help="The site that all probes read.")],
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", help="Label (may be repeated); default: all of the text."),
    ] = None,
    label_file: LabelFileOption = None,
    method: Annotated[
        str, typer.Option("--method", help="logistic, mean_difference, ridge or pls.")
    ] = "logistic",
    draws: Annotated[int, typer.Option("--draws", min=2, help="Pairs of random subspaces.")] = 200,
    max_rows: RowsOption = 20_000,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Measure angles between probes of labels, or of checkpoints, beside random subspaces."""
    from lensbench.app.workflows.shapes_more import LabelAsk
    from lensbench.app.workflows.shapes_more import angles as measured

    ask = LabelAsk(tuple(stores), tuple(labels or ()), label_file, max_rows, seed)
    return result_answer(measured(ask, site, method=method, draws=draws, out=out))


def checkpoints(
    model: ModelOption,
    text: TextOption,
    sites: Annotated[list[str], typer.Option("--site", help="Site to keep (may be repeated).")],
    out: Annotated[Path, typer.Option("--out", help="Folder; a store in it per checkpoint.")],
    revisions: Annotated[
        list[str] | None,
        typer.Option("--revision", help="Such as step512 (may be repeated); default: all."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens of a row; default: as many as fit."),
    ] = None,
) -> Answer:
    """Capture one text through every checkpoint: stores for `probe geometry` and `probe angles`."""
    from lensbench.app.workflows.shapes_more import checkpoints as captured

    facts = captured(model, text, sites, out, revisions=tuple(revisions or ()), context=context)
    stores = " ".join(f"--store {row['store']}" for row in facts["rows"])
    after = f"\n\nnext: lensbench probe geometry --site {sites[0]} {stores}"
    return Answer(facts, table(facts["rows"]) + after)


def lengths(
    model: ModelOption,
    text: TextOption,
    at: Annotated[str, typer.Option("--lengths", help="Tokens, such as 4,8,16.")] = "4,8,16",
    n: Annotated[int, typer.Option("--n", min=2, help="Texts at most.")] = 64,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Show whether tokens grow alike with a text's length, beside shuffled text and a twin."""
    from lensbench.app.workflows.shapes_more import lengths as measured

    facts = measured(model, text, at=at, n=n, revision=revision, seed=seed, out=out)
    return result_answer(facts, ("source", "layer", "length_tokens", "similarity", "similarity_low",
                                 "similarity_high", "anisotropy", "n_texts"))  # fmt: skip


def aligned(
    model: ModelOption,
    file: Annotated[
        Path,
        typer.Option(
            "--pairs",
            help='JSON lines: {"ambiguous": "..", "variant": "..", "disambiguating": "word"}.',
        ),
    ],
    site: Annotated[str, typer.Option("--site", help="Where states are compared.")] = "ln_final",
    twin: Annotated[
        bool, typer.Option("--twin/--no-twin", help="Beside a re-initialised model.")
    ] = True,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Compare two readings of sentences token by token (garden paths), beside a twin."""
    from lensbench.app.workflows.shapes_more import aligned as compared

    facts = compared(model, file, site=site, twin=twin, revision=revision, seed=seed, out=out)
    return result_answer(facts, ("source", "pair", "place", "token", "token_variant", "cosine",
                                 "manhattan", "surprisal_difference"))  # fmt: skip


def flips(
    model: ModelOption = "othello",
    games: Annotated[int, typer.Option("--games", min=10, help="Games to fit probes on.")] = 400,
    layers: Annotated[
        str, typer.Option("--layers", help="Such as 1,2; default: all but first and last.")
    ] = "",
    cases: Annotated[int, typer.Option("--cases", min=2, help="Boards that are changed.")] = 400,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Turn discs over along the board probes' directions, and score the moves that follow."""
    from lensbench.app.workflows.special_probes import board_flips

    facts = board_flips(model, games=games, layers=layers, cases=cases, revision=revision,
                        seed=seed, out=out)  # fmt: skip
    return result_answer(facts)
