"""How alike two sets of states read: sums per document, and the measures made of them.

1. Per output, the mean over the tokens of the text, of either model (not for logits).
2. A tile of tokens at a time: decisions, values about their means, and what a steer moved, summed
   per document, so that intervals can resample documents.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.interventions.acceleration.reading.readers import Reader

TILE = 1 << 22
"""Values held at a time per tensor: 16 MiB of float32."""
Sums = dict[str, Float[np.ndarray, " *documents"]]
Measure = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def _over(top: str, bottom: str, *, root: bool = False) -> Measure:
    def of(sums: Mapping[str, np.ndarray]) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(sums[bottom] > 0, sums[top] / sums[bottom], np.nan)
        return np.sqrt(share) if root else share

    return of


def _cosine(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    length = np.sqrt(sums["ff"] * sums["aa"])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(length > 0, sums["fa"] / length, np.nan)


SIMILAR: dict[str, Measure] = {
    "agreement": _over("agreed", "n"),
    "kl": _over("kl", "n"),
    "jaccard": _over("jaccard", "n"),
    "f1": _over("f1", "n"),
    "correlation": _cosine,
    "fvu": _over("dd", "ff"),
    "reconstruction_fvu_full": _over("rf", "xf"),
    "reconstruction_fvu": _over("ra", "xa"),
}
"""Of the read-out on both models in one condition."""
EFFECTS: dict[str, Measure] = {
    "effect_full": _over("ff", "n", root=True),
    "effect": _over("aa", "n", root=True),
    "effect_kept": _over("fa", "ff"),
    "effect_cosine": _cosine,
    "shift_full": _over("shift_f", "n"),
    "shift": _over("shift_a", "n"),
}
"""Of what a steer moves, on both models."""
_OF_KIND = {
    "tokens": ("agreement", "kl"),
    "scores": ("agreement", "correlation", "fvu"),
    "direction": ("agreement", "correlation", "fvu"),
    "numbers": ("correlation", "fvu"),
    "latents": ("jaccard", "f1", "correlation", "fvu"),
}
HEADLINE = {"tokens": "agreement", "scores": "agreement", "direction": "agreement",
            "numbers": "correlation", "latents": "jaccard"}  # fmt: skip


def similar(
    reader: Reader, full: Tensor, other: Tensor, doc: np.ndarray
) -> tuple[Sums, tuple[str, ...]]:
    """Sums per document of one read-out on two models, and the names of its measures."""
    means = None
    if reader.kind != "tokens":
        means = (_mean(reader, full), _mean(reader, other))  # 1
    found = _Summed(doc)
    centre = (full.double().mean(0), other.double().mean(0))
    for part in _tiles(reader, full):  # 2
        f, a = _read(reader, full[part]), _read(reader, other[part])
        found.add(part, _decided(reader, f, a, means and means[0]))
        if means is not None:
            found.add(part, _products(f - means[0], a - means[1], difference=f - a))
        if reader.decode is not None:
            for key, x, values, mean in (("f", full, f, centre[0]), ("a", other, a, centre[1])):
                left = x[part] - reader.decode(values.float()).detach().float().cpu()
                about = x[part].double() - mean
                found.add(part, {f"r{key}": _square(left), f"x{key}": _square(about)})
    names = _OF_KIND[reader.kind]
    if reader.decode is not None:
        names = (*names, "reconstruction_fvu_full", "reconstruction_fvu")
    return found.sums, names


def moved(
    reader: Reader,
    full: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
    doc: np.ndarray,
) -> tuple[Sums, tuple[str, ...]]:
    """Sums per document of what a steer moves, of (clean, steered) states of two models."""
    found = _Summed(doc)
    single = False
    for part in _tiles(reader, full[0]):
        f = _read(reader, full[1][part]) - _read(reader, full[0][part])
        a = _read(reader, other[1][part]) - _read(reader, other[0][part])
        if reader.kind == "tokens":  # logits are the same but for a constant
            f, a = f - f.mean(-1, keepdim=True), a - a.mean(-1, keepdim=True)
        found.add(part, _products(f, a))
        single = f.shape[-1] == 1
        if single:
            found.add(part, {"shift_f": f[:, 0], "shift_a": a[:, 0]})
    names = tuple(EFFECTS) if single else tuple(n for n in EFFECTS if not n.startswith("shift"))
    return found.sums, names


class _Summed:
    """Sums over the tokens of each document."""

    def __init__(self, doc: np.ndarray) -> None:
        self._doc = torch.from_numpy(doc.astype(np.int64))
        self._n = int(doc.max()) + 1
        self.sums: Sums = {"n": np.bincount(doc, minlength=self._n).astype(np.float64)}

    def add(self, part: slice, values: Mapping[str, Tensor]) -> None:
        for key, per_token in values.items():
            total = torch.zeros(self._n, dtype=torch.float64)
            total.index_add_(0, self._doc[part], per_token.double())
            self.sums[key] = self.sums.get(key, np.zeros(self._n)) + total.numpy()


def _read(reader: Reader, x: Tensor) -> Float[Tensor, "tokens outputs"]:
    with torch.no_grad():
        return reader.values(x).detach().cpu().double()


def _mean(reader: Reader, x: Tensor) -> Float[Tensor, " outputs"]:
    total: Tensor | None = None
    for part in _tiles(reader, x):
        found = _read(reader, x[part]).sum(0)
        total = found if total is None else total + found
    assert total is not None
    return total / len(x)


def _tiles(reader: Reader, x: Tensor) -> Iterator[slice]:
    wide = _read(reader, x[:1]).shape[-1]
    size = max(1, min(2048, TILE // max(wide, 1)))
    for start in range(0, len(x), size):
        yield slice(start, min(start + size, len(x)))


def _decided(reader: Reader, f: Tensor, a: Tensor, mean: Tensor | None) -> dict[str, Tensor]:
    if reader.kind == "tokens":
        p, q = f.log_softmax(-1), a.log_softmax(-1)
        kl = torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(-1).clamp_min(0)
        return {"agreed": (f.argmax(-1) == a.argmax(-1)).double(), "kl": kl}
    if reader.kind == "latents":
        return _sets(f != 0, a != 0)
    if reader.kind == "numbers":
        return {}
    if f.shape[-1] > 1:
        return {"agreed": (f.argmax(-1) == a.argmax(-1)).double()}
    bound = mean if reader.kind == "direction" and mean is not None else torch.zeros(1)
    return {"agreed": ((f > bound) == (a > bound))[:, 0].double()}


def _sets(f: Tensor, a: Tensor) -> dict[str, Tensor]:
    both, either = (f & a).sum(-1), (f | a).sum(-1)
    sizes = f.sum(-1) + a.sum(-1)
    one = torch.ones(len(f), dtype=torch.float64)  # two empty sets are the same set
    return {
        "jaccard": torch.where(either > 0, both / either.clamp_min(1), one),
        "f1": torch.where(sizes > 0, 2 * both / sizes.clamp_min(1), one),
    }


def _products(f: Tensor, a: Tensor, difference: Tensor | None = None) -> dict[str, Tensor]:
    found = {"ff": _square(f), "aa": _square(a), "fa": (f * a).sum(-1)}
    return found if difference is None else {**found, "dd": _square(difference)}


def _square(x: Tensor) -> Float[Tensor, " tokens"]:
    return x.double().square().sum(-1)
