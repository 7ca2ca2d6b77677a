"""One probe of one label at one site; for a grid of them and controls use ``probe_sweep``."""

import time
from dataclasses import asdict
from typing import Any

import torch

from lensbench import provenance
from lensbench.devices import as_device
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.linear.basis import Basis
from lensbench.probes.linear.data import SHARES, ProbeData
from lensbench.probes.linear.fitting import FitOptions, Fitted, Fold, fit_labels
from lensbench.probes.linear.labels import Label
from lensbench.probes.linear.probe import LinearProbe
from lensbench.results import Controls
from lensbench.sites import Site


def fit_probe(
    data: ProbeData,
    label: str | None = None,
    site: str | Site | None = None,
    *,
    method: str = "logistic",
    seed: int = 0,
    shares: tuple[float, float, float] = SHARES,
    device: str | None = "cpu",
    **options: Any,
) -> LinearProbe:
    """Fit a probe on the training documents; its settings are chosen on the validation documents.

    Methods: ``mean_difference``, ``ridge``, ``logistic``, ``pls``; formulas in docs/methods.md.
    ``options`` are those of :class:`~lensbench.probes.linear.fitting.FitOptions` (``l2``,
    ``n_components``, ``balanced`` ...). Label and site may be left out where there is one.

    Raises:
        UnknownNameError, UnknownSiteError: no such label, site or method.
        ConfigError: a method that the label does not have, or settings that cannot be used.
        NotEnoughDataError: too few documents, or training rows of a class.
        NonFiniteError: activations that are not finite.

    Example:
        >>> probe = probes.fit_probe(data, "is_name", "blocks.3.resid_post")
        >>> guess = probe.predict(x)
    """
    start = time.monotonic()
    column = data.label(_only("label", label, [one.name for one in data.labels]))
    where = str(Site.parse(str(_only("site", None if site is None else str(site), data.sites))))
    fold = fold_of(data, where, seed, shares, device)
    settings = options_of(options)
    fitted = fit_labels(fold, [column], method, settings)[0]
    config = {"seed": seed, "split": fold.split.how, "positions": data.selected, **asdict(settings)}
    told = provenance.record(
        model=dict(data.model), seed=seed, device=str(fold.x.device),
        seconds=time.monotonic() - start, store=data.store,
    )  # fmt: skip
    return probe_of(fitted, fold, column, method, data, config, told)


def fold_of(
    data: ProbeData,
    site: str,
    seed: int,
    shares: tuple[float, float, float] = SHARES,
    device: str | None = "cpu",
) -> Fold:
    """Rows of a site, read once and turned to principal axes, with the split of a seed."""
    split = data.split(seed, shares)
    x = torch.from_numpy(data.x(site)).to(as_device(device))
    basis = Basis.of(x)
    return Fold(basis, basis.turn(x), split, site)


def probe_of(
    fitted: Fitted,
    fold: Fold,
    label: Label,
    method: str,
    data: ProbeData,
    config: dict[str, Any],
    told: provenance.Provenance,
) -> LinearProbe:
    """The frozen probe, in the coordinates of the site."""
    weights, bias = fold.basis.back(fitted.theta)
    return LinearProbe(
        method=method, site=fold.site, label=label.name, label_kind=label.kind,
        classes=label.classes, weights=weights, bias=bias, scale=fold.scale,
        settings=fitted.settings, model={k: data.model.get(k) for k in ("name", "fingerprint")},
        config=config, provenance=told,
        controls=Controls(note="one probe without its controls; probe_sweep sets them beside it"),
    )  # fmt: skip


def options_of(options: dict[str, Any]) -> FitOptions:
    """Checked options; one number does where several are asked for.

    Raises:
        ConfigError: one that there is not.
    """
    known = tuple(FitOptions.__dataclass_fields__)
    for name in options:
        if name not in known:
            raise UnknownNameError("option of a probe", name, known=known)
    several = {k: options[k] for k in ("l2", "n_components") if k in options}
    lists: dict[str, Any] = {
        k: tuple(v) if isinstance(v, (list, tuple)) else (v,) for k, v in several.items()
    }
    return FitOptions(**{**options, **lists})


def _only(what: str, asked: str | None, known: Any) -> str:
    names = list(known)
    if asked is not None:
        return asked
    if len(names) != 1:
        raise ConfigError(f"say which {what}: {', '.join(map(str, names))}")
    return str(names[0])
