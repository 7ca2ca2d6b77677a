"""Dictionaries: train many on one stream of activations, save, load, evaluate, look inside.

``train(source, sweep)`` gives one :class:`SAERun` per dictionary; ``load`` reads dictionaries in
SAELens' format. Names are resolved on first use, so importing this package loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if not __name__.startswith("lensbench."):
    raise ImportError(f"import this package as lensbench.saes, not as {__name__}")

if TYPE_CHECKING:
    from lensbench.saes.configs import BatchTopKConfig as BatchTopKConfig
    from lensbench.saes.configs import ReLUConfig as ReLUConfig
    from lensbench.saes.configs import SweepConfig as SweepConfig
    from lensbench.saes.configs import TopKConfig as TopKConfig
    from lensbench.saes.configs import TrainConfig as TrainConfig
    from lensbench.saes.dashboard import DashboardConfig as DashboardConfig
    from lensbench.saes.dashboard import dashboards as dashboards
    from lensbench.saes.dashboard import logit_effects as logit_effects
    from lensbench.saes.dashboard_result import LatentDashboard as LatentDashboard
    from lensbench.saes.evaluation import EvaluationConfig as EvaluationConfig
    from lensbench.saes.evaluation import evaluate as evaluate
    from lensbench.saes.evaluation_implants import ImplantRecovery as ImplantRecovery
    from lensbench.saes.evaluation_implants import implant_recovery as implant_recovery
    from lensbench.saes.evaluation_pass import Dictionary as Dictionary
    from lensbench.saes.evaluation_result import SAEEvaluation as SAEEvaluation
    from lensbench.saes.forecast import dry_run as dry_run
    from lensbench.saes.forecast import plan_memory as plan_memory
    from lensbench.saes.formats import load as load
    from lensbench.saes.formats import save as save
    from lensbench.saes.runs import SAERun as SAERun
    from lensbench.saes.runs import open_runs as open_runs
    from lensbench.saes.sae import SAE as SAE
    from lensbench.saes.trainer import train as train

_HOME = {
    "ImplantRecovery": "evaluation_implants",
    "implant_recovery": "evaluation_implants",
    "logit_effects": "dashboard",
    "DashboardConfig": "dashboard",
    "LatentDashboard": "dashboard_result",
    "SAEEvaluation": "evaluation_result",
    "EvaluationConfig": "evaluation",
    "Dictionary": "evaluation_pass",
    "BatchTopKConfig": "configs",
    "ReLUConfig": "configs",
    "SweepConfig": "configs",
    "TopKConfig": "configs",
    "TrainConfig": "configs",
    "dashboards": "dashboard",
    "dry_run": "forecast",
    "evaluate": "evaluation",
    "load": "formats",
    "open_runs": "runs",
    "plan_memory": "forecast",
    "SAE": "sae",
    "SAERun": "runs",
    "save": "formats",
    "train": "trainer",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the table above


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
