"""``lensbench steer``: what adding a direction does to a model, at every strength."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, table
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.app.cli.numbers import floats
from lensbench.app.cli.task_options import (
    BatchOption,
    PairsOption,
    SeedOption,
    TaskArgument,
)

_DOSES = ("direction", "strength", "step", "effect", "low", "high", "success", "kl", "perplexity")
_MATCHED = ("control", "strength", "kl", "effect", "control_effect", "control_low",
            "control_high", "reached", "p")  # fmt: skip


def steer(
    task: TaskArgument = "agreement",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    towards: Annotated[
        str,
        typer.Option(
            "--towards",
            help="Answers of one class, such as are,were,seem (the default of agreement); the "
            "direction points to prompts that they answer.",
        ),
    ] = "",
    site: Annotated[
        str, typer.Option("--site", help="resid_pre, resid_post, attn_out or mlp_out.")
    ] = "resid_post",
    layer: Annotated[int, typer.Option("--layer", help="Block of the site.")] = 1,
    source: Annotated[
        str, typer.Option("--from", help="Token whose states make the direction: role or number.")
    ] = "",
    at: Annotated[
        str,
        typer.Option(
            "--at",
            help="Tokens that are steered: all (generated ones too), after (the last of the prompt "
            "and all generated), roles or numbers; default: as --from.",
        ),
    ] = "",
    method: Annotated[
        str,
        typer.Option("--method", help="mean_difference, pca_center, pca_uncentred or pca_diff."),
    ] = "mean_difference",
    plus: Annotated[
        str,
        typer.Option(
            "--plus", help="ActAdd: the direction is the states of this text less those of --minus."
        ),
    ] = "",
    minus: Annotated[str, typer.Option("--minus", help="See --plus.")] = "",
    align: Annotated[
        str,
        typer.Option(
            "--align", help="ActAdd: where it is added to a prompt: front, middle or back."
        ),
    ] = "front",
    demonstrations: Annotated[
        str,
        typer.Option(
            "--demonstrations",
            help="The direction is the in-context vector: what these texts (a file, one per line) "
            "before the prompts add to the state of their last token.",
        ),
    ] = "",
    separator: Annotated[
        str,
        typer.Option(
            "--separator",
            help="What ends each demonstration; default: a new line.",
            show_default=False,
        ),
    ] = "\n",
    strengths: Annotated[
        str,
        typer.Option("--strengths", help="Lengths of the step, in lengths of the state; -1 to 1."),
    ] = "0,0.5,1,2",
    metric: Annotated[
        str, typer.Option("--metric", help="logit_diff, probability, rank, loss or kl.")
    ] = "logit_diff",
    pairs: PairsOption = "",
    n: Annotated[int, typer.Option("--n", help="Prompt pairs, before they are split.")] = 64,
    random: Annotated[
        int, typer.Option("--random", help="Random directions of the same length.")
    ] = 20,
    shuffled: Annotated[
        int, typer.Option("--shuffled", help="Directions of shuffled labels.")
    ] = 20,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", help="Tokens of the continuations; 0 for none.")
    ] = 12,
    shown: Annotated[int, typer.Option("--texts", help="Prompts whose texts are shown.")] = 3,
    batch_size: BatchOption = 64,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to save the result in; the direction in OUT/direction."),
    ] = None,
    seed: SeedOption = 0,
) -> Answer:
    """Make a direction of one half of a task's wordings and dose it on the other half."""
    from lensbench.app.workflows.answers import saved_in
    from lensbench.app.workflows.steering import SteerAsk
    from lensbench.app.workflows.steering import steer as run
    from lensbench.app.workflows.steering_facts import facts
    from lensbench.app.workflows.steering_kept import DIRECTION, save

    usual = "subject" if task == "agreement" and not (pairs or demonstrations) else "end"
    made_of = source or usual
    found = run(
        SteerAsk(
            task, model, revision, towards, site, layer, made_of, at, method,
            floats(strengths, "--strengths"), metric, pairs, n, random, shuffled, new_tokens,
            shown, batch_size, seed, plus, minus, align,
            demonstrations, separator,
        )
    )  # fmt: skip
    told = {**facts(found), **(saved_in(found.result, None) if out is None else save(found, out))}
    if out is not None:
        told["direction"]["saved"] = str(out / DIRECTION)
    direction = told["direction"]
    origin = f"two prompts ({plus!r} less {minus!r})" if plus else (
        f"{direction['n']} pairs ({', '.join(direction['made_of'])})"
    )  # fmt: skip
    if demonstrations:
        origin = f"{demonstrations} before {origin.replace('pairs', 'prompts')}"
    head = (
        f"{direction['method']} at {direction['site']}, made of {origin}, on {told['prompts']} "
        f"{'pairs' if plus else 'others'} "
        f"({', '.join(told['tested_on'])}): {told['metric']} ({told['unit']})"
    )
    names = [key for key in (told["texts"][0] if told["texts"] else ()) if key != "prompt"]
    said = [f"  {name:>6}: {row[name]}" if name else f"{row['prompt']} ..."
            for row in told["texts"] for name in ("", *names)]  # fmt: skip
    return Answer(
        told,
        "\n".join([
            head, "", table(told["doses"], _DOSES), "kl: KL(clean ‖ steered) [nats]", "",
            "at equal kl:", table(told["matched"], _MATCHED), "", *said,
            f"Control: {found.result.controlled}",
            *([f"saved in {told['saved']}"] if out is not None else []),
        ]),
    )  # fmt: skip
