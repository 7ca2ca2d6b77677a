"""Directions of two sets of states: mean difference (CAA), principal components, shuffled labels.

The difference of means finds a constant shift between the sets; the first component of *centred*
differences cannot, because centring takes exactly that shift away (see :meth:`Contrast.pca`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from lensbench import provenance
from lensbench.arguments import refuse_no_model
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.interventions.steering.direction import Direction, one_vector
from lensbench.interventions.values import groups, run_of
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.provenance import Provenance
from lensbench.sites import Site

PCA = ("pca_center", "pca_uncentred", "pca_diff")
PCA_DIFF = (
    "pca_diff is the first component of centred differences: a shift that all pairs share is "
    "taken away with their mean. Use mean_difference() or pca('pca_center') for it"
)
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Contrast:
    """States of two sets of prompts at one site; ``plus`` is what the direction points to.

    Example:
        >>> states = interventions.contrast_states(model, pairs, "blocks.3.resid_post")
        >>> towards = states.mean_difference()
    """

    site: str
    plus: Float[np.ndarray, "n d"]
    minus: Float[np.ndarray, "m d"]
    paired: bool = True
    """Row i of both is one pair."""
    label: str = "contrast"
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    provenance: Provenance = field(default_factory=Provenance)
    """Both go into every direction made here."""

    def __repr__(self) -> str:
        """One line: what it is of, where, how many states."""
        how = "pairs" if self.paired else "apart"
        return (f"Contrast({self.label!r} at {self.site}: {len(self.plus)} and {len(self.minus)} "
                f"states of width {self.plus.shape[1]}, {how})")  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse sets that cannot be compared."""
        object.__setattr__(self, "site", str(one_vector(self.site)))
        for name in ("plus", "minus"):
            states = np.asarray(getattr(self, name), dtype=np.float64)
            if states.ndim != 2 or not len(states):
                raise ConfigError(f"{name} must be states [n, d], got {list(states.shape)}")
            object.__setattr__(self, name, states)
        if self.plus.shape[1] != self.minus.shape[1]:
            raise ConfigError(
                f"plus has width {self.plus.shape[1]}, minus {self.minus.shape[1]}; both are "
                "states of one site"
            )
        if self.paired and len(self.plus) != len(self.minus):
            raise ConfigError(
                f"{len(self.plus)} states stand against {len(self.minus)}: no pairs. Pass "
                "paired=False for two sets"
            )

    def mean_difference(self) -> Direction:
        """``mean(plus) - mean(minus)``, in units of the site.

        Source: Rimsky et al. 2023 (CAA), arXiv:2312.06681; Marks & Tegmark 2023, arXiv:2310.06824.
        """
        shift = self.plus.mean(0) - self.minus.mean(0)
        return self._direction(shift, "mean_difference").redrawn_by(self.shuffled)

    def pca(
        self, how: Literal["pca_center", "pca_uncentred", "pca_diff"] = "pca_center"
    ) -> Direction:
        """First principal component of pairs, of length 1; most pairs lie along it, not against.

        With ``d_i = plus_i - minus_i``: ``pca_center`` takes both states less the pair's own mean,
        which are ``d_i / 2`` and ``-d_i / 2``; ``pca_uncentred`` the ``d_i`` as they are (an
        uncentred SVD, the same axis); ``pca_diff`` the ``d_i`` less their mean, which loses a shift
        that all pairs share, and warns of it. Source: Zou et al. 2023, arXiv:2310.01405.

        Raises:
            ConfigError: two sets that are no pairs.
            NotEnoughDataError: fewer than two pairs.
            UnknownNameError: another name.
        """
        if how not in PCA:
            raise UnknownNameError("principal component", str(how), known=PCA)
        if not self.paired:
            raise ConfigError("principal components are those of pairs; this contrast has none")
        if len(self.plus) < 2:
            raise NotEnoughDataError("a principal component needs at least two pairs, got one")
        difference = self.plus - self.minus
        rows = difference
        if how == "pca_center":
            rows = np.concatenate([difference, -difference]) / 2
        if how == "pca_diff":
            warnings.warn(PCA_DIFF, UserWarning, stacklevel=2)
            rows = difference - difference.mean(0)
        axis = np.linalg.svd(rows, full_matrices=False)[2][0]
        along = float(((difference @ axis) > 0).mean())
        found = self._direction(axis if along >= 0.5 else -axis, how)
        return found.redrawn_by(self.shuffled)

    def shuffled(self, n: int = 20, seed: int = 0) -> tuple[Direction, ...]:
        """A control: mean differences after labels were exchanged at random, in balance.

        Exactly half of each side changes sides (half of the pairs are turned round), so that a
        shift between the sides cancels; with labels drawn freely, what is left of it would
        dominate once the directions are given equal length. The control of principal components
        too, which are the same axis whichever way round the pairs are: labels give their sign
        alone. Directions made here carry it (:meth:`Direction.shuffled`).

        Raises:
            NotEnoughDataError: fewer than four states on a side.
        """
        if min(len(self.plus), len(self.minus)) < 4:
            raise NotEnoughDataError(
                "shuffled labels need at least four states on each side, got "
                f"{len(self.plus)} and {len(self.minus)}"
            )
        rng = np.random.default_rng(seed)
        return tuple(
            self._direction(self._exchanged(rng), "shuffled_labels", f"shuffled {i}")
            for i in range(n)
        )

    def _exchanged(self, rng: np.random.Generator) -> np.ndarray:
        """Mean difference with half of each side exchanged; an odd one out is left out."""
        if self.paired:
            order = rng.permutation(len(self.plus))[: len(self.plus) // 2 * 2]
            sign = np.where(np.arange(len(order)) % 2, -1.0, 1.0)
            return (sign[:, None] * (self.plus - self.minus)[order]).mean(0)
        halves = [
            states[rng.permutation(len(states))[: len(states) // 2 * 2]]
            for states in (self.plus, self.minus)
        ]
        first, second = (
            np.concatenate([side[start::2] for side in halves]).mean(0) for start in (0, 1)
        )
        return first - second

    def _direction(self, vector: np.ndarray, method: str, label: str | None = None) -> Direction:
        return Direction(
            site=self.site,
            vector=vector.astype(np.float32),
            label=label or self.label,
            config={**self.config, "method": method, "n": [len(self.plus), len(self.minus)]},
            provenance=self.provenance,
        )


def contrast_states(
    model: Model,
    pairs: PromptPairs,
    site: str | Site,
    *,
    position: int | str = "end",
    label: str | None = None,
    batch_size: int = _AT_ONCE,
) -> Contrast:
    """States of clean (``plus``) and corrupted prompts (``minus``) at one token of each.

    ``position`` is a role of the pairs or the number of a token; CAA takes that of the answer's
    letter, the last but one, -2. :func:`towards` turns pairs so that one class is clean.

    Raises:
        UnknownSiteError, UnknownNameError, ConfigError: a site, role or token that is not there.
        MismatchError: pairs of another tokenizer.
        NonFiniteError: NaN in a state.

    Example:
        >>> contrast = interventions.contrast_states(model, pairs, "blocks.2.resid_post")
        >>> direction = contrast.mean_difference()
    """
    refuse_no_model(model)
    parsed = one_vector(site)
    model.width(parsed)
    check_pairs(model, pairs)
    plus, minus = (
        _states(model, pairs, parsed, position, side, batch_size) for side in ("clean", "corrupted")
    )
    config = {"pairs": pairs.fingerprint(), "task": pairs.task, "position": position}
    found = provenance.record(model=vars(model.card))
    return Contrast(str(parsed), plus, minus, True, label or pairs.task, config, found)


def _states(
    model: Model, pairs: PromptPairs, site: Site, position: int | str, side: str, size: int
) -> np.ndarray:
    from lensbench.interventions.places import Place

    place, found = Place(site, position), list[np.ndarray]()
    if isinstance(position, str) and -1 in pairs.position(position):
        at = pairs.position(position).index(-1)
        raise ConfigError(
            f"prompt {at} ({pairs.clean_texts[at]!r}) has no {position!r}; select those that have "
            "one: pairs.select(np.array(pairs.position(role)) >= 0)"
        )
    if not isinstance(position, str):
        shortest = min(map(len, pairs.clean_ids))
        if not -shortest <= position < shortest:
            raise ConfigError(f"position {position} is not in a prompt of {shortest} tokens")
    for rows in groups(len(pairs), size):
        part = pairs.select(rows)
        run, _ = run_of(model, getattr(part, side), part, [site])
        states = [run.at(place, row) for row in range(len(part))]
        found += [s[0].double().cpu().numpy() for s in states if s is not None]
    return np.stack(found)


def towards(pairs: PromptPairs, answers: Sequence[str]) -> PromptPairs:
    """Pairs turned so that every clean prompt is answered by one of ``answers``.

    A pair whose foil is among them has its prompts exchanged (of tasks whose corruption flips the
    answer); pairs with both or neither among them are left out. Spaces around answers do not count.

    Raises:
        ConfigError: a task whose corrupted prompts are not answered by the foil, or no pair left.

    Example:
        >>> plural = interventions.towards(pairs, ["are", "seem", "look"])
    """
    from dataclasses import replace

    wanted = {a.strip() for a in ([answers] if isinstance(answers, str) else answers)}
    if not pairs.flips:
        raise ConfigError(
            f"corrupted prompts of {pairs.task!r} are not answered by the foil, so they are no "
            "class of their own"
        )
    is_answer = np.array([text.strip() in wanted for text in pairs.answer_texts])
    is_foil = np.array([text.strip() in wanted for text in pairs.foil_texts])
    if not (is_answer != is_foil).any():
        known = sorted({t.strip() for t in (*pairs.answer_texts, *pairs.foil_texts)})
        raise ConfigError(
            f"no pair of {pairs.task!r} is answered by exactly one of {sorted(wanted)} and its "
            f"foil by none; answers here: {', '.join(known)}"
        )
    kept = pairs.select(is_answer != is_foil)
    turn = is_foil[is_answer != is_foil]
    mixed = {
        name: tuple(
            b if t else a
            for a, b, t in zip(getattr(kept, name), getattr(kept, other), turn, strict=True)
        )
        for name, other in _OTHER.items()
    }
    return replace(kept, **mixed)


_SIDES = (("clean_ids", "corrupted_ids"), ("clean_texts", "corrupted_texts"),
          ("answer", "foil"), ("answer_rest", "foil_rest"),
          ("answer_texts", "foil_texts"))  # fmt: skip
_OTHER = {**dict(_SIDES), **{b: a for a, b in _SIDES}}
