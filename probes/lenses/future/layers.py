"""One state of every layer put into every layer of a prompt, beside states that say nothing.

A fluent answer proves nothing: a prompt can say a token whatever is put into it, and any strange
vector can derail it. So every cell stands beside the same cell with other vectors of the same
length. Steps, numbered in the body:

1. The states of one token, h_l, leave every source layer l.
2. Controls, at the length of h_l: the mean of the text's other tokens (the first left out, whose
   state is unlike all others in many models), and ``draws`` random directions.
3. Each is put at the target's positions behind every target layer l*; the end is read.

Equivalent to ``transplant`` for each target layer; at l* = last it is the logit lens. Source:
Ghandeharioun et al. 2024, "Patchscopes", arXiv:2401.06102; the controls are ours.
"""

import time
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.probes.lenses.future.engine import Cells, as_batch_size
from lensbench.probes.lenses.future.layers_result import KINDS, TransplantLayers
from lensbench.probes.lenses.future.spots import (
    Spot,
    chosen_layers,
    chosen_positions,
    one_row,
    states_at,
    target_positions,
)
from lensbench.tokens import Tokens, token_texts

if TYPE_CHECKING:
    from lensbench.models import Model


def transplant_layers(
    model: "Model",
    source: Spot,
    target: Spot,
    *,
    scored: int | None = None,
    draws: int = 3,
    k: int = 5,
    first_token: bool = False,
    batch_size: int = 64,
    seed: int = 0,
) -> TransplantLayers:
    """What the end of the target says with one token's state, by source layer and target layer.

    Per cell the k most probable next tokens, p(``scored``), and KL(p_without || p_with) in nats;
    the same with the mean state and with random ones, both of the state's length. Beside them what
    the logit lens reads from the state itself.

    Args:
        model: gives the states and takes them.
        source: text and one position; its layers (None: every block).
        target: text, positions that all get the state; its layers (None: every block).
        scored: id of the token whose probability is followed (default: the one that the model
            itself expects next at the source's position).
        draws: random directions; the mean over them is kept.
        k: tokens kept per cell.
        first_token: allow position 0 of the target.
        batch_size: cells at a time.
        seed: of the random directions.

    Raises:
        ConfigError: several source positions or texts, a layer, position or token out of range,
            position 0 of the target, an encoder.

    Example:
        >>> source, target = probes.Spot(text, -1), probes.Spot("Carl the doctor lives in", 2)
        >>> found = probes.transplant_layers(model, source, target, k=2)
        >>> found.at(1, 2)["reading"].tolist()
        ['this state', 'mean state', 'random state', 'no state', 'logit lens of this state']
    """
    start = time.monotonic()
    size, draws = as_batch_size(batch_size), whole_number("draws", draws, least=1)
    model.require_next_token("a transplant")
    if not 1 <= whole_number("k", k) <= model.card.d_vocab:
        raise ConfigError(f"k must be in 1..{model.card.d_vocab}, got {k}")
    if scored is not None and not 0 <= whole_number("scored", scored) < model.card.d_vocab:
        raise ConfigError(f"scored must be a token id in 0..{model.card.d_vocab - 1}, got {scored}")
    taken, put = one_row(model, source.tokens), one_row(model, target.tokens)
    layers = chosen_layers(model, source.layers, "source")
    into = chosen_layers(model, target.layers, "target")
    places = chosen_positions(source.positions, taken.n_pos, "source")
    if len(places) != 1:
        raise ConfigError(f"one state is asked, of one position; got positions {list(places)}")
    positions = target_positions(target.positions, put.n_pos, first_token=first_token)
    last = model.n_layers - 1
    whole = states_at(model, taken, (*layers, last), range(taken.n_pos)).float()  # 1
    own, final = whole[:-1, places[0]], whole[-1, places[0]]
    token = int(model.unembed(final).float().argmax()) if scored is None else scored
    others = _others(whole[:-1], places[0])
    asked = {"state": [own], "mean": [] if others is None else [others],
             "random": _random(own, draws, seed)}  # 2  # fmt: skip
    base = _base(model, put)
    shape = (len(layers), len(into))
    prob, kl = (torch.full((len(KINDS), *shape), torch.nan) for _ in range(2))
    best = torch.full((len(KINDS), *shape, k), torch.nan)
    ids = torch.zeros((len(KINDS), *shape, k), dtype=torch.long)
    for i, kind in enumerate(KINDS):
        for n, values in enumerate(asked[kind]):  # 3
            logp = _said(model, put, positions, values, into, size).cpu()
            p = logp.exp()[..., token]
            away = (base.exp() * (base - logp)).nansum(-1).clamp_min(0)
            prob[i] = p if n == 0 else prob[i] + p
            kl[i] = away if n == 0 else kl[i] + away
            if n == 0:
                best[i], ids[i] = logp.exp().topk(k, -1)
        prob[i], kl[i] = prob[i] / max(len(asked[kind]), 1), kl[i] / max(len(asked[kind]), 1)
    lens = model.unembed(own).float().softmax(-1).cpu()
    lens_best, plain_best = lens.topk(k, -1), base.exp().topk(k)
    words = lambda rows: tuple(tuple(token_texts(model.tokenizer, r)) for r in rows)  # noqa: E731
    found = TransplantLayers(
        layers=layers,
        into=into,
        position=places[0],
        source_tokens=words(taken.ids.tolist())[0],
        target_tokens=words(put.ids.tolist())[0],
        target_positions=positions,
        scored=words([[token]])[0][0],
        top=tuple(tuple(words(row) for row in kind) for kind in ids.tolist()),
        top_prob=best.numpy(),
        prob=prob.numpy(),
        kl=kl.numpy(),
        lens_top=words(lens_best.indices.tolist()),
        lens_top_prob=lens_best.values.numpy(),
        lens_prob=lens[:, token].numpy(),
        plain_top=words([plain_best.indices.tolist()])[0],
        plain_top_prob=plain_best.values.numpy(),
        plain_prob=float(base.exp()[token]),
        config={"draws": draws, "seed": seed, "k": k, "scored": token},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - start
        ),
    )
    return found.controlled()


