"""Annotation vocabulary: one spelling for every size and axis.

Sizes: ``n_layers d_model n_heads d_head d_mlp d_vocab n_ctx d_sae k``. Axes in shape strings:
``batch pos d_model``, flattened ``tokens d_model``, attention ``batch head query key``. Arrays are
annotated with jaxtyping.
"""

from typing import Any, Literal, TypeAlias

LogitsMode: TypeAlias = Literal["all", "last", "none"]
JSON: TypeAlias = dict[str, Any]
