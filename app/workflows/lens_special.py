"""Special tokens of a text (BOS and the like) left out of a lens, so that words are compared.

What is predicted at a BOS says little about a text and is often the most extreme cell of its map.
The ids decide which tokens are special, never their texts.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lensbench.probes.lenses.states import LensStates
    from lensbench.probes.lenses.tokens import TokenLens


def special_places(states: "LensStates", tokenizer: object) -> list[int]:
    """Positions of the special tokens among those that are shown."""
    special = list(getattr(tokenizer, "all_special_ids", ()))
    return states.positions[np.isin(states.ids, special)].tolist()


def grey(lens: "TokenLens", positions: "Sequence[int]") -> "TokenLens":
    """The same lens without values at ``positions``: NaN, which a map draws as a gap."""
    out = np.isin(lens.positions, list(positions))
    values, top = lens.values.copy(), lens.top_prob.copy()
    values[:, :, out], top[:, out] = np.nan, np.nan
    return replace(lens, values=values, top_prob=top)


def python_of_grey(code: str, positions: "Sequence[int]") -> str:
    """The code of a figure, its special tokens grey."""
    if not positions:
        return code
    *lines, last = code.splitlines()
    made, _, metric = last.rpartition(".plot(")
    lines.insert(0, "from lensbench.app.workflows.lens_special import grey")
    return "\n".join([*lines, f"grey({made}, {list(positions)}).plot({metric}"])
