"""Commands about dictionaries and directions: what the page shows, for what is chosen there."""

from pathlib import Path

import streamlit as st

from lensbench.app.widgets.states import command_line, in_shell
from lensbench.app.workflows.directions import LATENT, READ, TEXTS, VECTOR, DirectionAsk
from lensbench.app.workflows.steering import command_of
from lensbench.app.workflows.steering_beside import LATENT as A_LATENT
from lensbench.app.workflows.steering_beside import PROMPTS, BesideAsk

IN_STATES = "The same, strengths in lengths of the state, on the command line:"


def table_line(run: Path, name: str) -> None:
    """The table of latents, searched as it is here."""
    said = str(st.session_state.get("said") or "")
    command_line(in_shell("latents", "ls", run / name, *(("--search", said) if said else ())))


def text_line(run: Path, name: str, latent: int | None, text: str, store: Path) -> None:
    """A text run through the dictionary, for one latent or for those that fire most."""
    one = () if latent is None else ("--latent", latent)
    command_line(in_shell("latents", "text", run / name, "--text", text, *one, "--store", store))


def show_line(run: Path, name: str, latent: int, store: Path) -> None:
    """Where a latent fires, and what it writes."""
    command_line(in_shell("latents", "show", run / name, latent, "--store", store))


def nearest_line(run: Path, name: str, ask: DirectionAsk) -> None:
    """The latents nearest to a direction."""
    of = ("--of", ask.of) if ask.of else ()
    given = {
        LATENT: ("--latent", ask.latent, *of), TEXTS: ("--text", ask.one, "--minus", ask.other),
        VECTOR: ("--vector", ask.file), READ: ("--token", ask.token, "--embedding"),
    }.get(ask.kind, ("--token", ask.token))  # fmt: skip
    command_line(in_shell("latents", "nearest", run / name, *given))


def steer_line(run: Path, name: str, latent: int, prompt: str, new: int, seed: int,
               strength: float | None = None, told: str = IN_STATES) -> None:  # fmt: skip
    """A prompt continued with a latent's direction added."""
    how = () if strength is None else (f"--strengths={strength:g}",)
    command_line(in_shell("latents", "steer", run / name, latent, "--prompt", prompt, *how,
                          "--new-tokens", new, "--seed", seed), told=told)  # fmt: skip


def beside_line(ask: BesideAsk) -> None:
    """What comes nearest to the page Steering; nothing steers with a file from the shell."""
    if ask.kind == A_LATENT:
        steer_line(Path(ask.run), ask.dictionary, ask.latent, ask.prompt, ask.new_tokens, ask.seed,
                   ask.strength, "The same" + " with every token steered" * (ask.where != "all")
                   + ", on the command line:")  # fmt: skip
    elif ask.task is not None:
        command_line(command_of(ask.task))
    elif ask.kind == PROMPTS and ask.plus and ask.minus:
        command_line(
            in_shell("steer", "--model", ask.model, "--layer", ask.layer, "--plus", ask.plus[0],
                     "--minus", ask.minus[0]),
            told="One prompt on either side (ActAdd), tried on a task, on the command line:",
        )  # fmt: skip
