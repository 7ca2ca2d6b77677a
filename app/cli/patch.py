"""``lensbench patch``: what an activation patched from one run into another brings back."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, table
from lensbench.app.cli.groups import ModelOption, RevisionOption

_COLUMNS = ("site", "position", "head", "dim", "effect", "low", "high", "value", "n")


def patch(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="Prompt pairs: recall, ioi, agreement, greater_than, first_letter or refusal.",
        ),
    ] = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    site: Annotated[
        str,
        typer.Option("--site", help="One or more, such as resid_pre,attn.z or blocks.3.mlp_out."),
    ] = "resid_pre",
    how: Annotated[
        str,
        typer.Option(
            "--how",
            help="denoise (clean into corrupted), noise (the reverse), or an ablation of the clean "
            "run: zero, mean, resample, solo.",
        ),
    ] = "denoise",
    metric: Annotated[
        str, typer.Option("--metric", help="logit_diff, kl, probability, rank or loss.")
    ] = "logit_diff",
    layers: Annotated[str, typer.Option("--layers", help="Such as 0,3-5; default: all.")] = "",
    positions: Annotated[
        str,
        typer.Option("--positions", help="each, together, numbers or roles such as subject,end."),
    ] = "",
    heads: Annotated[
        str, typer.Option("--heads", help="each, together, or numbers, of sites with heads.")
    ] = "each",
    dims: Annotated[
        str, typer.Option("--dims", help="Neurons or channels one by one, such as 0-127.")
    ] = "",
    pairs: Annotated[
        str, typer.Option("--pairs", help="JSON file of pairs (PromptPairs.to_json), not a task.")
    ] = "",
    n: Annotated[int, typer.Option("--n", help="Prompt pairs.")] = 32,
    random_patches: Annotated[
        int, typer.Option("--random-patches", help="Places where a random step is tried too.")
    ] = 16,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Most rows in one forward pass.")
    ] = 64,
    top: Annotated[int, typer.Option("--top", help="Places to print.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the prompts and controls.")] = 0,
) -> Answer:
    """Patch every place from one run of prompt pairs into the other, and rank what it does."""
    from lensbench.app.workflows.patching import PatchAsk, facts
    from lensbench.app.workflows.patching import patch as run

    sites = tuple(part.strip() for part in site.split(",") if part.strip())
    result = run(
        PatchAsk(
            task, model, revision, sites, how, metric, layers, positions, heads, dims, pairs, n,
            random_patches, batch_size, seed,
        )
    )  # fmt: skip
    found = facts(result, top)
    if out is not None:
        found["saved"] = str(result.save(out))
    head = (
        f"{result.intervention} on {result.task}: {result.n} prompts, {len(result.site)} places; "
        f"{result.metric} {found['clean']:.3f} clean, {found['corrupted']:.3f} corrupted "
        f"({result.unit})"
    )
    return Answer(
        found,
        "\n".join([
            head,
            "",
            table(found["top"], _COLUMNS),
            "",
            f"effect: 0 = corrupted, 1 = clean. Control: {result.controls}",
            *([f"saved in {found['saved']}"] if out is not None else []),
        ]),
    )  # fmt: skip
