"""``lensbench circuit``: along which paths, by which edges and latents a task is done."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli import circuit_latents, circuit_tests
from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.task_options import (
    CountOption,
    HeadsOption,
    LayersOption,
    PairsOption,
    PositionsOption,
    SeedOption,
    SeveralOption,
    TaskArgument,
    sites_of,
)

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SizesOption = Annotated[
    str, typer.Option("--sizes", help="Sizes of circuits, such as 5,10,50; default: a few.")
]
DirectionOption = Annotated[
    str,
    typer.Option("--direction", help="denoise (clean into corrupted) or noise (the reverse)."),
]
RandomOption = Annotated[
    int, typer.Option("--random", min=0, help="Random circuits of each size, the control.")
]
MetricOption = Annotated[
    str, typer.Option("--metric", help="logit_diff, kl, probability, rank or loss.")
]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Prompts in one pass.")]
TopOption = Annotated[int, typer.Option("--top", min=0, help="Rows to print.")]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Circuits: paths, edges, latents and subspaces that a task needs.")
    app.command("task")(circuit_tests.task)
    app.command("paths")(paths)
    app.command("prune")(prune)
    app.command("faithful")(faithful)
    app.command("align")(align)
    app.command("latents")(circuit_latents.latents)
    app.command("graph")(circuit_latents.graph)
    app.command("latent")(circuit_latents.latent)
    app.command("scrub")(circuit_tests.scrub)
    app.command("components")(circuit_tests.components)
    app.command("subspace")(circuit_tests.subspace)
    app.command("readings")(circuit_tests.readings)
    return app


def paths(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    senders: Annotated[
        list[str] | None,
        typer.Option("--senders", help="Sites whose state is sent; default: attn.z."),
    ] = None,
    receivers: Annotated[
        list[str] | None,
        typer.Option("--receivers", help="Sites that receive it; default: ln_final (the logits)."),
    ] = None,
    through_mlps: Annotated[
        bool, typer.Option("--through-mlps", help="Paths may pass through MLPs as well.")
    ] = False,
    direction: DirectionOption = "denoise",
    metric: MetricOption = "logit_diff",
    layers: LayersOption = "",
    positions: PositionsOption = "",
    heads: HeadsOption = "each",
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 32,
    batch_size: BatchOption = 64,
    top: TopOption = 10,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Patch each sender along its direct paths to the receivers only (path patching)."""
    from lensbench.app.workflows import circuits

    ask = circuits.CircuitAsk(task, model, revision, metric, pairs, several, n, batch_size, seed)
    facts = circuits.paths(
        ask, sites_of(senders, "attn.z"), sites_of(receivers, "ln_final"), direction=direction,
        layers=layers, positions=positions, heads=heads, through_mlps=through_mlps, out=out,
        top=top,
    )  # fmt: skip
    shown = ("site", "layer", "position", "head", "effect", "low", "high", "n")
    return result_answer(facts, shown, "effect: 0 = as it is, 1 = the other run")


def prune(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="An edge that costs less than this is cut.")
    ] = 0.01,
    metric: Annotated[
        str, typer.Option("--metric", help="kl, logit_diff, probability or loss.")
    ] = "kl",
    random: RandomOption = 5,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 16,
    batch_size: BatchOption = 16,
    top: TopOption = 20,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Cut edges one by one, and keep out those nobody misses (ACDC)."""
    from lensbench.app.workflows import circuits

    ask = circuits.CircuitAsk(task, model, revision, metric, pairs, several, n, batch_size, seed)
    facts = circuits.pruned(ask, threshold, random=random, out=out, top=top)
    return result_answer(facts, ("writer", "reader", "cost", "n"), "edges that are kept")


def faithful(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    method: Annotated[str, typer.Option("--method", help="eap or eap_ig.")] = "eap_ig",
    sizes: SizesOption = "",
    how: Annotated[
        str, typer.Option("--how", help="greedy (connected to the logits) or top (largest).")
    ] = "greedy",
    metric: MetricOption = "logit_diff",
    random: RandomOption = 5,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 16,
    batch_size: BatchOption = 16,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Run circuits of the edges that gradients call largest: how much of the task they do."""
    from lensbench.app.workflows import circuits

    ask = circuits.CircuitAsk(task, model, revision, metric, pairs, several, n, batch_size, seed)
    facts = circuits.faithful(ask, method=method, sizes=sizes, how=how, random=random, out=out)
    return result_answer(facts)


def align(
    site: Annotated[str, typer.Option("--site", help="Such as blocks.2.resid_post.")],
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    position: Annotated[str, typer.Option("--position", help="Role or number.")] = "end",
    head: Annotated[int | None, typer.Option("--head", help="Of a site with heads.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Dimensions.")] = 1,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates.")] = 150,
    direction: DirectionOption = "denoise",
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 32,
    batch_size: BatchOption = 20,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Search a subspace of one place that carries the answer (DAS), for `patch --subspace`."""
    from lensbench.app.workflows import circuits

    ask = circuits.CircuitAsk(task, model, revision, "logit_diff", pairs, several, n, batch_size,
                              seed)  # fmt: skip
    facts = circuits.aligned(ask, site, position=position, head=head, k=k, steps=steps,
                             direction=direction, out=out)  # fmt: skip
    found = result_answer(facts)
    where = out or "FOLDER"
    after = f"\nwhat it does: lensbench patch {task} --sites {site} --subspace {where}"
    return Answer(facts, found.text + after)
