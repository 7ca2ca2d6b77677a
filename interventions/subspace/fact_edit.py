"""The rank-1 edit that brings another answer about a subject (ROME).

1. Key: the mean state of the layer's neurons at the subject's last token, over the prompts given.
2. Value: what the MLP adds there plus a vector found by Adam, so that the prompts get the new
   answer and what is predicted right after the subject stays as it was.
3. :func:`~lensbench.interventions.subspace.rank_one.rank_one_edit` of both.

Source: Meng et al. 2022, arXiv:2202.05262, sections 3.1 and eq. 4. Where we deviate: the prompts
themselves are the contexts (the paper puts random text before them); the divergence is kept small
for the tokens after the subject in these prompts (the paper asks "<subject> is a"); the vector is
measured in lengths of what the MLP adds, so that one rate fits every layer; no weight decay.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import positive_number, refuse_no_model, whole_number
from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError
from lensbench.interventions.subspace.keys import key_site, states_at
from lensbench.interventions.subspace.patch import one_place
from lensbench.interventions.subspace.rank_one import RankOneEdit, rank_one_edit
from lensbench.models.base import Model
from lensbench.ops import Add
from lensbench.plan import Edit, Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.sites import Site
from lensbench.tokens import as_tokens


def fact_edit(
    model: Model,
    pairs: PromptPairs,
    layer: int,
    *,
    position: int | str = "subject",
    moment: Any = None,
    ridge: float = 1e-4,
    steps: int = 25,
    lr: float = 0.5,
    kl: float = 0.0625,
    clamp: float = 4.0,
) -> RankOneEdit:
    """Edit one layer so that the clean prompts are answered with their foil.

    ``loss(d) = mean_j -log p(foil | x_j) + kl mean_j KL(p_d || p)``, both with d added to what the
    MLP gives at the subject's last token, KL of the token after it; ``|d| <= clamp |m|`` with m the
    mean of what the MLP gives there. See the module for the source and where this deviates.

    Args:
        model: a back end that gives gradients.
        pairs: prompts about one subject; all have one foil, the new answer.
        layer: whose MLP is edited.
        position: role or number of the subject's last token.
        moment: see :func:`rank_one_edit`, as for ``ridge``.
        ridge: the same.
        steps: updates of Adam.
        lr: rate of Adam, in lengths of m per root of d_model.
        kl: weight of the divergence; prompts that end with the subject have none.
        clamp: longest d, in lengths of m.

    Raises:
        ConfigError: prompts with several foils, answers that are to be summed, numbers out of
            range.
        NotEnoughDataError: no prompt has the subject.
        NonFiniteError: the loss became NaN.

    Example:
        >>> edit = interventions.fact_edit(model, pairs.select([0]), layer=2, steps=3)
    """
    refuse_no_model(model)
    began = time.monotonic()
    model.require_next_token("editing a fact")
    pairs.require_next_token("editing a fact")
    check_pairs(model, pairs)
    lr, clamp = positive_number("lr", lr), positive_number("clamp", clamp)
    kl = 0.0 if kl == 0 and not isinstance(kl, bool) else positive_number("kl", kl)
    whole_number("steps", steps, least=1)
    site = key_site(model, layer)
    if len(set(pairs.foil)) > 1:
        raise ConfigError(
            f"one edit writes one answer; these {len(pairs)} pairs have {len(set(pairs.foil))} "
            "foils. Edit them one by one: fact_edit(model, pairs.select([i]), layer)"
        )
    place = one_place(model, pairs, site, position, None)
    rows, at = _subjects(pairs, place)
    out = Site("mlp_out", site.layer, site.stack)
    states = states_at(model, rows, at, [site, out])
    key, start = states[site].mean(0), states[out].mean(0)
    search = _Search(model, out, rows, at, pairs.foil[0], kl)
    found, losses = search.run(start, steps, lr, clamp)
    made = rank_one_edit(model, layer, key, start + found, moment=moment, ridge=ridge)
    told = {"pairs": pairs.fingerprint(), "target": pairs.foil[0], "position": str(position),
            "steps": steps, "lr": lr, "kl": kl, "clamp": clamp,
            "loss_first": losses[0], "loss_last": losses[-1]}  # fmt: skip
    seconds = replace(made.provenance, seconds=time.monotonic() - began)
    return replace(made, config={**made.config, **told}, provenance=seconds)


def _subjects(pairs: PromptPairs, place: Any) -> tuple[list[tuple[int, ...]], list[int]]:
    """Clean prompts that name the subject, and where."""
    rows: list[tuple[int, ...]] = []
    at: list[int] = []
    for row, ids in enumerate(pairs.clean_ids):
        position = place.at(pairs, row)
        if position is not None and not (position == -1 and isinstance(place.position, str)):
            rows.append(ids)
            at.append(position % len(ids))
    if not rows:
        raise NotEnoughDataError(f"none of the {len(pairs)} prompts has a token at {place}")
    return rows, at


class _Search:
    """The loss of a vector added at the subject, and its descent."""

    def __init__(
        self, model: Model, out: Site, rows: Sequence[Sequence[int]], at: Sequence[int],
        target: int, kl: float,
    ) -> None:  # fmt: skip
        self.model, self.out, self.rows, self.at, self.target = model, out, rows, at, target
        self.tokens = as_tokens(rows, pad_id=getattr(model.tokenizer, "pad_token_id", None))
        width = self.tokens.n_pos
        columns = [width - len(row) + p for row, p in zip(rows, at, strict=True)]
        # A prompt that ends with its subject is asked there for the new answer itself.
        inside = [i for i, c in enumerate(columns) if c < width - 1]
        self.kl = kl if inside else 0.0
        self.anchors = (torch.tensor(inside), torch.tensor([columns[i] for i in inside]))
        clean = model.run(self.tokens, logits="all").logits
        assert clean is not None
        self.clean = clean[self.anchors].float().log_softmax(-1) if self.kl else None

    def run(
        self, start: Tensor, steps: int, lr: float, clamp: float
    ) -> tuple[Float[Tensor, " d_model"], list[float]]:
        """The vector after so many updates, and the loss before each and at the end."""
        length = float(start.norm())
        if not length > 0:
            raise ConfigError(f"{self.out} is 0 at the subject: the MLP does nothing there")
        unit = length / len(start) ** 0.5
        free = torch.zeros(len(start), requires_grad=True)
        adam = torch.optim.Adam([free], lr=lr)
        losses: list[float] = []
        for step in range(steps + 1):
            loss = self.loss(unit * free)
            if not bool(loss.isfinite()):
                raise NonFiniteError(
                    f"the loss of the edit is {float(loss)} at step {step}; lower lr={lr:g}"
                )
            losses.append(float(loss.detach()))
            if step == steps:
                break
            (free.grad,) = torch.autograd.grad(loss, free)
            adam.step()  # pyright: ignore[reportUnknownMemberType]
            with torch.no_grad():
                free.mul_(min(1.0, clamp * length / max(float((unit * free).norm()), 1e-30)))
        return (unit * free).detach().double(), losses

    def loss(self, added: Tensor) -> Tensor:
        """See :func:`fact_edit`."""
        plan = Plan(tuple(Edit(self.out, Add(added), (i,), (p,)) for i, p in enumerate(self.at)))
        logits = self.model.run(self.tokens, plan, logits="all", grad=True).logits
        assert logits is not None
        loss = -logits[:, -1].float().log_softmax(-1)[:, self.target].mean()
        if self.clean is None:
            return loss
        now = logits[self.anchors].float().log_softmax(-1)
        return loss + self.kl * (now.exp() * (now - self.clean)).sum(-1).mean()
