"""Tuned lenses by folder: trained from a store, found below a folder, read on a text."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.app.workflows.answers import rows_of_frame
from lensbench.app.workflows.live import Shelf
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.sequences import model_name
from lensbench.errors import MissingDataError
from lensbench.store import open_store

if TYPE_CHECKING:
    import torch

    from lensbench.models import Model
    from lensbench.probes.lenses.tuned.lens import TunedLens

CONFIG = "config.json"
REMINDER = (
    "its maps were trained to give the model's final prediction, so what they read need not be "
    "what the later layers do"
)
SHOWN = ("layer", "kl_logit", "kl_tuned", "kl_tuned_shuffled")
_DEPTH, _MOST = 3, 1 << 20

_lenses: "Shelf[TunedLens]" = Shelf(8)


def tune(
    store: Path,
    model: str | None,
    out: Path,
    settings: Mapping[str, Any],
    *,
    device: str = "cpu",
    max_tokens: int = 5_000,
    progress: Any = None,
) -> dict[str, Any]:
    """Train a tuned lens from a store and compare it with the logit lens; a killed run goes on.

    Raises:
        LensbenchError: see :func:`lensbench.probes.train_tuned_lens`.
    """
    import pandas as pd

    from lensbench import probes
    from lensbench.probes.lenses.tuned.training import held_out

    opened = open_store(store)
    name, revision = (model, None) if model else model_name(opened)
    network = open_model(name, revision)
    config = probes.TunedLensConfig.parse(dict(settings))

    def say(step: int, loss: float) -> None:
        progress(step=step, steps=config.steps, kl=loss)

    lens = probes.train_tuned_lens(opened, network, config, out, device=device,
                                   progress=say if progress is not None else None)  # fmt: skip
    docs = held_out(opened, config.holdout) if config.holdout else None
    found = probes.compare_lenses(opened, network, lens, docs=docs, max_tokens=max_tokens)
    rows = pd.DataFrame({
        "layer": found.layers, "kl_logit": found.kl("logit"), "kl_tuned": found.kl("tuned"),
        "kl_tuned_shuffled": found.kl("tuned", shuffled=True),
    })  # fmt: skip
    return {
        "model": network.card.name,
        "lens": str(out),
        "steps": config.steps,
        "documents": "held out" if docs else "those of training (holdout is 0)",
        "layers": rows_of_frame(rows),
        "summary": found.summary(),
        "controls": dict(found.controls.values),
        "control": found.controls.note,
        "comparison": str(found.save(out / "comparison")),
    }


def find_lenses(root: Path) -> list[Path]:
    """Folders below ``root``, not behind links, that hold a tuned lens (or one of tuned-lens)."""
    return sorted(folder for folder in _folders(root, _DEPTH) if _is_lens(folder / CONFIG))


def _folders(folder: Path, left: int) -> Iterator[Path]:
    yield folder
    with suppress(OSError):  # closed to us, or gone meanwhile
        for inner in folder.iterdir() if left > 1 else ():
            if inner.is_dir() and not inner.is_symlink():
                yield from _folders(inner, left - 1)


def open_lens(folder: str, model: "Model") -> "TunedLens | None":
    """The lens in ``folder`` for ``model``, opened once; None where none is named.

    Raises:
        MissingDataError: no lens there (any more).
        MismatchError: a lens of another model.
    """
    from lensbench.probes.lenses.tuned.files import load_tuned_lens

    if not folder:
        return None
    key = (folder, model.card.fingerprint, *version(folder))
    return _lenses.get(key, lambda: load_tuned_lens(folder, model))


def version(folder: str) -> tuple[int, ...]:
    """Another value when the lens was written anew.

    Raises:
        MissingDataError: no lens there (any more).
    """
    path = Path(folder) / CONFIG
    if not folder:
        return ()
    if not path.is_file():
        raise MissingDataError(f"there is no tuned lens in {folder} (any more); train one with "
                               "lensbench lens tune")  # fmt: skip
    return (path.stat().st_mtime_ns,)


def read_states(
    states: "torch.Tensor", layers: tuple[int, ...], model: "Model", lens: "TunedLens | None"
) -> "torch.Tensor":
    """Logits of one token's state after each layer, through the lens or the logit lens."""
    import torch

    if lens is None:
        return model.unembed(states)
    return torch.stack([lens(state, layer) for state, layer in zip(states, layers, strict=True)])


def _is_lens(path: Path) -> bool:
    """Whether a ``config.json`` is that of a tuned lens."""
    from lensbench.probes.lenses.tuned.files import KIND

    try:
        told: Any = json.loads(path.read_text("utf-8")) if path.stat().st_size < _MOST else None
    except (OSError, ValueError):  # gone meanwhile, or no JSON: no lens
        return False
    return isinstance(told, dict) and (told.get("kind") == KIND or "unembed_hash" in told)
