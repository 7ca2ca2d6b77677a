"""Do two dictionaries hold the same directions? Largest cosines both ways, and a matching.

The two questions differ. The mean of the largest cosines lets many latents of A share one of B and
counts the sign; the matching gives every latent a partner of its own and does not.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.inputs import decoder_of, matrix, unit_rows
from lensbench.stats import Interval, bootstrap_mean
from lensbench.worlds.matching import hungarian

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST_PAIRS = 8192**2
"""Pairs up to which latents are matched one to one (the cost grows with the cube of the width)."""
_BLOCK = 1024
_NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class DictionaryMatch(Result):
    """Largest cosine of every latent of A in B and of B in A, and the one-to-one matching."""

    best_a_to_b: Float[np.ndarray, " a"]
    """Largest signed cosine of each row of A with a row of B; NaN for a row of zeros."""
    nearest_a_to_b: Int[np.ndarray, " a"]
    """The row of B that has it; -1 for a row of zeros."""
    best_b_to_a: Float[np.ndarray, " b"]
    nearest_b_to_a: Int[np.ndarray, " b"]
    pairs: Int[np.ndarray, "pairs 2"]
    """Rows of A and of B that are matched; empty above ``MOST_PAIRS`` pairs."""
    pair_cosine: Float[np.ndarray, " pairs"]
    """Signed cosine of each matched pair."""

    @property
    def mmcs_a_to_b(self) -> Interval:
        """Mean over A of the largest cosine in B, with its interval over latents."""
        return _mean(self.best_a_to_b)

    @property
    def mmcs_b_to_a(self) -> Interval:
        """Mean over B of the largest cosine in A."""
        return _mean(self.best_b_to_a)

    @property
    def hungarian(self) -> Interval:
        """Mean absolute cosine of the matched pairs; NaN where there was no matching."""
        return _mean(np.abs(self.pair_cosine))

    def to_frame(self) -> "pd.DataFrame":
        """One row per measure: value, interval over latents, n, latents without direction."""
        import pandas as pd

        zeros = [int(np.isnan(b).sum()) for b in (self.best_a_to_b, self.best_b_to_a)]
        measures = {
            "MMCS A->B": (self.mmcs_a_to_b, zeros[0]),
            "MMCS B->A": (self.mmcs_b_to_a, zeros[1]),
            "Hungarian": (self.hungarian, sum(zeros)),
        }
        frame = pd.DataFrame(
            [
                {"measure": name, "value": m.mean, "low": m.low, "high": m.high, "n": m.n,
                 "n_undefined": gone}
                for name, (m, gone) in measures.items()
            ]
        )  # fmt: skip
        frame.attrs["units"] = {"value": "mean cosine"}
        frame.attrs["controls"] = str(self.controls)
        return frame

    def latents_frame(self) -> "pd.DataFrame":
        """One row per latent of either dictionary: its nearest in the other."""
        import pandas as pd

        sides = (
            ("A", self.nearest_a_to_b, self.best_a_to_b),
            ("B", self.nearest_b_to_a, self.best_b_to_a),
        )
        return pd.concat(
            [
                pd.DataFrame(
                    {"of": of, "latent": np.arange(len(at)), "nearest": at, "cosine": cosine}
                )
                for of, at, cosine in sides
            ],
            ignore_index=True,
        )

    def summary(self) -> dict[str, float]:
        """The three means."""
        return {
            "MMCS A->B": self.mmcs_a_to_b.mean,
            "MMCS B->A": self.mmcs_b_to_a.mean,
            "Hungarian": self.hungarian.mean,
        }

    def plot(self) -> "go.Figure":
        """The three means with their intervals."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="measure", y="value", low="low", high="high",
            title="Agreement of two dictionaries",
            subtitle=f"n = {len(self.best_a_to_b):,} and {len(self.best_b_to_a):,} latents; "
            f"control: {self.controls}",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestLatents(Result):
    """The latents whose decoder rows point most nearly in given directions."""

    latents: Int[np.ndarray, "directions n"]
    cosines: Float[np.ndarray, "directions n"]

    def to_frame(self) -> "pd.DataFrame":
        """One row per direction and rank."""
        import pandas as pd

        n = self.latents.shape[1]
        frame = pd.DataFrame(
            {
                "direction": np.repeat(np.arange(len(self.latents)), n),
                "rank": np.tile(np.arange(1, n + 1), len(self.latents)),
                "latent": self.latents.ravel(),
                "cosine": self.cosines.ravel(),
            }
        )
        frame.attrs["units"] = {"cosine": "-1 to 1"}
        return frame

    def summary(self) -> dict[str, float]:
        """Largest cosine, averaged over directions."""
        return {"largest cosine, mean": float(self.cosines[:, 0].mean())}

    def plot(self) -> "go.Figure":
        """Cosine over rank, one line per direction."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="rank", y="cosine", color="direction", title="Nearest latents",
            subtitle=f"control: {self.controls}",
        )  # fmt: skip


def match_dictionaries(a: Any, b: Any, *, seed: int = 0) -> DictionaryMatch:
    """Compare two dictionaries (two seeds, two widths, or one with known atoms) by decoder rows.

    MMCS(A->B) = mean over rows a of A of max over rows b of B of cos(a, b): signed, many to one,
    and not the same as MMCS(B->A). -1 to 1. Hungarian = mean of |cos| over the one-to-one matching
    that makes it largest (min(F_A, F_B) pairs), 0 to 1; NaN above ``MOST_PAIRS`` pairs.
    Source: Sharkey et al. 2022; Cunningham et al. 2023 (arXiv:2309.08600), who average over the
    learned atoms in one place and over the true ones in another; hence both directions here.

    Controls: a random dictionary in place of B (what chance scores), and A with its rows in another
    order in place of B (must be 1).

    Args:
        a: a dictionary with ``W_dec``, or rows ``[d_sae, d_model]``.
        b: another of the same d_model.
        seed: of the controls.

    Raises:
        ConfigError: no matrix of numbers.
        MismatchError: different d_model.
        NonFiniteError: NaN or infinity in a decoder.

    Example:
        >>> match = saes.match_dictionaries(runs[0], runs[1])
        >>> match.summary()
    """
    began = time.perf_counter()
    whole_number("seed", seed, least=0)
    left, right = decoder_of(a, "dictionary A"), decoder_of(b, "dictionary B")
    if left.shape[1] != right.shape[1]:
        raise MismatchError(f"A has d_model {left.shape[1]} but B {right.shape[1]}")
    left, right = unit_rows(left), unit_rows(right)
    forward, back = _nearest(left, right), _nearest(right, left)
    pairs, cosine = _matched(left, right)
    rng = np.random.default_rng(own_seed(seed, "random dictionary"))
    random = unit_rows(rng.normal(size=right.shape))
    order = rng.permutation(len(left))
    beside = {
        "MMCS A->random": _mean(_nearest(left, random)[0]).mean,
        "Hungarian A, random": _mean(np.abs(_matched(left, random)[1])).mean,
        "MMCS A->A permuted": _mean(_nearest(left, left[order])[0]).mean,
        "Hungarian A, A permuted": _mean(np.abs(_matched(left, left[order])[1])).mean,
    }
    return DictionaryMatch(
        best_a_to_b=forward[0],
        nearest_a_to_b=forward[1],
        best_b_to_a=back[0],
        nearest_b_to_a=back[1],
        pairs=pairs,
        pair_cosine=cosine,
        config={"seed": seed, "d_sae": [len(left), len(right)]},
        controls=Controls(beside, "random: as wide as B; permuted: must be 1"),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def nearest_latents(
    directions: Any, dictionary: Any, *, n: int = 10, seed: int = 0
) -> NearestLatents:
    """The ``n`` latents of largest signed cosine between decoder row and direction.

    cos(v, W_dec_j), -1 to 1; rows of zeros are never named. Control: the largest cosine of a random
    direction, averaged over 256 of them.

    Args:
        directions: one ``[d_model]`` or several ``[directions, d_model]``.
        dictionary: a dictionary with ``W_dec``, or rows ``[d_sae, d_model]``.
        n: how many latents per direction; at most those with a direction.
        seed: of the control.

    Raises:
        ConfigError: no numbers, a direction of zeros, or ``n`` that is not 1..d_sae.
        MismatchError: different d_model.

    Example:
        >>> towards = saes.token_direction(model, " Lima")
        >>> frame = saes.nearest_latents(towards, run, n=5).to_frame()
    """
    rows = decoder_of(dictionary)
    single = getattr(directions, "ndim", 2) == 1
    wanted = matrix(directions[None] if single else directions, "directions", "[n, d_model]")
    if wanted.shape[1] != rows.shape[1]:
        raise MismatchError(f"directions are [{wanted.shape[1]}] but decoder rows {rows.shape[1]}")
    if not wanted.any(1).all():
        raise ConfigError("a direction of zeros has no nearest latent; leave it out")
    alive = int(rows.any(1).sum())
    if whole_number("n", n, least=1) > alive:
        raise ConfigError(f"n must be at most {alive} (latents with a direction), got {n}")
    cosine = np.nan_to_num(unit_rows(wanted) @ unit_rows(rows).T, nan=-2.0)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :n]
    rng = np.random.default_rng(own_seed(seed, "random directions"))
    random = unit_rows(rng.normal(size=(256, rows.shape[1])))
    chance = _mean(_nearest(random, unit_rows(rows))[0]).mean
    return NearestLatents(
        latents=order,
        cosines=np.take_along_axis(cosine, order, 1),
        config={"n": n, "seed": seed},
        controls=Controls({"random direction": chance}),
        provenance=record(seed=seed),
    )


def _nearest(
    rows: Float[np.ndarray, "a d"], among: Float[np.ndarray, "b d"]
) -> tuple[Float[np.ndarray, " a"], Int[np.ndarray, " a"]]:
    """Largest signed cosine of unit rows among others, and where; NaN and -1 without direction."""
    best, at = np.full(len(rows), np.nan), np.full(len(rows), -1)
    known = np.flatnonzero(np.isfinite(among).all(1))
    if not len(known):
        return best, at
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosine = rows[part] @ among[known].T
        best[part], at[part] = cosine.max(1), known[cosine.argmax(1)]
    at[np.isnan(best)] = -1
    return best, at


def _matched(
    a: Float[np.ndarray, "a d"], b: Float[np.ndarray, "b d"]
) -> tuple[Int[np.ndarray, "pairs 2"], Float[np.ndarray, " pairs"]]:
    rows, columns = (np.flatnonzero(np.isfinite(m).all(1)) for m in (a, b))
    if not len(rows) or not len(columns) or len(rows) * len(columns) > MOST_PAIRS:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    i, j, cosine = (v.numpy() for v in hungarian(a[rows], b[columns], signed=False))
    return np.stack([rows[i], columns[j]], 1), cosine


def _mean(values: Float[np.ndarray, " n"]) -> Interval:
    known = values[np.isfinite(values)]
    return bootstrap_mean(known) if len(known) else _NOTHING
