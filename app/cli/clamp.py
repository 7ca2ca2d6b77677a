"""``lensbench clamp``: neurons, and heads while a model learns, set to a value and held there."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group
from lensbench.app.cli.numbers import floats
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.task_options import SeedOption

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedsOption = Annotated[
    str, typer.Option("--seeds", help="Of weights and batches, such as 0,1,2; all runs for each.")
]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Clamps: a part of the network held at a value, in one run or all of training.")
    app.command("neuron")(neuron)
    app.command("training")(training)
    app.command("toy")(toy)
    return app


def neuron(
    neuron: Annotated[
        list[str],
        typer.Option(
            "--neuron",
            help="LAYER.NUMBER, such as 2.17; 2.17- is set to minus the value. Several are clamped "
            "together.",
        ),
    ],
    token: Annotated[
        str, typer.Option("--token", help='The token that is measured: " Lima", or its id.')
    ],
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A text; repeatable.")
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            help='A text file with a prompt per line, .jsonl with "prompt", or atlas:N.',
        ),
    ] = "",
    values: Annotated[
        str, typer.Option("--values", help="What they are set to; both signs.")
    ] = "-20,-5,-1,0,1,5,20",
    at: Annotated[
        str,
        typer.Option("--at", help="up, gate or post, several with commas; default: all there are."),
    ] = "",
    metric: Annotated[str, typer.Option("--metric", help="probability, loss or rank.")] = (
        "probability"
    ),
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows in one pass.")] = 64,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Set neurons at all tokens and see what becomes of one token, beside other neurons."""
    from lensbench.app.workflows import clamping

    facts = clamping.neurons(
        model, neuron, int(token) if token.isdigit() else token, prompt=prompt or (), file=prompts,
        values=floats(values, "--values"), at=[p for p in at.replace(",", " ").split() if p],
        metric=metric, batch_size=batch_size, revision=revision, seed=seed, out=out,
    )  # fmt: skip
    return result_answer(facts, ("kind", "at", "clamped", "value", "low", "high", "n"))


def training(
    clamp: Annotated[
        list[str],
        typer.Option(
            "--clamp",
            help="KIND@LAYER.HEAD: match@1.0 (attends to the right exemplar; =0.5 by half), "
            "offset@0.2=1 (to the token before), copy@1.0 (perfect copying). A run each.",
        ),
    ],
    control: Annotated[
        list[str] | None,
        typer.Option("--control", help="Clamps that should not help, such as match@1.0=0.5."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates of every run.")] = 2000,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", min=1, help="Updates between checkpoints.")
    ] = 50,
    held_out: Annotated[
        int, typer.Option("--held-out", min=1, help="Sequences measured at a checkpoint.")
    ] = 256,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Sequences per update.")] = 64,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate of Adam.")] = 1e-3,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Layers of the model.")] = 2,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Heads of a layer.")] = 8,
    width: Annotated[int, typer.Option("--width", min=2, help="d_model.")] = 64,
    heads_alone: Annotated[
        bool,
        typer.Option("--heads-alone/--no-heads-alone", help="Measure each head alone as well."),
    ] = True,
    seeds: SeedsOption = "0",
    out: OutOption = None,
) -> Answer:
    """Train an attention-only model free and with heads clamped, and compare how it learns.

    The task is exemplars and labels in context; the plateau of a model without induction is ln 2.
    """
    from lensbench.app.workflows import clamping

    facts = clamping.training(
        clamp, control or (), steps=steps, evaluate_every=evaluate_every, held_out=held_out,
        batch_size=batch_size, lr=lr, layers=layers, heads=heads, width=width, seeds=seeds,
        heads_alone=heads_alone, out=out,
    )  # fmt: skip
    return result_answer(facts, ("run", "measure", "step", "value", "low", "high", "seeds", "n"))


def toy(
    factors: Annotated[
        str, typer.Option("--factors", help="Sets of a, b, c that are clamped, a run each.")
    ] = "c,bc",
    dim: Annotated[int, typer.Option("--dim", min=2, help="Length of each factor.")] = 20,
    lr: Annotated[float, typer.Option("--lr", help="Step of gradient descent.")] = 1.0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates of every run.")] = 1000,
    seeds: SeedsOption = "0,1,2,3,4",
    out: OutOption = None,
) -> Answer:
    """Learn a rank-1 tensor with factors clamped to the truth, and count how much sooner it is."""
    from lensbench.app.workflows import clamping

    facts = clamping.toy(factors, dim=dim, lr=lr, steps=steps, seeds=seeds, out=out)
    return result_answer(facts, ("run", "measure", "step", "value", "low", "high", "seeds"))
