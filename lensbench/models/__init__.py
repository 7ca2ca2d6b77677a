"""The waist: the only place where a network is run."""

from lensbench import progress  # noqa: F401 - before transformers is: see there  # pyright: ignore[reportUnusedImport]
from lensbench.models.base import Acts, Forward, Model, ModelCard, Past
from lensbench.models.loading import load_model

__all__ = ["Acts", "Forward", "Model", "ModelCard", "Past", "load_model"]
