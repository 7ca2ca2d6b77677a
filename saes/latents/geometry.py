"""How a dictionary's directions lie to one another: nearest decoder rows, and encoder to decoder.

1. Decoder rows get length 1; a row of zeros has no direction and is NaN throughout.
2. Each looked-at row is compared with every other row: the largest signed cosine, and whose.
3. The same of as many random directions of the same width: what chance gives at this d_model and
   d_sae.
4. Each row is compared with its latent's own encoder column, and with that of another latent.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.inputs import decoder_of, matrix, unit_rows
from lensbench.saes.transcoder import Transcoder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ALIVE, DEAD, RANDOM = "latents", "dead latents", "random directions"
CLOSE = 0.9
"""Cosine above which two latents are called near copies of each other in the summary."""
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderGeometry(Result):
    """Nearest neighbours among decoder rows, beside random directions; encoder against decoder."""

    latents: Int[np.ndarray, " n"]
    """The latents that were looked at; all of them, or a sample."""
    nearest: Int[np.ndarray, " n"]
    """The other latent whose decoder row has the largest cosine; -1 for a row of zeros."""
    nearest_cosine: Float[np.ndarray, " n"]
    """That cosine, -1 to 1; NaN for a row of zeros."""
    random_cosine: Float[np.ndarray, " n"]
    """The same of random directions among as many others: the control."""
    encoder_cosine: Float[np.ndarray, " n"]
    """Cosine of each decoder row with its latent's encoder column; NaN where there is none, or it
    reads another site (a transcoder)."""
    other_encoder_cosine: Float[np.ndarray, " n"]
    """With the encoder column of another latent: the control."""
    dead: "np.ndarray"
    """Whether a latent never fired, where that is known; else False."""
    d_sae: int
    d_model: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per latent: nearest other latent, cosines, controls, dead or not."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "latent": self.latents,
                "nearest": self.nearest,
                "nearest_cosine": self.nearest_cosine,
                "random_cosine": self.random_cosine,
                "encoder_cosine": self.encoder_cosine,
                "other_encoder_cosine": self.other_encoder_cosine,
                "dead": self.dead,
            }
        )
        cosines = [c for c in frame if str(c).endswith("cosine")]
        frame.attrs["units"] = dict.fromkeys(map(str, cosines), "-1 to 1")
        return frame

    def summary(self) -> dict[str, float]:
        """Medians, and the share of near copies."""
        known = self.nearest_cosine[np.isfinite(self.nearest_cosine)]
        share = float((known > CLOSE).mean()) if len(known) else float("nan")
        return {
            "nearest cosine, median": _median(self.nearest_cosine),
            f"share above {CLOSE}": share,
            "encoder-decoder cosine, median": _median(self.encoder_cosine),
        }

    def nearest_frame(self) -> "pd.DataFrame":
        """One row per direction: the largest cosine, of latents, dead latents and random ones."""
        import pandas as pd

        of = np.where(self.dead, DEAD, ALIVE)
        parts = [
            pd.DataFrame({"of": of, "latent": self.latents, "cosine": self.nearest_cosine}),
            pd.DataFrame({"of": RANDOM, "latent": -1, "cosine": self.random_cosine}),
        ]
        return _with_units(pd.concat(parts, ignore_index=True))

    def encoder_frame(self) -> "pd.DataFrame":
        """One row per pair of a decoder row and an encoder column, of one latent or of two."""
        import pandas as pd

        pairs = {"the same latent": self.encoder_cosine, "two latents": self.other_encoder_cosine}
        parts = [
            pd.DataFrame({"of": of, "latent": self.latents, "cosine": cosine})
            for of, cosine in pairs.items()
        ]
        return _with_units(pd.concat(parts, ignore_index=True))

    def plot(self) -> "go.Figure":
        """Histogram of the largest cosine of every row, beside random directions."""
        return _histogram(self.nearest_frame(), "Nearest other decoder row", self._told())

    def plot_encoder(self) -> "go.Figure":
        """Histogram of the cosine of encoder and decoder, beside pairs of two latents."""
        return _histogram(self.encoder_frame(), "Encoder against decoder", self._told())

    def _told(self) -> str:
        n = len(self.latents)
        of = "all" if n == self.d_sae else f"{n:,} of"
        return f"{of} {self.d_sae:,} latents, d_model {self.d_model:,}"


def decoder_geometry(
    dictionary: Any,
    *,
    density: "np.ndarray | None" = None,
    max_latents: int = 8192,
    seed: int = 0,
) -> DecoderGeometry:
    """How near decoder rows lie to each other, and to their own encoder columns.

    nearest_i = max over j != i of cos(W_dec_i, W_dec_j), -1 to 1: 1 is a copy; splitting and
    duplicated latents raise it above that of random directions.
    encoder_i = cos(W_dec_i, W_enc_:i), -1 to 1: far below 1 where the encoder has to tell a latent
    from others that point nearly the same way.

    Controls: as many random directions at the same d_model and d_sae; the decoder row of one latent
    with the encoder column of another. Above ``max_latents`` latents a random sample of them is
    compared with all.
    Source: Bricken et al. 2023 (neighbouring decoder directions); encoder_i is SAELens'
    ``encoder_decoder_cosine_sim``.

    Args:
        dictionary: anything with ``W_dec`` (and ``W_enc``), or decoder rows ``[d_sae, d_model]``.
        density: share of tokens each latent fires on; 0 is shown as dead.
        max_latents: how many are looked at, at most.
        seed: of the sample and the controls.

    Raises:
        ConfigError: no matrix of numbers, fewer than two rows, or a density of another length.
        NonFiniteError: NaN or infinity in a weight.

    Example:
        >>> found = saes.decoder_geometry(run)
    """
    began = time.perf_counter()
    most = whole_number("max_latents", max_latents, least=1)
    whole_number("seed", seed, least=0)
    dictionary = codec_of(dictionary)
    rows = unit_rows(decoder_of(dictionary)).astype(np.float32)  # 1
    d_sae, d_model = rows.shape
    if d_sae < 2:
        raise ConfigError("geometry needs a dictionary of at least two latents")
    dead = _dead(density, d_sae)
    rng = np.random.default_rng(own_seed(seed, "geometry"))
    chosen = np.arange(d_sae)
    if d_sae > most:
        chosen = np.sort(rng.choice(d_sae, most, replace=False))
    at, cosine = nearest_others(rows, chosen)  # 2
    random = unit_rows(rng.normal(size=(d_sae, d_model))).astype(np.float32)
    _, chance = nearest_others(random, chosen)  # 3
    own, other = _encoder(dictionary, rows, chosen, rng)  # 4
    controls = {"random direction, nearest cosine, median": _median(chance)}
    if np.isfinite(other).any():
        controls["encoder of another latent, median"] = _median(other)
    return DecoderGeometry(
        latents=chosen,
        nearest=at,
        nearest_cosine=cosine,
        random_cosine=chance,
        encoder_cosine=own,
        other_encoder_cosine=other,
        dead=dead[chosen],
        d_sae=d_sae,
        d_model=d_model,
        config={"max_latents": most, "seed": seed},
        controls=Controls(controls, f"{d_sae} random directions of the same width"),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def codec_of(dictionary: Any) -> Any:
    """The dictionary of a run or of a ``Dictionary``; anything else as it is.

    Raises:
        MismatchError: the run of a crosscoder, whose rows lie in several sites.
    """
    coder = getattr(dictionary, "coder", None)
    if isinstance(coder, Transcoder):
        return coder
    return getattr(dictionary, "sae", getattr(dictionary, "codec", dictionary))


def nearest_others(
    rows: Float[np.ndarray, "d_sae d_model"], chosen: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Of each chosen unit row the other row of largest cosine; -1 and NaN for a row of NaN."""
    known = np.asarray(np.isfinite(rows).all(1))
    filled = np.where(known[:, None], rows, 0)
    at = np.full(len(chosen), -1)
    best = np.full(len(chosen), np.nan)
    for start in range(0, len(chosen), _BLOCK):
        part = chosen[start : start + _BLOCK]
        cosine = filled[part] @ filled.T
        cosine[:, ~known] = -np.inf
        cosine[np.arange(len(part)), part] = -np.inf
        span = slice(start, start + len(part))
        at[span], best[span] = cosine.argmax(1), cosine.max(1)
    lost = ~known[chosen] | ~np.isfinite(best)
    at[lost], best[lost] = -1, np.nan
    return at, _clipped(best)


