"""All methods of the study by name; a new engine is one adapter and one line here."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.acceleration.study import methods_drafts as drafts
from lensbench.interventions.acceleration.study import methods_exits as exits
from lensbench.interventions.acceleration.study import methods_searched as searched
from lensbench.interventions.acceleration.study import methods_skips as skips
from lensbench.interventions.acceleration.study.methods import Method
from lensbench.models.ranges import Sublayer

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (
        drafts.Plain,
        drafts.FixedExit,
        drafts.ConfidenceExit,
        drafts.FsmExit,
        drafts.AdaptiveExit,
        drafts.Del,
        exits.EarlyExit,
        exits.EarlyExitCopy,
        exits.Free,
        skips.ShortGpt,
        skips.Angular,
        skips.LastLayers,
        skips.Evenly,
        skips.AdaSkip,
        skips.SkipDecode,
        skips.DraftAndVerify,
        searched.Swift,
        searched.Kangaroo,
    )
}
"""Name -> adapter."""


def method(name: str, **config: Any) -> Method:
    """A method by its name and settings, such as ``method("fixed_exit", exit_layer=2, draft=4)``.

    Raises:
        UnknownNameError: no such method, or a setting it has not.
        ConfigError: a setting it cannot do without.

    Example:
        >>> one = acceleration.method("fixed_exit", exit_layer=2, draft=3)
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, known=tuple(METHODS))
    kind = METHODS[name]
    known = [f.name for f in fields(kind)]
    for given in config:
        if given not in known:
            raise UnknownNameError(f"setting of {name}", given, known=known)
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
    except TypeError as error:
        raise ConfigError(f"{name} needs {', '.join(known)}; got {sorted(config)}") from error


def default_methods(n_layers: int, names: Sequence[str] | None = None) -> list[Method]:
    """A grid of settings of every method (or of those named), for a model of so many layers.

    Kangaroo is not in it: it needs an adapter that was trained for the model.

    Raises:
        UnknownNameError: no such method.

    Example:
        >>> [m.name for m in acceleration.default_methods(6, ["early_exit"])][:1]
    """
    for name in names or ():
        if name not in METHODS:
            raise UnknownNameError("method", name, known=tuple(METHODS))
    quarters = sorted({max(1, round(n_layers * q)) for q in (0.25, 0.5, 0.75)})
    inner = [e for e in quarters if e < n_layers] or [1]
    few = sorted({max(1, round(n_layers * q)) for q in (0.125, 0.25)})
    few = [k for k in few if k < n_layers]
    middle: list[Sublayer] = [("attn", i) for i in range(1, n_layers - 1, 2)]
    grid: list[Method] = [
        drafts.Plain(),
        *(drafts.FixedExit(e, g) for e in inner for g in (2, 4, 6)),
        *(drafts.ConfidenceExit(e) for e in inner),
        *(drafts.FsmExit(e) for e in inner),
        *(drafts.AdaptiveExit(e) for e in inner),
        *([drafts.Del()] if n_layers > 1 else []),
        *(exits.EarlyExit(t) for t in (0.5, 0.7, 0.9)),
        *(exits.EarlyExitCopy(t) for t in (0.5, 0.7, 0.9)),
        *(exits.Free(e) for e in inner if e < n_layers),
        *(kind(k) for kind in (skips.ShortGpt, skips.Angular, skips.LastLayers) for k in few),
        *(skips.Evenly(k) for k in few if n_layers // k >= 2),
        *(skips.AdaSkip(2 * k) for k in few),
        skips.SkipDecode(max(1, n_layers // 2)),
        *([skips.DraftAndVerify(tuple(middle)), searched.Swift()] if middle else []),
    ]  # fmt: skip
    return [m for m in grid if names is None or m.name in names]
