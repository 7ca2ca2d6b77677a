"""``lensbench latents match | nearest | geometry | map | sites``: dictionaries by directions."""

from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, table
from lensbench.app.cli.groups import OutOption, SeedOption
from lensbench.app.cli.results import result_answer

NAMED = "RUN/NAME, a folder or file in a format of saes.load, or sae_lens:release/id."
AnyOption = Annotated[str, typer.Argument(metavar="RUN/NAME", help=NAMED)]
TopOption = Annotated[int, typer.Option("--top", min=1, help="Latents to print.")]


def match(
    a: Annotated[str, typer.Argument(metavar="A", help=NAMED)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another of the same width.")],
    top: TopOption = 5,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Compare two dictionaries latent by latent, beside a random one and a permuted copy."""
    from lensbench.app.workflows.dictionary_shape import match as compared

    facts = compared(a, b, seed=seed, top=top, out=out)
    told = result_answer(facts, head=f"A: {a}\nB: {b}")
    kept = (("least", "latents of A that are least"), ("most", "and most"))
    tails = [f"\n\n{name} in B\n{table(facts[key])}" for key, name in kept]
    return Answer(told.document, told.text + "".join(tails))


def nearest(
    name: Annotated[
        str, typer.Argument(metavar="RUN/NAME", help="A dictionary of a run (RUN, if it has one).")
    ],
    latent: Annotated[int | None, typer.Option("--latent", help="A latent's own row.")] = None,
    of: Annotated[
        str, typer.Option("--of", help="That latent's dictionary, another NAME of the run.")
    ] = "",
    token: Annotated[str, typer.Option("--token", help="Towards saying this token.")] = "",
    embedding: Annotated[
        bool, typer.Option("--embedding", help="--token as it is read, not as it is said.")
    ] = False,
    text: Annotated[str, typer.Option("--text", help="The state of this text ..")] = "",
    minus: Annotated[str, typer.Option("--minus", help=".. less that of this one.")] = "",
    vector: Annotated[
        str, typer.Option("--vector", help="File: .npy, .json or .safetensors.")
    ] = "",
    top: TopOption = 10,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """List the latents nearest to a latent, a token, two texts' difference, or your own vector."""
    from lensbench.app.workflows.dictionary_shape import direction_ask
    from lensbench.app.workflows.dictionary_shape import nearest as found

    ask = direction_ask(latent, of, token, embedding, text, minus, vector)
    return result_answer(found(name, ask, top=top, seed=seed, out=out),
                         ("rank", "latent", "cosine"))  # fmt: skip


def geometry(
    name: AnyOption,
    max_latents: Annotated[
        int, typer.Option("--max-latents", min=1, help="Above, a random sample is looked at.")
    ] = 8192,
    top: TopOption = 10,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Find near copies among latents, and encoders unlike their decoders, beside random ones."""
    from lensbench.app.workflows.dictionary_shape import geometry as measured

    facts = measured(name, max_latents=max_latents, seed=seed, top=top, out=out)
    return result_answer(facts, head="latents with the nearest other latent")


def places(
    name: AnyOption,
    method: Annotated[
        str, typer.Option("--method", help="pca, or umap where umap-learn is installed.")
    ] = "pca",
    top: TopOption = 10,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Lay all latents out on a map (draw it with --html), and say how much of them it keeps."""
    from lensbench.app.workflows.dictionary_shape import places as laid_out

    return result_answer(laid_out(name, method=method, seed=seed, top=top, out=out))


def sites(
    name: Annotated[str, typer.Argument(metavar="RUN/NAME", help="A crosscoder.")],
    a: Annotated[str | None, typer.Option("--a", help="A site; default: the first.")] = None,
    b: Annotated[str | None, typer.Option("--b", help="Another; default: the last.")] = None,
    top: TopOption = 10,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Say which latents of a crosscoder two of its sites share, beside shuffled pairs."""
    from lensbench.app.workflows.dictionary_shape import shared

    return result_answer(shared(name, a, b, seed=seed, top=top, out=out))
