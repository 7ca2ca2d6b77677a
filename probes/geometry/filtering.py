"""What text length does: tokens grow alike, and attention passes less of what sets them apart.

Steps, numbered in the body:

1. Every text is cut to each length; the model runs on each (a causal model's tokens do not see what
   was cut off, an encoder's do).
2. Similarity of tokens: the mean cosine of pairs of states within a text.
3. Attention as a filter along the text: the share of a pattern at zero frequency, and the largest
   gain of what is left (differences between tokens).
4. The same of each row's weights dealt anew among the keys it sees (a random pattern of the same
   entropies), and of even attention; of shuffled text; of random weights.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.probes.geometry.anisotropy import anisotropy_of
from lensbench.probes.geometry.stores import CONTROLS, SHUFFLED, shuffled_ids
from lensbench.probes.geometry.tables import Table, columns
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.stats import bootstrap_mean
from lensbench.tokens import Tokens, TokensLike, as_tokens

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model

MEASURES = {
    "similarity": "mean cosine",
    "similarity_without_first": "mean cosine",
    "anisotropy": "0 to 1",
    "zero_frequency": "share of energy",
    "gain": "singular value",
}
TEXT = "text"


@dataclass(frozen=True, kw_only=True, eq=False)
class LengthProfile(Table):
    """Similarity of tokens and low-pass filtering, a row per source, layer and length.

    ``*_permuted`` is the random pattern and ``*_even`` even attention; NaN where a model shows no
    patterns. ``low`` and ``high`` are 95 % bootstrap bounds over texts.
    """

    columns_shown = ("source", "layer", "length_tokens", "similarity", "anisotropy",
                     "zero_frequency", "zero_frequency_permuted", "gain", "n")  # fmt: skip

    units: ClassVar[Mapping[str, str]] = {**MEASURES, "length_tokens": "tokens", "n_texts": "texts"}

    def plot(self, measure: str = "similarity", layer: int | None = None) -> "go.Figure":
        """One measure against length, a line per source and control, at one layer (the last).

        Raises:
            UnknownNameError: no such measure or layer.
        """
        import pandas as pd

        from lensbench.plots import lines

        if measure not in MEASURES:
            raise UnknownNameError("measure", measure, known=tuple(MEASURES))
        frame: Any = self.to_frame()
        layers = sorted(set(frame["layer"]))
        chosen = layers[-1] if layer is None else layer
        if chosen not in layers:
            raise UnknownNameError("layer", str(layer), known=[str(n) for n in layers])
        frame = frame[frame["layer"] == chosen]
        parts = [frame.assign(value=frame[measure])]
        for name, called in (("permuted", "random pattern"), ("even", "even attention")):
            if f"{measure}_{name}" in frame:
                own = frame[frame["source"] == TEXT]
                parts.append(own.assign(value=own[f"{measure}_{name}"], source=called))
        both: Any = pd.concat(parts)
        words = measure.replace("_", " ")
        both.attrs["units"] = {"value": MEASURES[measure], "length_tokens": "tokens"}
        for bound in (bounds := [f"{measure}_{end}" for end in ("low", "high")]):
            known = both[bound] if bound in both else pd.Series(np.nan, both.index)
            both[bound] = known.where(both["source"].isin(set(self.text["source"])))
        return lines(
            both, x="length_tokens", y="value", color="source", low=bounds[0], high=bounds[1],
            log_x=True, title=f"{words.capitalize()} against text length, block {chosen}",
            labels={"length_tokens": "length", "value": words},
            subtitle=f"{frame['n_texts'].max():,} texts",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Means over layers at the shortest and the longest text."""
        frame: Any = self.part(source=TEXT)
        found: dict[str, float] = {}
        for name, length in (("short", frame["length_tokens"].min()),
                             ("long", frame["length_tokens"].max())):  # fmt: skip
            part = frame[frame["length_tokens"] == length]
            found |= {f"{measure}_{name}": float(part[measure].mean()) for measure in MEASURES}
        return found


