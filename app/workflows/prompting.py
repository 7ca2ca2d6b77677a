"""Lenses that are asked by a prompt: latent languages, transplants, contrastive decoding."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import probes
from lensbench.app.workflows.answers import facts_of, rows_of_frame, saved_in
from lensbench.app.workflows.models import open_model
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError, UnknownNameError

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.probes.lenses.contrastive.rules import ContrastiveRule

ATLAS = "atlas"
_ATLAS_LINE = "{source_name} : {source} - {target_name} : {target} ."
RULES: dict[str, tuple[str, ...]] = {
    "dola": ("depths", "divergence", "norm", "plausibility"),
    "deco": ("depths", "alpha", "norm"),
    "context": ("without", "alpha", "plausibility"),
    "sh2": ("alpha", "plausibility"),
    "contrastive": ("amateur", "plausibility"),
}
"""Rules of decoding, and the options that each has."""


def read_language(
    model: str,
    words: str,
    source: str,
    target: str,
    pivot: str,
    *,
    shots: int | None = None,
    template: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Probability of pivot and target by layer, beside the pivot's words of other items.

    ``words`` is a JSON file (by language the same words in one order), or ``atlas``; ``template``
    as in :func:`lensbench.probes.translation_prompts`.

    Raises:
        LensbenchError: see :func:`lensbench.probes.latent_language`.
    """
    table, how = words_given(words)
    how |= {} if shots is None else {"shots": shots}
    how |= {} if template is None else {"template": template}
    prompts = probes.translation_prompts(table, source, target, seed=seed, **how)
    opened = open_model(model, revision)
    found = probes.latent_language(opened, prompts, table, target=target, pivot=pivot, seed=seed)
    a, b = found.languages.index(pivot), found.languages.index(target)
    rows = [
        {"layer": layer, pivot: float(found.prob[a, i].mean()),
         target: float(found.prob[b, i].mean()),
         f"{pivot}, other words": float(found.others[a, i].mean()),
         "entropy": float(found.entropy[i].mean()), "energy": float(found.energy[i].mean())}
        for i, layer in enumerate(found.layers)
    ]  # fmt: skip
    facts = facts_of(opened, found, prompt=prompts[0], items=found.n_items, layers=rows,
                     pivot_layers=list(found.pivot_layers()),
                     dropped=dict(found.dropped))  # fmt: skip
    return {**facts, **saved_in(found, out)}


