"""What a page can capture: models, texts that fit them, sites, and what all of it would take.

Nothing is run through a model here. Tokens are counted by the very layout that a capture uses; of
a long text its beginning is counted and the rest taken to be like it, which is said.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch

from lensbench.app.workflows.live import Shelf, hold_model
from lensbench.app.workflows.texts import WORLDS, find_text
from lensbench.errors import BudgetError, ConfigError, MismatchError, MissingDataError
from lensbench.harvest.describe import DTYPES, check_dtype, make_layout
from lensbench.harvest.sites import PROFILES, candidates, resolve, row_entry
from lensbench.harvest.text import Document, Text, read_text
from lensbench.models.base import Model
from lensbench.sites import Site

COUNTED = 100_000
"""Tokens of a text that are counted before the rest is taken to be like them."""
DOCUMENTS = 5_000
"""Documents of a world that are made for that."""
PER_PLACE = 14
"""Bytes of a place in a sequence: its token id, its document, and two marks."""
PLAIN = ("desk", "translate")
"""Worlds that are given as text, which any tokenizer can read."""
LAYOUTS, PROFILE_NAMES, DTYPE_NAMES = ("pack", "pad"), tuple(PROFILES), DTYPES


@dataclass(frozen=True)
class CaptureAsk:
    """One capture as a form holds it; empty values are left to ``capture``."""

    model: str
    text: str
    out: str
    sites: tuple[str, ...] = ()
    profile: str = ""
    max_tokens: int | None = None
    layout: str = ""
    context: int | None = None
    batch_size: int = 16
    dtype: str = "float16"

    def settings(self) -> dict[str, Any]:
        """As ``capture_text`` takes them, without what is left out."""
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in given.items() if v not in ("", None, [])}


@dataclass(frozen=True)
class SiteCost:
    """A site of the plan and what one token of it takes."""

    site: str
    shape: tuple[int, ...]
    axes: str
    bytes: int
    shares: str
    """The site whose bytes it shares where both are equal, which the capture checks; or empty."""


@dataclass(frozen=True)
class Forecast:
    """What a capture would store."""

    tokens: int
    exact: bool
    """False: the text was too long to count, see :data:`COUNTED`."""
    context: int
    layout: str
    sites: tuple[SiteCost, ...]
    bytes: int
    """On disk, with sites that share their bytes counted once."""
    free: int


def worlds_for(model: Model) -> tuple[str, ...]:
    """Worlds whose words are those of the model; plain text where it knows none of them."""
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        return ()

    def knows(words: tuple[str, ...]) -> bool:
        known = tokenizer.convert_ids_to_tokens(list(range(min(len(words), len(tokenizer)))))
        return tuple(known) == words

    found = tuple(world for world in WORLDS if knows(_vocabulary(world)))
    return found or PLAIN


@cache
def _vocabulary(world: str) -> tuple[str, ...]:
    from lensbench.worlds.desk import Desk
    from lensbench.worlds.translate import Translations

    if world in PLAIN:
        return (Desk(0) if world == "desk" else Translations(0)).vocab
    return tuple(find_text(f"{world}:1").vocab)


def check_fits(model: Model, text: str) -> None:
    """Refuse documents of a world that the model does not know, naming those that fit.

    Raises:
        MismatchError: other documents are needed.
    """
    world = text.partition(":")[0]
    fitting = worlds_for(model)
    if world not in WORLDS or Path(text).exists() or world in (*fitting, *PLAIN):
        return
    named = " or ".join(f"{w}:N" for w in fitting)
    raise MismatchError(
        f"model {model.card.name!r} does not know the words of {world}; what fits it: "
        f"{named + ', or ' if named else ''}a .txt or .jsonl file of your own"
    )


def site_costs(model: Model, ask: CaptureAsk, context: int) -> tuple[SiteCost, ...]:
    """The sites that ``ask`` names, in execution order, and what a token of each takes.

    Raises:
        UnknownSiteError, ConfigError: sites that the model has not, or none at all.
    """
    chosen = resolve(model, list(ask.sites) or None, ask.profile or None)
    shared = candidates(chosen, ())
    size = getattr(torch, ask.dtype).itemsize
    rows = [(s, row_entry(model, s, context)) for s in chosen]
    return tuple(
        SiteCost(str(s), tuple(e.shape), e.axes, e.width * size, str(shared.get(s, "")))
        for s, e in rows
    )


def site_names(name: str) -> tuple[str, ...]:
    """Every site that the model of that name can store: for all layers at once, then one by one."""
    model = hold_model(name).model
    have = [s for s in model.sites() if s.name != "attn.scores"]
    stacks = {s.stack for s in have}
    have = [s for s in have if "encoder" not in stacks or s.stack == "encoder"]
    layers = dict.fromkeys(_pattern(s) for s in have if s.layer is not None)
    return (*layers, *(str(s) for s in have))


def _pattern(site: Site) -> str:
    return str(site).replace(f"blocks.{site.layer}.", "blocks.*.")


_counts: "Shelf[_Count]" = Shelf(32)


def forecast(ask: CaptureAsk, root: Path) -> Forecast:
    """What ``ask`` would store; the model is opened, and not run.

    Raises:
        LensbenchError: whatever ``capture`` would refuse, as far as that is known before.
        BudgetError: it does not fit on the disk.
    """
    check_dtype(ask.dtype)
    held = hold_model(ask.model)
    check_fits(held.model, ask.text)
    context = _layout(held.model, _text(ask, first=1), ask).context
    sites = site_costs(held.model, ask, context)
    stamp = Path(ask.text).stat().st_mtime_ns if Path(ask.text).is_file() else 0
    key = (ask.model, ask.text, stamp, ask.layout, ask.context, ask.max_tokens)
    with held.lock:  # tokenizers are no more for two at once than models are
        count = _counts.get(key, lambda: _count(held.model, ask))
    layout = _layout(held.model, _text(ask, first=1), ask)
    row = sum(s.bytes for s in sites if not s.shares)
    size = count.tokens * row + count.places * PER_PLACE
    free = disk_usage(root).free
    found = Forecast(count.tokens, count.exact, context, layout.name, sites, size, free)
    if found.bytes > found.free:
        raise BudgetError(
            f"this needs {found.bytes / 2**30:,.2f} GiB, and {found.free / 2**30:,.2f} GiB are "
            "free; take fewer tokens or sites, or a smaller dtype"
        )
    return found


def _layout(model: Model, text: Text, ask: CaptureAsk) -> Any:
    layout: Any = ask.layout or None
    return make_layout(
        model, text, layout, ask.context, True, False, None, ask.batch_size, ask.max_tokens
    )


def _text(ask: CaptureAsk, *, first: int = 0) -> Text:
    """The text, or the first few documents of a world (more are as they are)."""
    world, _, rest = ask.text.partition(":")
    if world in WORLDS and not Path(ask.text).exists() and first:
        count, *more = rest.split(":")
        if count.isdigit() and int(count) > first:
            return read_text(find_text(":".join([world, str(first), *more])))
    return read_text(find_text(ask.text))


@dataclass(frozen=True)
class _Count:
    tokens: int
    places: int
    """Tokens and the padding behind them."""
    exact: bool


def _count(model: Model, ask: CaptureAsk) -> _Count:
    """Tokens that a capture would store, and whether all of them were counted."""
    sample = _text(ask, first=DOCUMENTS)
    read = [0]

    def documents() -> Iterator[Document]:
        for document in sample.documents():
            read.append(read[-1] + (len(document.encode()) if isinstance(document, str) else 0))
            yield document

    watched = replace(sample, documents=documents)
    tokens = last = rows = longest = 0
    for row in _layout(model, watched, ask).sequences(watched, model.tokenizer):
        tokens, last = tokens + len(row.ids), int(row.docs[-1]) + 1
        rows, longest = rows + 1, max(longest, len(row.ids))
        if tokens >= COUNTED:
            break
    else:
        last = len(read) - 1 if ask.max_tokens is None or tokens < ask.max_tokens else last
    if not tokens:
        raise ConfigError("the text is empty: no document in it has a token")
    share = _share(ask, last, read[last], ended=tokens < COUNTED)
    over = ask.max_tokens is not None and tokens >= ask.max_tokens
    if share >= 1 or over:
        return _Count(tokens, rows * longest, exact=True)
    guess = round(tokens / share)
    guess = guess if ask.max_tokens is None else min(guess, ask.max_tokens)
    return _Count(guess, round(rows * longest * guess / tokens), exact=False)


def _share(ask: CaptureAsk, documents: int, size: int, *, ended: bool) -> float:
    """Which part of the text was read to count its tokens."""
    path = Path(ask.text)
    if not path.is_file():
        count = ask.text.split(":")[1] if ":" in ask.text else "2000"
        return documents / int(count)
    if ended:
        return 1.0
    if path.suffix in (".jsonl", ".ndjson"):
        with path.open("rb") as file:
            return documents / max(1, sum(1 for line in file if line.strip()))
    return min(1.0, size / max(1, path.stat().st_size))


def require_room(out: Path) -> None:
    """Refuse a folder that holds something other than a store.

    Raises:
        ConfigError: it does.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise ConfigError(f"{out.name} holds something that is no store; choose another name")
    if not out.parent.is_dir():
        raise MissingDataError(f"there is no folder {out.parent} any more")
