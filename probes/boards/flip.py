"""Does the model use the board it keeps? A disc is turned over in the stream; do its moves follow?

Steps, numbered in the body:

1. Cases: a game of a held-out opening broken off, one disc, the legal moves of the changed board.
2. At every chosen layer, at the last token: x + alpha * gap * p, p the unit direction from the
   disc's side to the other and gap how far the two sides lie apart along it there. One plan a case.
3. The model's N likeliest moves, N the number of legal moves after the flip; error = moves named
   that are not legal then + legal moves not named (FP + FN).
4. Beside: no step (null), random directions of the same lengths, and the direction of another
   square. ``alpha`` is chosen on every second case and scored on the others.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.ops import Add
from lensbench.plan import Edit, Plan
from lensbench.probes.boards.cases import Cases, flip_cases
from lensbench.probes.boards.data import board_size
from lensbench.probes.boards.result import BoardProbes
from lensbench.results import Controls, Result
from lensbench.sites import Site
from lensbench.stats import Interval, bootstrap_mean
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models.base import Model

ALPHAS = (0.5, 1.0, 2.0, 4.0)
WAYS = ("probe", "random", "other square")


@dataclass(frozen=True, kw_only=True, eq=False)
class BoardFlips(Result):
    """Errors of the top-N moves against the changed board, case by case."""

    sites: tuple[str, ...]
    alphas: tuple[float, ...]
    errors: Float[np.ndarray, "ways alphas cases"]
    """FP + FN against the moves legal after the flip; ways: probe, random, other square."""
    null: Float[np.ndarray, " cases"]
    """The same with no step."""
    unedited: Float[np.ndarray, " cases"]
    """FP + FN of the unedited model against the true board: what the model errs anyway."""
    alpha: float
    """Of least mean error of ``probe`` on the even cases."""
    model: dict[str, Any] = field(default_factory=dict[str, Any])

    def interval(self, way: str = "probe", *, alpha: float | None = None) -> Interval:
        """Mean error on the odd cases, at the chosen ``alpha`` (or another).

        Raises:
            ConfigError: a way or alpha that was not run.
        """
        size = self.alpha if alpha is None else alpha
        known = {"null": self.null, "unedited": self.unedited}
        if way not in known and (way not in WAYS or size not in self.alphas):
            raise ConfigError(
                f"{way!r} at alpha {size} was not run; ways: {', '.join((*WAYS, *known))}; alphas: "
                f"{self.alphas}"
            )
        values = known.get(way)
        if values is None:
            values = self.errors[WAYS.index(way), self.alphas.index(size)]
        return bootstrap_mean(values[1::2])

    def to_frame(self) -> "pd.DataFrame":
        """One row per way and alpha, on the odd cases; null and unedited at alpha 0."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        pairs = [(way, a) for way in WAYS for a in self.alphas]
        for way, alpha in (*pairs, ("null", 0.0), ("unedited", 0.0)):
            mean = self.interval(way, alpha=alpha)
            rows.append({
                "way": way, "alpha": alpha, "error": mean.mean, "low": mean.low,
                "high": mean.high, "chosen": alpha == self.alpha, "n": mean.n,
            })  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"error": "moves, FP + FN", "alpha": "distances of the two sides",
                                "n": "games"}  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """Chosen alpha, errors of every way there, and of doing nothing."""
        found = {way: self.interval(way).mean for way in (*WAYS, "null", "unedited")}
        return {"alpha": self.alpha, **found, "n": float(len(self.null) // 2)}

    def plot(self) -> "go.Figure":
        """Error by alpha, every way; alpha 0 is doing nothing."""
        import pandas as pd

        from lensbench.plots import lines

        frame: Any = self.to_frame()
        null = frame[frame["way"] == "null"]
        starts = [null.assign(way=way) for way in WAYS]
        frame = pd.concat([*starts, frame[frame["way"].isin(WAYS)]])
        return lines(frame, x="alpha", y="error", color="way", low="low", high="high",
                     title="A disc turned over in the stream",
                     unit="moves, FP + FN",
                     subtitle=f"{', '.join(self.sites)}; {len(self.null) // 2} games")  # fmt: skip


def flip_study(
    model: "Model",
    probes: BoardProbes,
    *,
    layers: Sequence[int] | None = None,
    alphas: Sequence[float] = ALPHAS,
    n_cases: int = 400,
    seed: int = 0,
    batch_size: int = 64,
) -> BoardFlips:
    """Turn discs over along the probes' directions and score the moves that follow.

    Source: Nanda, Lee & Wattenberg 2023, arXiv:2309.00941 (they step by a constant along the
    direction of the new state; here along new minus old, in units of their distance); the error is
    of Li et al. 2023, arXiv:2210.13382.

    Args:
        model: the model the probes were fitted on.
        probes: of :func:`~lensbench.probes.boards.fit.board_probes`.
        layers: where steps are made; default: every probed layer but the first and the last.
        alphas: sizes tried; 1 moves the mean of one side to that of the other.
        n_cases: games; half of them choose ``alpha``.
        seed: of games, discs and random directions.
        batch_size: plans run at once.

    Raises:
        MismatchError: another model than the probes were fitted on.
        ConfigError: layers that were not probed; sizes; fewer than 2 cases.

    Example:
        >>> probes_of_boards = probes.board_probes(othello, n_games=40)
        >>> found = probes.flip_study(
        ...     othello, probes_of_boards, layers=[2], alphas=(1.0,), n_cases=4
        ... )
    """
    start = time.monotonic()
    count, seed = whole_number("n_cases", n_cases, least=2), whole_number("seed", seed, least=0)
    several: dict[str, Any] = {"alphas": alphas, "layers": () if layers is None else layers}
    for name, many in several.items():
        if not isinstance(many, Sequence):
            raise ConfigError(f"{name} must be a list of numbers, got {many!r}")
    sizes = tuple(positive_number("alpha", a) for a in alphas)
    if not sizes:
        raise ConfigError("alphas needs at least one size")
    if probes.model.get("fingerprint") not in (None, model.card.fingerprint):
        raise MismatchError(
            f"the probes were fitted on {probes.model.get('name')}, not on {model.card.name!r}"
        )
    sites = _sites(probes, layers)
    cases = flip_cases(count, board_size(model), model.card.d_vocab, seed)  # 1
    clean = _logits(model, cases, [Plan()] * len(cases), batch_size)
    steps = {way: _steps(probes, sites, cases, way, seed) for way in WAYS}
    errors = np.stack([
        [_error(_logits(model, cases, _plans(steps[way], a), batch_size), cases.after)
         for a in sizes] for way in WAYS
    ])  # fmt: skip
    best = int(errors[0, :, ::2].mean(1).argmin())  # 4
    null = _error(clean, cases.after)
    odd = {"null": null, **{w: errors[i, best] for i, w in enumerate(WAYS) if i}}
    return BoardFlips(
        sites=tuple(sites), alphas=sizes, errors=errors, null=null, alpha=sizes[best],
        unedited=_error(clean, cases.before),
        model={"name": model.card.name, "fingerprint": model.card.fingerprint},
        config={"seed": seed, "n_cases": count, "layers": [Site.parse(s).layer for s in sites]},
        controls=Controls({k: float(v[1::2].mean()) for k, v in odd.items()}, "mean FP + FN"),
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - start),
    )  # fmt: skip


def _sites(probes: BoardProbes, layers: Sequence[int] | None) -> list[str]:
    known = {Site.parse(s).layer: s for s in probes.directions}
    wanted = list(known)[1:-1] if layers is None else list(layers)
    missing = [layer for layer in wanted if layer not in known]
    if missing or not wanted:
        raise ConfigError(
            f"relative probes were fitted at layers {list(known)}; steps were asked for at {wanted}"
        )
    return [known[layer] for layer in wanted]


def _steps(
    probes: BoardProbes, sites: Sequence[str], cases: Cases, way: str, seed: int
) -> dict[str, Float[np.ndarray, "cases width"]]:
    """What alpha = 1 adds at each site, case by case (2)."""
    rng = np.random.default_rng([seed, WAYS.index(way)])
    square = cases.squares
    if way == "other square":
        square = (square + rng.integers(1, len(probes.squares), len(square))) % len(probes.squares)
    found: dict[str, np.ndarray] = {}
    for site in sites:
        direction, size = probes.directions[site][square], probes.gaps[site][cases.squares]
        if way == "random":
            direction = rng.normal(size=direction.shape)
            direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        sign = np.where(cases.to_yours, 1.0, -1.0)
        found[site] = direction * (sign * np.abs(size))[:, None]
    return found


def _plans(steps: dict[str, np.ndarray], alpha: float) -> list[Plan]:
    many = len(next(iter(steps.values())))
    return [
        Plan(tuple(
            Edit(Site.parse(site), Add(torch.from_numpy(alpha * step[i]).float()), positions=(-1,))
            for site, step in steps.items()
        ))
        for i in range(many)
    ]  # fmt: skip


def _logits(
    model: "Model", cases: Cases, plans: Sequence[Plan], batch_size: int
) -> Float[np.ndarray, "cases d_vocab"]:
    there = np.arange(cases.tokens.shape[1]) < cases.lengths[:, None]
    tokens = Tokens(torch.from_numpy(cases.tokens), torch.from_numpy(there))
    out = model.run_many(tokens, plans, logits="last", batch_size=batch_size).logits
    assert out is not None
    return out[:, -1].float().cpu().numpy()


def _error(
    logits: Float[np.ndarray, "cases d_vocab"], legal: Bool[np.ndarray, "cases d_vocab"]
) -> Float[np.ndarray, " cases"]:
    """FP + FN of the N likeliest tokens, N the number of legal ones (3)."""
    order = np.argsort(np.argsort(-logits, axis=1, kind="stable"), axis=1)
    n = legal.sum(1)
    hits = ((order < n[:, None]) & legal).sum(1)
    return 2.0 * (n - hits)
