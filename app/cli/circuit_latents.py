"""``lensbench circuit latents``, ``graph``, ``latent``: circuits made of dictionaries' latents."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.task_options import (
    CountOption,
    PairsOption,
    SeedOption,
    SeveralOption,
    TaskArgument,
)

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
DictionaryOption = Annotated[
    list[str],
    typer.Option("--dictionary", help="RUN/NAME, or any dictionary of saes.load. Repeatable."),
]
PromptOption = Annotated[str, typer.Option("--prompt", help="The text.")]


def latents(
    dictionary: DictionaryOption,
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    method: Annotated[str, typer.Option("--method", help="ig or atp.")] = "ig",
    base: Annotated[
        str, typer.Option("--base", help="corrupted (the other run) or zero.")
    ] = "corrupted",
    sizes: Annotated[
        str, typer.Option("--sizes", help="Sizes of circuits, such as 5,10,50; default: a few.")
    ] = "",
    metric: Annotated[str, typer.Option("--metric", help="logit_diff or loss.")] = "logit_diff",
    random: Annotated[
        int, typer.Option("--random", min=0, help="Random circuits of each size, the control.")
    ] = 5,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 16,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Prompts in one pass.")] = 16,
    top: Annotated[int, typer.Option("--top", min=0, help="Latents to print.")] = 10,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Say which latents a task's answer owes to, and run circuits of them."""
    from lensbench.app.workflows import circuits

    ask = circuits.CircuitAsk(task, model, revision, metric, pairs, several, n, batch_size, seed)
    facts = circuits.latents(ask, dictionary, method=method, base=base, sizes=sizes,
                             random=random, out=out, top=top)  # fmt: skip
    found = result_answer(facts, ("site", "latent", "effect", "low", "high", "n"))
    curve = facts["circuits"]
    text = f"{found.text}\n\ncircuits of them, run\n{table(curve['rows'])}\n{curve['control']}"
    return Answer(facts, text)


def graph(
    dictionary: DictionaryOption,
    prompt: PromptOption,
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Take nodes out of the live model, and compare.")
    ] = False,
    most: Annotated[int, typer.Option("--most", help="Active latents that are nodes.")] = 2000,
    export: Annotated[
        Path | None, typer.Option("--export", help="File: the pruned graph as JSON.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Edges to print.")] = 20,
    out: OutOption = None,
    seed: SeedOption = 0,
) -> Answer:
    """Draw the attribution graph of latents behind the next token of --prompt."""
    from lensbench.app.workflows import circuits

    facts = circuits.graph(model, prompt, dictionary, revision=revision, verify=verify, most=most,
                           export=export, out=out, top=top, seed=seed)  # fmt: skip
    shown = ("source", "target", "effect", "influence")
    found = result_answer(facts, shown, f"{facts['nodes']} nodes")
    done = facts.get("verified")
    after = "" if done is None else f"\n\nverified by doing it\n{fields(done['summary'])}"
    after += f"\nexported to {facts['exported']}" if "exported" in facts else ""
    return Answer(facts, found.text + after)


def latent(
    number: Annotated[int, typer.Argument(metavar="LATENT", help="Number of the latent.")],
    dictionary: Annotated[str, typer.Option("--dictionary", help="RUN/NAME, or any of saes.load.")],
    prompt: PromptOption,
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    at: Annotated[int, typer.Option("--at", help="Token (negative: from the end).")] = -1,
    upstream: Annotated[
        list[str] | None,
        typer.Option("--upstream", help="Dictionaries of earlier sites. Repeatable."),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Levels of the tree.")] = 1,
    top: Annotated[int, typer.Option("--top", min=0, help="Parts to print.")] = 15,
    out: OutOption = None,
) -> Answer:
    """Say what heads, tokens, MLPs and latents add to one latent at one token."""
    from lensbench.app.workflows import circuits

    facts = circuits.parts_of_latent(model, prompt, dictionary, number, at=at,
                                     upstream=tuple(upstream or ()), depth=depth,
                                     revision=revision, out=out, top=top)  # fmt: skip
    return result_answer(facts)
