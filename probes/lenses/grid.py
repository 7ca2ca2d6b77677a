"""One text through the logit lens: what every layer predicts at every token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.probes.lenses.logit import reader, stored_layers
from lensbench.probes.lenses.marked import marked
from lensbench.probes.lenses.measures import METRICS, measure
from lensbench.protocols import Readout
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model
    from lensbench.store import ActivationStore

_RANGES = {"target_prob": (0.0, 1.0), "agreement": (0.0, 1.0)}


@dataclass(frozen=True, kw_only=True, eq=False)
class LensGrid(Result):
    """Layers by positions of one document; column ``i`` is the prediction made *at* token ``i``."""

    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    targets: tuple[str, ...]
    """The token that follows; its probability and rank are what the target metrics mean."""
    top: tuple[tuple[str, ...], ...]
    """Most probable next token, per layer and position."""
    top_prob: Float[np.ndarray, "layers positions"]
    values: Float[np.ndarray, "metrics layers positions"]
    document: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per layer and position; ``␣`` is a space."""
        import pandas as pd

        layer, pos = np.indices(self.top_prob.shape)
        columns: dict[str, Any] = {
            "layer": np.asarray(self.layers)[layer.ravel()],
            "pos": pos.ravel(),
            "token": marked(self.tokens[p] for p in pos.ravel()),
            "target": marked(self.targets[p] for p in pos.ravel()),
            "top": marked(word for row in self.top for word in row),
            "top_prob": self.top_prob.ravel(),
        }
        columns.update({name: self.values[i].ravel() for i, name in enumerate(METRICS)})
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {"top_prob": "probability", **METRICS}
        return frame

    def summary(self) -> dict[str, float]:
        """Positions, and the mean of every metric at the last layer."""
        last = {f"{name}_last": float(self.values[i, -1].mean()) for i, name in enumerate(METRICS)}
        return {"positions": float(len(self.tokens)), **last}

    def plot(self, metric: str = "target_prob") -> "go.Figure":
        """Heat map of one metric; cells name the most probable token."""
        from lensbench.plots import heatmap, visible

        if metric not in METRICS:
            raise ConfigError(f"no lens metric {metric!r}; use one of {', '.join(METRICS)}")
        return heatmap(
            self.to_frame(), x="pos", y="layer", value=metric, text="top",
            span=_RANGES.get(metric), x_labels=dict(enumerate(map(visible, self.tokens))),
            hover_columns=("token", "target", "top", "top_prob", "kl_to_final"),
            title="Logit lens, one document",
            subtitle="cell: most probable next token at this layer",
            labels={"pos": "token at which the prediction is made", "layer": "after block"},
        )  # fmt: skip


def lens_grid(
    store: "ActivationStore",
    model: "Model",
    document: int = 0,
    readout: Readout | None = None,
    *,
    max_positions: int = 40,
) -> LensGrid:
    """The lens over the stored tokens of one document (the first ``max_positions``).

    Raises:
        ConfigError: the store has no such document, or fewer than two of its tokens.
        MissingDataError, MismatchError: as in :func:`logit_lens`.

    Example:
        >>> figure = probes.lens_grid(store, model, document=3).plot()
    """
    layers = stored_layers(store, model)
    read = reader(model, readout)
    index = store.index()
    rows = np.flatnonzero(index.doc_ids == document)[: max_positions + 1]
    if len(rows) < 2:
        raise ConfigError(f"document {document} has fewer than two stored tokens in {store.url}")
    words = token_texts(model.tokenizer, index.token_ids[rows].tolist())
    wanted = torch.from_numpy(index.token_ids[rows[1:]].astype(np.int64))
    states = [torch.from_numpy(store.rows(Site("resid_post", n), rows[:-1])) for n in layers]
    final = model.unembed(states[-1]).float()
    logits = [read(s, n).float() for s, n in zip(states, layers, strict=True)]
    best = [z.softmax(-1).max(-1) for z in logits]
    return LensGrid(
        layers=tuple(layers),
        tokens=tuple(words[:-1]),
        targets=tuple(words[1:]),
        top=tuple(tuple(token_texts(model.tokenizer, b.indices.tolist())) for b in best),
        top_prob=torch.stack([b.values for b in best]).numpy(),
        values=torch.stack([measure(z, final, wanted) for z in logits], 1).numpy(),
        document=document,
        config={
            "document": document,
            "readout": type(readout).__name__ if readout else "UnembedReadout",
        },
        controls=Controls(note="see LensTrajectory: states shuffled over tokens"),
        provenance=provenance.record(model=vars(model.card), store=store),
    )
