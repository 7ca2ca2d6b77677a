"""Latents by the name of their dictionary: found in a table, shown, tried on a text, steered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import interventions
from lensbench.app.workflows.answers import rows_of_frame
from lensbench.app.workflows.latent_page import (
    context_frame,
    dictionary_of,
    label_line,
    latent_table,
    make_board,
    store_of,
    words_for,
)
from lensbench.app.workflows.latent_text import latents_of_text
from lensbench.app.workflows.live import hold_store, running
from lensbench.app.workflows.runs import evaluation_of
from lensbench.app.workflows.sequences import model_name
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.experts.rows import rows_of
from lensbench.interventions.steering.where import Steered, scale_at
from lensbench.plan import Plan

ORDERS = ("density", "f1", "label", "latent", "decoder_norm", "encoder_bias")


def list_latents(
    name: str, *, search: str = "", sort: str = "", least: float = 0.0, top: int = 20
) -> dict[str, Any]:
    """The latents of ``RUN/NAME``: density, best label with its control, weights.

    ``search`` keeps labels with this text, ``least`` densities from there on. Where no label has
    the text, ``labels`` are those there are.

    Raises:
        UnknownNameError: an order that is none, or that this run has no numbers for.
        LensbenchError: no such run or dictionary.
    """
    run, dictionary = parted(name)
    frame = latent_table(run, dictionary)
    known = [order for order in ORDERS if order in frame]
    by = sort or ("f1" if "f1" in frame else "latent")
    if by not in known:
        raise UnknownNameError("order", by, known=known, hint="(Labels and densities come with "
                               "`lensbench eval sae`.)")  # fmt: skip
    there: list[str] = []
    if search:
        labels = frame["label"].fillna("") if "label" in frame else None
        if labels is None:
            raise ConfigError(_unlabelled(name, run))
        frame = frame.loc[labels.str.contains(search, case=False, regex=False)]
        there = sorted(set(labels) - {""}) if frame.empty else []
    if least and "density" in frame:
        frame = frame.loc[frame["density"] >= least]
    frame = frame.sort_values(by, ascending=by in ("label", "latent"), na_position="last")
    found = {"dictionary": name, "sorted_by": by, "of": len(frame)}
    found |= {"labels": there} if there else {}
    return {**found, "latents": rows_of_frame(frame, top)}


def show_latent(name: str, latent: int, store: Path | None, *, top: int = 12) -> dict[str, Any]:
    """A latent's dashboard: what it fires on, what it writes, the label it matches.

    Raises:
        LensbenchError: no such dictionary, latent or store.
    """
    run, dictionary = parted(name)
    where = store or store_of(run, dictionary, _root(run))
    board = make_board(run, dictionary, latent, where)
    words, i = words_for(board, where), board.index(latent)
    contexts = context_frame(board, latent, words)
    told: dict[str, Any] = {
        "dictionary": name, "latent": latent, "store": str(where),
        "label": label_line(latent_table(run, dictionary), latent),
        "density": float(board.density[i]), "largest": float(board.max_activation[i]),
        "tokens": board.looked_at, "n_tokens": board.n_tokens, "n_stored": board.n_stored,
        "contexts": rows_of_frame(contexts, top), "of": len(contexts),
    }  # fmt: skip
    for key, ids in (("raises", board.top_tokens), ("lowers", board.low_tokens)):
        told[key] = [words.get(int(t), f"#{t}") for t in ids[i] if t >= 0] if len(ids) else []
    return told


def latents_on_text(
    name: str, text: str, store: Path | None, *, latent: int | None, top: int = 10
) -> dict[str, Any]:
    """The latents that fire most on a text, or where one of them does.

    Raises:
        LensbenchError: no such dictionary, latent or store; a text that is too long.
    """
    run, dictionary = parted(name)
    where = store or store_of(run, dictionary, _root(run))
    found = latents_of_text(run, dictionary, where, text)
    told = {"dictionary": name, "tokens": list(found.words)}
    if latent is not None:
        return {**told, "latent": latent, "rows": rows_of_frame(found.of(latent))}
    frame = found.strongest(top).rename(columns={"activation": "largest", "tokens": "tokens_on"})
    return {**told, "rows": rows_of_frame(frame)}


def steer_latent(
    name: str,
    latent: int,
    prompts: Sequence[str],
    *,
    strengths: Sequence[float],
    new_tokens: int,
    store: Path | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Continue prompts with a latent's direction added, beside a random one of the same length.

    Every token is steered. Strengths are in lengths of the state at the dictionary's site: the
    median over all tokens of the prompts, as in ``interventions.dose_curve``.

    Raises:
        ConfigError: no prompt, no strength, no such latent.
    """
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ConfigError("give --prompt a few words; it may be repeated")
    run, dictionary = parted(name)
    held = hold_store(str(store or store_of(run, dictionary, _root(run))))
    coder = dictionary_of(run, dictionary).coder
    with running(*model_name(held)) as model:
        direction = interventions.latent_direction(model, coder, latent)
        stray = interventions.random_directions(direction, 1, seed=seed)[0]
        scale = scale_at(model, Steered(rows_of(model, list(prompts)), None, "all"), direction, 16)
        plans = {}
        for s in (s for s in strengths if s):
            plans[f"{s:g}"] = interventions.steer(direction.with_norm(scale), s)
            plans[f"{s:g} random"] = interventions.steer(stray.with_norm(scale), s)
        if not plans:
            raise ConfigError("give --strengths at least one number other than 0")
        texts = interventions.generate_beside(model, list(prompts), plans, new_tokens,
                                              temperature=temperature, seed=seed)  # fmt: skip
        moved = {label: _kl(model, prompts, plan) for label, plan in plans.items()}
    return {
        "dictionary": name, "latent": latent, "site": direction.site, "length": scale,
        "texts": rows_of_frame(texts.to_frame()),
        "kl": [{"strength": s, "kl": moved[s], "kl_random": moved[f"{s} random"],
                "n": len(prompts)} for s in moved if not s.endswith("random")],
        "control": "a random direction of the same length",
    }  # fmt: skip


