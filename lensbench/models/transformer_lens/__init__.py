"""TransformerLens behind the waist: its models as ours, and ours as its bridge.

Importing this package does not import TransformerLens; using it does.
"""

from typing import TYPE_CHECKING

from lensbench.lazy import exports

if TYPE_CHECKING:
    from lensbench.models.transformer_lens.convert import to_transformer_lens as to_transformer_lens
    from lensbench.models.transformer_lens.model import (
        TransformerLensModel as TransformerLensModel,
    )

_HOME = {"TransformerLensModel": "model", "to_transformer_lens": "convert"}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the table above
__getattr__, __dir__ = exports(__name__, _HOME)
