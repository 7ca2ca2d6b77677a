"""Tokens as tables show them; whoever computes with tokens takes the fields of a result."""

from collections.abc import Iterable


def marked(words: Iterable[str]) -> list[str]:
    """Spaces as ``␣``, line breaks as ``↵``: a table of a notebook swallows them; "" stays "".

    Example:
        >>> from lensbench.probes.lenses.marked import marked
        >>> marked([" the", ""])
        ['␣the', '']
    """
    from lensbench.plots import visible

    return [visible(word) if word else "" for word in words]
