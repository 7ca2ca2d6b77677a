"""How varied continuations are beside the text they stand for.

A model that has collapsed says one thing again and again: every exit agrees with it, every draft is
accepted, every speed-up looks perfect. So agreement and acceptance are read together with these.
Ids in, frame out; for texts of any world.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lensbench.errors import ConfigError


def distinct_n(texts: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams of all texts together over their number, 0 to 1; NaN where there is none.

    distinct-n = |{n-grams}| / sum over texts of max(0, length - n + 1). It falls with the amount of
    text, so compare texts of one amount only.
    Source: Li et al. 2016, A Diversity-Promoting Objective Function.

    Raises:
        ConfigError: n below 1.
    """
    if n < 1:
        raise ConfigError(f"distinct-n needs n of at least 1, got {n}")
    grams = [
        tuple(int(t) for t in text[i : i + n])
        for text in texts
        for i in range(len(text) - n + 1)
    ]  # fmt: skip
    return len(set(grams)) / len(grams) if grams else float("nan")


def continuation_diversity(
    own: Sequence[Sequence[int]],
    reference: Sequence[Sequence[int]],
    *,
    orders: Sequence[int] = (1, 2, 3),
    aim: float = 0.9,
) -> pd.DataFrame:
    """Distinct-n of ``own`` continuations beside the ``reference`` ones, per n.

    Text i of both is cut to the shorter of the two, so that both sides hold as many n-grams.
    Columns: ``n``, ``own``, ``reference`` (all texts together, 0 to 1), ``ratio`` = own /
    reference; ``ratio_per_text``, the same of the mean distinct-n of single texts, which shows
    loops that differ from text to text; ``tokens`` per side; ``varied`` (both ratios at least
    ``aim``).

    Raises:
        ConfigError: no texts, or numbers of texts that differ.
    """
    if not own or len(own) != len(reference):
        raise ConfigError(
            f"continuations and references must be as many, got {len(own)} and {len(reference)}; "
            "give one reference per prompt"
        )
    sizes = [min(len(a), len(b)) for a, b in zip(own, reference, strict=True)]
    mine, theirs = ([t[:k] for t, k in zip(side, sizes, strict=True)] for side in (own, reference))
    rows: list[dict[str, float | int | bool]] = []
    for n in orders:
        a, b = distinct_n(mine, n), distinct_n(theirs, n)
        ratio, single = _over(a, b), _over(_per_text(mine, n), _per_text(theirs, n))
        rows.append({"n": n, "own": a, "reference": b, "ratio": ratio, "ratio_per_text": single,
                     "tokens": sum(sizes), "varied": ratio >= aim and single >= aim})  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.attrs["units"] = {
        **dict.fromkeys(("own", "reference", "ratio", "ratio_per_text"), "share"),
        "tokens": "tokens",
    }
    return frame


def _over(own: float, reference: float) -> float:
    return own / reference if reference else float("nan")


def _per_text(texts: Sequence[Sequence[int]], n: int) -> float:
    """Mean distinct-n of single texts that have an n-gram."""
    shares = [distinct_n([text], n) for text in texts if len(text) >= n]
    return sum(shares) / len(shares) if shares else float("nan")
