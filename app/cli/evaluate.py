"""``lensbench eval``: measure trained dictionaries against a store and the live model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli import isolation
from lensbench.app.cli.console import Answer, Progress, table
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group
from lensbench.app.cli.numbers import span


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Evaluate what was trained.")
    app.callback()(_keep_group)
    app.command("sae")(sae)
    app.command("isolation")(isolation.isolation)
    return app


def _keep_group() -> None:
    """Evaluate what was trained."""


def sae(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Run folder of `train sae`; or one dictionary in any format of saes.load.",
        ),
    ],
    store: Annotated[Path, typer.Option("--store", help="Store to evaluate on.")],
    model: ModelOption,
    revision: RevisionOption = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            help="Measures, separated by commas: core, labels, sparse_probing, tpp, scr, "
            "absorption, splitting, coverage, meta, seeds, implants; or all.",
        ),
    ] = "core,labels",
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE.json",
            help="Your own labels: by name a list of true and false, one for each stored row or "
            "for each document; instead of those that come with the text.",
        ),
    ] = None,
    scr_labels: Annotated[
        str | None,
        typer.Option(
            "--scr-labels",
            metavar="A,B",
            help="The two labels of scr: properties of the same rows that do not depend on each "
            "other (not needed where --labels gives two).",
        ),
    ] = None,
    documents: Annotated[
        str | None,
        typer.Option(
            "--documents",
            metavar="FROM:TO",
            help="Only these documents of the store, by number: the first, and the one after the "
            "last, such as 0:500.",
        ),
    ] = None,
    ce_sequences: Annotated[
        int,
        typer.Option(
            "--ce-sequences",
            help="Sequences (rows of the capture) for the live cross-entropy, from the start of "
            "the store; 0 leaves it out.",
        ),
    ] = 256,
    twin: Annotated[
        bool,
        typer.Option(
            "--twin",
            help="One more control: repeat the first dictionary on a twin of the model with random "
            "weights (captures the text again).",
        ),
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="sae_lens: the same dictionaries, model and tokens through SAELens' own "
            "evaluation, beside ours; nothing else is measured or saved.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of splits and bootstraps.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the evaluation that is there.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder that gets the folder evaluation; default: RUN."),
    ] = None,
) -> Answer:
    """The quality of dictionaries, each number beside its controls; saved in RUN/evaluation."""
    from lensbench.app.workflows.evaluation import compare_run, evaluate_run

    progress = Progress("evaluate")
    if against is not None:
        facts = compare_run(run, store, model, against, revision=revision, sequences=ce_sequences)
        return Answer(facts, _compared(facts))
    facts = evaluate_run(
        run, store, model, revision=revision, suite=suite, labels=labels, scr_labels=scr_labels,
        documents=span(documents, "--documents"),
        ce_sequences=ce_sequences, twin=twin, seed=seed, overwrite=overwrite, out=out,
        progress=progress,
    )  # fmt: skip
    progress.end()
    return Answer(facts, _evaluated(facts))


def _evaluated(facts: dict[str, Any]) -> str:
    """The core table, then a table for each further measure with its controls."""
    lines = [table(facts["dictionaries"]), *_controls_of_core(facts)]
    for measure in facts["measures"]:
        lines += ["", f"{measure['measure']}: {measure['asks']}"]
        lines += [f"{measure['metric']} [{measure['unit']}], 95 % interval; n: {measure['of']}"]
        lines.append(table(measure["rows"]))
        if measure["more"]:
            lines.append(f"also measured (RUN/evaluation): {'; '.join(measure['more'])}")
    for measure, why in facts["left_out"].items():
        lines += ["", f"left out: {measure}: {why}"]
    lines += ["", f"controls: {facts['controls']}", facts["scored"], f"rows: {facts['disclosure']}"]
    return "\n".join([*lines, f"saved in {facts['saved']}"])


def _controls_of_core(facts: dict[str, Any]) -> list[str]:
    if not facts["core_controls"]:
        return []
    return ["", "the same of the controls", table(facts["core_controls"])]


def _compared(facts: dict[str, Any]) -> str:
    lines = [f"ours beside SAELens {facts['version']}, {facts['on']}"]
    for one in facts["dictionaries"]:
        lines += ["", one["name"], table(one["rows"])]
    return "\n".join([*lines, "", f"largest relative difference: {facts['largest']:.2g}"])
