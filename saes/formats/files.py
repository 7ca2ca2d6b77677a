"""One door to every format: recognise what lies in a folder, read it, write it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from lensbench.devices import as_device
from lensbench.errors import ConfigError, MissingDataError, UnknownNameError
from lensbench.saes.coder import SparseCoder
from lensbench.saes.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llamascopium,
    native,
    openai,
    sae_lens,
    sparsify,
)
from lensbench.saes.formats.parts import check_finite, without_place
from lensbench.saes.sae import SAE

if TYPE_CHECKING:
    from lensbench.saes.wrapped import WrappedSAE

FormatName = Literal[
    "sae_lens",
    "dictionary_learning",
    "sparsify",
    "llamascopium",
    "gemma_scope",
    "openai",
    "circuit_tracer",
    "lensbench",
]
WrittenFormat = Literal[
    "sae_lens",
    "dictionary_learning",
    "sparsify",
    "llamascopium",
    "gemma_scope",
    "openai",
    "lensbench",
]
_SCHEME = "sae_lens:"


@dataclass(frozen=True)
class Format:
    """How one format looks on disk, and who reads and writes it."""

    files: tuple[str, ...]
    """What a folder of it holds; empty where a dictionary is one file of any name."""
    read: Callable[[Path], SparseCoder]
    write: Callable[[Any, Path], None] | None = None
    suffix: str | None = None
    """Ending of a single file."""

    @property
    def told(self) -> str:
        """Its files, for messages."""
        single = f"the path of a {self.suffix} file" if self.suffix else ""
        return " or ".join(p for p in (" + ".join(self.files), single) if p)


def _folder_format(module: Any) -> Format:
    files = (module.CONFIG_FILE, module.WEIGHTS_FILE)
    return Format(files, module.read, getattr(module, "write", None))


def _file_format(module: Any) -> Format:
    """One file of any name with this suffix; under the name that we give it, a folder will do."""
    return Format((module.WEIGHTS_FILE,), module.read, module.write, module.SUFFIX)


FORMATS: dict[str, Format] = {
    "sae_lens": _folder_format(sae_lens),
    "dictionary_learning": _folder_format(dictionary_learning),
    "sparsify": _folder_format(sparsify),
    "llamascopium": _folder_format(llamascopium),
    "gemma_scope": _file_format(gemma_scope),
    "openai": _file_format(openai),
    "circuit_tracer": Format((), circuit_tracer.read, suffix=circuit_tracer.SUFFIX),
    "lensbench": _folder_format(native),
}
"""Every format, by the name that ``format=`` takes."""


def recognise(path: Path | str) -> list[str]:
    """The formats whose files ``path`` holds (a folder) or is one of (a file); empty if none."""
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    if not place.exists():
        return []
    whole = [
        name
        for name, one in FORMATS.items()
        if one.files
        and (place == folder or place.name in one.files)
        and all((folder / file).is_file() for file in one.files)
    ]
    if whole or place == folder:
        return whole
    parts = {file for one in FORMATS.values() for file in one.files}
    single = [n for n, one in FORMATS.items() if place.suffix == (one.suffix or " ")]
    return [] if place.name in parts else single


def load(
    path: Path | str, *, format: FormatName | None = None, device: torch.device | str = "cpu"
) -> "SparseCoder | WrappedSAE":
    """Read a dictionary of any known format, as float32; ``format`` forces one.

    It is an :class:`~lensbench.saes.sae.SAE`, a :class:`~lensbench.saes.transcoder.Transcoder` or a
    :class:`~lensbench.saes.crosscoder.Crosscoder`.

    The format is recognised from the files: ``sae_lens`` (6.0 or later; what :func:`save` writes),
    ``dictionary_learning``, ``sparsify``, ``llamascopium``, ``gemma_scope`` (``params.npz``),
    ``openai`` (a ``.pt`` file), ``circuit_tracer`` (any other ``.safetensors`` file) and
    ``lensbench`` (crosscoders and TopK transcoders too). No pickle is ever run. Scales, decoder
    norms and gates are folded into the weights: see "Formats" in
    ``docs/methods.md``.

    ``hf://owner/name[/path][@revision]`` comes from the hub or its local cache
    (:func:`lensbench.saes.hub.pull_from_hub`).
    ``sae_lens:<release>/<id>`` is read through SAELens itself: see
    :func:`lensbench.saes.from_sae_lens.load_sae_lens`, which may give a
    :class:`~lensbench.saes.wrapped.WrappedSAE`.

    Raises:
        ConfigError: no path, or files of several formats and none named.
        MissingDataError: no dictionary there; says which files were looked for.
        DamagedDataError: not readable, tensors absent, unknown or of the wrong shape, or a pickle
            with more than tensors in it.
        NonFiniteError: weights that are NaN or infinite.
        UnknownNameError: no such format; an architecture that cannot be read here.
        MismatchError: what a format has and no dictionary here, such as a normalisation that
            weights cannot express.

    Example:
        >>> folder = saes.save(run.sae, "dictionary", format="sae_lens")
        >>> torch.equal(saes.load(folder).encode(x), run.sae.encode(x))
        True
    """
    if not isinstance(path, (str, Path)) or not str(path).strip():  # pyright: ignore[reportUnnecessaryIsInstance] - users
        raise ConfigError(
            "pass the folder of a dictionary, hf://owner/name or sae_lens:<release>/<id>; got "
            f"{path!r}"
        )
    _check_name(format, get_args(FormatName))
    if str(path).startswith("hf://"):
        from lensbench.saes.hub import pull_from_hub

        path = pull_from_hub(str(path), format=format)
    if str(path).startswith(_SCHEME):
        return _through_sae_lens(str(path), format, device)
    place = Path(path).expanduser()
    name = format or _only(recognise(place), place)
    inside = place.parent if place.is_file() and FORMATS[name].suffix is None else place
    if not place.exists():
        raise MissingDataError(f"no dictionary in {place}: there is no such file or folder")
    sae = check_finite(FORMATS[name].read(inside), place)
    where = as_device(device)
    return sae if where.type == "cpu" else sae.to(where)


def _through_sae_lens(
    name: str, format: str | None, device: torch.device | str
) -> "SAE | WrappedSAE":
    if format not in (None, "sae_lens"):
        raise ConfigError(f"{name} is read through SAELens; leave format={format!r} out")
    from lensbench.saes.from_sae_lens import load_sae_lens

    return load_sae_lens(name, device=as_device(device))


def _check_name(format: str | None, known: tuple[str, ...]) -> None:
    if format is not None and format not in known:
        raise UnknownNameError("format for this", str(format), known=known)


def _only(found: list[str], place: Path) -> str:
    """The one format found.

    Raises:
        MissingDataError: none; says what was looked for and what is there of it.
        ConfigError: several.
    """
    if len(found) == 1:
        return found[0]
    if found:
        told = " and ".join(f"{name} ({FORMATS[name].told})" for name in found)
        raise ConfigError(f"{place} holds files of {told}; name one, as in format={found[0]!r}")
    looked = "; ".join(f"{name} ({one.told})" for name, one in FORMATS.items())
    folder = place if place.is_dir() else place.parent
    parts = dict.fromkeys(file for one in FORMATS.values() for file in one.files)
    here = [file for file in parts if (folder / file).is_file()]
    there = f"; of these only {', '.join(here)} is there" if here else ""
    raise MissingDataError(
        f"no dictionary in {place}{'' if place.exists() else ' (no such file or folder)'}; looked "
        f"for: {looked}{there}. Pass a folder written by saes.save or one of these, or the "
        "`result` folder of a run"
    )


def save(sae: SparseCoder, path: Path | str, *, format: WrittenFormat | None = None) -> Path:
    """Write a dictionary into the folder ``path``; return the folder.

    ``sae_lens`` (of an SAE the default) has every activation, and transcoders but for TopK;
    ``dictionary_learning`` has SAEs; ``sparsify`` TopK alone, transcoders too; ``llamascopium``
    every activation, transcoders without a skip connection too; ``gemma_scope`` (``params.npz``)
    SAEs but for TopK; ``openai`` (``autoencoder.pt``) ReLU alone; each is read by its owner with
    the same codes. Of the last two ``path`` may be the file, with its ending. ``lensbench`` has
    everything, and is the default of transcoders and crosscoders. Site, config and metadata are
    kept in all; Gemma Scope and OpenAI have no place for them, so they lie in a note beside it.
    Of a model in a local folder the folder's name is kept, and not where it lies.

    Raises:
        ConfigError: no dictionary.
        UnknownNameError: no such format, or one that is only read.
        MismatchError: the format has no such architecture.
        DataError: the folder cannot be written.

    Example:
        >>> folder = saes.save(run.sae, "dictionary", format="sae_lens")
    """
    if not isinstance(sae, SparseCoder):  # pyright: ignore[reportUnnecessaryIsInstance] - users
        kind = type(sae).__name__
        raise ConfigError(f"save takes a dictionary (of a run: run.coder), got a {kind}")
    return keep(replace(sae, metadata=without_place(sae.metadata)), path, format=format)


def keep(sae: SparseCoder, path: Path | str, *, format: WrittenFormat | None = None) -> Path:
    """:func:`save` for this machine: where the model lies here stays in the metadata."""
    name = format or ("sae_lens" if isinstance(sae, SAE) else "lensbench")
    _check_name(name, get_args(WrittenFormat))
    folder, write = Path(path), FORMATS[name].write
    assert write is not None  # those of WrittenFormat
    write(sae, folder)
    return folder
