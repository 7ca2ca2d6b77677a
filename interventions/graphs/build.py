"""Attribution graphs: from a prompt and dictionaries to nodes, direct effects and influence.

1. ``local``: run the prompt, hold its attention patterns and norm scales.
2. ``table``: nodes are active latents, errors, embeddings and the likeliest next tokens.
3. ``table.effects``: one target per copy of the prompt and pass backwards; all is linear, so what
   the nodes do to a target, and its bias, add up to it. Where they do not, the graph is refused.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import ConfigError, NonFiniteError
from lensbench.interventions.graphs.coders import Coder, read_coders
from lensbench.interventions.graphs.influence import a_share
from lensbench.interventions.graphs.local import Local
from lensbench.interventions.graphs.result import LatentGraph, beside
from lensbench.interventions.graphs.table import LOGIT, Effects, Table, effects, nodes
from lensbench.models.base import Model
from lensbench.tokens import Tokens, TokensLike, as_tokens, token_texts

ADDS_UP = 1e-3
"""Largest gap of a sum, as a share of the largest target, that float32 may leave."""


def attribution_graph(
    model: Model,
    prompt: "str | TokensLike",
    codecs: Any,
    *,
    max_logits: int = 10,
    probability: float = 0.95,
    max_latents: int = 2000,
    errors: bool = True,
    batch_size: int = 32,
) -> LatentGraph:
    """The circuit of latents behind the next token of one prompt, in its local replacement model.

    Attention patterns and norm scales are held; each MLP is what its transcoder writes plus an
    error. Then ``target = sum over nodes of A[target, node] + bias``, with ``target`` the
    pre-activation of a latent or a logit less the mean logit. Source: Dunefsky et al. 2024,
    arXiv:2406.11944; Ameisen et al. 2025 (transformer-circuits.pub).

    Args:
        model: a decoder, in float32 or float64.
        prompt: text, or the ids of one row.
        codecs: ``{layer or site: dictionary}``, or dictionaries that know their sites. Transcoders
            read ``mlp.in`` (or the stream) and write ``mlp_out``; autoencoders stand in the
            residual stream or at ``attn_out``. An MLP without one is an error as a whole.
        max_logits: at most so many next tokens are targets,
        probability: the fewest that have this probability together.
        max_latents: of more active latents those that write most are nodes; the rest counts as
            error, and is reported.
        errors: without them the sums fail and the graph looks complete when it is not: only to see
            what they carry.
        batch_size: targets in one pass.

    Raises:
        ConfigError: dictionaries or a prompt that do not fit; a model that is not linear when held.
        MismatchError: a dictionary of another model, site or width.
        NonFiniteError: NaN in an effect.

    Example:
        >>> graph = interventions.attribution_graph(model, text, {"blocks.3.resid_post": run})
    """
    refuse_no_model(model)
    began = time.monotonic()
    model.require_next_token("an attribution graph")
    coders = read_coders(model, codecs)
    tokens = one_row(model, prompt)
    local = _local(model, tokens, coders)
    most = whole_number("max_logits", max_logits, least=1)
    ids, chance = likeliest(local.logits, most, probability)
    room = whole_number("max_latents", max_latents, least=1)
    table = nodes(local, coders, ids, room, errors=bool(errors))
    found = effects(local, table, whole_number("batch_size", batch_size, least=1))
    config: dict[str, Any] = {
        "dictionaries": [[c.name, str(c.read), str(c.write)] for c in coders],
        "max_latents": room, "left_out": table.left_out[0], "errors": bool(errors),
        "probability": probability, "skips": bool(local.skips),
        "joint_codes": [str(c.write) for c in coders if not c.by_threshold],
    }  # fmt: skip
    made = provenance.record(model=vars(model.card), seconds=time.monotonic() - began)
    graph = _graph(model, tokens, table, found, chance, config, made)
    if errors:
        _refuse_gap(model, graph)
    return beside(graph, coders)


def likeliest(logits: Tensor, most: int, probability: float) -> tuple[list[int], list[float]]:
    """The fewest next tokens that reach ``probability`` together, at most ``most``."""
    probability = a_share("probability", probability)
    chance, order = logits.double().softmax(-1).sort(descending=True, stable=True)
    before = chance.cumsum(0) - chance
    n = min(most, max(1, int((before < probability).sum())))
    return [int(i) for i in order[:n]], [float(p) for p in chance[:n]]


def one_row(model: Model, prompt: "str | TokensLike") -> Tokens:
    """One prompt without padding, from text or ids."""
    tokens = model.tokens(prompt) if isinstance(prompt, str) else as_tokens(prompt)
    if tokens.n_rows != 1 or not bool(tokens.real.all()):
        raise ConfigError(f"a graph is of one prompt without padding; got {tokens.n_rows} rows of "
                          f"{tokens.n_pos}")  # fmt: skip
    return tokens


def _local(model: Model, tokens: Tokens, coders: tuple[Coder, ...]) -> Local:
    skips = {c.write: (c.read, c.W_skip) for c in coders if c.W_skip is not None}
    return Local.of(model, tokens, [c.write for c in coders], [c.read for c in coders], skips)


def _graph(
    model: Model, tokens: Tokens, table: Table, found: Effects, chance: list[float],
    config: dict[str, Any], made: provenance.Provenance,
) -> LatentGraph:  # fmt: skip
    dtype = np.float64 if table.written[0].dtype == torch.float64 else np.float32
    if not (np.isfinite(found.adjacency).all() and np.isfinite(found.value).all()):
        raise NonFiniteError("an effect is not finite; look at the model's activations")
    ids = tokens.ids[0].tolist()
    probability = np.zeros(len(table))
    probability[table.numbers(LOGIT)] = chance
    answers = [table.latent[i] for i in table.numbers(LOGIT)]
    return LatentGraph(
        prompt=tuple(token_texts(model.tokenizer, ids)), ids=np.array(ids),
        answers=tuple(token_texts(model.tokenizer, answers)),
        node_kind=tuple(table.kind),
        write=tuple("" if s is None else str(s) for s in table.write),
        read=tuple("" if s is None else str(s) for s in table.read),
        position=np.array(table.position), latent=np.array(table.latent),
        activation=np.array(table.activation), probability=probability,
        adjacency=found.adjacency.astype(dtype), bias=found.bias, value=found.value,
        written=_stacked(table.written), encoder=_stacked(table.encoder),
        offset=np.array(table.offset), floor=np.array(table.floor),
        config=config, provenance=made,
    )  # fmt: skip


def _stacked(rows: list[Tensor]) -> np.ndarray:
    return torch.stack(rows).detach().cpu().numpy()


def _refuse_gap(model: Model, graph: LatentGraph) -> None:
    gap, size = graph.gap(), float(np.abs(graph.value).max())
    if not gap <= ADDS_UP * max(size, 1.0):
        raise ConfigError(
            f"effects do not add up (off by {gap:.3g} of {size:.3g}): {model.card.family} is not "
            "linear with attention patterns and norms held (a norm after the sum, a soft cap on "
            "logits, a state-space layer), so a graph of direct effects would not be true"
        )
