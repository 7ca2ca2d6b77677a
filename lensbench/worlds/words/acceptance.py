"""Acceptance, or any other yes or no per token, at determined and at undetermined positions.

Where one symbol only can come next, an early exit that knows the spelling must agree with the last
layer; where the next word is chosen, it need not. Ids in, frame out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from lensbench.errors import ConfigError
from lensbench.stats import bootstrap_mean
from lensbench.worlds.words.language import Words

KINDS = ("determined", "undetermined", "impossible", "all")


def acceptance_by_position(
    world: Words,
    documents: Sequence[Sequence[int] | np.ndarray],
    accepted: Sequence[Bool[np.ndarray, " tokens"]],
    drafted: Sequence[Bool[np.ndarray, " tokens"]] | None = None,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of drafted tokens that were accepted, by what the language says of their position.

    ``documents`` are whole texts, BOS first (a prompt and its continuation). ``accepted[i][t]`` and
    ``drafted[i][t]`` are about token t of text i, whose position is ``determined`` when one symbol
    only can follow the tokens before it, ``undetermined`` when several can, and ``impossible`` when
    the text before it is none of the language. Without ``drafted``, every token but BOS counts.

    Columns: ``position``, ``acceptance`` with ``low`` and ``high`` (95 %, texts resampled; NaN
    where nothing was drafted), ``n`` drafted tokens, ``share`` of all of them, ``entropy`` (mean of
    the language there, nats).

    Raises:
        ConfigError: lists or lengths that differ, a token accepted that was not drafted, or a text
            the language does not spell.
    """
    judged = _judged(documents, accepted, drafted)
    kind: list[np.ndarray] = []
    entropy: list[np.ndarray] = []
    for ids in documents:
        told = world.next_symbol(ids)
        # What holds of token t is said at t - 1; nothing is said of BOS.
        names = np.where(told.determined, KINDS[0], np.where(told.possible, KINDS[1], KINDS[2]))
        kind.append(np.concatenate([np.array([""]), names[:-1]]))
        entropy.append(np.r_[np.nan, told.entropy[:-1]])
    return acceptance_by_kind(
        np.concatenate(kind), np.concatenate([np.asarray(a, bool) for a in accepted]),
        np.concatenate(judged), np.concatenate(entropy),
        np.repeat(np.arange(len(documents)), [len(ids) for ids in documents]), seed=seed,
    )  # fmt: skip


def acceptance_by_kind(
    kind: np.ndarray,
    accepted: Bool[np.ndarray, " tokens"],
    drafted: Bool[np.ndarray, " tokens"],
    entropy: Float[np.ndarray, " tokens"],
    doc_ids: np.ndarray,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """The frame of :func:`acceptance_by_position` from flat arrays, one entry per token."""
    rows: list[dict[str, str | float | int]] = []
    total = int(drafted.sum())
    for name in KINDS:
        here = drafted & (kind == name) if name != "all" else drafted
        row: dict[str, str | float | int] = {"position": name, "acceptance": float("nan"),
                                             "low": float("nan"), "high": float("nan"),
                                             "n": int(here.sum())}  # fmt: skip
        if here.any():
            found = bootstrap_mean(accepted[here].astype(float), doc_ids[here], seed=seed)
            row.update(acceptance=found.mean, low=found.low, high=found.high)
        row["share"] = float(here.sum() / total) if total else float("nan")
        row["entropy"] = float(entropy[here].mean()) if here.any() else float("nan")
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame.attrs["units"] = {"acceptance": "share", "low": "share", "high": "share",
                            "n": "tokens", "share": "share", "entropy": "nats"}  # fmt: skip
    return frame


def _judged(
    documents: Sequence[Sequence[int] | np.ndarray],
    accepted: Sequence[np.ndarray],
    drafted: Sequence[np.ndarray] | None,
) -> list[np.ndarray]:
    """Which tokens were drafted, checked against texts and acceptances."""
    if drafted is None:
        drafted = [np.arange(len(ids)) > 0 for ids in documents]
    if not documents or not len(documents) == len(accepted) == len(drafted):
        raise ConfigError(
            f"texts, acceptances and drafts must be as many, got {len(documents)}, "
            f"{len(accepted)} and {len(drafted)}"
        )
    for i, (ids, yes, proposed) in enumerate(zip(documents, accepted, drafted, strict=True)):
        if not len(ids) == len(yes) == len(proposed):
            raise ConfigError(
                f"text {i} has {len(ids)} tokens, {len(yes)} acceptances and {len(proposed)} "
                "drafts; give one each per token, BOS included"
            )
        if proposed[0]:
            raise ConfigError(f"text {i}: BOS (token 0) is given, it cannot be drafted")
        if bool((np.asarray(yes) & ~np.asarray(proposed))[1:].any()):
            raise ConfigError(f"text {i}: a token counts as accepted that was not drafted")
    return [np.asarray(one, bool) for one in drafted]
