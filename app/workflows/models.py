"""Opening a model by the name a user typed."""

import logging
import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.errors import MissingDataError, UnknownNameError

if TYPE_CHECKING:
    from lensbench.models import Model


def open_model(name: str, revision: str | None = None, *, certify: bool | None = None) -> "Model":
    """A bundled name, a local folder or a hub id as a :class:`Model`.

    Raises:
        MissingDataError: no such model; the message offers the nearest bundled name.
        DamagedDataError: its files cannot be read.
    """
    from lensbench.models import load_model
    from lensbench.models.loading import bundled_models

    # The hub client repeats every failed request on stderr; our one message says it all.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    if is_path(name) and not Path(name).is_dir():
        raise MissingDataError(f"no folder {name}; a local model is a folder in hub format")
    near = get_close_matches(name, bundled_models(), n=1, cutoff=0.8)
    if near and name not in bundled_models() and not Path(name).is_dir():
        raise MissingDataError(f"no model named {name!r}. Did you mean {near[0]!r}?")
    try:
        return load_model(name, revision=revision, certify=certify)
    except UnknownNameError as error:
        if error.kind != "model":
            raise
        raise MissingDataError(str(error)) from error


def is_path(name: str) -> bool:
    """Whether a name can only be a folder: hub ids have at most one slash and start plainly."""
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1