def _others(states: Float[Tensor, "layers tokens d"], here: int) -> Tensor | None:
    """The mean state of the other tokens but the first, at the state's length; None without any."""
    rest = [i for i in range(1, states.shape[1]) if i != here]
    if not rest:
        return None
    return _long_as(states[:, rest].mean(1), states[:, here])


def _random(own: Float[Tensor, "layers d"], draws: int, seed: int) -> list[Tensor]:
    """Directions drawn evenly, one per layer, at the state's length."""
    rng = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(own.shape, generator=rng).to(own) for _ in range(draws)]
    return [_long_as(one, own) for one in drawn]


def _long_as(values: Tensor, like: Tensor) -> Tensor:
    return values * (like.norm(dim=-1, keepdim=True) / values.norm(dim=-1, keepdim=True))


def _said(
    model: "Model",
    put: Tokens,
    positions: tuple[int, ...],
    values: Float[Tensor, "layers d"],
    into: tuple[int, ...],
    size: int,
) -> Float[Tensor, "layers into d_vocab"]:
    """Log-probabilities after the target, by the layer of the value and that it is put behind."""
    one = values[:, None, None].expand(-1, len(into), len(positions), -1).flatten(0, 1)
    cells = Cells(model, put, positions, into * len(values), one)
    return cells.logits(size)[:, 0].log_softmax(-1).unflatten(0, (len(values), len(into)))


def _base(model: "Model", put: Tokens) -> Float[Tensor, " d_vocab"]:
    logits = model.run(put, logits="last").logits
    assert logits is not None
    return logits[0, -1].float().log_softmax(-1).cpu()
