"""What every page knows: the folder that is shown, what lies in it, and the mode of the page."""

import sys
from pathlib import Path
from typing import Literal

import streamlit as st

from lensbench.errors import ConfigError, MissingDataError


def root() -> Path:
    """The folder whose runs and stores are shown (``lensbench app --root``)."""
    return Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()


def inside(name: str) -> Path:
    """The folder ``name`` of the root.

    Raises:
        ConfigError: a name that leads out of the root.
        MissingDataError: no such folder (deleted, perhaps, while its page was open).
    """
    folder = below(name)
    if not folder.is_dir():
        raise MissingDataError(
            f"there is no folder {name!r} any more; it was moved or deleted. Choose another one"
        )
    return folder


def below(name: str) -> Path:
    """Where ``name`` lies below the root, followed through every link; it need not be there.

    Raises:
        ConfigError: it leads out of the root.
    """
    try:
        path = (root() / name).resolve()
    except ValueError:  # a zero byte
        raise ConfigError(f"{name!r} is no name of a file or folder") from None
    if not path.is_relative_to(root()):
        raise ConfigError(f"{name!r} is outside the folder shown here; start with another --root")
    return path


def mode() -> Literal["light", "dark"]:
    """The mode of the reader's page, so that figures are drawn for it."""
    return "dark" if st.context.theme.type == "dark" else "light"


def run_names() -> list[str]:
    """Runs below the root, newest first, as the address names them."""
    from lensbench.app.workflows.runs import list_runs

    return [_name(str(row["run"])) for row in list_runs(root())["runs"]]


def store_names() -> list[str]:
    """Activation stores below the root, as the address names them."""
    from lensbench.app.workflows.stores import find_stores

    return [_name(str(folder)) for folder in find_stores(root())]


def lens_names() -> list[str]:
    """Tuned lenses below the root, as the address names them."""
    from lensbench.app.workflows.tuned import find_lenses

    top = root()  # a link that leads out of it is no lens of this folder
    return [_name(str(f)) for f in find_lenses(top) if f.resolve().is_relative_to(top)]


def _name(folder: str) -> str:
    return Path(folder).relative_to(root()).as_posix()


def comes_from() -> list[str]:
    """The model, store and run of the page as it stands, a line each, with their fingerprints."""
    from lensbench.app.workflows.origin import origin

    return origin(root(), {str(key): value for key, value in st.session_state.items()})
