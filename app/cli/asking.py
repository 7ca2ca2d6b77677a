"""A question before something is done for good."""

import sys

from lensbench.errors import ConfigError


def confirmed(what: str, *, yes: bool) -> None:
    """Return if the user agreed: by ``--yes``, or by answering on a terminal.

    Raises:
        ConfigError: no, or nobody to ask.
    """
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(f"this would {what} for good; add --yes to do it")
    sys.stderr.write(f"This will {what} for good. Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was done")