def _encoder(
    dictionary: Any,
    rows: Float[np.ndarray, "d_sae d_model"],
    chosen: Int[np.ndarray, " n"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Cosines with the encoder column of the latent itself, and of another one."""
    found: Any = getattr(dictionary, "W_enc", None)
    nothing = np.full(len(chosen), np.nan)
    if found is None:
        return nothing, nothing
    columns = unit_rows(matrix(found, "the encoder", "[d_model, d_sae]").T)
    if isinstance(dictionary, Transcoder) or columns.shape != rows.shape:
        return nothing, nothing  # it reads another place than it writes
    shift = int(rng.integers(1, len(rows)))
    others = (chosen + shift) % len(rows)
    own, other = ((rows[chosen] * columns[where]).sum(1) for where in (chosen, others))
    return _clipped(own), _clipped(other)


def _clipped(cosines: Any) -> Float[np.ndarray, " n"]:
    """Rounding may lead out of -1 to 1."""
    return np.clip(np.asarray(cosines, np.float64), -1, 1)


def _dead(density: "np.ndarray | None", d_sae: int) -> "np.ndarray":
    if density is None:
        return np.zeros(d_sae, bool)
    found = np.asarray(density, np.float64)
    if found.shape != (d_sae,):
        raise ConfigError(f"density must have one number per latent ({d_sae}), got shape "
                          f"{list(found.shape)}")  # fmt: skip
    return found == 0


def _histogram(frame: "pd.DataFrame", title: str, told: str) -> "go.Figure":
    from lensbench.plots import histogram

    drawn = histogram(frame, value="cosine", color="of", bins=60, title=title, subtitle=told,
                      height=400)  # fmt: skip
    drawn.update_layout(legend={"orientation": "h", "y": -0.22, "title": {"text": ""}})
    drawn.update_yaxes(title={"text": "directions"})
    return drawn


def _with_units(frame: "pd.DataFrame") -> "pd.DataFrame":
    frame.attrs["units"] = {"cosine": "-1 to 1"}
    return frame


def _median(values: Float[np.ndarray, " n"]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
