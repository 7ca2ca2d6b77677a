"""Which latents fire on a text of one's own: the model runs once, the dictionary encodes it.

1. The text becomes ids; with or without BOS, as the dictionary was trained.
2. One run of the model captures the site that the dictionary reads.
3. Every latent is kept at every token; how often each fires elsewhere, and the label it matches,
   come from the evaluation of its run, where there is one.

A latent that fires on one text says little: look at its dashboard before naming it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench import belonging
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.saes.evaluation.kept import find_evaluation, known_latents, run_folder
from lensbench.saes.evaluation.passes import Dictionary, as_dictionary, encode, to_csr
from lensbench.saes.latents.active_result import ActiveLatents
from lensbench.tokens import Tokens, as_tokens, token_texts

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.saes.evaluation.result import SAEEvaluation


@torch.no_grad()
def active_latents(
    run: Any,
    model: "Model",
    text: str | Sequence[int],
    *,
    top: int = 5,
    evaluation: "SAEEvaluation | None" = None,
) -> ActiveLatents:
    """Every latent of a dictionary at every token of a text, strongest first.

    Args:
        run: a training run, an SAE or a transcoder that knows its site, or a ``Dictionary``.
        model: the model it was trained on.
        text: a text, or the ids of its tokens.
        top: latents per token that frames and tables show; all are kept.
        evaluation: tells densities and labels; left out, that kept in the folder of the run.

    Raises:
        ConfigError: no text, one longer than the model reads, no dictionary, no model.
        MismatchError: a dictionary of another model.

    Example:
        Find a latent by a text (or by a token: ``saes.nearest_latents(saes.token_direction(model,
        " Lima"), run)``), look at it, steer with it as strongly as it ever fires, and at half and
        twice that (too much repeats one token over and over):

        >>> found = saes.active_latents(run, model, "Alice lives in Lima .")
        >>> latent = found.strongest().latent[0]
        >>> board = saes.dashboards(run, store, [latent], model)
        >>> towards = interventions.latent_direction(model, run, latent)
        >>> most = board.largest(latent)
        >>> plans = {f"{c} x": interventions.steer(towards, c * most) for c in (0.5, 1, 2)}
        >>> said = interventions.generate_beside(model, "Every day the", plans, 6)
        >>> print(said.to_frame().T.to_string())
    """
    began, dictionary = time.perf_counter(), as_dictionary(run, encoded=True)
    refuse_no_model(model)
    top = whole_number("top", top, least=1)
    _check_belongs(dictionary, model)
    tokens = _tokens(model, text, dictionary)  # 1
    site = dictionary.site
    acts = model.run(tokens, capture=[site], logits="none").acts[site][0]  # 2
    ids: list[int] = tokens.ids[0].tolist()
    if len(acts) != len(ids) and tokens.decoder_ids is not None:
        ids = tokens.decoder_ids[0].tolist()
    latents = to_csr(encode(dictionary.codec, acts.reshape(len(ids), -1).float()))  # 3
    told = known_of(run, dictionary.name, evaluation)
    density = told.get("density")
    return ActiveLatents(
        name=dictionary.name,
        site=site,
        d_sae=int(dictionary.codec.d_sae),
        token_ids=np.array(ids, np.int64),
        words=tuple(token_texts(model.tokenizer, ids)),
        special=_special(model, ids),
        indptr=latents.indptr.astype(np.int64),
        indices=latents.indices.astype(np.int64),
        values=latents.data.astype(np.float32),
        density=np.zeros(0) if density is None else np.asarray(density, np.float64),
        n_density=int(told.get("n_tokens", 0)),
        labels={str(latent): label for latent, label in told.get("labels", {}).items()},
        top=top,
        config={"text": text if isinstance(text, str) else None, "top": top},
        provenance=record(model=vars(model.card), seconds=time.perf_counter() - began),
    )


def known_of(run: Any, name: str, evaluation: "SAEEvaluation | None" = None) -> Mapping[str, Any]:
    """Densities and labels of a dictionary's latents, as far as its run was evaluated."""
    folder = run_folder(run)
    if evaluation is None and folder is not None:
        evaluation = find_evaluation(folder)
    if evaluation is None or name not in evaluation.names:
        return {}
    return known_latents(evaluation, name)


def _check_belongs(dictionary: Dictionary, model: "Model") -> None:
    known = belonging.trained_on(dictionary.metadata)
    if dictionary.model:
        known["fingerprint"] = dictionary.model
    belonging.check_model(dictionary.name, known, vars(model.card), "the one given")


def _tokens(model: "Model", text: str | Sequence[int], dictionary: Dictionary) -> Tokens:
    if isinstance(text, str):
        if not text.strip():
            raise ConfigError("give a text of at least one word; this one is empty")
        tokens = model.tokens(text, bos=dictionary.metadata.get("prepend_bos") is not False)
    else:
        tokens = as_tokens(text)
        if tokens.n_rows != 1:
            raise ConfigError(f"give the ids of one text; got {tokens.n_rows} rows")
    limit = model.card.n_ctx
    if limit and tokens.n_pos > limit:
        raise ConfigError(
            f"the text has {tokens.n_pos} tokens and the model reads {limit}; shorten it"
        )
    return tokens


def _special(model: "Model", ids: Sequence[int]) -> np.ndarray:
    """Which tokens are no text, such as BOS; a word that is not in the vocabulary is text."""
    tokenizer: Any = model.tokenizer
    known: set[int] = set(getattr(tokenizer, "all_special_ids", ()))
    roles = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id")
    others: set[Any] = {getattr(tokenizer, role, None) for role in roles}
    unknown: Any = getattr(tokenizer, "unk_token_id", None)
    if unknown not in others:
        known.discard(unknown)
    return np.array([i in known for i in ids])
