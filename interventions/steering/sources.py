"""Directions of a pair of prompts (ActAdd), of a dictionary's latent, and of demonstrations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lensbench import provenance
from lensbench.arguments import whole, whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.experts.rows import Rows, rows_of
from lensbench.interventions.steering.contrast import Contrast
from lensbench.interventions.steering.direction import Direction, one_vector
from lensbench.interventions.steering.rows import Asked
from lensbench.models.base import Model
from lensbench.models.splice import fingerprint_of, read_splices
from lensbench.sites import Site
from lensbench.tokens import Tokens


def activation_addition(
    model: Model,
    plus: str | Sequence[int],
    minus: str | Sequence[int],
    site: str | Site,
    *,
    pad_id: int | None = None,
) -> Direction:
    """ActAdd: the difference of two prompts at every token, to be added at the front.

    ``v_t = h_t(plus) - h_t(minus)``, ``[tokens, d]``; the shorter prompt is filled up on the right
    with ``pad_id`` (a space where the tokenizer has one for it, else its padding token). What both
    begin with, such as BOS, cancels. Source: Turner et al. 2023, arXiv:2308.10248.

    Raises:
        ConfigError: prompts that are no text and no ids, or lengths that differ with no token to
            fill up with.

    Example:
        >>> step = interventions.activation_addition(
        ...     model, "The kings", "The king", "blocks.2.resid_post"
        ... )
    """
    parsed = one_vector(site)
    rows = rows_of(model, [plus, minus])
    longest = max(map(len, rows))
    if min(map(len, rows)) < longest:
        fill = _filler(model) if pad_id is None else whole_number("pad_id", pad_id, least=0)
        rows = [[*row, *[fill] * (longest - len(row))] for row in rows]
    ids = torch.tensor(rows)
    batch = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))  # the filler is read as a token
    states = model.run(batch, capture=parsed, logits="none").acts[parsed].float().cpu()
    return Direction(
        site=str(parsed),
        vector=(states[0] - states[1]).numpy(),
        label=f"{plus} - {minus}",
        config={"method": "activation_addition", "plus": rows[0], "minus": rows[1]},
        provenance=provenance.record(model=vars(model.card)),
    )


def _filler(model: Model) -> int:
    tokenizer: Any = model.tokenizer
    if tokenizer is not None:
        space = tokenizer(" ", add_special_tokens=False)["input_ids"]
        # SentencePiece puts one more space in front.
        if len({*space}) == 1 and space[0] != tokenizer.unk_token_id:
            return int(space[0])
        if tokenizer.pad_token_id is not None:
            return int(tokenizer.pad_token_id)
    raise ConfigError(
        "the prompts have different numbers of tokens, and the model has no space or padding token "
        "to fill up the shorter; pass pad_id=..., or prompts of one length"
    )


def latent_direction(model: Model, sae: Any, latent: int, *, label: str | None = None) -> Direction:
    """What one more unit of a latent writes: its decoder row, at the site of the dictionary.

    ``decode(e_j) - decode(0)``. ``sae`` is what ``model.with_saes`` takes.

    Raises:
        ConfigError: no such latent, or no dictionary.
        MismatchError: a dictionary of another model, site or width.

    Example:
        >>> direction = interventions.latent_direction(model, run, 3, label="days of the week")
    """
    splice = read_splices(model, sae if isinstance(sae, dict) else [sae], "keep")[0]
    number, codec = whole(latent), splice.codec
    if number is None or not 0 <= number < codec.d_sae:
        raise ConfigError(f"latents of {splice.name} are 0..{codec.d_sae - 1}, got {latent!r}")
    acts = torch.zeros(2, codec.d_sae)
    acts[1, number] = 1.0
    with torch.no_grad():
        nothing, one = splice.on(torch.device("cpu")).decode(acts)
    return Direction(
        site=str(splice.site),
        vector=(one - nothing).float().numpy(),
        label=label or f"{splice.name} latent {number}",
        config={"method": "latent", "latent": number, "dictionary": fingerprint_of(codec)},
        provenance=provenance.record(model=vars(model.card)),
    )


def in_context_vector(
    model: Model,
    demonstrations: Sequence[str] | Sequence[Sequence[int]],
    queries: Asked,
    site: str | Site,
    *,
    separator: str = "\n",
    label: str = "in-context vector",
) -> Direction:
    """Mean shift of the state at the last token when demonstrations stand before the query.

    ``mean_q [h_last(demonstrations, q) - h_last(q)]``, in units of the site. Texts are joined by
    ``separator``; ids are set one behind the other, with BOS kept at the front alone. After
    Hendel et al. 2023, arXiv:2310.15916, and Liu et al. 2023, arXiv:2311.06668 (ours: a mean,
    where the latter takes a principal component).

    Raises:
        ConfigError: no demonstration, or no query.

    Example:
        >>> shown = ["The king is nice", "The boys are nice", "The girl is nice"]
        >>> vector = interventions.in_context_vector(model, shown, [text], "blocks.2.resid_post")
    """
    parsed = one_vector(site)
    if isinstance(demonstrations, str) or not len(demonstrations):
        raise ConfigError("demonstrations must be a list of texts, or of ids; got none or a text")
    bare = rows_of(model, queries)
    shown = _behind(model, demonstrations, queries, bare, separator)
    plus, minus = (_last(model, rows, parsed) for rows in (shown, bare))
    config = {"demonstrations": len(demonstrations), "queries": len(bare)}
    found = provenance.record(model=vars(model.card))
    contrast = Contrast(str(parsed), plus, minus, True, label, config, found)
    shift = contrast.mean_difference()
    named = replace(shift, config={**shift.config, "method": "in_context_vector"})
    return named.redrawn_by(contrast.shuffled)


def _behind(
    model: Model, demonstrations: Any, queries: Any, bare: Rows, separator: str
) -> Rows:  # fmt: skip
    if isinstance(demonstrations[0], str):
        texts: list[Any] = [queries] if isinstance(queries, str) else list(queries)
        if not all(isinstance(t, str) for t in texts):
            raise ConfigError("demonstrations are texts, so queries must be texts too")
        return rows_of(model, [separator.join([*demonstrations, text]) for text in texts])
    bos = getattr(model.tokenizer, "bos_token_id", None)
    begins = [row[:1] if row[0] == bos else [] for row in bare]
    told = [i for one in demonstrations for i in one if i != bos]
    return [[*head, *told, *row[len(head) :]] for head, row in zip(begins, bare, strict=True)]


def _last(model: Model, rows: Rows, site: Site) -> np.ndarray:
    found: list[np.ndarray] = []
    for row in rows:  # one at a time: demonstrations are long
        acts = model.run([row], capture=site, logits="none").acts[site]
        found.append(acts[0, -1].double().cpu().numpy())
    return np.stack(found)
