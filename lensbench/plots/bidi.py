"""Words written from right to left, kept from turning the numbers beside them around.

Where such a word (Arabic, Hebrew ...) stands in a line of ours, a browser lays the punctuation and
digits after it out from right to left as well: ``name 12, 0.5`` would read ``0.5 ,12 name``. A word
between two *isolates* (Unicode, UAX 9) is laid out by itself.
"""

import re

FIRST, LAST = "\u2068", "\u2069"
"""First strong isolate, and the end of it."""
_LETTERS = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff"
_WORDS = re.compile(rf"{FIRST}[^{LAST}]*{LAST}|(␣*[{_LETTERS}]+(?:[ ␣]+[{_LETTERS}]+)*␣*)")


def isolated(text: str) -> str:
    """``text`` with every run of right-to-left words in isolates; other text as it is.

    For what is shown, as the last step: keys and files hold text without them. Doing it twice does
    nothing more.

    Example:
        >>> from lensbench.plots.bidi import isolated
        >>> isolated("layer 3")
        'layer 3'
    """
    return _WORDS.sub(lambda run: f"{FIRST}{run[1]}{LAST}" if run[1] else run[0], text)
