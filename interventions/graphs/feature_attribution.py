"""Direct feature attribution: what a latent's pre-activation is the sum of, level by level.

1. The prompt is run once; patterns and norm scales are held at what they were.
2. Level 1: ``x . W_enc[:, latent] + b``, split over heads and source positions (attention sites) or
   over embedding, heads by source, MLPs and biases (the stream).
3. Each further level splits the largest parts of the level before: a head's share over the stream
   at its source, a latent's over what its dictionary reads.
4. At every level the parts that are not split and the new ones sum to the pre-activation; where
   they do not, the answer is refused.

Not for what an MLP computes: its share is one number unless a transcoder opens it.
Source: Kissane et al. 2024, arXiv:2406.17759 (DFA and its recursion).
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NonFiniteError
from lensbench.interventions.graphs.build import ADDS_UP, one_row
from lensbench.interventions.graphs.coders import STREAM, Coder, read_coders
from lensbench.interventions.graphs.feature_maps import Frozen
from lensbench.interventions.graphs.feature_parts import Part, Reading, Splitter
from lensbench.interventions.graphs.feature_result import FeatureAttribution
from lensbench.models.base import Model
from lensbench.sites import Site
from lensbench.tokens import Tokens, TokensLike, token_texts

SITES = (*STREAM, "attn.z")


def direct_feature_attribution(
    model: Model,
    sae: Any,
    tokens: "str | TokensLike",
    latent: int,
    position: int = -1,
    *,
    codecs: Any = None,
    depth: int = 1,
    width: int = 8,
) -> FeatureAttribution:
    """What heads, source positions, MLPs and latents add to one latent's pre-activation.

    ``x . W_enc[:, latent] + b = sum over h, s of A_h[position, s] (v_h[s] . W_enc[h, :, latent]) +
    b`` for a dictionary of ``attn.z``; through ``W_O`` at ``attn_out``; over everything upstream in
    the stream and at ``mlp.in``. Patterns and norm scales are held. Shares are in the unit of the
    pre-activation. Source: Kissane et al. 2024, arXiv:2406.17759.

    Args:
        model: in float32 or float64.
        sae: a dictionary that knows its site, or ``{site: dictionary}``: an autoencoder of
            ``attn.z``, ``attn_out`` or the stream, or a transcoder.
        tokens: text, or the ids of one row.
        latent: which latent; it may be silent here.
        position: of the token, from the end where negative.
        codecs: dictionaries upstream, as for :func:`attribution_graph` (``attn.z`` too): what they
            stand for is split into their latents and an error. Those behind the latent do nothing.
        depth: levels; 1 is the direct attribution.
        width: of each level the largest so many parts that can be split are.

    Raises:
        ConfigError: a site whose reading is not linear (an MLP before it, a norm after attention);
            a latent or position that is not there; parts that do not add up.
        MismatchError: a dictionary of another model, site or width.
        NonFiniteError: NaN in an activation.

    Example:
        >>> found = interventions.direct_feature_attribution(model, run, text, latent=3)
    """
    began = time.monotonic()
    if model.kind == "encoder-decoder":
        raise ConfigError(f"{model.card.name} has two stacks; direct feature attribution takes one")
    coder = _one(read_coders(model, sae, SITES))
    levels, most = (whole_number(n, v, least=1) for n, v in (("depth", depth), ("width", width)))
    number = whole_number("latent", latent)
    if not 0 <= number < coder.codec.d_sae:
        raise ConfigError(f"latent must be in 0..{coder.codec.d_sae - 1}, got {latent!r}")
    row = one_row(model, tokens)
    place = _place(position, row.n_pos)
    others = read_coders(model, codecs, SITES) if codecs is not None else ()
    frozen = Frozen.of(model, row, (coder.read.layer or 0) + 1)
    upstream = [c for c in others if c.write < coder.read]
    x = frozen.acts[coder.read].flatten(1)
    acts, offset = coder.latents(x)
    encoder = coder.W_enc[:, number].cpu().double()
    start = Reading(coder.read, place, encoder, float(offset[number]), own=True)
    tree = grow(Splitter.of(frozen, upstream), start, levels, most)
    value = float(x[place] @ encoder) + start.offset
    done = _result(model, row, coder, number, place, tree, value, float(acts[place, number]), start)
    config = {
        "dictionary": coder.name, "depth": levels, "width": most,
        "upstream": [[c.name, str(c.read), str(c.write)] for c in upstream],
    }  # fmt: skip
    made = provenance.record(model=vars(model.card), seconds=time.monotonic() - began)
    from dataclasses import replace

    done = replace(done, config=config, provenance=made)
    _refuse_gap(model, done)
    return done


@dataclass(frozen=True)
class Node:
    """A part in the tree."""

    part: Part
    level: int
    parent: int


def grow(splitter: Splitter, start: Reading, depth: int, width: int) -> list[Node]:
    """The tree of parts, level by level; of each level the ``width`` largest are split."""
    tree = [Node(part, 1, -1) for part in splitter.split(start)]
    for level in range(2, depth + 1):
        last = [i for i, n in enumerate(tree) if n.level == level - 1 and n.part.onward]
        last.sort(key=lambda i: -abs(tree[i].part.share))  # stable: ties in the order of writing
        for parent in last[:width]:
            onward = tree[parent].part.onward
            assert onward is not None  # chosen for it
            tree += [Node(part, level, parent) for part in splitter.split(onward())]
    return tree


def _one(coders: tuple[Coder, ...]) -> Coder:
    if len(coders) != 1:
        raise ConfigError(f"got {len(coders)} dictionaries as sae; give the latent's own, and "
                          "those upstream as codecs")  # fmt: skip
    return coders[0]


def _place(position: int, n_pos: int) -> int:
    asked = whole_number("position", position)
    if not -n_pos <= asked < n_pos:
        raise ConfigError(f"position {asked} is outside a prompt of {n_pos} tokens")
    return asked % n_pos


def _result(
    model: Model, row: Tokens, coder: Coder, latent: int, position: int, tree: list[Node],
    value: float, activation: float, start: Reading,
) -> FeatureAttribution:  # fmt: skip
    parts = [n.part for n in tree]
    written = [(i, p.written) for i, p in enumerate(parts) if p.written is not None]
    ids = row.ids[0].tolist()
    return FeatureAttribution(
        prompt=tuple(token_texts(model.tokenizer, ids)), ids=np.array(ids), read=str(coder.read),
        latent=latent, position=position, value=value, activation=activation,
        encoder=start.vector.numpy(), offset=start.offset,
        node_kind=tuple(p.kind for p in parts), site=tuple(str(p.site) for p in parts),
        at=_column([p.position for p in parts]), head=_column([p.head for p in parts]),
        source=_column([p.source for p in parts]), number=_column([p.latent for p in parts]),
        share=np.array([p.share for p in parts], dtype=np.float64),
        level=_column([n.level for n in tree]), parent=_column([n.parent for n in tree]),
        written=_rows([x for _, x in written], model.width(Site("resid_pre", 0))),
        written_by=_column([i for i, _ in written]),
    )  # fmt: skip


def _column(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _rows(vectors: list[Tensor], width: int) -> np.ndarray:
    return (torch.stack(vectors) if vectors else torch.zeros(0, width).double()).numpy()


def _refuse_gap(model: Model, found: FeatureAttribution) -> None:
    if not (np.isfinite(found.share).all() and np.isfinite(found.value)):
        raise NonFiniteError("a share is not finite; look at the model's activations")
    size = max(abs(found.value), float(np.abs(found.share).max(initial=0.0)))
    for level in range(1, found.depth + 1):
        if not (gap := found.gap(level)) <= ADDS_UP * max(size, 1e-6):
            raise ConfigError(
                f"shares of level {level} do not add up (off by {gap:.3g} of {size:.3g}): what "
                f"enters {found.read} of {model.card.family} is not the sum of what was written "
                "(a norm after the sum, a state-space layer)"
            )
