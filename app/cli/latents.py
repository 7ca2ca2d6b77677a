"""``lensbench latents``: find a latent, look at it, try it on a text, steer with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli import latents_more
from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import new_group
from lensbench.app.cli.numbers import floats

NameArgument = Annotated[
    str, typer.Argument(metavar="RUN/NAME", help="A dictionary of a run (RUN, if it has one).")
]
LatentArgument = Annotated[int, typer.Argument(metavar="LATENT", help="Number of the latent.")]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Activations; default: one beside the run that fits."),
]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Single latents: find one, look at it, try it on a text, steer with it.")
    app.command("ls")(ls)
    app.command("show")(show)
    app.command("text")(text)
    app.command("steer")(steer)
    app.command("match")(latents_more.match)
    app.command("nearest")(latents_more.nearest)
    app.command("geometry")(latents_more.geometry)
    app.command("map")(latents_more.places)
    app.command("sites")(latents_more.sites)
    return app


def ls(
    name: NameArgument,
    search: Annotated[
        str, typer.Option("--search", help="Only those whose best label holds this.")
    ] = "",
    sort: Annotated[
        str,
        typer.Option("--sort", help="f1, density, label, latent, decoder_norm, encoder_bias."),
    ] = "",
    least: Annotated[
        float, typer.Option("--min-density", min=0, help="Least share of tokens it fires on.")
    ] = 0.0,
    top: Annotated[int, typer.Option("--top", min=1, help="Latents to print.")] = 20,
) -> Answer:
    """List latents: how often each fires, and the label it matches best beside its control."""
    from lensbench.app.workflows.latents_named import list_latents

    facts = list_latents(name, search=search, sort=sort, least=least, top=top)
    head = f"{len(facts['latents'])} of {facts['of']} latents, by {facts['sorted_by']}"
    labelled = not facts["latents"] or "label" in facts["latents"][0]
    hint = (
        ""
        if labelled
        else f'\n\nno labels; find by a text: lensbench latents text {name} --text ".."'
    )
    if "labels" in facts:
        hint = (
            f"\n\nno latent's best label holds {search!r}; there are: {', '.join(facts['labels'])}"
        )
    return Answer(facts, f"{head}\n\n{table(facts['latents'])}{hint}")


def show(
    name: NameArgument,
    latent: LatentArgument,
    store: StoreOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Contexts to print.")] = 12,
) -> Answer:
    """Show one latent: the contexts it fires on by band, and the tokens it raises and lowers."""
    from lensbench.app.workflows.latents_named import show_latent

    facts = show_latent(name, latent, store, top=top)
    kept = ("dictionary", "latent", "density", "largest", "tokens", "label", "store")
    told: dict[str, Any] = {k: facts[k] for k in kept}
    told |= {k: ", ".join(facts[k][:10]) or "no model to say" for k in ("raises", "lowers")}
    shown = ("band", "activation", "before", "token", "after")
    return Answer(facts, f"{fields(told)}\n\n{table(facts['contexts'], shown)}")


def text(
    name: NameArgument,
    said: Annotated[str, typer.Option("--text", help="The text itself.")],
    latent: Annotated[
        int | None, typer.Option("--latent", help="One latent, token by token; default: the top.")
    ] = None,
    store: StoreOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Latents to print.")] = 10,
) -> Answer:
    """Run a text of your own, and say which latents fire on it and where."""
    from lensbench.app.workflows.latents_named import latents_on_text

    facts = latents_on_text(name, said, store, latent=latent, top=top)
    return Answer(facts, table(facts["rows"]))


def steer(
    name: NameArgument,
    latent: LatentArgument,
    prompt: Annotated[list[str], typer.Option("--prompt", help="Text to go on. Repeatable.")],
    strengths: Annotated[
        str, typer.Option("--strengths", help="In lengths of the state; below 0: away from it.")
    ] = "0.5,1",
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens to add.")] = 16,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Above 0: sample; 0: greedy.")
    ] = 0.0,
    store: StoreOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of sampling and of the control.")] = 0,
) -> Answer:
    """Add a latent's direction while the model writes, beside a random one of the same length."""
    from lensbench.app.workflows.latents_named import steer_latent

    facts = steer_latent(
        name, latent, prompt, strengths=floats(strengths, "--strengths"), new_tokens=new_tokens,
        store=store, temperature=temperature, seed=seed,
    )  # fmt: skip
    said = [f"  {k:>12}: {row[k]}" if k != "prompt" else f"{row['prompt']} ..."
            for row in facts["texts"] for k in row]  # fmt: skip
    head = f"latent {latent} at {facts['site']}; a strength of 1 is {facts['length']:.4g} long"
    lines = [
        head,
        "",
        *said,
        "",
        "KL(clean ‖ steered) [nats] of the next token",
        table(facts["kl"]),
    ]
    return Answer(facts, "\n".join([*lines, f"Control: {facts['control']}"]))
