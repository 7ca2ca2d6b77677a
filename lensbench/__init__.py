"""lensbench: capture a transformer's activations once, then ask them anything.

Examples in docstrings have ``import lensbench`` and ``from lensbench import saes, probes, prompts,
plots, interventions`` behind them; ``model`` is the bundled atlas-dense (``moe``, ``early``,
``translate``, ``othello``: others), ``store`` a capture of its text, ``runs`` are dictionaries
trained on that.

Public names load on first use, so ``import lensbench`` imports neither torch nor transformers.
The folders ``saes/ probes/ interventions/ app/ data/`` of a checkout are ``lensbench.saes`` and so
on; in an installed package they already lie inside this one.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "saes").is_dir():
    # An un-installed checkout: let ``lensbench.saes`` resolve to ``saes/`` next to this folder.
    __path__.append(str(_CHECKOUT))

_EXPORTS = {
    "ActivationStore": "lensbench.store",
    "Add": "lensbench.plan",
    "ChatTokens": "lensbench.chat",
    "Clamp": "lensbench.plan",
    "Controls": "lensbench.results",
    "Edit": "lensbench.plan",
    "Forward": "lensbench.models",
    "LensbenchError": "lensbench.errors",
    "Model": "lensbench.models",
    "Past": "lensbench.models",
    "Plan": "lensbench.plan",
    "Project": "lensbench.plan",
    "Replace": "lensbench.plan",
    "Result": "lensbench.results",
    "Scale": "lensbench.plan",
    "Set": "lensbench.plan",
    "Site": "lensbench.sites",
    "Tokens": "lensbench.tokens",
    "Zero": "lensbench.plan",
    "capture": "lensbench.harvest",
    "chat_tokens": "lensbench.chat",
    "live_source": "lensbench.harvest",
    "load_model": "lensbench.models",
    "open_store": "lensbench.store",
}
_PACKAGES = ("interventions", "plots", "probes", "prompts", "saes", "worlds")
__all__ = list[str]((*_EXPORTS, *_PACKAGES, "__version__"))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name`` the first time it is asked for (PEP 562)."""
    if name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return import_module(f"lensbench.{name}")
    raise AttributeError(f"module 'lensbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted(__all__)
