"""Token strips: text with a value behind each token, as inert HTML.

Every string that comes from a model or a text is escaped. Spaces and line breaks are made visible.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from lensbench.errors import ConfigError
from lensbench.plots.tables import shown

CSS = """
.lb-strip .t{border-radius:3px;padding:1px 1px;white-space:pre-wrap}
.lb-strip .ws{opacity:.45}
"""
"""What a page adds to the style of the strips, once; notebooks do without it."""
_STRIP = (
    "display:block;font-family:ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;"
    "font-size:13px;line-height:1.9;overflow-wrap:anywhere;unicode-bidi:plaintext"
)
"""Plain text: one that begins from right to left runs from right to left."""
_FOCUS = "outline:2px solid currentColor;outline-offset:-1px"
_APART = "margin-right:5px;display:inline-block"

POSITIVE, NEGATIVE = "213,94,0", "0,114,178"


def visible(token: str) -> str:
    """Spaces as ``␣``, line breaks as ``↵``, tabs as ``⇥``; an empty token as ``∅``.

    Other control characters, and those that turn or hide text, get visible marks too.

    Example:
        >>> plots.visible(" the")
        '␣the'
    """
    return shown(token.replace(" ", "␣")) or "∅"


def token_strip(
    tokens: Sequence[str],
    values: Sequence[float] | None = None,
    *,
    largest: float | None = None,
    focus: int | None = None,
    unit: str = "",
    label: str = "",
    notes: Sequence[str] = (),
) -> str:
    """HTML of one text: each token on a ground as strong as its value, ``focus`` outlined.

    ``largest`` is the value of full strength (default: the largest absolute value here); give it,
    so that strips can be compared. Positive values are orange, negative ones blue; the value is
    also in the token's tooltip, so colour is not the only sign; ``notes``, one per token, go on
    there. Where no token brings its own
    space (word-level tokenizers), words are set apart.

    Raises:
        ConfigError: not as many values as tokens.

    Example:
        >>> html = plots.token_strip([" the", " cat"], [0.1, 0.9], largest=1.0, unit="activation")
    """
    if values is not None and len(values) != len(tokens):
        raise ConfigError(f"a strip needs one value per token; got {len(values)} values for "
                          f"{len(tokens)} tokens")  # fmt: skip
    full = largest if largest else max((abs(v) for v in values or ()), default=0.0)
    apart = not any(" " in token or "\n" in token for token in tokens)
    spans = [
        _span(token, None if values is None else values[i], full, i == focus, unit, note, apart)
        for i, (token, note) in enumerate(zip(tokens, notes or [""] * len(tokens), strict=True))
    ]
    name = f' aria-label="{escape(label, quote=True)}"' if label else ""
    return f'<span class="lb-strip" style="{_STRIP}" role="text"{name}>{"".join(spans)}</span>'


def _span(
    token: str, value: float | None, full: float, focus: bool, unit: str, note: str, apart: bool
) -> str:
    attributes: dict[str, Any] = {"class": "t f" if focus else "t"}
    style = [_FOCUS] * focus + [_APART] * apart
    if value is not None:
        strength = min(1.0, abs(value) / full) if full else 0.0
        ground = POSITIVE if value >= 0 else NEGATIVE
        attributes["title"] = f"{visible(token)}  {value:.3g}{' ' + unit if unit else ''}{note}"
        if strength > 0.004:
            style.append(f"background:rgba({ground},{0.75 * strength:.3f})")
    if style:
        attributes["style"] = ";".join(style)
    inner = "".join(
        f'<span class="ws">{c}</span>' if c in "␣↵␍⇥∅" else escape(c) for c in visible(token)
    )
    listed = " ".join(f'{k}="{escape(str(v), quote=True)}"' for k, v in attributes.items())
    return f"<span {listed}>{inner}</span>"