def zero_frequency(pattern: Float[np.ndarray, "... query key"]) -> Float[np.ndarray, "..."]:
    """Share of an attention pattern's energy at zero frequency along the queries.

    |mean over queries of A|^2 n / |A|^2 (Parseval: the term of frequency 0 of the discrete Fourier
    transform along the text, over all terms). 1 where every query pays the same attention, so all
    get the same; 1/n where each token keeps to itself. NaN of a pattern of zeros.
    Source: after Wang et al. 2022, arXiv:2203.05962 (attention as a low-pass filter).
    """
    n = pattern.shape[-2]
    total = (pattern**2).sum((-1, -2))
    return np.asarray(n * (pattern.mean(-2) ** 2).sum(-1) / np.where(total > 0, total, np.nan))


def high_frequency_gain(pattern: Float[np.ndarray, "... query key"]) -> Float[np.ndarray, "..."]:
    """Largest singular value of C A C, C = I - 11^T / n: what is left of differences of tokens.

    0 where all queries attend alike; 1 where each token keeps to itself; above 1 where several
    queries copy one key, as under a causal mask. Not against that but against the same gain of even
    attention and of a random pattern is a pattern to be read.
    Source: Wang et al. 2022, arXiv:2203.05962; against text length Zhou et al. 2024,
    arXiv:2410.24200.
    """
    centred = pattern - pattern.mean(-2, keepdims=True)
    centred = centred - centred.mean(-1, keepdims=True)
    return np.asarray(np.linalg.norm(centred, ord=2, axis=(-2, -1)))


def token_similarity(states: Float[np.ndarray, "pos width"]) -> float:
    """Mean cosine of two different tokens of a text, -1 to 1; NaN with fewer than two, or a zero.

    Source: Ethayarajh 2019, arXiv:1909.00512 (intra-sentence similarity, between pairs).
    """
    norms = np.linalg.norm(states, axis=1)
    n = len(states)
    if n < 2 or not norms.all():
        return float("nan")
    whole = (states / norms[:, None]).sum(0)
    return float((whole @ whole - n) / (n * (n - 1)))


def length_profile(
    model: "Model",
    tokens: "TokensLike",
    *,
    lengths: Sequence[int] | None = None,
    controls: Sequence[str] = CONTROLS,
    seed: int = 0,
) -> LengthProfile:
    """Similarity of tokens, anisotropy and attention's low-pass filtering against text length.

    ``tokens`` are texts of at least the longest length, without padding; ``lengths`` default to
    powers of two. Anisotropy is of equally many tokens at each length, first tokens left out.
    Source: Wang et al. 2022, arXiv:2203.05962; Zhou et al. 2024, arXiv:2410.24200.

    Raises:
        ConfigError: padding, lengths beyond the texts or below 2, or an unknown control.
        NotEnoughDataError: fewer than two texts.

    Example:
        >>> rows = [
        ...     line
        ...     for line in (model.tokenizer.encode(t) for t in documents.texts())
        ...     if len(line) >= 8
        ... ]
        >>> found = probes.length_profile(model, [line[:8] for line in rows], lengths=[4, 8])
    """
    start = time.monotonic()
    batch = as_tokens(tokens)
    chosen = _lengths(batch, lengths)
    if unknown := [name for name in controls if name not in CONTROLS]:
        raise UnknownNameError("control", unknown[0], known=CONTROLS)
    rows = _of_model(model, batch, chosen, TEXT, seed)
    for name in controls:
        if name == SHUFFLED:
            rows += _of_model(model, _shuffled(model, batch, seed), chosen, name, seed)
        else:
            from lensbench.worlds.controls import reinitialised_twin

            rows += _of_model(reinitialised_twin(model, seed + 1), batch, chosen, name, seed)
    return LengthProfile(
        **columns(rows), controls=_controls(rows, chosen[-1]),
        config={"lengths": chosen, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - start),
    )  # fmt: skip


def _lengths(batch: Tokens, lengths: Sequence[int] | None) -> list[int]:
    if batch.mask is not None and not bool(batch.mask.all()):
        raise ConfigError("texts of one length are needed, without padding; cut or join them")
    if batch.n_rows < 2:
        raise NotEnoughDataError(f"two texts or more are needed, got {batch.n_rows}")
    longest = batch.ids.shape[1]
    if lengths is None:
        return [2**k for k in range(2, 20) if 2**k <= longest] or [longest]
    found = sorted({whole_number("a length", n, least=2) for n in lengths})
    if not found or found[-1] > longest:
        raise ConfigError(
            f"lengths must lie in 2..{longest} (the texts given), got {list(lengths)}"
        )
    return found


