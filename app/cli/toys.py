"""``lensbench world toys | atoms``: superposition where the truth is known."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import OutOption, SeedOption
from lensbench.app.cli.numbers import floats
from lensbench.app.cli.results import result_answer

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting, key=value. Repeatable.")
]


def toys(
    features: Annotated[int | None, typer.Option("--features", help="Default: 5.")] = None,
    hidden: Annotated[int | None, typer.Option("--hidden", help="Bottleneck; default: 2.")] = None,
    sparsity: Annotated[
        str, typer.Option("--sparsity", help="Chances that a feature is 0, such as 0,0.7,0.99.")
    ] = "0,0.7,0.9,0.99",
    steps: Annotated[int | None, typer.Option("--steps", help="Default: 10000.")] = None,
    sets: SetOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Train toy models of superposition at several sparsities, beside linear ones."""
    from lensbench.app.workflows.toys import toy_models

    given = {"n_features": features, "d_hidden": hidden, "steps": steps, "seed": seed,
             "sparsity": floats(sparsity, "--sparsity")}  # fmt: skip
    facts = toy_models(given, sets or (), out)
    return result_answer(facts, ("sparsity", "role", "feature", "norm", "dimensionality",
                                 "superposition", "loss"))  # fmt: skip


def atoms(
    d_model: Annotated[int, typer.Option("--d-model", help="Width of the activations.")] = 32,
    n_atoms: Annotated[int, typer.Option("--atoms", help="Known directions.")] = 64,
    l0: Annotated[float, typer.Option("--l0", help="Atoms that fire in a row.")] = 3.0,
    architecture: Annotated[
        str, typer.Option("--architecture", help="Of the dictionary, as in train sae.")
    ] = "topk",
    d_sae: Annotated[int, typer.Option("--d-sae", help="Its latents.")] = 64,
    k: Annotated[int | None, typer.Option("--k", help="Of topk and batchtopk.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Batches of 512 rows.")] = 600,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Cosine from which an atom counts as found.")
    ] = 0.9,
    sets: SetOption = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Keep the run here.")] = None,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Train a dictionary on a world of known atoms and count what it found, beside random ones."""
    from lensbench.app.workflows.toys import atoms as trained

    fixed = architecture in ("topk", "batchtopk", "matryoshka")
    dictionary = {"architecture": architecture, "d_sae": d_sae, "lr": lr,
                  "k": k if k is not None or not fixed else max(1, round(l0))}  # fmt: skip
    given = {"d_model": d_model, "n_atoms": n_atoms, "l0": l0, "seed": seed}
    facts = trained(given, sets or (), dictionary=dictionary, steps=steps, threshold=threshold,
                    seed=seed, keep=keep, out=out)  # fmt: skip
    return result_answer(facts)
