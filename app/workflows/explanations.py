"""Explaining latents of a latent store: from what a user typed to facts for the command line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.app.workflows.answers import saved_in
from lensbench.app.workflows.latents import fair_sample
from lensbench.app.workflows.live import hold_model
from lensbench.errors import ConfigError, LensbenchError, MismatchError, UnknownNameError
from lensbench.harvest.describe import tokenizer_entry
from lensbench.saes.explanations.asked import EndpointExplainer, EndpointJudge
from lensbench.saes.explanations.contexts import ContextConfig
from lensbench.saes.explanations.endpoint import Endpoint
from lensbench.saes.explanations.explain import explain
from lensbench.saes.explanations.explainers import Explainer, TokenExplainer
from lensbench.saes.explanations.judges import Judge, RuleJudge
from lensbench.saes.explanations.result import LatentExplanations
from lensbench.saes.latents.store import LatentStore, open_latents
from lensbench.store import open_store

KINDS = ("tokens", "endpoint")


def explain_latents(
    url: str,
    chosen: str = "",
    *,
    n: int = 8,
    explainer: str = "tokens",
    judge: str = "",
    base_url: str = "",
    model: str = "",
    key_env: str = "",
    store: Path | None = None,
    tokenizer: str = "",
    window: int = 32,
    n_score: int = 50,
    out: Path | None = None,
    seed: int = 0,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Explain latents of the latent store at ``url``; what was found, as a JSON-able mapping.

    Raises:
        ConfigError: an endpoint without its address, an address that nothing would ask, numbers
            that are none.
        MissingDataError: no latent store there.
        MismatchError: a tokenizer or activations that are not those of the latents.
    """
    asks = _asks(explainer, judge or explainer, base_url, model, key_env)
    config = ContextConfig.parse({"window": window, "n_score": n_score, "seed": seed})
    latents = open_latents(url)
    numbers = _numbers(chosen) if chosen.strip() else _drawn(latents, n, seed)
    words, notes = _tokenizer(latents, tokenizer)
    makes, judges = _roles(explainer, judge or explainer, asks, words)
    found = explain(
        latents,
        numbers,
        explainer=makes,
        judge=judges,
        store=None if store is None else open_store(store),
        config=config,
        progress=progress,
    )
    if store is None:
        notes.append("No random dictionary beside it: name the activations with --store.")
    notes += [f"saved in {where}" for where in saved_in(found, out).values()]
    return _facts(found, notes)


def _asks(explainer: str, judge: str, base_url: str, model: str, key_env: str) -> Endpoint | None:
    for option, value in (("--explainer", explainer), ("--judge", judge)):
        if value not in KINDS:
            raise UnknownNameError(f"kind of {option}", value, known=KINDS)
    if "endpoint" not in (explainer, judge):
        if base_url or model or key_env:
            raise ConfigError(
                "--base-url, --model and --key-env are of an endpoint, and nothing asks one: add "
                "--explainer endpoint or --judge endpoint"
            )
        return None
    if not base_url or not model:
        raise ConfigError(
            "an endpoint is asked only where you name it: give --base-url (such as "
            "http://127.0.0.1:8000/v1) and --model"
        )
    return Endpoint(base_url, model, key_env)


def _roles(
    explainer: str, judge: str, asks: Endpoint | None, words: Any
) -> tuple[Explainer, Judge]:
    if explainer == "endpoint" and judge == "tokens":
        raise ConfigError("the offline judge cannot read words: use --judge endpoint with them")
    makes: Explainer = TokenExplainer(words)
    judges: Judge = RuleJudge()
    if asks is not None and explainer == "endpoint":
        makes = EndpointExplainer(asks, words)
    if asks is not None and judge == "endpoint":
        judges = EndpointJudge(asks, words)
    return makes, judges


def _numbers(text: str) -> list[int]:
    parts = re.split(r"[,\s]+", text.strip(" ,"))
    wrong = [p for p in parts if not p.isdecimal()]
    if wrong:
        raise ConfigError(f"--latents takes numbers such as 3,17,120; got {wrong[0]!r}")
    return [int(p) for p in parts]


def _drawn(latents: LatentStore, n: int, seed: int) -> list[int]:
    if n < 1:
        raise ConfigError(f"--n must be at least 1, got {n}")
    found = fair_sample(latents.density(), n, seed)
    if not found:
        raise ConfigError(f"no latent of {latents.url} fires at all; there is nothing to explain")
    return found


def _tokenizer(latents: LatentStore, name: str) -> tuple[Any, list[str]]:
    """The tokenizer that made the ids, or None with a note."""
    entry = latents.manifest["store"]
    known = entry["tokenizer"].get("fingerprint")
    if name:
        words = hold_model(name).model.tokenizer
        if tokenizer_entry(words)["fingerprint"] != known:
            raise MismatchError(
                f"the tokenizer of {name} is not the one that made the tokens of {latents.url} "
                f"({entry['tokenizer'].get('name')}); leave out --tokenizer to see ids"
            )
        return words, []
    source = entry["model"].get("source", entry["model"].get("name"))
    try:
        words = hold_model(str(source), entry["model"].get("revision")).model.tokenizer
        if tokenizer_entry(words)["fingerprint"] == known:
            return words, []
    except LensbenchError:  # a model that was in memory only, or is gone
        pass
    return None, ["Tokens show as #id: the captured model is not at hand; name one by --tokenizer."]


def _facts(found: LatentExplanations, notes: list[str]) -> dict[str, Any]:
    frame = found.to_frame().set_index(["latent", "scorer"])
    rows: list[dict[str, Any]] = []
    for latent, text, missing, rule in zip(
        found.latents.tolist(), found.texts, found.missing, found.rules, strict=True
    ):
        at, fuzz = frame.loc[(latent, "detection")], frame.loc[(latent, "fuzzing")]
        interval = [float(at["low"]), float(at["high"])]
        rows.append(
            {"latent": latent, "density": float(at["density"]),
             "detection": float(at["balanced_accuracy"]), "detection_interval": interval,
             "hard": float(at["tnr_hard"]), "fuzzing": float(fuzz["balanced_accuracy"]),
             "shuffled": float(at["shuffled"]), "n": _count(at["n"]),
             "unanswered": _count(at["unanswered"]) + _count(fuzz["unanswered"]),
             "explanation": text or f"(not scored: {missing})", "rule": rule}
        )  # fmt: skip
    lost = sum(row["unanswered"] for row in rows)
    if lost:
        notes.append(f"{lost} questions got no usable answer; they count as wrong.")
    return {
        "dictionary": found.name,
        "site": found.site,
        "explainer": found.explainer,
        "judge": found.judge,
        "scored": int(found.summary()["latents scored"]),
        "latents": rows,
        "means": found.means_frame().to_dict("records"),
        "controls": dict(found.controls.values),
        "notes": notes,
    }


def _count(value: Any) -> int:
    return 0 if np.isnan(value) else int(value)
