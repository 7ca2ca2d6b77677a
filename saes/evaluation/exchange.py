"""Interchange interventions: some coordinates of a site taken from another prompt.

x' = x_base + decode(mix) - decode(c_base), where mix = c_base with the chosen coordinates of
c_source: what the codec does not reconstruct stays the base's. Equivalent to an edit
``Set(c_source)`` of those dims of ``<site>.sae.acts`` under ``model.with_saes`` (a test compares
them), made here for many pairs at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.models.base import Model
from lensbench.plan import Edit, Plan, Replace
from lensbench.saes.evaluation.attributes import AttributePrompts
from lensbench.saes.evaluation.inputs import decoder_of
from lensbench.sites import Site

_ROWS = 256


@dataclass(frozen=True, eq=False)
class Coordinates:
    """A basis of a site: latents of a dictionary, neurons, or principal components."""

    name: str
    codec: Any
    codes: Float[Tensor, "prompts n"]
    """Of the clean activations of every prompt."""
    lengths: Float[np.ndarray, " n"]
    """Norm of what one unit of each coordinate adds to the site."""

    @classmethod
    @torch.no_grad()
    def of(cls, name: str, codec: Any, x: Float[Tensor, "prompts d"]) -> "Coordinates":
        """The codes of ``x``, computed where the codec's weights are."""
        weights = getattr(codec, "W_dec", None)
        codes = codec.encode(x if weights is None else x.to(weights.device)).float().cpu()
        return cls(name, codec, codes, np.linalg.norm(decoder_of(codec), axis=1))

    @torch.no_grad()
    def moved(
        self,
        base: Int[np.ndarray, " pairs"],
        source: Int[np.ndarray, " pairs"],
        chosen: Int[np.ndarray, " k"],
    ) -> Float[Tensor, "pairs d"]:
        """What exchanging the chosen coordinates adds to the site of each base prompt."""
        clean = self.codes[torch.from_numpy(base)]
        mix, which = clean.clone(), torch.from_numpy(chosen)
        mix[:, which] = self.codes[torch.from_numpy(source)][:, which]
        weights = getattr(self.codec, "W_dec", None)
        place = torch.device("cpu") if weights is None else weights.device
        both = [self.codec.decode(c.to(place)).float().cpu() for c in (mix, clean)]
        return both[0] - both[1]


