"""What latents look like in a notebook: inert HTML that carries its own style, no script.

Every text goes through ``plots.tables.safe`` or ``plots.token_strip``: a token is never markup.
"""

from typing import TYPE_CHECKING

import numpy as np

from lensbench.plots.tables import html_table, safe
from lensbench.plots.tokens import POSITIVE, token_strip, visible

if TYPE_CHECKING:
    from lensbench.saes.latents.active_result import ActiveLatents
    from lensbench.saes.latents.result import LatentDashboard

LATENTS, LINES, EDGE, TOKENS = 4, 3, 8, 60
"""Latents of a board, contexts of a band, tokens at an end of the logit effects, tokens of a text
that are shown; what is left out is said."""
_SMALL = "font-size:12px;opacity:.75"
_HEAD = "font-weight:600;margin:10px 0 2px"
_TALL = 44


def active_html(found: "ActiveLatents") -> str:
    """A strip of the text, its strongest latents, and a line per token with its own."""
    import pandas as pd

    strongest = found.strongest(10)
    largest = np.zeros(found.n_tokens)
    for at in range(found.n_tokens):
        here = found.values[found.indptr[at] : found.indptr[at + 1]]
        largest[at] = 0.0 if found.special[at] else here.max(initial=0.0)
    strip = token_strip(found.words, largest.tolist(), unit="largest activation")
    strongest["token"] = [visible(word) for word in strongest["token"]]
    strongest = strongest.rename(columns={"token": "strongest at", "tokens": "fires on tokens"})
    units = strongest.attrs["units"]
    strongest.attrs["units"] = {**units, "fires on tokens": units.get("tokens", "")}
    frame = found.to_frame()
    lines = pd.DataFrame(
        {
            "position": range(found.n_tokens),
            "token": [visible(word) for word in found.words],
            "strongest latents (activation)": [
                ", ".join(f"{r.latent} ({r.activation:.3g})" for r in part.itertuples())
                for part in (frame.loc[frame["position"] == i] for i in range(found.n_tokens))
            ],
        }
    )
    return (
        f"{_note('Shaded by the largest activation at each token; special tokens are left blank.')}"
        f"{strip}<div style='{_HEAD}'>Strongest latents of the text</div>"
        f"{html_table(strongest, max_rows=10)}{_note(_where(found))}"
        f"<div style='{_HEAD}'>By token</div>{html_table(lines, max_rows=TOKENS)}"
    )


def _where(found: "ActiveLatents") -> str:
    if len(found.density):
        return f"Density: share of the {found.n_density:,} tokens of the run's evaluation."
    return (
        "Densities and labels come with an evaluation of the run: "
        "saes.evaluate(runs, store, model, save=True)."
    )


def board_html(board: "LatentDashboard") -> str:
    """Of each latent: how often it fires, what it writes, and contexts by band of activation."""
    parts = [_latent(board, int(latent)) for latent in board.latents[:LATENTS]]
    if (more := len(board.latents) - LATENTS) > 0:
        rest = ", ".join(str(int(i)) for i in board.latents[LATENTS : LATENTS + 12])
        rest += " ..." * (more > 12)
        parts.append(_note(f"{more} more on this board: {rest}. board.one(latent) shows one."))
    if not board.words:
        parts.append(_note("Tokens are shown as ids: pass model= to saes.dashboards, or call "
                           "board.with_words(tokenizer)."))  # fmt: skip
    return "".join(parts)


def _latent(board: "LatentDashboard", latent: int) -> str:
    i = board.index(latent)
    fired = int(board.histogram_counts[i].sum())
    told = (
        f"fires on {100 * board.density[i]:.3g} % of {board.looked_at} "
        f"(n = {fired:,}); largest activation {board.max_activation[i]:.3g} (units of the site)"
    )
    bands = "".join(
        f"<div style='{_SMALL};margin-top:4px'>{safe(band)}{' of the activations' * ('%' in band)}"
        f"</div>{''.join(strips)}"
        for band, strips in board.strips(latent, per_band=LINES).items()
    )
    return (
        f"<div style='{_HEAD};font-size:14px'>Latent {latent} of {safe(board.name)} at "
        f"{safe(board.site)}</div><div>{safe(told)}</div>"
        f"{_bars(board, i)}{_effects(board, i)}"
        f"<div style='{_HEAD}'>Contexts</div>"
        + (bands or _note("It fires on none of the tokens looked at."))
        + _note(f"Outlined: the token that fires. Up to {LINES} of a band are shown; "
                "board.contexts_frame() has all.") * bool(bands)
    )  # fmt: skip


def _bars(board: "LatentDashboard", i: int) -> str:
    """The histogram of the non-zero activations as a row of bars, heights by log of the count."""
    counts, edges = board.histogram_counts[i], board.histogram_edges[i]
    if not counts.any():
        return ""
    heights = np.log1p(counts) / np.log1p(counts.max()) * _TALL
    bars = "".join(
        f"<span title='{low:.3g} to {high:.3g}: {int(n):,} tokens' style='display:inline-block;"
        f"width:6px;margin-right:1px;height:{height:.0f}px;background:rgb({POSITIVE})'></span>"
        for low, high, n, height in zip(edges[:-1], edges[1:], counts, heights, strict=True)
    )
    return (
        f"<div style='{_HEAD}'>Non-zero activations</div>"
        f"<div style='height:{_TALL}px;line-height:{_TALL}px;white-space:nowrap'>{bars}</div>"
        + _note(f"from {edges[0]:.3g} to {edges[-1]:.3g}, {len(counts)} bins; height: log of the "
                f"number of tokens, {int(counts.max()):,} at most")
    )  # fmt: skip


def _effects(board: "LatentDashboard", i: int) -> str:
    """Tokens it raises and lowers by the direct path."""
    if not board.top_tokens.size:
        return _note(board.effects_note or "No logit effects: made without the model.")
    lines = [
        f"<div>{told}: {_listed(board, tokens[i], effects[i])}</div>"
        for told, tokens, effects in (
            ("raises", board.top_tokens, board.top_effects),
            ("lowers", board.low_tokens, board.low_effects),
        )
    ]
    control = f" Control: {board.controls}." if board.controls else ""
    return f"<div style='{_HEAD}'>Direct effect on the logits</div>{''.join(lines)}" + _note(
        f"logits, the direction at rms 1.{control} {board.effects_note}".strip()
    )


def _listed(board: "LatentDashboard", ids: np.ndarray, effects: np.ndarray) -> str:
    words = board.texts(ids[:EDGE].tolist())
    return ", ".join(
        f"{safe(visible(word))} {effect:+.2f}"
        for word, effect in zip(words, effects[:EDGE], strict=True)
    )


def _note(text: str) -> str:
    return f"<div style='{_SMALL}'>{safe(text)}</div>" if text else ""
