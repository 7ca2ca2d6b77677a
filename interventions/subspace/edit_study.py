"""Do edits work where patching says the fact is? Every fact edited at every layer.

1. Patch what the MLP gives at the subject from the clean into the corrupted run, layer by layer.
2. Edit every fact at every layer (:func:`fact_edit`), one at a time.
3. Under each edit: its prompt, other wordings of it, and prompts about other subjects. The same
   with the value written for a random key.
4. Correlate 1 and 2.

An edit can work where the fact is not: success at a layer is no evidence that it is stored there
(Hase et al. 2023, arXiv:2301.04213). Measures: Meng et al. 2022, arXiv:2202.05262, section 3.3, and
Hase et al., section 4 (``magnitude``).
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.interventions.patching.sweep import patch_sweep
from lensbench.interventions.subspace.edit_result import EDITS, MEASURES, EditStudy
from lensbench.interventions.subspace.fact_edit import fact_edit
from lensbench.interventions.subspace.keys import (
    key_site,
    least_moving,
    moment_of,
    second_moment,
)
from lensbench.interventions.subspace.rank_one import RankOneEdit
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.tokens import as_tokens

SETTINGS = ("steps", "lr", "kl", "clamp")
"""Arguments of :func:`fact_edit` that go through."""


def edit_study(
    model: Model,
    pairs: PromptPairs,
    paraphrases: Sequence[PromptPairs] = (),
    neighbours: PromptPairs | None = None,
    *,
    text: Any = None,
    layers: Sequence[int] | None = None,
    position: int | str = "subject",
    patched: str = "mlp_out",
    ridge: float = 1e-4,
    seed: int = 0,
    **settings: Any,
) -> EditStudy:
    """Edit each fact at each layer, one at a time, and see what follows.

    ``magnitude = (p'(foil) - p(foil)) / (1 - p(foil))``, p' under the edit; the other measures are
    shares (:data:`MEASURES`).

    Args:
        model: a back end that gives gradients.
        pairs: one fact per pair; the clean prompt is answered with ``answer``, and is to be
            answered with ``foil``.
        paraphrases: other wordings, each with as many pairs, the same answers and foils.
        neighbours: whose clean prompts must keep their answers; left out, the other pairs'. Those
            about the fact itself, or answered with its foil, are passed over.
        text: token ids whose keys an edit shall move least; left out, all directions count alike.
        layers: which; left out, every layer with one output projection.
        position: role or number of the subject's last token.
        patched: the site whose patches are compared with edits: ``mlp_out`` for one MLP,
            ``resid_post`` for all that the subject's token holds by then.
        ridge: see :func:`rank_one_edit`.
        seed: of random keys and layers.
        settings: of :func:`fact_edit`: ``steps``, ``lr``, ``kl``, ``clamp``.

    Raises:
        ConfigError: no model, paraphrases of other facts, answers that are to be summed, settings
            out of range, a ``patched`` that is no name.
        NotEnoughDataError: a fact without a neighbour.

    Example:
        >>> found = interventions.edit_study(model, pairs, layers=[2], steps=3)
    """
    began = time.monotonic()
    whole_number("seed", seed, least=0)
    _check_settings(settings)
    refuse_no_model(model)
    if not isinstance(patched, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users
        raise ConfigError(
            f"patched must name a site without its layer, such as 'mlp_out'; got {patched!r}"
        )
    where = _layers(model, layers)
    prompts = _Prompts(model, pairs, paraphrases, pairs if neighbours is None else neighbours)
    effect = patch_effects(model, pairs, where, position, patched)
    rng = torch.Generator().manual_seed(seed)
    values = np.full((len(MEASURES), len(EDITS), len(where), len(pairs)), np.nan)
    clean = [prompts.log_probs(i, Plan()) for i in range(len(pairs))]
    for place, layer in enumerate(where):
        moment = None if text is None else second_moment(model, layer, text)
        full = moment_of(moment, model.width(key_site(model, layer)), ridge)
        for fact in range(len(pairs)):
            made = fact_edit(model, pairs.select([fact]), layer, position=position,
                             moment=moment, ridge=ridge, **settings)  # fmt: skip
            for arm, edit in enumerate((made, _for_random_key(made, full, rng))):
                found = prompts.log_probs(fact, edit.plan())
                values[:, arm, place, fact] = prompts.measures(found, clean[fact])
    drawn = torch.randint(len(where), (len(pairs),), generator=rng).numpy()
    before = [prompts.measures(one, one) for one in clean]
    result = EditStudy(
        task=pairs.task, layers=np.array(where), values=values, before=np.array(before).T,
        patch_effect=effect, drawn=drawn,
        config={"pairs": pairs.fingerprint(), "paraphrases": len(paraphrases), "ridge": ridge,
                "position": str(position), "patched": patched, "text": text is not None,
                "seed": seed, **settings},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    told = {f"random_key_{m}": float(result.measured(m, "random key").mean())
            for m in ("success", "magnitude")}  # fmt: skip
    told["random_layer_success"] = float(result.at_random_layers("success").mean())
    note = "the same value written for a random key; the edit at a layer drawn for each fact"
    return replace(result, controls=Controls(told, note))


def _check_settings(settings: dict[str, Any]) -> None:
    for name in settings:
        if name not in SETTINGS:
            raise UnknownNameError("setting of fact_edit", name, known=SETTINGS)


def _layers(model: Model, layers: Sequence[int] | None) -> list[int]:
    if layers is None:
        able = [s.layer for s in model.sites() if s.name == "mlp.post" and not s.stack]
        return [layer for layer in able if layer is not None]
    if isinstance(layers, str) or not hasattr(layers, "__iter__") or not len(layers):
        raise ConfigError(f"layers must be a list such as [0, 3], got {layers!r}")
    found = [key_site(model, layer).layer for layer in layers]
    return list(dict.fromkeys(layer for layer in found if layer is not None))


def patch_effects(
    model: Model, pairs: PromptPairs, layers: Sequence[int], position: int | str, patched: str
) -> np.ndarray:
    """What patching a site of each layer brings back of each pair, 0 corrupted, 1 clean.

    ``(m(patched) - m(corrupted)) / (m(clean) - m(corrupted))``, m the logit difference; NaN where
    the runs do not differ.
    """
    sites = [Site(patched, layer) for layer in layers]
    swept = patch_sweep(model, pairs, sites, positions=[position], random_patches=0)
    order = [swept.site.index(str(site)) for site in sites]
    gap = swept.clean - swept.corrupted
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (swept.values[order] - swept.corrupted) / gap
        return np.where(np.abs(gap) > 1e-12, shares, np.nan)


def _for_random_key(edit: RankOneEdit, moment: Tensor, rng: torch.Generator) -> RankOneEdit:
    """The same value, read off a random key with the spread of real ones and the key's length."""
    drawn = torch.linalg.cholesky(moment) @ torch.randn(
        len(moment), generator=rng, dtype=torch.float64
    )
    key = drawn * (np.linalg.norm(edit.key) / drawn.norm())
    read = least_moving(key[None], torch.ones(1).double(), moment)
    return replace(edit, key=key.numpy(), read=read.numpy())


class _Prompts:
    """What is asked under the edit of each fact: the prompt, other wordings, other subjects."""

    def __init__(
        self, model: Model, pairs: PromptPairs, paraphrases: Sequence[PromptPairs],
        neighbours: PromptPairs,
    ) -> None:  # fmt: skip
        if isinstance(paraphrases, PromptPairs):
            raise ConfigError("paraphrases must be a list of PromptPairs; put this one in a list")
        for given in (pairs, *paraphrases, neighbours):
            check_pairs(model, given)
            given.require_next_token("editing facts")
        for i, other in enumerate(paraphrases):
            if (other.answer, other.foil) != (pairs.answer, pairs.foil):
                raise ConfigError(
                    f"paraphrases[{i}] must hold the {len(pairs)} facts of pairs in their order; "
                    f"its {len(other)} answers and foils are others"
                )
        self.model, self.pairs, self.n_same = model, pairs, len(paraphrases)
        self.rows: list[list[tuple[int, ...]]] = []
        self.answers: list[list[int]] = []
        for fact, (answer, foil) in enumerate(zip(pairs.answer, pairs.foil, strict=True)):
            same = [p.clean_ids[fact] for p in (pairs, *paraphrases)]
            others = [(ids, a) for ids, a in zip(neighbours.clean_ids, neighbours.answer,
                                                 strict=True)
                      if ids not in same and a != foil]  # fmt: skip
            if not others:
                raise NotEnoughDataError(f"fact {fact} has no neighbour; give more pairs")
            self.rows.append([*same, *(ids for ids, _ in others)])
            self.answers.append([answer] * len(same) + [a for _, a in others])

    def log_probs(self, fact: int, plan: Plan) -> np.ndarray:
        """Log probabilities of the foil and of each prompt's own answer, ``[2, prompts]``."""
        pad = getattr(self.model.tokenizer, "pad_token_id", None)
        out = self.model.run(as_tokens(self.rows[fact], pad_id=pad), plan, logits="last").logits
        assert out is not None
        found = out[:, -1].float().log_softmax(-1).cpu().double().numpy()
        rows = np.arange(len(found))
        return np.stack([found[:, self.pairs.foil[fact]], found[rows, self.answers[fact]]])

    def measures(self, found: np.ndarray, clean: np.ndarray) -> list[float]:
        """:data:`MEASURES` of one edit."""
        new, old = found
        first, last = 1, 1 + self.n_same
        was, now = np.exp(clean[0, 0]), np.exp(new[0])
        above = new[first:last] > old[first:last]
        return [
            float(new[0] > old[0]),
            float((now - was) / (1 - was)) if was < 1 else float("nan"),
            float(above.mean()) if self.n_same else float("nan"),
            float((old[last:] > new[last:]).mean()),
        ]