def read_transplant(
    model: str,
    prompt: str,
    *,
    at: int = -1,
    target: str | None = None,
    placeholder: str | None = None,
    layer: int | None = None,
    new_tokens: int = 0,
    k: int = 5,
    revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """What the end of a target says when it holds the state of one token, by source layer.

    Without ``target`` the identity prompt of Patchscopes; with ``placeholder`` every such token of
    the target gets the state, else its last one.

    Raises:
        LensbenchError: see :func:`lensbench.probes.transplant`.
    """
    opened = open_model(model, revision)
    if not prompt.strip():
        raise ConfigError("the prompt is empty; type a few words")
    if target is None:
        if placeholder is not None:
            raise ConfigError("--placeholder names tokens of --target; give both")
        goal = probes.identity_prompt(opened, layer=layer)
    elif placeholder is None:
        goal = probes.Spot(target, -1, layer)
    else:
        where = {} if layer is None else {"layer": layer}
        goal = probes.placeholder_prompt(opened, target, placeholder=placeholder, **where)
    found = probes.transplant(opened, probes.Spot(prompt, at), goal, max_new_tokens=new_tokens, k=k)
    rows = [
        {"layer": int(found.source_layers[i]), "into": int(found.target_layers[i]),
         "top": ", ".join(found.top[i]), "probability": float(found.top_prob[i, 0]),
         "without": float(found.top_prob_without[i, 0]), "kl": float(found.kl[i]),
         **({"text": joined(opened, found.written[i])} if new_tokens else {})}
        for i in range(len(found.source_layers))
    ]  # fmt: skip
    position = int(found.source_positions[0])
    facts = facts_of(opened, found, position=position, token=found.source_tokens[position],
                     plain=list(found.plain_top), layers=rows)  # fmt: skip
    return {**facts, **saved_in(found, out)}


def read_decoding(
    model: str,
    prompt: str,
    rule: str = "dola",
    *,
    options: Mapping[str, Any] | None = None,
    new_tokens: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
    revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """A text written under a contrastive rule, token by token, beside the model's own.

    ``options`` are those of :data:`RULES`; None leaves one at its default.

    Raises:
        UnknownNameError: another rule.
        ConfigError: an option that the rule has not, or lacks.
        LensbenchError: see :func:`lensbench.probes.contrastive_decode`.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    if rule not in RULES:
        raise UnknownNameError("rule of decoding", rule, known=tuple(RULES))
    odd = [name for name in given if name not in RULES[rule]]
    if odd:
        raise ConfigError(f"{rule} has no option {odd[0]!r}; it has {', '.join(RULES[rule])}")
    opened = open_model(model, revision)
    if not prompt.strip():
        raise ConfigError("the prompt is empty; type a few words")
    made = rule_named(opened, prompt, rule, given)
    found = probes.contrastive_decode(made, prompt, new_tokens, temperature=temperature, seed=seed)
    facts = facts_of(opened, found, rule=rule, text=found.texts[0], plain=found.plain_texts[0],
                     depths=list(found.depths), measures=found.measures,
                     steps=rows_of_frame(found.to_frame()))  # fmt: skip
    return {**facts, **saved_in(found, out)}


def rule_named(model: "Model", prompt: str, name: str, given: dict[str, Any]) -> "ContrastiveRule":
    """A rule of decoding by its name, for a prompt.

    Raises:
        ConfigError: an option that it lacks.
    """
    if "norm" in given:
        given["norm_intermediate"] = given.pop("norm")
    if name == "dola":
        return probes.DoLa(model, _depths(given.pop("depths", "high")), **given)
    if name == "deco":
        from lensbench.probes.lenses.contrastive.layers import layer_bucket

        depths = _depths(given.pop("depths", "high"))
        found = layer_bucket(model.n_layers, depths) if isinstance(depths, str) else depths  # pyright: ignore[reportArgumentType] - checked there
        return probes.DeCo(model, found, **given)
    if name == "sh2":
        hesitant = probes.hesitation_prompt(model, prompt)
        return probes.SH2(model, model.tokens(hesitant), **given)
    needs, what = ("without", "the prompt without its context")
    if name == "contrastive":
        needs, what = ("amateur", "a weaker model of the same vocabulary")
    if needs not in given:
        raise ConfigError(f"{name} needs --{needs}: {what}")
    if name == "context":
        return probes.ContextAware(model, model.tokens(given.pop("without")), **given)
    return probes.ContrastiveDecoding(model, open_model(given.pop("amateur")), **given)


def _depths(text: str) -> Any:
    """``low``, ``high``, or layers between commas."""
    if text in ("low", "high"):
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"depths must be low, high, or layers such as 0,2,4; got {text!r}"
        ) from error


def joined(model: "Model", words: Sequence[str]) -> str:
    """A text that was generated, from the texts of its tokens."""
    spaced = model.tokenizer is None or any(word[:1].isspace() for word in words[1:])
    return ("" if spaced else " ").join(words)


def words_given(given: str) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Words by language, and how a prompt is made of them: of ``atlas``, or of a JSON file.

    Raises:
        MissingDataError, DamagedDataError: no such file, or not words by language.
    """
    if given == ATLAS:
        from lensbench.worlds.atlas import lexicon

        columns = {"en": 0, "fr": 1, "de": 3}
        names = {"en": "English", "fr": "French", "de": "German"}
        table = {name: [row[i] for row in lexicon.DICTIONARY] for name, i in columns.items()}
        return table, {"template": _ATLAS_LINE, "names": names, "shots": 0}
    path = Path(given)
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file; give words by language as JSON, or atlas")
    try:
        found: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DamagedDataError(f"{path} is no JSON in UTF-8 ({error})") from error
    lists = isinstance(found, dict) and all(
        isinstance(v, list) and all(isinstance(w, str) for w in v) for v in found.values()
    )
    if not lists:
        raise DamagedDataError(
            f'{path} must hold lists of words by language: {{"en": ["dog"], ..}}'
        )
    return found, {}