def _shuffled(model: "Model", batch: Tokens, seed: int) -> Tokens:
    ids = batch.ids.cpu().numpy()
    return Tokens(torch.from_numpy(np.stack(shuffled_ids(list(ids), model, seed))))


def _of_model(
    model: "Model", batch: Tokens, lengths: Sequence[int], source: str, seed: int
) -> list[dict[str, Any]]:
    known = [s for s in model.sites() if not s.stack or s.stack == "encoder"]
    states = [s for s in known if s.name == "resid_post"]
    patterns = {s.layer: s for s in known if s.name == "attn.pattern"}
    rows: list[dict[str, Any]] = []
    for length in lengths:  # 1
        own: list[Site] = [*states, *patterns.values()]
        acts = model.run(Tokens(batch.ids[:, :length]), capture=own, logits="none").acts
        picked = _picked(batch.n_rows, length, min(lengths), seed)
        for site in states:
            x = acts[site].double().cpu().numpy()
            row: dict[str, Any] = {"source": source, "layer": site.layer, "length_tokens": length}
            row |= _similar(x, picked, seed)  # 2
            at = patterns.get(site.layer)
            row |= _filter(None if at is None else acts[at].double().cpu().numpy(), seed)  # 3
            rows.append({**row, "n_texts": batch.n_rows, "control": float(source != TEXT)})
    return rows


def _picked(n_texts: int, length: int, least: int, seed: int) -> np.ndarray:
    """As many places of each text at every length, the first token left out."""
    rng = np.random.default_rng(seed)
    return np.stack([1 + rng.permutation(length - 1)[: least - 1] for _ in range(n_texts)])


def _similar(x: np.ndarray, picked: np.ndarray, seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, first in (("similarity", 0), ("similarity_without_first", 1)):
        found |= _interval(name, np.array([token_similarity(text[first:]) for text in x]), seed)
    pooled = np.take_along_axis(x, picked[..., None], 1).reshape(-1, x.shape[-1])
    return {**found, "anisotropy": anisotropy_of(pooled), "n": float(len(pooled))}


def _filter(pattern: np.ndarray | None, seed: int) -> dict[str, float]:
    """Means over heads of both measures, with their controls (4)."""
    found: dict[str, float] = {}
    for name, measure in (("zero_frequency", zero_frequency), ("gain", high_frequency_gain)):
        if pattern is None:
            ends = ("", "_low", "_high", "_permuted", "_even")
            found |= {f"{name}{end}": float("nan") for end in ends}
            continue
        found |= _interval(name, measure(pattern).mean(1), seed)
        seen = _visible(pattern)
        found[f"{name}_permuted"] = float(np.mean(measure(_permuted(pattern, seen, seed))))
        found[f"{name}_even"] = float(measure(seen / seen.sum(-1, keepdims=True)))
    return found


def _interval(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return {f"{name}{end}": float("nan") for end in ("", "_low", "_high")}
    found = bootstrap_mean(known, n_boot=500, seed=seed)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _visible(pattern: np.ndarray) -> np.ndarray:
    """Which keys a query may see: the earlier ones where nobody looks ahead, else all."""
    n = pattern.shape[-1]
    ahead = np.triu(np.ones((n, n), bool), 1)
    return (~ahead if not pattern[..., ahead].any() else np.ones((n, n), bool)).astype(np.float64)


def _permuted(pattern: np.ndarray, seen: np.ndarray, seed: int) -> np.ndarray:
    """Every row's weights in another order, each head and text in its own."""
    rng = np.random.default_rng(seed + 1)
    out = np.zeros_like(pattern)
    for query in range(seen.shape[0]):
        keys = np.flatnonzero(seen[query])
        out[..., query, keys] = rng.permuted(pattern[..., query, keys], axis=-1)
    return out


def _controls(rows: Sequence[Mapping[str, Any]], longest: int) -> Controls:
    at = [row for row in rows if row["length_tokens"] == longest]
    mean = lambda source, name: float(np.mean(  # noqa: E731 - used below
        [row[name] for row in at if row["source"] == source]))  # fmt: skip
    found = {"zero_frequency_random_pattern": mean(TEXT, "zero_frequency_permuted")}
    for source in dict.fromkeys(row["source"] for row in at if row["control"]):
        found[f"similarity_{source}"] = mean(source, "similarity_without_first")
        found[f"zero_frequency_{source}"] = mean(source, "zero_frequency")
    return Controls(found, f"means over layers at {longest} tokens")
