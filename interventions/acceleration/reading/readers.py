"""Read-outs of any kind as one thing: numbers per token at a site, and what is decided by them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.belonging import check_model, trained_on
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.acceleration.reading.ways import Way
from lensbench.interventions.steering.direction import Direction, one_vector
from lensbench.models.base import Model
from lensbench.protocols import Codec, Probe
from lensbench.sites import Site

OUTPUT = "model output"
Kind = Literal["tokens", "scores", "direction", "numbers", "latents"]


@dataclass(frozen=True)
class Reader:
    """One read-out at one site."""

    name: str
    site: Site | None
    """None: the stream that enters the final norm."""
    kind: Kind
    """Logits of tokens, scores of a probe, a direction, plain numbers, or latents."""
    values: Callable[[Tensor], Tensor]
    """``[tokens, width]`` to ``[tokens, outputs]``."""
    decode: Callable[[Tensor], Tensor] | None = None
    """Back from latents, for a dictionary that writes what it reads."""

    @property
    def place(self) -> str:
        """The site by name."""
        return "ln_final input" if self.site is None else str(self.site)


def readers(model: Model, given: Any, metric: Any, ways: Sequence[Way]) -> list[Reader]:
    """Every read-out at every site it is for, and the model's own output.

    Raises:
        ConfigError: what is no read-out, one without a site, or a site no vector stands at.
        MismatchError: one that was made for another model or width.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(
            "readouts must map names to read-outs, {'truth': probe, 'latents': sae}; got "
            f"{given!r}"
        )
    found = [Reader(OUTPUT, None, "tokens", model.unembed)]
    if metric is not None:
        found.append(Reader("metric", None, "numbers", _metric(model, metric)))
    for name, readout in given.items():
        if name in (OUTPUT, "metric"):
            raise ConfigError(f"no read-out can be called {name!r}; that name is taken")
        found += _readers(model, str(name), readout, ways)
    return found


def refuse_missing(found: Sequence[Reader], ways: Sequence[Way]) -> None:
    """Refuse read-outs that an acceleration leaves nothing to read for.

    Raises:
        ConfigError: names the read-out, the acceleration, and the layers that run.
    """
    for reader in found:
        for one in ways:
            if reader.site is not None and one.lacks(reader.site):
                raise ConfigError(
                    f"readout {reader.name!r} reads {reader.site}, which acceleration {one.name!r} "
                    f"never computes: it does not run {_told(one)}. Read elsewhere, or leave this "
                    "acceleration out"
                )


def _readers(model: Model, name: str, readout: Any, ways: Sequence[Way]) -> list[Reader]:
    pair: Any = readout if isinstance(readout, tuple) and len(readout) == 2 else (None, readout)  # pyright: ignore[reportUnknownArgumentType]
    site, what = pair
    what = getattr(what, "coder", what)  # of a run
    what = Direction(site=str(site), vector=what, label=name) if _vector(what) else what
    if isinstance(what, Direction | Probe | Codec):
        own = site if site is not None else getattr(what, "site", None)
        if own is None:
            raise ConfigError(
                f"readout {name!r} does not know its site; give it as {name!r}: "
                "('blocks.3.resid_post', readout)"
            )
        return [_at(model, name, _place(model, name, own), what)]
    if not callable(what):
        raise ConfigError(
            f"readout {name!r} must be a probe, a direction, a dictionary or a lens (called with "
            f"a state and its layer), alone or with its site before it; got {readout!r}"
        )
    owner = getattr(what, "model", None)
    if isinstance(owner, Model):
        _same_model(name, owner.card.fingerprint, model)
    sites = [_place(model, name, site)] if site is not None else _layers(model, what, ways)
    device = getattr(model, "device", "cpu")
    return [Reader(name, s, "tokens", _lens(what, s, device)) for s in sites]


def _at(model: Model, name: str, site: Site, what: Any) -> Reader:
    if isinstance(what, Direction):
        unit = torch.from_numpy(what.with_norm(1.0).vector)
        if unit.ndim != 1 or len(unit) != model.width(site):
            raise MismatchError(
                f"direction {name!r} has the shape {list(unit.shape)}, {site} the width "
                f"{model.width(site)}"
            )
        return Reader(name, site, "direction", lambda x: (x @ unit)[:, None])
    if isinstance(what, Codec):
        check_model(f"dictionary {name!r}", trained_on(getattr(what, "metadata", {})),
                    vars(model.card), "the model")  # fmt: skip
        back = what.decode if getattr(what, "role", "sae") == "sae" else None
        return Reader(name, site, "latents", what.encode, back)
    _same_model(name, getattr(what, "model", {}).get("fingerprint"), model)
    kind = "numbers" if what.numeric else "scores"
    return Reader(name, site, kind, lambda x: _columns(what.score(x.numpy())))


def _lens(what: Any, site: Site, device: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: what(x.to(device), site.layer)


def _columns(score: Any) -> Float[Tensor, "tokens outputs"]:
    found = torch.from_numpy(np.asarray(score, dtype=np.float32))
    return found[:, None] if found.ndim == 1 else found


def _metric(model: Model, metric: Any) -> Callable[[Tensor], Tensor]:
    if not callable(metric):
        raise ConfigError(
            "metric must be a function of logits [tokens, d_vocab] that gives a number per token; "
            f"got {metric!r}"
        )

    def values(x: Tensor) -> Tensor:
        found: Any = metric(model.unembed(x).float())
        if not isinstance(found, Tensor) or found.shape != x.shape[:1]:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"metric must give one number per token, {len(x)}; it gave {shape}")
        return found[:, None]

    return values


def _place(model: Model, name: str, site: Any) -> Site:
    found = one_vector(site)
    if found not in model.sites() or found.layer is None or found.stack:
        raise ConfigError(
            f"readout {name!r} reads {found}; it must be a site in a block of {model.card.name}"
        )
    return found


def _layers(model: Model, what: Any, ways: Sequence[Way]) -> list[Site]:
    """What leaves every block that all ways run and the lens has a map for."""
    n = model.n_layers
    kept = getattr(what, "layers", None)
    mapped = range(n) if kept is None else {*kept, n - 1}
    run = [i for i in range(n) if i in mapped and not any(i in one.layers for one in ways)]
    return [Site("resid_post", i) for i in run]


def _vector(what: Any) -> bool:
    return isinstance(what, np.ndarray | Tensor) and what.ndim == 1


def _same_model(name: str, fingerprint: Any, model: Model) -> None:
    if fingerprint and fingerprint != model.card.fingerprint:
        raise MismatchError(
            f"readout {name!r} was made for another model ({fingerprint}) than {model.card.name} "
            f"({model.card.fingerprint})"
        )


def _told(one: Way) -> str:
    if one.halves:
        return "the halves " + ", ".join(f"{half} {i}" for half, i in sorted(one.missing))
    return "layers " + ", ".join(map(str, sorted(one.layers)))
