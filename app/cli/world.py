"""``lensbench world``: sample labelled text, train a bundled model again."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, Progress, fields
from lensbench.app.cli.groups import new_group


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Worlds of generated text whose labels and probabilities are known.")
    app.command("sample")(sample)
    app.command("train")(train)
    return app


def sample(
    out: Annotated[Path, typer.Option("--out", help="JSON-lines file to write.")],
    docs: Annotated[int, typer.Option("--docs", help="Number of documents.")] = 1000,
    split: Annotated[
        str, typer.Option("--split", help="train, heldout, all or unknown.")
    ] = "train",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the documents.")] = 0,
    world_seed: Annotated[int, typer.Option("--world-seed", help="Seed of the world.")] = 0,
    variant: Annotated[str, typer.Option("--variant", help="english or equal.")] = "english",
    family: Annotated[str, typer.Option("--family", help="Only this family of sentences.")] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out where it exists.")
    ] = False,
) -> Answer:
    """Write sampled documents of the atlas world, one JSON object per line."""
    from lensbench.app.workflows.worlds import sample_world

    facts = sample_world(
        out, n_docs=docs, split=split, seed=seed, world_seed=world_seed, variant=variant,
        family=family, overwrite=overwrite,
    )  # fmt: skip
    return Answer(facts, fields(facts))


def train(
    model: Annotated[
        str | None, typer.Argument(help="Which bundled model: atlas-dense.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file of the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the model.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Training steps.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights and text.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Train this many seeds.")] = None,
    save_steps: Annotated[
        str | None, typer.Option("--save-steps", help="Kept revisions: log:12 or 512,2048.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the saved state.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Go on in the background; log in OUT/log.txt.")
    ] = False,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe key: d_model=64.")
    ] = None,
) -> Answer:
    """Train a model of the atlas world; a stopped run goes on with --resume."""
    from lensbench.app.workflows.worlds import train_world_model

    given = {
        "model": model, "out": out, "steps": steps, "seed": seed, "seeds": seeds,
        "save_steps": save_steps, "resume": resume or None,
    }  # fmt: skip
    progress = Progress("training")
    facts = train_world_model(
        config, {k: v for k, v in given.items() if v is not None}, assign or (),
        detach=detach, progress=progress,
    )  # fmt: skip
    progress.end()
    return Answer(facts, fields(facts))