class Rotation:
    """A codec of orthonormal directions: encode (x - centre) V^T, decode c V + centre."""

    def __init__(self, directions: Float[Tensor, "n d"], centre: Float[Tensor, " d"]) -> None:
        self.W_dec, self.centre, self.d_sae = directions, centre, len(directions)

    def encode(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens n"]:
        """Coordinates."""
        return (x - self.centre) @ self.W_dec.mT

    def decode(self, acts: Float[Tensor, "tokens n"]) -> Float[Tensor, "tokens d"]:
        """The point with these coordinates."""
        return acts @ self.W_dec + self.centre


def neurons(x: Float[Tensor, "prompts d"]) -> Rotation:
    """The site's own dims."""
    return Rotation(torch.eye(x.shape[1]), torch.zeros(x.shape[1]))


def principal_components(x: Float[Tensor, "prompts d"]) -> Rotation:
    """Principal components of these activations, the largest variance first."""
    centre = x.mean(0)
    _, s, rows = torch.linalg.svd((x - centre).double(), full_matrices=False)
    return Rotation(rows[s > s.max() * 1e-6].float(), centre)


class Exchanger:
    """A model, its prompts, and what it makes of them clean."""

    def __init__(self, model: Model, site: str, prompts: AttributePrompts) -> None:
        self.model, self.site, self.prompts = model, Site.parse(site), prompts
        self.acts, self.says = self._clean()

    @property
    def flat(self) -> Float[Tensor, "prompts d"]:
        """The site at each prompt's place, heads side by side."""
        return self.acts.flatten(1)

    @property
    def known(self) -> Bool[np.ndarray, " prompts"]:
        """Prompts to which the model gives the right value."""
        return self.says == self.prompts.answer

    def said(
        self, base: Int[np.ndarray, " pairs"], moved: Sequence[Float[Tensor, "some d"]]
    ) -> Int[np.ndarray, " pairs"]:
        """The model's answers to the base prompts with the site moved at their places."""
        shift = torch.cat(list(moved))
        out = np.zeros(len(base), np.int64)
        for rows in self._alike(base):
            mine, place = base[rows], int(self.prompts.position[base[rows[0]]])
            x = self.acts[torch.from_numpy(mine)]
            change = shift[torch.from_numpy(rows)].reshape(x.shape).to(x.dtype)
            values = (x + change)[:, None]
            plan = Plan((Edit(self.site, Replace(values), positions=(place,)),))
            out[rows] = self._run(mine, plan)[0]
        return out

    def _clean(self) -> tuple[Tensor, Int[np.ndarray, " prompts"]]:
        n = len(self.prompts.ids)
        acts: list[Tensor] = [torch.empty(0)] * n
        says = np.zeros(n, np.int64)
        for rows in self._alike(np.arange(n)):
            says[rows], found = self._run(rows, Plan(), capture=True)
            for row, x in zip(rows, found, strict=True):
                acts[int(row)] = x
        return torch.stack(acts), says

    def _run(
        self, prompts: Int[np.ndarray, " rows"], plan: Plan, *, capture: bool = False
    ) -> tuple[Int[np.ndarray, " rows"], Tensor]:
        ids = np.array([self.prompts.ids[int(i)] for i in prompts], np.int64)
        wanted = [self.site] if capture else []
        out = self.model.run(ids, plan, capture=wanted, logits="last")
        assert out.logits is not None  # they were asked for
        place = int(self.prompts.position[int(prompts[0])])
        x = out.acts[self.site][:, place].detach().cpu() if capture else torch.empty(0)
        return out.logits[:, -1].argmax(-1).cpu().numpy(), x

    def _alike(self, prompts: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " rows"]]:
        """Places in ``prompts`` by length and position, a batch of the model at a time."""
        keys: dict[tuple[int, int], list[int]] = {}
        for at, i in enumerate(prompts.tolist()):
            key = (len(self.prompts.ids[i]), int(self.prompts.position[i]))
            keys.setdefault(key, []).append(at)
        batches: list[Int[np.ndarray, " rows"]] = []
        for places in keys.values():
            rows = np.array(places, np.int64)
            batches += [rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)]
        return batches


def ranked(
    codes: Float[np.ndarray, "prompts n"],
    entity: Int[np.ndarray, " prompts"],
    value: Int[np.ndarray, " entities"],
    lengths: Float[np.ndarray, " n"],
) -> Int[np.ndarray, " found"]:
    """Coordinates by how much of the site they move with the attribute, the most first.

    worth_j = |W_dec_j|^2 (SS_between_j - (C - 1)/(n - C) SS_within_j) of the mean codes of ``n``
    entities, over the C values of the attribute: the variance component of a one-way analysis, 0 in
    expectation for a coordinate that ignores the attribute. Those not above 0 are left out. It is
    the choice of a k-sparse probe (largest difference of class means) for several classes.
    """
    who, index = np.unique(entity, return_inverse=True)
    counts = np.bincount(index)
    mean = _sums(codes, index, len(who)) / counts[:, None]
    values, label = np.unique(value[who], return_inverse=True)
    n, classes = len(who), len(values)
    size = np.bincount(label)[:, None]
    middle = _sums(mean, label, classes) / size
    between = (size * (middle - mean.mean(0)) ** 2).sum(0)
    within = ((mean - middle[label]) ** 2).sum(0)
    worth = lengths**2 * (between - (classes - 1) / max(n - classes, 1) * within)
    order = np.argsort(-worth, kind="stable")
    return order[worth[order] > 1e-9 * max(float(worth.max()), 1e-30)]


def _sums(x: Float[np.ndarray, "rows n"], group: Sequence[int] | np.ndarray, n: int) -> Any:
    out = np.zeros((n, x.shape[1]))
    np.add.at(out, np.asarray(group), x)
    return out
