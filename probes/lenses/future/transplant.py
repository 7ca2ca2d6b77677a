"""Put a state of one run into another and see what the model makes of it.

The state h that leaves layer l at position i of the source goes through f and replaces the state of
the target's positions at layer l*. Four lenses are settings of this:

- **logit lens**: f = identity, l* = the last layer; the target's text does not matter.
- **Patchscopes**: a prompt that makes the model repeat what stands at its last token
  (:func:`lensbench.probes.lenses.future.prompts.identity_prompt`).
- **SelfIE**: an instruction with placeholders, all of which get the state
  (``placeholder_prompt``), and text is generated.
- **future lens**: any prompt (``future_scores``), a learned one (``train_soft_prompts``), or
  l* = last with f the closed-form map ``FutureLens.affine``.

Final norm: the state after the last block is taken and put *before* that norm, which the model then
applies once. (Code that reads Hugging Face's last hidden state has it normed, and must skip the
norm; here nothing has to be skipped.) In decoding the prompt is edited, generated tokens are not.

A fluent answer is no evidence that it was in the state: the same target without the transplant
stands beside every cell. Sources: Ghandeharioun et al. 2024, "Patchscopes", arXiv:2401.06102; Chen
et al. 2024, "SelfIE", arXiv:2403.10949; Pal et al. 2023, "Future Lens", arXiv:2311.04897.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.probes.lenses.future.engine import as_batch_size, prepare
from lensbench.probes.lenses.future.result import Transplant
from lensbench.probes.lenses.future.spots import Affine, Mapping, Mode, Spot
from lensbench.results import Controls
from lensbench.tokens import Tokens, token_texts

if TYPE_CHECKING:
    from lensbench.models import Model


def transplant_logits(
    model: "Model",
    source: Spot,
    target: Spot,
    *,
    f: Affine | None = None,
    mode: Mode = "normalised",
    strength: float = 1.0,
    into: "Model | None" = None,
    first_token: bool = False,
    batch_size: int = 64,
) -> Float[Tensor, "layers positions d_vocab"]:
    """Logits at the target's last token, for every source layer and position.

    logits(target | resid^l*_i* <- f(resid^l_i)); in the mode ``normalised`` of strength s with the
    target's own state x it is s f(h) + (1 - s) x that is put, in ``addition`` x + s f(h).
    Equivalent to the logit lens at f = identity, l* = last.

    Raises:
        ConfigError, MismatchError: as :func:`transplant`.

    Example:
        >>> source = probes.Spot(text, positions=[2], layers=[1, 2])
        >>> target = probes.Spot("Carl the doctor lives in", positions=2)
        >>> logits = probes.transplant_logits(model, source, target)
    """
    how = Mapping(f, mode, strength)
    cells = prepare(model, source, target, how, into=into, first_token=first_token)
    found = cells.logits(as_batch_size(batch_size))[:, 0]
    return found.unflatten(0, (len(dict.fromkeys(cells.source_layers)), -1))


def transplant(
    model: "Model",
    source: Spot,
    target: Spot,
    *,
    f: Affine | None = None,
    mode: Mode = "normalised",
    strength: float = 1.0,
    into: "Model | None" = None,
    max_new_tokens: int = 0,
    stop_ids: Sequence[int] | None = None,
    first_token: bool = False,
    k: int = 5,
    batch_size: int = 64,
) -> Transplant:
    """What the model says at the end of the target when it holds a state of the source.

    Per cell (source layer, source position) the k most probable next tokens with their probability
    with and without the transplant, and KL(p_without || p_with) in nats. With ``max_new_tokens`` a
    greedy text too, and of each of its tokens p_with and p_without (SelfIE's relevancy is
    |p_with - p_without|).

    Args:
        model: where the states come from.
        source: text, positions and layers (None: every block); each pair of them is a cell.
        target: text, positions that all get the state, and one layer (None: the source's own).
        f: map of the state, :class:`Affine`; None is the identity.
        mode: ``normalised`` (s f(h) + (1 - s) x) or ``addition`` (x + s f(h)), x the target's own.
        strength: s.
        into: the model the states are put into, where it is another one.
        max_new_tokens: tokens to generate; 0 reads the next token alone.
        stop_ids: tokens that end a text (default: the tokenizer's EOS).
        first_token: allow position 0 of the target.
        k: tokens kept per cell.
        batch_size: cells at a time; logits of one batch are held at once.

    Raises:
        ConfigError: positions or layers out of range, several texts, position 0 of the target, k
            out of range, an encoder.
        MismatchError: widths that do not fit, or a map fitted on another model or layer.

    Example:
        >>> source = probes.Spot(text, positions=[2], layers=range(model.n_layers))
        >>> target = probes.Spot("Carl the doctor lives in", positions=2)
        >>> moved = probes.transplant(model, source, target, k=2)
        >>> moved.to_frame().head(2)
    """
    start = time.monotonic()
    size, how = as_batch_size(batch_size), Mapping(f, mode, strength)
    n = whole_number("max_new_tokens", max_new_tokens, least=0)
    goal = into or model
    if not 1 <= whole_number("k", k) <= goal.card.d_vocab:
        raise ConfigError(f"k must be in 1..{goal.card.d_vocab}, got {k}")
    cells = prepare(model, source, target, how, into=into, first_token=first_token)
    logp = cells.logits(size)[:, 0].log_softmax(-1)
    plain = _plain(goal, cells.tokens).log_softmax(-1)
    best, ids = logp.exp().topk(k, -1)
    written = cells.generate(n, size, stop_ids) if n else []
    p_with, p_without = cells.relevancy(written, size)
    words = lambda rows: tuple(tuple(token_texts(goal.tokenizer, r)) for r in rows)  # noqa: E731
    top_without = plain.exp().topk(k, -1)
    without = plain.exp()[ids.flatten()].view_as(ids).cpu().numpy()
    return Transplant(
        source_layers=np.array(cells.source_layers),
        source_positions=np.array(cells.source_positions),
        target_layers=np.array(cells.layers),
        target_positions=cells.positions,
        source_tokens=tuple(token_texts(model.tokenizer, list(cells.source_ids))),
        target_tokens=tuple(token_texts(goal.tokenizer, cells.tokens.ids[0].tolist())),
        top=words(ids.tolist()),
        top_prob=best.cpu().numpy(),
        top_prob_without=without,
        kl=(plain.exp() * (plain - logp)).nansum(-1).clamp_min(0).cpu().numpy(),
        plain_top=words([top_without.indices.tolist()])[0],
        plain_prob=top_without.values.cpu().numpy(),
        written=words(written),
        p_with=p_with,
        p_without=p_without,
        config={
            "f": "identity" if f is None else "affine",
            "mode": mode,
            "strength": float(strength),
            "max_new_tokens": n,
            "into": goal.card.name,
            "plans": [plan.fingerprint() for plan in cells.plans()],
        },
        controls=Controls(
            {"no_transplant": float(without[:, 0].mean())},
            note="mean probability of each cell's first token in the target left as it is",
        ),
        provenance=provenance.record(model=vars(model.card), seconds=time.monotonic() - start),
    )


def _plain(model: "Model", tokens: Tokens) -> Float[Tensor, " d_vocab"]:
    logits = model.run(tokens, logits="last").logits
    assert logits is not None
    return logits[0, -1].float()
