"""Changing a forward pass to find out what it depends on: patching, ablation and what follows.

``patch_sweep(model, pairs)`` patches every layer and position from one run into the other;
``ablation_sweep`` takes places out. Names are resolved on first use, so importing this package
loads no torch.
"""

from typing import TYPE_CHECKING

from lensbench.lazy import exports

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.interventions, not as {__name__}")

if TYPE_CHECKING:
    from lensbench.interventions.attribution.check import AttributionCheck as AttributionCheck
    from lensbench.interventions.attribution.nodes import attribute as attribute
    from lensbench.interventions.attribution.paths import path_patch as path_patch
    from lensbench.interventions.attribution.result import AttributionResult as AttributionResult
    from lensbench.interventions.metrics import METRICS as METRICS
    from lensbench.interventions.metrics import Metric as Metric
    from lensbench.interventions.patching.ablation import ablation_sweep as ablation_sweep
    from lensbench.interventions.patching.result import PatchingResult as PatchingResult
    from lensbench.interventions.patching.sweep import patch_sweep as patch_sweep
    from lensbench.interventions.places import Place as Place
    from lensbench.interventions.places import places as places

_HOME = {
    "AttributionCheck": "attribution.check",
    "AttributionResult": "attribution.result",
    "attribute": "attribution.nodes",
    "path_patch": "attribution.paths",
    "METRICS": "metrics",
    "Metric": "metrics",
    "PatchingResult": "patching.result",
    "Place": "places",
    "ablation_sweep": "patching.ablation",
    "patch_sweep": "patching.sweep",
    "places": "places",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the table above
__getattr__, __dir__ = exports(__name__, _HOME)
