"""``lensbench circuit task``, ``scrub``, ``components``, ``subspace``, ``readings``."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.app.cli.numbers import floats
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.task_options import (
    CountOption,
    PairsOption,
    SeedOption,
    SeveralOption,
    TaskArgument,
)

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Prompts in one pass.")]
DictionaryOption = Annotated[
    str, typer.Option("--dictionary", help="RUN/NAME, or any dictionary of saes.load.")
]
DirectionOption = Annotated[
    str,
    typer.Option("--direction", help="denoise (clean into corrupted) or noise (the reverse)."),
]


def task(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 64,
    batch_size: BatchOption = 64,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Say whether a model does a task at all, before a circuit of it is looked for.

    accuracy: share of pairs with the answer above the foil. Controls: answers of other pairs, and
    corrupted prompts.
    """
    from lensbench.app.workflows import hypotheses
    from lensbench.app.workflows.circuits import CircuitAsk

    ask = CircuitAsk(task, model, revision, "logit_diff", pairs, several, n, batch_size, seed)
    return result_answer(hypotheses.done(ask, out=out))


def scrub(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(
            "--claim",
            help="SITE@POSITION=FEATURE: the place matters through that feature only. A feature is "
            "answer, foil, wording, length, prompt, nothing, or a role of the task (its token). "
            "Of one head: SITE@POSITION#HEAD=FEATURE. Repeatable.",
        ),
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(
            "--claims",
            help="YAML file of a tree: claims: [{site: .., position: .., feature: .., "
            "children: [..]}].",
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="A loss: loss, logit_diff, probability or kl.")
    ] = "loss",
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="How often each prompt is scrubbed.")
    ] = 8,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 32,
    batch_size: BatchOption = 64,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Resample all that a hypothesis says does not matter (causal scrubbing).

    recovered: 1 keeps the model's loss, 0 is chance; the control shuffles features over prompts.
    """
    from lensbench.app.workflows import hypotheses
    from lensbench.app.workflows.circuits import CircuitAsk

    ask = CircuitAsk(task, model, revision, metric, pairs, several, n, batch_size, seed)
    facts = hypotheses.scrubbed(ask, claim or (), claims, draws=draws, out=out)
    return result_answer(facts, head="\n".join(facts["claims"]))


def components(
    dictionary: DictionaryOption,
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Numbers of components, such as 0,2,8; default: a few.")
    ] = "",
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 32,
    batch_size: BatchOption = 16,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Count how many latents must be patched to bring the clean run back, beside other bases.

    Principal components and random directions are the controls.
    """
    from lensbench.app.workflows import hypotheses
    from lensbench.app.workflows.circuits import CircuitAsk

    ask = CircuitAsk(task, model, revision, "kl", pairs, several, n, batch_size, seed)
    facts = hypotheses.components(ask, dictionary, sizes=sizes, out=out)
    return result_answer(facts, head=facts["undefined"])


def subspace(
    site: Annotated[str, typer.Option("--site", help="Such as blocks.2.resid_post.")],
    directions: Annotated[
        str,
        typer.Option(
            "--directions",
            help="A safetensors file with a tensor directions [k, d], or the folder that `circuit "
            "align` saved.",
        ),
    ],
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    position: Annotated[str, typer.Option("--position", help="Role or number.")] = "end",
    head: Annotated[int | None, typer.Option("--head", help="Of a site with heads.")] = None,
    direction: DirectionOption = "denoise",
    metric: Annotated[
        str, typer.Option("--metric", help="logit_diff, kl, probability, rank or loss.")
    ] = "logit_diff",
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 32,
    batch_size: BatchOption = 64,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Tell a subspace that the model uses from an interpretability illusion.

    Patches the subspace, its part that is read, its part that is ignored, and a random one.
    """
    from lensbench.app.workflows import hypotheses
    from lensbench.app.workflows.circuits import CircuitAsk

    ask = CircuitAsk(task, model, revision, metric, pairs, several, n, batch_size, seed)
    facts = hypotheses.subspace(ask, site, directions, position=position, head=head,
                                direction=direction, out=out)  # fmt: skip
    return result_answer(facts, head=f"{facts['verdict']}")


def readings(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with columns prefix, a, b (what goes on under one reading only, several with "
            "| between), and if you like only_a, only_b, question, right, wrong.",
        ),
    ],
    dictionary: Annotated[
        list[str],
        typer.Option("--dictionary", help="RUN/NAME, or any dictionary of saes.load. Repeatable."),
    ],
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, help="Least mean effect of a latent.")
    ] = 0.1,
    doses: Annotated[
        str, typer.Option("--doses", help="Multiples to which a reading's latents are set.")
    ] = "1,1.5,2,3",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Points of the integral.")] = 10,
    random: Annotated[
        int, typer.Option("--random", min=1, help="Draws of random latents, the control.")
    ] = 20,
    shuffles: Annotated[
        int, typer.Option("--shuffles", min=20, help="Exchanges of readings at random, the null.")
    ] = 1000,
    batch_size: BatchOption = 16,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Find the latents behind two readings of a sentence, and clamp them (garden paths)."""
    from lensbench.app.workflows import hypotheses

    facts = hypotheses.readings(
        model, file, dictionary, threshold=threshold, doses=floats(doses, "--doses"), steps=steps,
        random=random, shuffles=shuffles, batch_size=batch_size, revision=revision, seed=seed,
        out=out,
    )  # fmt: skip
    return result_answer(facts)
