"""``lensbench world``: sample labelled text, train a bundled model again."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli import toys
from lensbench.app.cli.console import Answer, Progress, fields
from lensbench.app.cli.groups import new_group


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Worlds of generated text whose labels and probabilities are known.")
    app.command("sample")(sample)
    app.command("train")(train)
    app.command("toys")(toys.toys)
    app.command("atoms")(toys.atoms)
    return app


def sample(
    out: Annotated[Path, typer.Option("--out", help="JSON-lines file to write.")],
    world: Annotated[
        str, typer.Argument(help="Which world: atlas (sentences), othello (games) or words.")
    ] = "atlas",
    docs: Annotated[int, typer.Option("--docs", help="Number of documents.")] = 1000,
    split: Annotated[
        str, typer.Option("--split", help="train, heldout, all; atlas: unknown too.")
    ] = "train",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the documents.")] = 0,
    world_seed: Annotated[
        int | None, typer.Option("--world-seed", help="Atlas and words: seed of the world.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Atlas: english or equal.")
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="Atlas: only this family of sentences.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Othello: 4, 6 or 8 squares along a side.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out where it exists.")
    ] = False,
) -> Answer:
    """Write sampled documents of a world, one JSON object per line."""
    from lensbench.app.workflows.worlds import sample_world

    facts = sample_world(
        out, n_docs=docs, split=split, seed=seed, world=world, world_seed=world_seed,
        variant=variant, family=family, size=size, overwrite=overwrite,
    )  # fmt: skip
    return Answer(facts, fields(facts))


def train(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Which model: atlas-dense, atlas-early, atlas-equal, atlas-moe, "
            "atlas-refusing, atlas-translate, othello, words.",
            show_default=False,
        ),
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
    """Train the bundled model of a world again; a stopped run goes on with --resume."""
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
