"""What the command line says of a steered task."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lensbench.app.workflows.steering import Steering


def facts(found: Steering) -> dict[str, Any]:
    """What the command line says of it."""
    result = found.result
    return {
        "task": result.task,
        "direction": {"label": found.direction.label, "site": found.direction.site,
                      "method": found.direction.config["method"], "norm": found.direction.norm,
                      "made_of": list(found.made_of), "n": found.n_made_of},
        "tested_on": list(found.tested_on),
        "at": result.at,
        "metric": result.metric,
        "unit": result.unit,
        "prompts": result.n,
        "scale": float(result.scale[0]),
        "clean": float(result.clean.mean()),
        "doses": _plain(result.to_frame().to_dict("records")),
        "matched": _plain(result.matched().to_dict("records")),
        "texts": found.texts,
        "controls": dict(result.controls.values),
        "controls_not_defined": list(result.undefined),
    }  # fmt: skip


def _plain(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows without the numbers that there are none of."""
    return [
        {k: v for k, v in row.items() if not (isinstance(v, float) and np.isnan(v))} for row in rows
    ]
