"""One fitted probe: weights and bias at a site, frozen, with its direction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.probes.linear.data import check_finite
from lensbench.probes.linear.labels import Kind
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.store import ActivationStore

METHODS = ("mean_difference", "ridge", "logistic", "pls")


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe(Result):
    """score(x) = x W^T + b: one output for two classes or a number, else one per class.

    Two classes: above 0 says the second class. Several: the largest output says which. A number:
    the output is the prediction. ``direction`` goes to
    ``interventions.probe_direction(probe.site, probe.direction())``.

    Example:
        >>> probe = probes.fit_probe(data, "is_name", "blocks.3.resid_post")
        >>> towards = interventions.probe_direction(probe.site, probe.direction())
    """

    method: str
    site: str
    label: str
    label_kind: Kind
    classes: tuple[str, ...]
    """In the order of their numbers; none for a number."""
    weights: Float[np.ndarray, "outputs width"]
    """In units of score per unit of the site."""
    bias: Float[np.ndarray, " outputs"]
    scale: float
    """Root mean square of a dimension about its mean over the training rows, units of the site."""
    settings: Mapping[str, float] = field(default_factory=dict[str, float])
    """What was chosen or reached: ``l2``, ``n_components``, ``loss``, ``gradient_norm`` ..."""
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Name and fingerprint of the model it reads."""

    @property
    def width(self) -> int:
        """Numbers per row of the site."""
        return self.weights.shape[1]

    @property
    def numeric(self) -> bool:
        """Whether it predicts a number."""
        return not self.classes

    def score(
        self, x: Float[np.ndarray, "rows width"], *, site: str | Site | None = None
    ) -> Float[np.ndarray, " rows"] | Float[np.ndarray, "rows outputs"]:
        """Outputs for activations of its site: ``[rows]`` for one output, else ``[rows, outputs]``.

        Raises:
            MismatchError: activations of another site (where named) or width.
            NonFiniteError: NaN or infinity.
        """
        if site is not None and str(Site.parse(str(site))) != self.site:
            raise MismatchError(
                f"probe {self.label!r} reads {self.site}, not {Site.parse(str(site))}; fit one "
                "there"
            )
        array = np.asarray(x.detach().float().cpu() if hasattr(x, "detach") else x)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType] - tensors too
        if array.ndim != 2 or array.shape[1] != self.width:
            raise MismatchError(
                f"probe {self.label!r} reads rows of {self.width} numbers at {self.site}, got "
                f"{list(array.shape)}"
            )
        check_finite(array, f"the activations given to probe {self.label!r}")
        out = array @ self.weights.T + self.bias
        return out[:, 0] if len(self.bias) == 1 else out

    def predict(
        self, x: Float[np.ndarray, "rows width"], *, site: str | Site | None = None
    ) -> Shaped[np.ndarray, " rows"]:
        """Number of the class it says (see ``classes``), or the value; errors as :meth:`score`."""
        return decide(self.score(x, site=site), self.numeric)

    def score_store(self, store: "ActivationStore", rows: Any = slice(None)) -> np.ndarray:
        """Outputs for rows of a store of the same model.

        Raises:
            MismatchError: a store of another model.
            MissingDataError: the store lacks the site.
        """
        self.check_model(store.model)
        return self.score(store.rows(self.site, rows), site=self.site)

    def check_model(self, model: Mapping[str, Any] | Any) -> None:
        """Refuse another model than the one whose activations it was fitted on.

        ``model`` is a model card, or what ``store.model`` gives.

        Raises:
            MismatchError: the fingerprints differ.
        """
        now = model if isinstance(model, Mapping) else vars(model)
        ours, theirs = self.model.get("fingerprint"), now.get("fingerprint")
        if ours and theirs and ours != theirs:
            raise MismatchError(
                f"probe {self.label!r} at {self.site} was fitted on {self.model.get('name')} "
                f"({ours}), not on {now.get('name')} ({theirs}); fit it on this model's activations"
            )

    def direction(
        self, of: str | None = None, *, unit: bool = False
    ) -> Float[np.ndarray, " width"]:
        """The direction whose addition raises the score: ``w``, or for class k ``w_k - mean w``.

        Two classes: towards the second, or with ``of`` towards that class. ``unit``: length 1.

        Raises:
            ConfigError: several classes and none named, or a direction of zeros.
            UnknownNameError: no such class.
        """
        if of is not None and of not in self.classes:
            raise UnknownNameError(f"class of label {self.label!r}", of, known=self.classes)
        if len(self.bias) > 1:
            if of is None:
                raise ConfigError(
                    f"label {self.label!r} has {len(self.classes)} classes; say of which the "
                    f"direction is: {', '.join(self.classes)}"
                )
            found = self.weights[self.classes.index(of)] - self.weights.mean(0)
        else:
            found = self.weights[0] * (-1 if of is not None and of == self.classes[0] else 1)
        length = float(np.linalg.norm(found))
        if unit and not length:
            raise ConfigError(f"probe {self.label!r} at {self.site} has no direction: it is zero")
        return np.asarray(found / length if unit else found)

    def to_frame(self) -> "pd.DataFrame":
        """One row per output and dimension."""
        import pandas as pd

        output, dim = np.indices(self.weights.shape)
        names = self.classes if len(self.bias) > 1 else (self.label,)
        columns = {"output": [names[i] for i in output.ravel()], "dim": dim.ravel(),
                   "weight": self.weights.ravel(), "bias": self.bias[output.ravel()]}  # fmt: skip
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {"weight": f"score per unit of {self.site}", "bias": "score"}
        return frame

    def summary(self) -> dict[str, float]:
        """Outputs, length of the weights, and what was chosen."""
        norm = float(np.linalg.norm(self.weights))
        return {"outputs": float(len(self.bias)), "norm": norm, **self.settings}

    def plot(self) -> "go.Figure":
        """How its weights are spread."""
        from lensbench.plots import histogram

        return histogram(self.to_frame(), value="weight", title=f"{self.label} at {self.site}",
                         subtitle=self.method)  # fmt: skip


def decide(score: np.ndarray, numeric: bool) -> Shaped[np.ndarray, " rows"]:
    """Class numbers (or the values themselves) from outputs ``[rows]`` or ``[rows, outputs]``."""
    if numeric:
        return score
    return (score > 0).astype(np.int64) if score.ndim == 1 else score.argmax(-1)
