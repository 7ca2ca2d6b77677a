"""A latent dashboard as a value: token ids, and the text of each for those who read."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import UnknownNameError
from lensbench.results import Result
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentDashboard(Result):
    """Contexts, histograms, densities and logit effects of a few latents of one dictionary.

    Example:
        >>> board = saes.dashboards(run, store, [3], model)
        >>> figure = board.plot()
    """

    name: str
    site: str
    latents: Int[np.ndarray, " latents"]
    bands: tuple[str, ...]
    before: int
    """Tokens before the firing one in a window: its place in the last axis of ``tokens``."""
    tokens: Int[np.ndarray, "latents contexts window"]
    """Token ids; -1 outside the document."""
    acts: Float[np.ndarray, "latents contexts window"]
    """Activation at each token; NaN outside the document and where no row is stored."""
    rows: Int[np.ndarray, "latents contexts"]
    """Row of the firing token in the store; -1 where a band had too few contexts."""
    doc_ids: Int[np.ndarray, "latents contexts"]
    positions: Int[np.ndarray, "latents contexts"]
    activation: Float[np.ndarray, "latents contexts"]
    band: Int[np.ndarray, " contexts"]
    histogram_edges: Float[np.ndarray, "latents edges"]
    histogram_counts: Int[np.ndarray, "latents bins"]
    """Tokens per bin of non-zero activation."""
    density: Float[np.ndarray, " latents"]
    """Share of the tokens looked at on which the latent is not zero."""
    max_activation: Float[np.ndarray, " latents"]
    n_tokens: int
    top_tokens: Int[np.ndarray, "latents logits"]
    top_effects: Float[np.ndarray, "latents logits"]
    low_tokens: Int[np.ndarray, "latents logits"]
    low_effects: Float[np.ndarray, "latents logits"]
    effects_note: str = ""
    n_stored: int = 0
    """Tokens of the store, of which the first ``n_tokens`` were looked at; 0: not known."""
    words: dict[str, str] = field(default_factory=dict[str, str])
    """Text of every token id on the board; empty where it was made without a tokenizer."""

    @property
    def looked_at(self) -> str:
        """Which tokens the numbers are of, in words."""
        if self.n_stored > self.n_tokens:
            return f"the first {self.n_tokens:,} of {self.n_stored:,} stored tokens"
        return (
            f"all {self.n_tokens:,} stored tokens" if self.n_stored else f"{self.n_tokens:,} tokens"
        )

    def index(self, latent: int) -> int:
        """Place of a latent in the arrays.

        Raises:
            UnknownNameError: a latent that is not on this dashboard.
        """
        found = np.flatnonzero(self.latents == latent)
        if not len(found):
            known = [str(n) for n in self.latents]
            raise UnknownNameError("latent", str(latent), known=known)
        return int(found[0])

    def largest(self, latent: int) -> float:
        """Largest activation of a latent on the tokens looked at: a measure for steering with it.

        Raises:
            UnknownNameError: a latent that is not on this dashboard.
        """
        return float(self.max_activation[self.index(latent)])

    def one(self, latent: int) -> "LatentDashboard":
        """The board of one latent of these.

        Raises:
            UnknownNameError: a latent that is not on this dashboard.
        """
        i = self.index(latent)
        per_latent = ("latents", "tokens", "acts", "rows", "doc_ids", "positions", "activation",
                      "histogram_edges", "histogram_counts", "density", "max_activation",
                      "top_tokens", "top_effects", "low_tokens", "low_effects")  # fmt: skip
        kept = {name: getattr(self, name)[i : i + 1] for name in per_latent}
        return replace(self, **kept)

    def with_words(self, tokenizer: Any) -> "LatentDashboard":
        """The same board with the text of its tokens."""
        return replace(self, words=words_of_ids(tokenizer, self.tokens, self.top_tokens,
                                                self.low_tokens))  # fmt: skip

    def texts(self, ids: Sequence[int], tokenizer: Any = None) -> list[str]:
        """Text of token ids: by a tokenizer, else as kept, else ``#17``."""
        if tokenizer is not None:
            return token_texts(tokenizer, list(ids))
        return [self.words.get(str(int(i)), f"#{i}") for i in ids]

    def to_frame(self) -> "pd.DataFrame":
        """One row per context: latent, band, activation, and where to find it."""
        import pandas as pd

        i, j = np.nonzero(self.rows >= 0)
        frame = pd.DataFrame(
            {
                "latent": self.latents[i],
                "band": np.array(self.bands)[self.band[j]],
                "activation": self.activation[i, j],
                "token_id": self.tokens[i, j, self.before],
                "doc_id": self.doc_ids[i, j],
                "position": self.positions[i, j],
                "row": self.rows[i, j],
                "context": j,
            }
        )
        frame.attrs["units"] = {"activation": "units of the site"}
        return frame

    def contexts_frame(self, tokenizer: Any = None) -> "pd.DataFrame":
        """:meth:`to_frame` with the text before, at and after the firing token.

        Without a tokenizer the kept text of each token, those of one part joined.
        """
        frame = self.to_frame()
        parts = [
            self._text(self.tokens[self.index(int(n)), c], tokenizer)
            for n, c in zip(frame["latent"], frame["context"], strict=True)
        ]
        for column, texts in zip(
            ("before", "token", "after"), zip(*parts, strict=True), strict=True
        ):
            frame[column] = list(texts)
        return frame

    def strips(
        self, latent: int, tokenizer: Any = None, *, per_band: int = 3
    ) -> dict[str, list[str]]:
        """HTML of some contexts of a latent by band, tokens shaded by activation."""
        from lensbench.plots import token_strip

        i, out = self.index(latent), dict[str, list[str]]()
        for number, band in enumerate(self.bands):
            places = np.flatnonzero((self.band == number) & (self.rows[i] >= 0))[:per_band]
            for j in places:
                inside = self.tokens[i, j] >= 0
                words = self.texts(self.tokens[i, j, inside].tolist(), tokenizer)
                values = np.nan_to_num(self.acts[i, j, inside]).tolist()
                focus = int(inside[: self.before].sum())
                largest = float(self.max_activation[i]) or None
                strip = token_strip(words, values, largest=largest, focus=focus)
                out.setdefault(band, []).append(strip)
        return out

    def effects_frame(self, tokenizer: Any = None) -> "pd.DataFrame":
        """One row per latent and token at either end of its logit effects."""
        import pandas as pd

        parts: list[dict[str, Any]] = []
        for n, ids, effects in (
            (n, ids[i], effects[i])
            for ids, effects in (
                (self.top_tokens, self.top_effects),
                (self.low_tokens, self.low_effects),
            )
            for i, n in enumerate(self.latents)
        ):
            parts += [
                {"latent": int(n), "token_id": int(t), "effect": float(e)}
                for t, e in zip(ids, effects, strict=True)
            ]
        frame = pd.DataFrame(parts, columns=["latent", "token_id", "effect"])
        if tokenizer is not None or self.words:
            frame["token"] = self.texts(frame["token_id"].tolist(), tokenizer)
        frame.attrs["units"] = {"effect": "logits, direction at rms 1"}
        return frame

    def histogram_frame(self) -> "pd.DataFrame":
        """One row per latent and bin: middle of the bin, and tokens in it."""
        import pandas as pd

        bins = self.histogram_counts.shape[1]
        middle = (self.histogram_edges[:, 1:] + self.histogram_edges[:, :-1]) / 2
        frame = pd.DataFrame(
            {
                "latent": np.repeat(self.latents, bins),
                "activation": middle.ravel(),
                "tokens": self.histogram_counts.ravel(),
            }
        )
        frame.attrs["units"] = {"activation": "units of the site", "tokens": "tokens"}
        return frame

    def summary(self) -> dict[str, float]:
        """Density and largest activation of each latent."""
        out = {"tokens": float(self.n_tokens)}
        for i, latent in enumerate(self.latents):
            out[f"latent {latent} density"] = float(self.density[i])
            out[f"latent {latent} max"] = float(self.max_activation[i])
        return out

    def __repr__(self) -> str:
        """One line: whose latents, which, on how many tokens."""
        shown = ", ".join(str(int(i)) for i in self.latents[:8])
        more = ", ..." if len(self.latents) > 8 else ""
        return f"{self.kind}({self.name!r}: latents {shown}{more}; {self.looked_at})"

    def plot(self) -> "go.Figure":
        """Histogram of the non-zero activations, one colour per latent."""
        from lensbench.plots import histogram

        frame = self.histogram_frame()
        frame["latent"] = frame["latent"].astype(str)
        return histogram(frame, value="activation", weight="tokens", color="latent", log_y=True,
                         title=f"Activations of {self.name}",
                         subtitle=f"{self.looked_at}; zeros left out")  # fmt: skip

    def _text(self, ids: Int[np.ndarray, " window"], tokenizer: Any) -> tuple[str, str, str]:
        """Before, at, after. Always decoded from the start: alone, a word may lose its space."""
        at = self.before
        if tokenizer is None:
            parts = [self.texts(p[p >= 0].tolist()) for p in (ids[:at], ids[at : at + 1],
                                                              ids[at + 1 :])]  # fmt: skip
            spaced = any(word[:1] == " " for words in parts for word in words)
            before, token, after = (("" if spaced else " ").join(words) for words in parts)
            return before, token, after
        before, upto, whole = (
            tokenizer.decode(part[part >= 0].tolist(), clean_up_tokenization_spaces=False)
            for part in (ids[:at], ids[: at + 1], ids)
        )
        return before, upto[len(before) :], whole[len(upto) :]

    def _html_body(self) -> str:
        from lensbench.saes.latents.shown import board_html

        return board_html(self)


def words_of_ids(tokenizer: Any, *arrays: Int[np.ndarray, "..."]) -> dict[str, str]:
    """Text of every token id in the arrays, by the id as text; none without a tokenizer."""
    if tokenizer is None:
        return {}
    ids = sorted({int(i) for array in arrays for i in np.unique(array) if i >= 0})
    return dict(zip(map(str, ids), token_texts(tokenizer, ids), strict=True))
