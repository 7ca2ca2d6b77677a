"""What every result has to show in a notebook: inert HTML, and a figure that says what it is of."""

import re
from collections.abc import Iterable
from typing import Any

from lensbench.plots.tables import MAX_COLUMNS
from lensbench.results import Result
from lensbench.words import SPELLED
from tests.contract.test_results_in_notebooks import NO_PICTURE, is_inert

NOTHING_COUNTED = {
    "AlignedSubspace": "the loss of one search",
    "CausalBasis": "directions of a lens, by what each is worth",
    "ClampedLatent": "one vector",
    "CompositionScores": "numbers of weights",
    "ContrastiveText": "one text",
    "DecoderLens": "one sentence",
    "DecoderMap": "numbers of weights",
    "Direction": "one vector",
    "Eraser": "one matrix",
    "FeatureAttribution": "one latent at one position",
    "FutureGrid": "one text",
    "FutureLens": "one map",
    "HDReading": "states, each read alone",
    "LatentGraph": "one prompt",
    "LayerTimes": "one machine",
    "LensGrid": "one text",
    "LinearProbe": "numbers of weights",
    "LogitAttribution": "one prompt, or several that it names",
    "NeuronClamps": "numbers of weights",
    "RankOneEdit": "one matrix",
    "SiteLens": "one text",
    "SoftPrompts": "the loss of one search",
    "SubspaceAngles": "numbers of weights",
    "TokenAttribution": "one prompt",
    "TokenLens": "one text",
    "Transplant": "one state",
}
"""Results whose figure averages nothing, and what it shows: it names no n."""
_COUNT = re.compile(r"\bn ?= ?\d|\bn up to \d|\d[\d,]*(?: \S+){0,3} "
                    r"(?:tokens?|prompts?|texts?|pairs?|documents?|rows?|sequences?|neurons?|"
                    r"latents?|items?|words?|states?|labels?|sentences?|heads?|entities|spans?|bundles?|"
                    r"answers?|names?|questions?|games?|moves?|steps?|trials?|cells?|directions?|"
                    r"symbols?)\b")  # fmt: skip
_NAN = re.compile(r"\bnan\b", re.IGNORECASE)
_SNAKE = re.compile(r"(?<![\w.])[a-z0-9]+(?:_[a-z0-9]+)+\b")
_THEIRS = re.compile(r"is_\w+|d_(?:model|sae)|p_l|\S*(?:resid|attn|mlp)_\w+|[\w.]+\.[\w.]+")
"""Names that a user gave, or that a user types: labels, sites, dictionaries."""


def faults(result: Result) -> list[str]:
    """What is wrong with how a result shows itself; empty where all is well."""
    found: list[str] = []
    if not is_inert(result._repr_html_()):
        found.append("its HTML is not inert")
    told = result._repr_html_()
    found += [f"it shows a number that is none: {told[:200]}"] * bool(_NAN.search(repr(result)))
    if told.split("</tr>")[0].count("<th ") > MAX_COLUMNS:
        found.append("its table is wider than a page")
    if not len(result.to_frame().columns):
        found.append("its frame has no columns")
    if result.kind in NO_PICTURE:
        return found
    figure = result.plot()
    layout: Any = figure.to_plotly_json()["layout"]
    title = layout.get("title") or {}
    told = f"{title.get('text', '')} {(title.get('subtitle') or {}).get('text', '')}".strip()
    told = told.replace("<br>", " ")
    if not told:
        found.append("its figure has no title")
    if result.kind not in NOTHING_COUNTED and not _COUNT.search(told):
        found.append(f"its figure does not say n: {told!r}")
    titles: list[str] = []
    for letter in "xy":
        axes = [layout[name] for name in layout if re.fullmatch(rf"{letter}axis\d*", name)]
        here = [text for axis in axes if (text := (axis.get("title") or {}).get("text"))]
        worded = any(axis.get("ticktext") for axis in axes) or _in_words(figure, letter)
        if axes and not here and not worded:
            found.append(f"its {letter} axis has no title")
        titles += here
    found += [f"it says {word!r}" for word in _raw([told, *titles])]
    if _NAN.search(told):
        found.append(f"its figure shows a number that is none: {told!r}")
    return found


def _in_words(figure: Any, letter: str) -> bool:
    """Whether an axis needs no title, because its values are words."""
    values = [v for t in figure.data if t[letter] is not None for v in t[letter]]
    return bool(values) and all(isinstance(v, str) for v in values)


def _raw(texts: Iterable[str]) -> list[str]:
    """Names as they stand in code."""
    return [
        word
        for text in texts
        for word in _SNAKE.findall(_THEIRS.sub("", text))
        if word not in SPELLED.values()
    ]
