"""``lensbench heads``: what attention heads look at, compose with, copy, and add to an answer."""

from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import ModelOption, OutOption, RevisionOption, SeedOption, new_group
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.task_options import CountOption, PairsOption, TaskArgument

TopOption = Annotated[int, typer.Option("--top", min=1, help="Rows to print.")]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Attention heads: what they look at, compose with, copy, add to an answer.")
    app.command("scores")(scores)
    app.command("composition")(composition)
    app.command("circuit")(circuit)
    app.command("logits")(logits)
    return app


def scores(
    model: ModelOption = "atlas-dense",
    rows: Annotated[int, typer.Option("--rows", min=2, help="Sequences of random tokens.")] = 16,
    length: Annotated[int, typer.Option("--length", min=2, help="Tokens, each said twice.")] = 24,
    top: TopOption = 12,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Find previous-token, duplicate and induction heads, beside shuffled text and a twin."""
    from lensbench.app.workflows.heads import scores as measured

    facts = measured(
        model, rows=rows, length=length, revision=revision, seed=seed, top=top, out=out
    )
    return result_answer(facts)


def composition(
    model: ModelOption = "atlas-dense",
    n_random: Annotated[int, typer.Option("--random", min=2, help="Gaussian heads.")] = 200,
    top: TopOption = 12,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Rank pairs of heads by Q-, K- and V-composition of their weights, beside Gaussian heads."""
    from lensbench.app.workflows.heads import composition as measured

    facts = measured(model, n_random=n_random, revision=revision, seed=seed, top=top, out=out)
    return result_answer(facts)


def circuit(
    layer: Annotated[int, typer.Argument(metavar="LAYER", help="Block of the head.")],
    head: Annotated[int, typer.Argument(metavar="HEAD", help="Number of the head.")],
    model: ModelOption = "atlas-dense",
    kind: Annotated[
        str, typer.Option("--kind", help="ov (what it says of a token) or qk (what it looks for).")
    ] = "ov",
    tokens: Annotated[
        list[str] | None,
        typer.Option("--token", help="Token (may be repeated); default: the most copied ones."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Tokens of either end.")] = 5,
    seed: SeedOption = 0,
    revision: RevisionOption = None,
) -> Answer:
    """Read one head's weights from token to token: what it copies, beside rows dealt anew."""
    from lensbench.app.workflows.heads import circuit as read

    facts = read(model, layer, head, kind=kind, tokens=tuple(tokens or ()), top=top,
                 revision=revision, seed=seed)  # fmt: skip
    return result_answer(facts)


def logits(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    pairs: PairsOption = "",
    n: CountOption = 32,
    at: Annotated[
        int, typer.Option("--at", help="Token of the answer's logits (negative: from the end).")
    ] = -1,
    verify: Annotated[
        bool, typer.Option("--verify", help="Take the largest parts out of the model and compare.")
    ] = False,
    top: TopOption = 12,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Split the answer's logit over the foil's by head and MLP, beside random pairs of tokens."""
    from lensbench.app.workflows.heads import logits as split

    facts = split(model, task, pairs=pairs, n=n, position=at, verify=verify, revision=revision,
                  seed=seed, top=top, out=out)  # fmt: skip
    shown = ("component", "share", "low", "high", "random_pair", "n")
    told = result_answer(facts, shown, f"direct shares of answer less foil on {facts['task']}")
    if not verify:
        return told
    done = facts["verified"]
    after = f"\n\ntaken out of the model\n{table(done['rows'])}\n\n"
    said = fields({**done["summary"], "control": done["control"]})
    return Answer(told.document, told.text + after + said)
