"""``lensbench attribute``: what patches would do, from gradients, and whether they do it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.app.cli.task_options import (
    BatchOption,
    CountOption,
    DimsOption,
    HeadsOption,
    LayersOption,
    PairsOption,
    PositionsOption,
    SeedOption,
    SeveralOption,
    SitesOption,
    TaskArgument,
    sites_of,
)

_PLACES = ("site", "position", "head", "dim", "change", "low", "high", "value", "n")
_EDGES = ("writer", "reader", "change", "value", "n")


def attribute(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    sites: SitesOption = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="Of places: atp, atp_qk, atp_star, ig or ig_inputs; of edges between heads and "
            "MLPs: eap or eap_ig.",
        ),
    ] = "atp",
    direction: Annotated[
        str,
        typer.Option("--direction", help="denoise (clean into corrupted) or noise (the reverse)."),
    ] = "denoise",
    metric: Annotated[
        str, typer.Option("--metric", help="logit_diff, kl, probability or loss.")
    ] = "logit_diff",
    layers: LayersOption = "",
    positions: PositionsOption = "",
    heads: HeadsOption = "each",
    dims: DimsOption = "",
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Points of an integral; default: 30, of eap_ig 5."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option("--rule", help="midpoint or left; default: midpoint, of eap_ig left."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Do the patches of the top and of random others, and compare; of edges: "
            "run circuits too.",
        ),
    ] = False,
    verify_top: Annotated[
        int, typer.Option("--verify-top", help="Top places that are patched.")
    ] = 10,
    verify_random: Annotated[
        int, typer.Option("--verify-random", help="Random other places that are patched.")
    ] = 20,
    large: Annotated[
        float, typer.Option("--large", help="Change that counts as large, share of the gap.")
    ] = 0.1,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 32,
    batch_size: BatchOption = 64,
    top: Annotated[int, typer.Option("--top", help="Places or edges to print.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to save the result in, with what verified it."),
    ] = None,
    seed: SeedOption = 0,
) -> Answer:
    """Estimate from gradients what patching each place or edge would do, and check it."""
    from lensbench.app.workflows.answers import saved_in
    from lensbench.app.workflows.attributing import AttributeAsk, attribute_task, facts

    chosen = sites_of(sites, "")
    found = attribute_task(
        AttributeAsk(
            task, model, revision, chosen, method, direction, metric, layers, positions, heads,
            dims, steps, rule, verify, verify_top, verify_random, large, pairs, n, batch_size, seed,
            several,
        )
    )  # fmt: skip
    told = {**facts(found, top), **saved_in(found.result, out)}
    for name, done in (("verified", found.check), ("circuits", found.circuits)):
        if done is not None:
            saved_in(done, None if out is None else out / name)
    return Answer(told, _text(told))


def _text(told: dict[str, Any]) -> str:
    what = f"{told['edges']} edges" if "edges" in told else f"{told['places']} places"
    from lensbench.app.workflows.patching import scoring_told

    lines = [
        f"{told['method']} of {told['direction']} on {told['task']}: {told['prompts']} prompts, "
        f"{what}; {told['metric']} {told['clean']:.3f} clean, {told['corrupted']:.3f} corrupted",
        "",
        table(told["top"], _EDGES if "edges" in told else _PLACES),
        "",
        f"change: estimated, {told['unit']}",
        *filter(None, [scoring_told(told)]),
    ]
    gaps = told.get("completeness_gap")
    if gaps:
        worst = max(gaps, key=lambda site: abs(gaps[site] or 0.0))
        lines.append(f"completeness gap: {gaps[worst]:+.2%} at most, at {worst}")
    if "verified" in told:
        lines += ["", *_done("verified by doing it", told["verified"])]
    else:
        lines.append("an estimate: --verify does some of these patches and compares")
    if "circuits" in told:
        lines += ["", *_done("circuits of the largest edges, run", told["circuits"])]
    return "\n".join([*lines, *([f"saved in {told['saved']}"] if "saved" in told else [])])


def _done(title: str, done: dict[str, Any]) -> list[str]:
    told = {k: v for k, v in done.items() if k not in ("rows", "controls")}
    return [title, table(done["rows"]), "", fields(told)]
