"""``lensbench patch``: what an activation patched from one run into another brings back."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, table
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

_COLUMNS = ("site", "position", "head", "dim", "effect", "low", "high", "value", "n",
            "kept", "kept_low", "kept_high")  # fmt: skip


def patch(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    sites: SitesOption = None,
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
    layers: LayersOption = "",
    positions: PositionsOption = "",
    heads: HeadsOption = "each",
    dims: DimsOption = "",
    subspace: Annotated[
        str,
        typer.Option(
            "--subspace",
            help="Patch only the span of directions: a safetensors file with a tensor directions "
            "[k, d], or one for each site by name; or the folder of a saved AlignedSubspace.",
        ),
    ] = "",
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 32,
    random_patches: Annotated[
        int, typer.Option("--random-patches", help="Random steps as long as a patch, the control.")
    ] = 20,
    batch_size: BatchOption = 64,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="The strongest place again on as many pairs that the sweep has not seen, beside "
            "random steps and other places; saved in OUT/verified.",
        ),
    ] = False,
    place: Annotated[
        str,
        typer.Option(
            "--place", help='Of --verify: this place, such as "block 0, value"; default: strongest.'
        ),
    ] = "",
    freeze_patterns: Annotated[
        bool,
        typer.Option(
            "--freeze-patterns",
            help="The --top places again with all later attention patterns as they were: what is "
            "kept goes through what heads move, the rest through where they look.",
        ),
    ] = False,
    top: Annotated[int, typer.Option("--top", min=1, help="Places to print.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")] = None,
    seed: SeedOption = 0,
) -> Answer:
    """Patch every place from one run of prompt pairs into the other, and rank what it does."""
    from lensbench.app.workflows.answers import saved_in
    from lensbench.app.workflows.patch_cell import (
        NO_OTHERS,
        VERIFIED,
        on_new_pairs,
        place_named,
    )
    from lensbench.app.workflows.patching import PatchAsk, facts, scoring_told
    from lensbench.app.workflows.patching import patch as run
    from lensbench.errors import ConfigError

    ask = PatchAsk(
        task, model, revision, sites_of(sites, "resid_pre"), how, metric, layers, positions,
        heads, dims, pairs, n, random_patches, batch_size, seed, several, subspace,
    )  # fmt: skip
    if verify and pairs:
        raise ConfigError(NO_OTHERS)
    if place and not verify:
        raise ConfigError("--place names what --verify looks at; add --verify")
    result = run(ask)
    found = {**facts(result, top), **saved_in(result, out)}
    if verify:
        check = on_new_pairs(ask, result, place_named(result, place))
        saved_in(check, None if out is None else out / VERIFIED)
        found["verified"] = {"verdict": check.verdict, **check.summary()}
    if freeze_patterns:
        from lensbench.app.workflows.frozen_patterns import beside, with_frozen

        kept = with_frozen(ask, result, top)
        found["top"] = beside(found["top"], kept)
        found["frozen"] = saved_in(kept, None if out is None else out / "frozen")
    sizes = sorted({span["k"] for span in found.get("subspace", {}).values()})
    span = f" of a subspace of {', '.join(map(str, sizes))} dims" if sizes else ""
    head = (
        f"{result.intervention}{span} on {result.task}: {result.n} prompts, "
        f"{len(result.site)} places; {result.metric} {found['clean']:.3f} clean, "
        f"{found['corrupted']:.3f} corrupted ({result.unit})"
    )
    return Answer(
        found,
        "\n".join([
            head,
            "",
            table(found["top"], [c for c in _COLUMNS if any(c in row for row in found["top"])]),
            "",
            f"effect: 0 = corrupted, 1 = clean. Control: {result.controls}",
            *(["kept: with all later attention patterns as they were"] if freeze_patterns else []),
            *filter(None, [scoring_told(found)]),
            *([f"verified: {found['verified']['verdict']}"] if verify else []),
            *([f"saved in {found['saved']}"] if out is not None else []),
        ]),
    )  # fmt: skip
