"""Lenses at other places and in other ways: sites, parts, a stored document, later tokens, a basis.

For the command line; what each lens is, its own module says.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from lensbench import probes
from lensbench.app.workflows.answers import result_facts, saved_in
from lensbench.app.workflows.live import hold_store, running
from lensbench.app.workflows.patching import numbers
from lensbench.app.workflows.prompting import RULES, rule_named
from lensbench.app.workflows.reading import refuse_unknown
from lensbench.app.workflows.sequences import model_name
from lensbench.app.workflows.special_probes import json_lines
from lensbench.errors import ConfigError, UnknownNameError

BEST = ("place", "layer", "pos", "token", "target", "target_prob", "target_rank", "kl_to_final",
        "top", "top_prob")  # fmt: skip


def at_sites(
    model: str, prompt: str, sites: Sequence[str], *, norm: str = "own", tuned: Path | None = None,
    at: int = -1, k: int = 5, revision: str | None = None, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One text read at sites of the stream, or of what is added to it.

    Raises:
        LensbenchError: see :func:`lensbench.probes.site_lens`.
    """
    with running(model, revision) as opened:
        refuse_unknown(opened, prompt)
        lens = None if tuned is None else probes.load_tuned_lens(tuned, opened)
        found = probes.site_lens(opened, opened.tokens(prompt), list(sites), readout=lens, k=k,
                                 norm=cast("Any", norm))  # fmt: skip
    return _of_token(result_facts(model, found, out), found.tokens, at)


