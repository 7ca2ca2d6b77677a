"""Bars of long loops: on terminals and in notebooks only, and not before a second is over.

A log file, a pipe and a test see nothing. Where notebooks have no ``ipywidgets`` the bar is text;
``tqdm`` would warn of that when it is first imported, so the first import is here, and whoever
imports it later (transformers, the hub) finds it there.
"""

import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="IProgress not found")
    from tqdm.auto import tqdm

T = TypeVar("T")

DELAY = 1.0
"""Seconds of silence before a bar is drawn: a quick call leaves no trace."""
_followers: "ContextVar[Callable[[int, int | None, str], None] | None]" = ContextVar(
    "followers", default=None
)


@contextmanager
def bar(
    what: str, total: int | None = None, *, unit: str = "it", done: int = 0, show: bool = True
) -> Generator[Any]:
    """A bar that is moved on by ``update(n)`` (and speaks by ``write(text)``).

    Args:
        what: the work, in a word or two.
        total: how many units there are; without it they are counted.
        unit: what is counted.
        done: units that were done before, by a run that is continued.
        show: False for silence.

    """
    make, silent = _kind()
    with make(
        total=total, initial=done, desc=what, unit=f" {unit}", delay=DELAY,
        disable=silent if show else True, dynamic_ncols=True,
    ) as shown:  # fmt: skip
        call = _followers.get() if show else None
        if call is None:
            yield shown
            return
        token = _followers.set(None)  # of bars within bars the outermost one is told
        own, so_far = shown.update, done

        def update(n: float = 1) -> Any:
            nonlocal so_far
            so_far += n
            call(int(so_far), total, unit)
            moved = own(n)
            shown.n = so_far  # a silent bar does not count
            return moved

        shown.update = update
        try:
            yield shown
        finally:
            _followers.reset(token)


@contextmanager
def followed(call: Callable[[int, int | None, str], None]) -> Generator[None]:
    """Tell ``call(done, total, unit)`` how far every bar is meanwhile, drawn or not."""
    token = _followers.set(call)
    try:
        yield
    finally:
        _followers.reset(token)


def each(items: Sequence[T], what: str, unit: str) -> Iterator[T]:
    """The items one after the other, with a bar."""
    with bar(what, len(items), unit=unit) as shown:
        for item in items:
            yield item
            shown.update(1)


@contextmanager
def told(
    what: str, progress: Callable[..., None] | bool | None, total: int | None, unit: str
) -> Generator[Callable[..., None]]:
    """What a ``progress`` argument asks for: a bar (None, True), silence (False), or a call.

    Gives a function that is told how many units are done so far; what else it is given goes to the
    call alone.
    """
    call = progress if callable(progress) else None
    with bar(what, total, unit=unit, show=call is None and progress is not False) as shown:

        def so_far(done: int, *more: Any) -> None:
            shown.update(done - shown.n)
            if call is not None:
                call(done, *more)

        yield so_far


def _kind() -> tuple[Any, bool | None]:
    """A class of bars, and whether it is silent (None: it looks whether stderr is a terminal)."""
    if _in_notebook() and tqdm.__module__ == "tqdm.asyncio":  # no widgets here
        return tqdm, False
    return tqdm, None


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and "IPKernelApp" in found.config
