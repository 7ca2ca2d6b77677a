"""What a page can capture: models, texts that fit them, sites, and what all of it would take.

Nothing is run through a model here. Tokens are counted by the very layout that a capture uses; of
a long text its beginning is counted and the rest taken to be like it, which is said.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch

from lensbench.app.workflows.detached import JOBS
from lensbench.app.workflows.fitting import check_fits
from lensbench.app.workflows.live import Shelf, hold_model
from lensbench.app.workflows.texts import WORLDS, find_text
from lensbench.errors import BudgetError, ConfigError
from lensbench.harvest.describe import DTYPES, check_dtype, make_layout
from lensbench.harvest.sites import candidates, resolve, row_entry
from lensbench.harvest.text import Document, Text, read_text
from lensbench.models.base import Model
from lensbench.sites import Site

COUNTED = 100_000
"""Tokens of a text that are counted before the rest is taken to be like them."""
DOCUMENTS = 5_000
"""Documents of a world that are made for that."""
PER_PLACE = 14
"""Bytes of a place in a sequence: its token id, its document, and two marks."""
DTYPE_NAMES = DTYPES


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
        """As ``capture_text`` takes them, without what is as usual."""
        usual = CaptureAsk("", "", "")
        given = {k: v for k, v in asdict(self).items() if v != getattr(usual, k)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}


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
    unknown: float
    """Share of the counted tokens that the tokenizer has no word for."""
    context: int
    layout: str
    sites: tuple[SiteCost, ...]
    bytes: int
    """On disk, with sites that share their bytes counted once."""
    free: int


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
    found = Forecast(
        count.tokens, count.exact, count.unknown, context, layout.name, sites, size, free
    )
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
    unknown: float
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
    tokens = last = rows = longest = unknown = 0
    strange = getattr(model.tokenizer, "unk_token_id", None)
    for row in _layout(model, watched, ask).sequences(watched, model.tokenizer):
        tokens, last = tokens + len(row.ids), int(row.docs[-1]) + 1
        rows, longest = rows + 1, max(longest, len(row.ids))
        unknown += 0 if strange is None else int((row.ids == strange).sum())
        if tokens >= COUNTED:
            break
    else:
        last = len(read) - 1 if ask.max_tokens is None or tokens < ask.max_tokens else last
    if not tokens:
        raise ConfigError("the text is empty: no document in it has a token")
    share = _share(ask, last, read[last], ended=tokens < COUNTED)
    over = ask.max_tokens is not None and tokens >= ask.max_tokens
    if share >= 1 or over:
        return _Count(tokens, rows * longest, unknown / tokens, exact=True)
    guess = round(tokens / share)
    guess = guess if ask.max_tokens is None else min(guess, ask.max_tokens)
    places = round(rows * longest * guess / tokens)
    return _Count(guess, places, unknown / tokens, exact=False)


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


def cost_rows(cost: Forecast) -> list[dict[str, Any]]:
    """One row per site for a table: its numbers per token, and what they take."""
    return [
        {
            "site": s.site,
            "numbers per token": " x ".join(str(n) for n in s.shape),
            "axes": s.axes,
            "bytes per token": 0 if s.shares else s.bytes,
            "MiB": round(0 if s.shares else s.bytes * cost.tokens / 2**20, 2),
            "shares the bytes of": s.shares,
        }
        for s in cost.sites
    ]


def python_of(ask: CaptureAsk) -> str:
    """The same in a notebook."""
    told = {k: v for k, v in ask.settings().items() if k not in ("model", "text", "out")}
    lines = [f"    {key}={value!r}," for key, value in told.items()]
    return "\n".join([
        "import lensbench",
        "from lensbench.app.workflows.texts import find_text",
        "",
        f"model = lensbench.load_model({ask.model!r})",
        "store = lensbench.capture(",
        f"    model, find_text({ask.text!r}), out={ask.out!r},",
        *lines,
        ")",
        "store",
    ])  # fmt: skip


def size(n_bytes: float) -> str:
    """Bytes for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def place(root: Path, name: str) -> str:
    """Folder of a new store below ``root``.

    Raises:
        ConfigError: a name that leads elsewhere or is no plain one.
    """
    parts = name.split("/")
    if any(part == "" or part.startswith(".") for part in parts) or parts[0] == JOBS:
        raise ConfigError(f"{name!r} cannot name a store: plain names, parted by /")
    if not (root / name).resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{name!r} leads out of the folder shown, by a link; choose another name")
    return str(root / name)


def require_room(out: Path) -> None:
    """Refuse a folder that holds something other than a store.

    Raises:
        ConfigError: it does.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise ConfigError(f"{out.name} holds something that is no store; choose another name")
