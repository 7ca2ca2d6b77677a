"""One trained dictionary by the name a user gives it, and its latents over a store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lensbench.app.workflows.runs import all_runs, parts_of
from lensbench.errors import ConfigError, MismatchError, MissingDataError, UnknownNameError
from lensbench.results import load as load_result
from lensbench.saes.coder import SparseCoder
from lensbench.saes.formats import FORMATS, load, recognise
from lensbench.saes.latents.encoding import encode_store
from lensbench.saes.runs import RESULT_FOLDER, STATUS_FILE, SAERun
from lensbench.store import open_store


def open_dictionary(name: str) -> Any:
    """``RUN/NAME``, a folder or file in any format of ``saes.load``, or ``sae_lens:release/id``.

    A run that trained one dictionary is enough without its name.

    Raises:
        MissingDataError: neither a run nor a dictionary there.
        UnknownNameError: the run has no finished dictionary of that name.
        ConfigError: the run has several, and none was named.
    """
    if name.startswith("sae_lens:"):
        return load(name)
    path = Path(name)
    if (path / RESULT_FOLDER / "result.json").is_file():
        return load_result(path / RESULT_FOLDER)
    if recognise(path):
        return load(path)
    for run, wanted in ((path, ""), (path.parent, path.name)):
        if _is_run(run):
            return _of_run(run, wanted)
    raise MissingDataError(
        f"no dictionary in {name}; pass RUN/NAME (see `lensbench runs show RUN`), a folder or file "
        f"in one of the formats {', '.join(FORMATS)}, or sae_lens:release/id"
    )


def runs_named(name: str) -> list[SAERun]:
    """The finished dictionaries of ``RUN``, or the one of ``RUN/NAME``.

    Raises:
        MissingDataError: no run there.
        UnknownNameError: the run has no finished dictionary of that name.
    """
    path = Path(name)
    if _is_run(path):
        return all_runs(path)
    if _is_run(path.parent):
        return [_of_run(path.parent, path.name)]
    parts_of(path)  # says what is missing
    raise AssertionError("no run is an error above")


def runs_or_foreign(place: Path) -> list[SAERun]:
    """The finished dictionaries of a run; or one of any format of ``saes.load``, as a run of one.

    Raises:
        MissingDataError: neither there.
        MismatchError: a dictionary that only its own library can hold.
    """
    name = str(place)
    if _is_run(place) or not (name.startswith("sae_lens:") or recognise(place)):
        return all_runs(place)
    coder = load(name)
    if not isinstance(coder, SparseCoder):
        raise MismatchError(f"{name} is of another library's kind; score it with saes.evaluate")
    # A run's own `result` folder says no more by its name than that it is one.
    called = place.parent.name if place.name == RESULT_FOLDER else place.name
    return [SAERun.of(coder, name=called, site=coder.site or "", status="finished")]


def _is_run(path: Path) -> bool:
    return (path / STATUS_FILE).is_file() or any(path.glob(f"part-*/{STATUS_FILE}"))


def _of_run(run: Path, wanted: str) -> Any:
    finished = {one.name: one for one in all_runs(run)}
    if wanted in finished:
        return finished[wanted]
    if not wanted and len(finished) == 1:
        return next(iter(finished.values()))
    if not wanted:
        raise ConfigError(
            f"{run} holds {len(finished)} dictionaries; name one as {run}/NAME; known: "
            f"{', '.join(finished)}"
        )
    parts = len(parts_of(run))
    hint = f"Write {run}/NAME." if parts == 1 else f"(In the {parts} parts of {run}.)"
    raise UnknownNameError("finished dictionary", wanted, known=list(finished), hint=hint)


def encode_dictionary(
    name: str,
    store: Path,
    *,
    out: Path | None = None,
    dtype: str = "float32",
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Encode a store with one dictionary; where the latents lie and how many there are."""
    sae, opened = open_dictionary(name), open_store(store)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done=done, total=opened.n_tokens)

    latents = encode_store(sae, opened, out=out, dtype=dtype, progress=tell)
    manifest = latents.manifest
    return {
        "out": latents.url,
        "dictionary": latents.sae["name"],
        "site": latents.site,
        "store": opened.url,
        "d_sae": latents.d_sae,
        "tokens": latents.n_tokens,
        "active": latents.nnz,
        "l0": latents.nnz / max(1, latents.n_tokens),
        "bytes": sum(int(shard["file"][1]) for shard in manifest["shards"]),
        "complete": latents.complete,
    }
