"""Example texts of the bundled models, two of one length that end differently."""

_LIST = (
    "List bag round , letter wooden , shoe clean ; recall letter",
    "List bag wooden , letter round , shoe clean ; recall letter",
)
EXAMPLES = {
    "atlas-dense": _LIST,
    "atlas-early": _LIST,
    "atlas-equal": _LIST,
    "atlas-moe": (
        "Yesterday the queens beside the dogs",
        "Yesterday the queen beside the dogs",
    ),
    "othello": ("b3 b2 c2 b4 a4 a2 b5 b6", "b3 b2 c2 b4 a4 a2 b5 a6"),
    "atlas-translate": (
        "German : the key and the bread are outside .",
        "French : the key and the bread are outside .",
    ),
}
GENERAL = (
    "The Eiffel Tower stands in the city of",
    "The Brandenburg Gate stands in the city of",
)


def example_of(model: str) -> tuple[str, str]:
    """Two texts that the model was made for; plain English for a model that is not ours."""
    return EXAMPLES.get(model, GENERAL)
