"""The latents that fire on a text, as a value: by token, by latent, and as a picture."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from lensbench.arguments import whole, whole_number
from lensbench.errors import ConfigError
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

UNIT = "units of the site"
DRAWN = 20
"""Latents on the picture."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ActiveLatents(Result):
    """Every latent of one dictionary at every token of one text.

    Activations are kept sparse: those of token t lie at ``indptr[t]`` to ``indptr[t + 1]``.

    Example:
        >>> found = saes.active_latents(run, model, text)
        >>> latent = found.strongest()["latent"].iloc[0]
    """

    name: str
    site: str
    d_sae: int
    token_ids: Int[np.ndarray, " tokens"]
    words: tuple[str, ...]
    """Text of every token, its leading space kept."""
    special: Bool[np.ndarray, " tokens"]
    """Tokens that are no text, such as BOS."""
    indptr: Int[np.ndarray, " tokens_and_one"]
    indices: Int[np.ndarray, " active"]
    values: Float[np.ndarray, " active"]
    density: Float[np.ndarray, " d_sae_or_none"]
    """Share of the evaluation's tokens on which each latent fires; empty where none is known."""
    n_density: int = 0
    """Tokens behind ``density``."""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    """By latent, the label that it is the best latent of, in words."""
    top: int = 5
    """Latents per token that :meth:`to_frame` shows."""

    @property
    def n_tokens(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.token_ids)

    @property
    def acts(self) -> "sparse.csc_array":
        """Activations ``[tokens, d_sae]``."""
        parts = (self.values, self.indices, self.indptr)
        return sparse.csc_array(sparse.csr_array(parts, shape=(self.n_tokens, self.d_sae)))

    def of(self, latent: int) -> "pd.DataFrame":
        """One row per token: position, token and the latent's activation.

        Raises:
            ConfigError: no such latent.
        """
        import pandas as pd

        number = whole(latent)
        if number is None or not 0 <= number < self.d_sae:
            raise ConfigError(f"latents run from 0 to {self.d_sae - 1}; got {latent!r}")
        frame = pd.DataFrame({
            "position": np.arange(self.n_tokens), "token": self.words, "token_id": self.token_ids,
            "activation": self.acts[:, [number]].toarray().ravel(),
        })  # fmt: skip
        frame.attrs["units"] = {"activation": UNIT}
        return frame

    def strongest(self, n: int = 20) -> "pd.DataFrame":
        """The latents of largest activation on the text: where it is, and on how many tokens.

        Special tokens such as BOS are left out where there are others: on them fire other latents
        than on words, and more strongly. ``density`` and ``label`` where they are known.
        """
        import pandas as pd

        n = whole_number("n", n, least=1)
        kept = ~self.special
        places = np.flatnonzero(kept) if kept.any() else np.arange(self.n_tokens)
        acts = sparse.csc_array(self.acts.tocsr()[places])
        acts.sort_indices()
        ptr = acts.indptr
        alive = np.flatnonzero(np.diff(ptr))
        columns = [acts.data[ptr[j] : ptr[j + 1]] for j in alive]
        largest = np.array([c.max() for c in columns], np.float32)
        order = np.argsort(-largest, kind="stable")[:n]
        at = [int(places[acts.indices[ptr[alive[k]] + int(columns[k].argmax())]]) for k in order]
        frame = pd.DataFrame({
            "latent": alive[order], "activation": largest[order], "position": at,
            "token": [self.words[i] for i in at], "tokens": [len(columns[k]) for k in order],
        })  # fmt: skip
        return self._told(frame, {"tokens": f"of {len(places)}"})

    def to_frame(self) -> "pd.DataFrame":
        """One row per token and rank, the ``top`` strongest latents of each; none where none fire.

        ``density`` and ``label`` where they are known.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for at, word in enumerate(self.words):
            span = slice(self.indptr[at], self.indptr[at + 1])
            found, values = self.indices[span], self.values[span]
            order = np.argsort(-values, kind="stable")[: self.top]
            rows += [
                {"position": at, "token": word, "token_id": int(self.token_ids[at]),
                 "rank": rank, "latent": int(found[j]), "activation": float(values[j])}
                for rank, j in enumerate(order, 1)
            ]  # fmt: skip
        columns = ["position", "token", "token_id", "rank", "latent", "activation"]
        return self._told(pd.DataFrame(rows, columns=columns), {})

    def _told(self, frame: "pd.DataFrame", units: dict[str, str]) -> "pd.DataFrame":
        """The frame with what is known of its latents elsewhere."""
        if len(self.density):
            frame["density"] = self.density[frame["latent"].to_numpy(np.int64)]
        if self.labels:
            frame["label"] = [self.labels.get(str(i), "") for i in frame["latent"]]
        frame.attrs["units"] = {"activation": UNIT, "density": "share of tokens", **units}
        return frame

    def summary(self) -> dict[str, float]:
        """Tokens, latents that fire on any of them, latents per token, largest activation."""
        words = ~self.special if (~self.special).any() else np.ones(self.n_tokens, bool)
        counts = np.diff(self.indptr)[words]
        strongest = self.strongest(1)
        largest = float(strongest["activation"].iloc[0]) if len(strongest) else 0.0
        alive = np.unique(self.indices[np.repeat(words, np.diff(self.indptr))])
        return {"tokens": float(words.sum()), "latents that fire": float(len(alive)),
                "latents per token": float(counts.mean()), "largest activation": largest,
                }  # fmt: skip

    def __repr__(self) -> str:
        """One line: the dictionary and what fires."""
        return super().__repr__().replace("(", f"({self.name!r}: ", 1)

    def plot(self, n: int = DRAWN) -> "go.Figure":
        """The ``n`` strongest latents of the text by token; special tokens are left blank."""
        import pandas as pd

        from lensbench.plots import heatmap, visible

        chosen = self.strongest(n)["latent"].tolist()
        frame = pd.concat([
            self.of(j).assign(latent=f"{j}", row=row) for row, j in enumerate(chosen)
        ] or [self.of(0).iloc[:0].assign(latent="", row=0)])  # fmt: skip
        frame.loc[self.special[frame["position"].to_numpy(np.int64)], "activation"] = np.nan
        frame["rank"] = frame.pop("row") + 1
        frame.attrs["units"] = {"activation": UNIT}
        largest = float(np.nanmax(frame["activation"], initial=0.0)) or 1.0
        figure = heatmap(
            frame, x="position", y="rank", value="activation", unit=UNIT, span=(0.0, largest),
            hover_columns=("latent", "token"), title=f"Latents of {self.name} on a text",
            subtitle=f"the {len(chosen)} strongest of {self.d_sae:,}; {self.n_tokens} tokens; "
            "special tokens are blank",
            x_labels={i: visible(word) for i, word in enumerate(self.words)},
            labels={"position": "token", "rank": "latent"},
        )  # fmt: skip
        ticks = {"tickvals": list(range(1, len(chosen) + 1)), "ticktext": list(map(str, chosen))}
        return figure.update_yaxes({"autorange": "reversed", **ticks})

    def _html_body(self) -> str:
        """The strongest latents of the text, then the strongest of every token."""
        from lensbench.saes.latents.shown import active_html

        return active_html(self)
