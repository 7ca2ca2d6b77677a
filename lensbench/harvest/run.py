"""``capture``: run a model over a text once and keep its activations in a store.

1. Lay the text out as sequences, batches and shards; this depends on the text and the settings
   only, never on what is stored already or on the number of processes.
2. Skip the shards that are there, after comparing their tokens.
3. Run the model up to the deepest wanted site; copy the kept rows into a buffer.
4. Hand the full buffer to the writer thread and go on with the other one.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from os import PathLike, fspath
from typing import Any

from lensbench import provenance
from lensbench.arguments import refuse_no_model
from lensbench.errors import ConfigError, MismatchError, StoppedError
from lensbench.harvest import ranks
from lensbench.harvest import sites as site_rules
from lensbench.harvest.describe import check_dtype, make_layout, model_entry, tokenizer_entry
from lensbench.harvest.fill import Buffers, Job, fill, jobs, shard_size
from lensbench.harvest.layout import Layout, LayoutName, Positions
from lensbench.harvest.text import Text, read_text
from lensbench.models.base import Model
from lensbench.progress import told
from lensbench.sites import Site
from lensbench.store.checks import refuse_altered
from lensbench.store.folder import Folder, open_folder
from lensbench.store.manifest import MANIFEST, Manifest, SiteEntry
from lensbench.store.reader import ActivationStore, open_store, token_batch
from lensbench.store.writer import (
    Lock,
    StoreWriter,
    begin,
    compare,
    finish,
    present,
    read_manifest,
)

Progress = Callable[[int], None] | bool


def capture(
    model: Model,
    texts: Any,
    sites: str | Site | Sequence[str | Site] | None = None,
    *,
    profile: site_rules.Profile | None = None,
    out: str | PathLike[str],
    layout: LayoutName | None = None,
    context: int | None = None,
    bos: bool = True,
    exclude_special: bool | Sequence[int] = False,
    positions: Positions = None,
    dtype: str = "float16",
    batch_size: int = 16,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> ActivationStore:
    """Run ``model`` over ``texts`` and store its activations at ``sites`` in the folder ``out``.

    The same call again continues after an interruption; other sites with the same text and settings
    are added to the same store. What is there of ``sites`` is read once and its checksums compared;
    files that are gone are made again. Every rank under ``torchrun`` calls this and takes its
    share.

    Args:
        model: from ``lensbench.load_model``.
        texts: a ``.txt`` or ``.jsonl`` path, strings, token ids, a dataset, a corpus of a world, or
            what ``lensbench.harvest.read_text`` gives.
        sites: names; ``*`` matches layers, as in ``blocks.*.resid_post``.
        profile: ``resid`` (residual stream before, in and after every block) or ``full`` (also
            attention patterns and MLP neurons), in addition to ``sites``; ``sae`` has these alone.
        out: a folder or any fsspec URL.
        layout: ``pack`` or ``pad``; see ``lensbench.harvest.layout`` for who sees whom. Default:
            ``pad`` for a corpus of a world, whose documents share no context, else ``pack``.
        context: longest sequence, in tokens; default: 128, or the model's own if that is less.
        bos: whether text gets a BOS; ids are fed as given.
        exclude_special: keep no rows of special tokens (True: the tokenizer's; or these ids). They
            are fed to the model all the same.
        positions: keep only these places of a sequence; negative ones count from its end.
        dtype: of the stored numbers.
        batch_size: sequences per forward pass.
        max_tokens: stop after the sequence with which this many tokens have been fed.
        progress: called with the number of tokens run so far; without it a bar is shown on a
            terminal and in notebooks, with False nothing.

    Raises:
        ConfigError: an argument that cannot be used, empty text, or text without a tokenizer.
        MismatchError: ``out`` holds a store of another model, text or setting.
        DamagedDataError: files in ``out`` were altered; names them and the command to repair.
        NonFiniteError: NaN, infinity, or a number too large for ``dtype``.
        DataError: ``out`` cannot be written.
        StoppedError: interrupted; finished shards are on disk.

    Example:
        >>> store = lensbench.capture(model, documents, profile="resid", out="acts", layout="pad")
        >>> store.rows("blocks.3.resid_post", slice(0, 4)).shape
        (4, 128)
    """
    refuse_no_model(model)
    check_dtype(dtype)
    chosen = site_rules.resolve(model, sites, profile)
    text = read_text(texts)
    plan = make_layout(
        model, text, layout, context, bos, exclude_special, positions, batch_size, max_tokens
    )
    entries = {str(s): site_rules.row_entry(model, s, plan.context) for s in chosen}
    folder = open_folder(out)
    header = _header(model, text, plan, dtype, entries, folder)
    if _already_there(folder, header, entries):
        return ActivationStore(folder)
    lock = None
    try:
        work = jobs(plan, text, model.tokenizer, header.settings["batches_per_shard"])
        first = next(work, None)
        if first is None:  # before anything is written: a refusal leaves no folder behind
            raise ConfigError("the text is empty: no document in it has a token")
        lock = Lock(folder) if ranks.place()[0] == 0 else None
        with told("capture", progress, max_tokens, "token") as so_far:
            _capture(model, plan, (first, work), header, entries, folder, so_far)
    except KeyboardInterrupt as stop:
        raise StoppedError(
            f"stopped; finished shards are in {fspath(out)}. The same call continues there"
        ) from stop
    finally:
        if lock is not None:
            lock.free()
    return open_store(out)


def _header(
    model: Model,
    text: Text,
    layout: Layout,
    dtype: str,
    entries: Mapping[str, SiteEntry],
    folder: Folder,
) -> Manifest:
    settings = layout.settings(given_as_ids=text.given_as_ids)
    size = shard_size(layout, dtype, entries)
    if folder.exists(MANIFEST):  # whose shards decide
        size = read_manifest(folder).settings.get("batches_per_shard", size)
    settings = {**settings, "dtype": dtype, "batches_per_shard": size}
    return Manifest(model_entry(model), tokenizer_entry(model.tokenizer), text.entry, settings)


def _already_there(folder: Folder, header: Manifest, entries: Mapping[str, SiteEntry]) -> bool:
    if not folder.exists(MANIFEST):
        return False
    known = read_manifest(folder)
    compare(known, header, folder.url)
    _same_dictionaries(known, entries, folder.url)
    if ranks.place()[0] == 0:
        refuse_altered(folder, known, entries)
    whole = all(present(folder, shard) == shard for shard in known.shards)
    return known.complete and whole and set(entries) <= set(known.covered)


def _same_dictionaries(known: Manifest, entries: Mapping[str, SiteEntry], url: str) -> None:
    """Refuse latents of one dictionary where those of another lie."""
    for name, entry in entries.items():
        stored = known.sites.get(name)
        if stored is not None and stored.source != entry.source:
            raise MismatchError(
                f"the store in {url} holds {name} of dictionary {stored.source}, now it is "
                f"{entry.source}; choose another folder, or remove that store"
            )


def _capture(
    model: Model,
    layout: Layout,
    jobs_of_text: tuple[Job, Iterator[Job]],
    header: Manifest,
    entries: Mapping[str, SiteEntry],
    folder: Folder,
    so_far: Callable[[int], None],
) -> None:
    started, (rank, world) = time.monotonic(), ranks.place()
    first, work = jobs_of_text
    if rank == 0:
        begin(folder, header, _with_aliases(model, first, entries, folder))
    ranks.together()
    manifest = read_manifest(folder)
    own = {manifest.stored(s): manifest.sites[manifest.stored(s)] for s in entries}
    writer = StoreWriter(folder, manifest)
    try:
        n_jobs = _run(model, chain([first], work), own, writer, header, (rank, world), so_far)
        writer.close()
    finally:
        writer.stop()
    ranks.together()
    if not any(shard.rows for shard in read_manifest(folder).shards):
        raise ConfigError(
            "no token was kept: positions, roles and excluded tokens leave no row of any document. "
            f"Remove {folder.url} and choose others"
        )
    if rank == 0:
        finish(folder, n_jobs, asdict(layout.counts))
        _write_provenance(folder, model, time.monotonic() - started, world)
    ranks.together()


def _run(
    model: Model,
    work: Iterator[Job],
    own: Mapping[str, SiteEntry],
    writer: StoreWriter,
    header: Manifest,
    place: tuple[int, int],
    so_far: Callable[[int], None],
) -> int:
    buffers, n_jobs, fed = Buffers(header.settings["dtype"]), 0, 0

    def after(tokens: int) -> None:
        nonlocal fed
        fed += tokens
        so_far(fed)

    for job in work:
        n_jobs += 1
        if job.number % place[1] != place[0]:
            continue
        writer.check_tokens(job.number, job.tokens)
        need = writer.missing(job.number, own)
        if not need:
            continue
        held, n = buffers.take(), int(job.tokens.kept.sum())
        rows = {name: buffers.rows(held, name, n, own[name].width) for name in need}
        fill(model, job, rows, own, after)
        writer.submit(job.number, job.tokens, rows, lambda held=held: buffers.give_back(held))
    return n_jobs


def _with_aliases(
    model: Model, first: Job, entries: Mapping[str, SiteEntry], folder: Folder
) -> dict[str, SiteEntry]:
    """Sites not stored yet, those that equal another one on the first batch marked as its alias."""
    known = read_manifest(folder) if folder.exists(MANIFEST) else None
    new = {k: v for k, v in entries.items() if known is None or k not in known.sites}
    stored = known.covered if known is not None and known.complete else ()
    pairs = site_rules.candidates(map(Site.parse, new), map(Site.parse, stored))
    batch = first.batches[0]
    equal = site_rules.proven(model, token_batch(batch.ids, batch.real), pairs)
    names = {str(a): str(b) for a, b in equal.items()}
    return {k: replace(v, alias=names.get(k)) for k, v in new.items()}


def _write_provenance(folder: Folder, model: Model, seconds: float, world: int) -> None:
    """When, where and how long: kept out of the manifest, which must not depend on it."""
    made = provenance.record(
        model=model_entry(model), seconds=seconds, note=f"capture by {world} process(es)"
    )
    folder.write("provenance.json", [json.dumps(made.to_dict(), indent=1).encode()])
