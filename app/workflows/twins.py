"""A control by doing it all again: the same text, site and settings through random weights."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lensbench.app.workflows.capturing import tokens_done
from lensbench.errors import LensbenchError, MissingDataError

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.saes import SAERun
    from lensbench.store import ActivationStore

TWIN = "reinitialised_twin"
FORGOTTEN = (
    "the store holds activations of {kind}, which cannot be read again; a twin needs a text file "
    "or atlas:N"
)


MOST_ROWS = 500_000
"""Rows of a store up to which its twin is captured unasked."""


@contextmanager
def passing_twin(
    store: "ActivationStore", sites: Sequence[str]
) -> "Generator[tuple[ActivationStore | None, str]]":
    """The text of ``store`` through random weights, until the end; or none, and why."""
    from lensbench.app.workflows.models import open_model
    from lensbench.app.workflows.sequences import model_name
    from lensbench.probes import control_stores

    if store.n_tokens > MOST_ROWS:
        yield None, f"the store has {store.n_tokens:,} rows, and twins are made of {MOST_ROWS:,}"
        return
    with TemporaryDirectory(prefix="lensbench-twin-") as folder:
        try:
            model = open_model(*model_name(store))
            made = control_stores(store, model, folder, which=[TWIN], sites=sites)[TWIN]
        except LensbenchError as error:
            yield None, str(error)
            return
        yield made, ""


def trained_twin(
    like: "SAERun",
    train: Mapping[str, Any],
    store: "ActivationStore",
    model: "Model",
    folder: Path,
    *,
    seed: int = 0,
    progress: Callable[..., None] | None = None,
) -> "tuple[SAERun, ActivationStore]":
    """Capture the text of ``store`` through a re-initialised ``model`` and train ``like`` on it.

    ``folder/acts`` holds the twin's activations at its site (of a transcoder, both) and
    ``folder/run`` its dictionary; both go on where they were stopped. ``train`` is the ``train``
    section of the sweep of ``like``.

    Raises:
        MissingDataError: text that came from memory, or a file that has changed or gone.
    """
    from lensbench import capture, saes
    from lensbench.saes.configs import SweepConfig
    from lensbench.saes.ends import Ends, all_sites
    from lensbench.worlds.controls import reinitialised_twin

    text = _text_again(store.text)
    twin = reinitialised_twin(model, seed + 1)
    sweep = SweepConfig.parse({"train": dict(train), "sweep": [like.config]})
    sites = all_sites([Ends.of(config, like.site) for config in sweep.expand()])
    options = _capture_settings(store.settings)
    count = tokens_done(progress, options["max_tokens"])
    acts = capture(twin, text, sites, out=folder / "acts", progress=count, **options)
    run = folder / "run"
    return saes.train(acts, sweep, out=run, resume=run.is_dir(), model_card=acts.model)[0], acts


def _capture_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``capture`` that gave a store, from its manifest."""
    kept = ("layout", "context", "batch_size", "max_tokens", "dtype")
    where = settings["positions"]
    return {
        **{name: settings[name] for name in kept},
        "bos": bool(settings["bos"]),  # of ids, "as given": then it has no effect
        "exclude_special": tuple(settings["excluded_ids"]),
        "positions": slice(*where.values()) if isinstance(where, Mapping) else where,
    }


def _text_again(entry: Mapping[str, Any]) -> Any:
    """The text that a manifest names.

    Raises:
        MissingDataError: it lived in memory, or the file is not what it was.
    """
    from lensbench.harvest import read_text
    from lensbench.worlds.corpora import WORLDS, corpus_from_spec

    if entry["kind"] in WORLDS:
        return corpus_from_spec(entry["spec"])
    if entry["kind"] != "file":
        raise MissingDataError(FORGOTTEN.format(kind=entry["kind"]))
    rule = {name: entry[name] for name in ("separator", "field") if name in entry}
    text = read_text(entry["path"], **rule)
    if text.entry["fingerprint"] != entry["fingerprint"]:
        raise MissingDataError(
            f"{entry['path']} has changed since the store was captured; a twin "
            "needs the same text: put it back, or capture it again"
        )
    return text
