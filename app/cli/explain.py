"""``lensbench explain``: what latents fire on, and how well that predicts where they do."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, Progress, table

_COLUMNS = ("latent", "density", "detection", "hard", "fuzzing", "shuffled", "n", "explanation")


def explain(
    latents: Annotated[
        str, typer.Argument(metavar="LATENTS", help="Latent store, as `lensbench encode` wrote it.")
    ],
    chosen: Annotated[
        str,
        typer.Option("--latents", help="Numbers of latents, such as 3,17,120; default: --n."),
    ] = "",
    n: Annotated[
        int, typer.Option("--n", help="Latents drawn at random where none are named.")
    ] = 8,
    explainer: Annotated[
        str,
        typer.Option(
            "--explainer",
            help="tokens: a rule about tokens, offline. endpoint: a chat model at --base-url.",
        ),
    ] = "tokens",
    judge: Annotated[
        str, typer.Option("--judge", help="tokens or endpoint; default: as --explainer.")
    ] = "",
    base_url: Annotated[
        str,
        typer.Option(
            "--base-url",
            help="OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1. The text of "
            "contexts is sent there.",
        ),
    ] = "",
    model: Annotated[str, typer.Option("--model", help="Model of the endpoint.")] = "",
    key_env: Annotated[
        str, typer.Option("--key-env", help="Environment variable with the endpoint's key.")
    ] = "",
    store: Annotated[
        Path | None,
        typer.Option(
            "--store", help="Activations of the latents: adds a random dictionary as control."
        ),
    ] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer", help="Model whose tokenizer names the tokens; default: the captured one."
        ),
    ] = "",
    window: Annotated[int, typer.Option("--window", help="Tokens of a context at most.")] = 32,
    n_score: Annotated[
        int, typer.Option("--n-score", help="Firing contexts to score on, and as many silent ones.")
    ] = 50,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of every choice.")] = 0,
) -> Answer:
    """Explain latents, and score each explanation by detection and fuzzing (0.5 is chance)."""
    from lensbench.app.workflows.explanations import explain_latents

    progress = Progress("explain")
    facts = explain_latents(
        latents, chosen, n=n, explainer=explainer, judge=judge, base_url=base_url, model=model,
        key_env=key_env, store=store, tokenizer=tokenizer, window=window, n_score=n_score, out=out,
        seed=seed, progress=progress,
    )  # fmt: skip
    progress.end()
    lines = [
        table(facts["latents"], _COLUMNS),
        "",
        table(facts["means"]),
        f"{facts['scored']} of {len(facts['latents'])} latents of {facts['dictionary']} scored; "
        f"explainer {facts['explainer']}, judge {facts['judge']}. Balanced accuracy: 0.5 is "
        "chance. hard: share of silent contexts with a token it fires on that were told apart.",
        *facts["notes"],
    ]
    return Answer(facts, "\n".join(lines))
