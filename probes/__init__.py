"""Reading the residual stream: lenses (and, next to them, probes).

``logit_lens(store, model)`` measures every stored layer; ``lens_grid`` shows one document. Names
are resolved on first use, so importing this package loads no torch.
"""

from typing import TYPE_CHECKING

from lensbench.lazy import exports

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.probes, not as {__name__}")

if TYPE_CHECKING:
    from lensbench.probes.lenses.grid import LensGrid as LensGrid
    from lensbench.probes.lenses.grid import lens_grid as lens_grid
    from lensbench.probes.lenses.logit import LensTrajectory as LensTrajectory
    from lensbench.probes.lenses.logit import UnembedReadout as UnembedReadout
    from lensbench.probes.lenses.logit import logit_lens as logit_lens

_HOME = {
    "LensGrid": "lenses.grid",
    "lens_grid": "lenses.grid",
    "LensTrajectory": "lenses.logit",
    "UnembedReadout": "lenses.logit",
    "logit_lens": "lenses.logit",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the table above
__getattr__, __dir__ = exports(__name__, _HOME)