def parts(
    model: str, prompt: str, *, at: int = -1, k: int = 5, top: int = 20,
    revision: str | None = None, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What every head, MLP and the embedding of one text says by itself.

    Raises:
        LensbenchError: see :func:`lensbench.probes.component_lens`.
    """
    with running(model, revision) as opened:
        refuse_unknown(opened, prompt)
        found = probes.component_lens(opened, opened.tokens(prompt), k=k)
    facts = _of_token(result_facts(model, found, out), found.tokens, at)
    ranked = sorted(facts["rows"], key=lambda row: -row["top_prob"])[:top]
    return {**facts, "rows": ranked, "gap": found.gap}


def document(
    store: Path, number: int, *, model: str | None = None, most: int = 40,
    tuned: Path | None = None, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The lens over one stored document: no run of the model.

    Raises:
        LensbenchError: see :func:`lensbench.probes.lens_grid`.
    """
    held = hold_store(str(store))
    with running(*((model, None) if model else model_name(held))) as opened:
        lens = None if tuned is None else probes.load_tuned_lens(tuned, opened)
        found = probes.lens_grid(held, opened, number, lens, max_positions=most)
    return result_facts(opened.card.name, found, out, document=number)


def ahead(
    store: Path, prompt: str, *, model: str | None = None, distances: str = "0,1",
    layers: str = "", out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The tokens that each state of a text foretells, by linear maps fitted on a store.

    Raises:
        LensbenchError: see ``fit_future_lens`` and :func:`lensbench.probes.future_grid`.
    """
    far, chosen = numbers(distances, "ahead") or [0, 1], numbers(layers, "layers")
    if far != list(range(len(far))):
        raise ConfigError(f"--ahead must count on from 0, such as 0,1,2; got {distances!r}")
    held = hold_store(str(store))
    with running(*((model, None) if model else model_name(held))) as opened:
        refuse_unknown(opened, prompt)
        lens = probes.fit_future_lens(held, opened, ahead=far, layers=chosen)
        found = probes.future_grid(opened, lens, prompt, steps=len(far), layers=chosen)
    return result_facts(opened.card.name, found, out)


def basis(
    store: Path, layer: int, *, k: int = 4, tuned: Path | None = None, model: str | None = None,
    max_tokens: int = 500, check: bool = False, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Directions whose ablation moves a lens most; ``check`` ablates them in the model too.

    Raises:
        LensbenchError: see ``causal_basis`` and :func:`lensbench.probes.check_basis`.
    """
    held = hold_store(str(store))
    name = f"blocks.{layer}.resid_post"
    held.require([name])
    n = min(max_tokens, held.n_tokens)
    with running(*((model, None) if model else model_name(held))) as opened:
        lens = (probes.TunedLens.identity(opened) if tuned is None
                else probes.load_tuned_lens(tuned, opened))  # fmt: skip
        states = torch.from_numpy(held.rows(name, slice(0, n))).float()
        found = probes.causal_basis(lens, states, layer, k, seed=seed)
        facts = result_facts(opened.card.name, found, out, layer=layer)
        if check:
            ids = held.index().token_ids[: min(n, 64)][None]
            sizes = [size for size in (1, 2, 4, 8, 16) if size <= k]
            done = probes.check_basis(lens, found, ids, sizes=sizes, seed=seed)
            facts["checked"] = result_facts("", done, None if out is None else out / "checked")
    return facts


def compare(
    store: Path, tuned: Path, *, model: str | None = None, max_tokens: int = 5000, seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A tuned lens beside the logit lens on a store's tokens.

    Raises:
        LensbenchError: see :func:`lensbench.probes.compare_lenses`.
    """
    held = hold_store(str(store))
    with running(*((model, None) if model else model_name(held))) as opened:
        lens = probes.load_tuned_lens(tuned, opened)
        found = probes.compare_lenses(held, opened, lens, max_tokens=max_tokens, seed=seed)
    return result_facts(opened.card.name, found, out, lens=str(tuned))


def answers(
    model: str, file: Path, rule: str = "dola", *, options: Mapping[str, Any] | None = None,
    batch_size: int = 16, revision: str | None = None, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Given answers to questions, scored under a contrastive rule beside the model alone.

    A line is ``{"prompt": "..", "answers": [..], "correct": [true, false]}``.

    Raises:
        UnknownNameError: another rule.
        LensbenchError: see :func:`lensbench.probes.score_answers`.
    """
    if rule not in RULES:
        raise UnknownNameError("rule of decoding", rule, known=tuple(RULES))
    given = {key: value for key, value in (options or {}).items() if value is not None}
    rows = json_lines(file, ("prompt", "answers", "correct"))
    with running(model, revision) as opened:
        made = rule_named(opened, rows[0]["prompt"], rule, given)
        found = probes.score_answers(
            made, [row["prompt"] for row in rows], [row["answers"] for row in rows],
            [row["correct"] for row in rows], batch_size=batch_size, seed=seed,
        )  # fmt: skip
    return result_facts(model, found, out, rule=rule, questions=len(rows))


def soft_prompts(
    store: Path, *, model: str | None = None, layers: str = "", ahead: int = 1, length: int = 10,
    contexts: int = 10_000, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One learned prompt per layer that makes the model say what follows a state.

    Scored beside bigrams, shuffled states and the fixed prompt; ``out`` gets the prompts, and the
    scores in ``OUT/scores``.

    Raises:
        LensbenchError: see :func:`lensbench.probes.train_soft_prompts`.
    """
    held = hold_store(str(store))
    chosen = numbers(layers, "layers")
    with running(*((model, None) if model else model_name(held))) as opened:
        made = probes.train_soft_prompts(held, opened, layers=chosen, ahead=ahead, length=length,
                                         contexts=contexts, seed=seed)  # fmt: skip
        scored = probes.future_scores(held, opened, made, ahead=[ahead], layers=chosen,
                                      max_tokens=min(contexts, 500), seed=seed)  # fmt: skip
    saved = saved_in(made, out)
    facts = result_facts(opened.card.name, scored, None if out is None else out / "scores")
    loss = float(np.nanmean(made.losses[:, -1]))
    rows = [r for r in facts["rows"] if r["metric"] == scored.metrics[0]]
    return {**facts, "rows": rows, "of": len(rows), "training_kl": loss, **saved}


def _of_token(facts: dict[str, Any], tokens: Sequence[str], at: int) -> dict[str, Any]:
    """The rows of one token; all of them stay in the saved result.

    Raises:
        ConfigError: no such token.
    """
    n = len(tokens)
    if not -n <= at < n:
        raise ConfigError(f"--at {at}: the text has tokens {-n}..{n - 1}")
    order = sorted({row["pos"] for row in facts["rows"]})
    rows = [row for row in facts["rows"] if row["pos"] == order[at]]
    return {**facts, "rows": rows, "of": len(rows), "position": at % n, "token": tokens[at]}
