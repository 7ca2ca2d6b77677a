"""Every error a user can meet, each with the exit code the command line gives it.

A message says what came, what is allowed and what to do. Exit codes: 1 a bug, 2 usage or
configuration, 3 missing or damaged data or model, 4 over a stated budget, 130 stopped.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches


class LensbenchError(Exception):
    """Base of every error raised on purpose."""

    exit_code: int = 1


class ConfigError(LensbenchError, ValueError):
    """An argument, flag or configuration value that cannot be used."""

    exit_code = 2


class UnknownNameError(ConfigError, LookupError):
    """A name that is not in a closed list; the message offers the nearest one."""

    def __init__(
        self, kind: str, name: str, *, known: Collection[str], hint: str = "", listed: str = ""
    ) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        near = get_close_matches(name, self.known, n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        listed = listed or ", ".join(self.known) or "none"
        super().__init__(
            f"no {kind} named {name!r}; known: {listed}.{guess}{' ' + hint if hint else ''}"
        )


class UnknownSiteError(UnknownNameError):
    """A site that no model has, or that this model has not."""

    def __init__(self, name: str, *, known: Collection[str], hint: str = "") -> None:
        short = [site.removeprefix("blocks.<L>.") for site in known]
        full = get_close_matches(name, known, n=1, cutoff=0.5)
        near = [] if full else get_close_matches(name, short, n=1, cutoff=0.5)
        meant = f"Did you mean {near[0]!r}?" if near else ""
        super().__init__("site", name, known=known, hint=f"{meant} {hint}".strip(),
                         listed=_by_layer(known))  # fmt: skip


MANY_SITES = 24
"""Sites that are listed one by one; of more, each name once and the layers."""


def _by_layer(known: Collection[str]) -> str:
    """Many sites in few words; empty where they are few."""
    numbers = sorted({int(n) for site in known for n in re.findall(r"\bblocks\.(\d+)\.", site)})
    if len(known) <= MANY_SITES or not numbers:
        return ""
    names = dict.fromkeys(re.sub(r"\bblocks\.\d+\.", "blocks.<L>.", site) for site in known)
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    layers = f"{numbers[0]}..{numbers[-1]}" if whole else ", ".join(map(str, numbers))
    return f"{', '.join(names)} (layers {layers})"


class DataError(LensbenchError):
    """Data or a model that is missing, damaged or of the wrong kind."""

    exit_code = 3


class MissingDataError(DataError, FileNotFoundError):
    """A file, folder, model or site that should be there and is not."""


class DamagedDataError(DataError):
    """A file whose content is not what was written (truncated or altered)."""


class NotEnoughDataError(DataError):
    """Too little is left to do what was asked (words, prompts, documents)."""


class MismatchError(DataError):
    """Two things that do not belong together, such as a store and another model."""


class NonFiniteError(DataError, ArithmeticError):
    """NaN or infinity where a number was expected."""


class BudgetError(LensbenchError):
    """A stated limit on time, memory or disk would be passed."""

    exit_code = 4


class StoppedError(LensbenchError):
    """The user interrupted the work; what was finished is on disk."""

    exit_code = 130


class RankError(LensbenchError):
    """Another process of the same job failed or no longer answers; the last checkpoint is kept."""

    exit_code = 3


class BackendUnavailableError(LensbenchError, ImportError):
    """A back end that is not installed, not reachable, or that needs a key nobody gave."""

    exit_code = 3


class ModelError(DataError):
    """A model that does not behave as its architecture should (a failed certificate)."""