def _kl(model: Any, prompts: Sequence[str], plan: Plan) -> float:
    """Mean KL(clean || steered) of the next token, nats."""
    found: list[float] = []
    for prompt in prompts:
        tokens = model.tokens(prompt)
        clean, steered = (
            model.run(tokens, p, logits="last").logits[0, -1].double().log_softmax(-1)
            for p in (Plan(), plan)
        )
        found.append(float((clean.exp() * (clean - steered)).sum()))
    return float(np.mean(found))


def _unlabelled(name: str, run: Path) -> str:
    """Why there is no label to search, and what helps: a text, where labels cannot be had."""
    text = f'find latents by a text: lensbench latents text {name} --text "..."'
    if evaluation_of(run) is None:
        return f"{run} was not evaluated, so it has no labels to search: lensbench eval sae {run}"
    return f"{run} was evaluated on a text without labels, so there are none to search; {text}"


def parted(name: str) -> tuple[Path, str]:
    """``RUN/NAME``, or a run of one dictionary.

    Raises:
        ConfigError: a run of several, and none is named.
    """
    from lensbench.app.workflows.dictionaries import runs_named

    runs = runs_named(name)
    if len(runs) != 1:
        raise ConfigError(
            f"{name} holds {len(runs)} dictionaries; name one as {name}/NAME; known: "
            f"{', '.join(one.name for one in runs)}"
        )
    folder = Path(runs[0].folder) if runs[0].folder else Path(name)
    return folder.parent, runs[0].name


def _root(run: Path) -> Path:
    """Where a store of a run is looked for: the folder that holds the run's."""
    return run.resolve().parent
