"""``lensbench probe boards``, ``numbers``, ``trees`` and ``spans``: questions to special data."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, table
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.app.cli.results import result_answer

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every draw.")]
SitesOption = Annotated[
    list[str] | None,
    typer.Option("--site", help="Site (may be repeated); default: embed and every resid_post."),
]


def boards(
    model: ModelOption = "othello",
    games: Annotated[int, typer.Option("--games", min=10, help="Games that are played.")] = 400,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", help="relative (mine, yours) or absolute (black, white)."),
    ] = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Read the board off a model of games: every square at every layer, beside random weights."""
    from lensbench.app.workflows.special_probes import boards as probed

    facts = probed(model, games=games, kinds=kinds or ("relative", "absolute"), revision=revision,
                   seed=seed, out=out)  # fmt: skip
    return result_answer(facts, ("source", "layer", "accuracy", "low", "high", "majority", "n"))


def numbers(
    model: ModelOption = "atlas-dense",
    n: Annotated[int, typer.Option("--n", min=50, help="Prompts.")] = 2000,
    components: Annotated[
        str, typer.Option("--components", help="Dimensions to try, such as 1,2,5.")
    ] = "1,2,3,5,10",
    flips: Annotated[
        int, typer.Option("--flips", min=0, help="Comparisons to turn by steps; 0: none.")
    ] = 0,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Find subspaces of a number (PLS), beside exchanged values; with --flips, step along them."""
    from lensbench.app.workflows.special_probes import number_subspaces

    facts = number_subspaces(model, n=n, components=components, flips=flips, revision=revision,
                             seed=seed, out=out)  # fmt: skip
    found = result_answer(facts, ("layer", "components", "r2", "low", "high", "shuffled", "n"))
    turned = facts.get("flips")
    after = "" if turned is None else f"\n\nanswers turned\n{table(turned['rows'])}"
    return Answer(facts, found.text + after)


def trees(
    model: ModelOption,
    file: Annotated[
        Path,
        typer.Option("--text", help='JSON lines: {"words": [..], "heads": [..]}; the root is -1.'),
    ],
    task: Annotated[str, typer.Option("--task", help="distance or depth.")] = "distance",
    sites: SitesOption = None,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Default: full.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes at most.")] = 100,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Fit structural probes to the parse trees of your sentences, beside trees of others."""
    from lensbench.app.workflows.special_probes import trees as probed

    facts = probed(model, file, task=task, sites=tuple(sites or ()), rank=rank, epochs=epochs,
                   revision=revision, seed=seed, out=out)  # fmt: skip
    return result_answer(facts)


def spans(
    model: ModelOption,
    file: Annotated[
        Path,
        typer.Option(
            "--text", help='JSON lines: {"words": [..], "spans": [[0, 2], ..], "labels": [..]}.'
        ),
    ],
    heads: Annotated[
        list[str] | None, typer.Option("--head", help="linear or mlp (may be repeated).")
    ] = None,
    pooling: Annotated[str, typer.Option("--pooling", help="mean or ends.")] = "mean",
    sites: SitesOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Name spans of your sentences, or pairs of spans (edge probes), beside shuffled labels."""
    from lensbench.app.workflows.special_probes import spans as probed

    facts = probed(model, file, heads=heads or ("linear", "mlp"), pooling=pooling,
                   sites=tuple(sites or ()), revision=revision, seed=seed, out=out)  # fmt: skip
    return result_answer(facts)
