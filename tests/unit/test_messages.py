"""Messages of errors begin alike: in lower case, unless with a name that is written large.

They stand after a name (``ConfigError: ...``) and inside sentences (``method a: ...``).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "A", "Call", "Clamp", "Gemma", "GradDrop", "KL", "Llamascopium", "NDIF", "NextToken", "OpenAI",
    "OpenAI's", "RANK", "ReagentSettings", "Replace", "SAELens", "SCR", "ScaleExperts", "TPP",
    "TransformerLens", "TransformerLens'", "UMAP", "WORLD_SIZE",
}  # fmt: skip
"""Classes, products and abbreviations that a message begins with."""


def begins(source: str) -> Iterator[tuple[int, str]]:
    """Line and first words of every message that is raised with one of our errors."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
            continue
        called = node.exc.func
        name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
        if name.endswith("Error") and node.exc.args:
            yield node.lineno, first_words(node.exc.args[0])


def first_words(node: ast.expr) -> str:
    """The text a string begins with; nothing where a value comes first."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr) and node.values:
        return first_words(node.values[0])
    return first_words(node.left) if isinstance(node, ast.BinOp) else ""


def is_alike(text: str) -> bool:
    word = text.split(" ")[0].rstrip(".,:")
    return not text[:1].isupper() or word in NAMES


def test_messages_begin_in_lower_case() -> None:
    counted, wrong = 0, list[str]()
    for top in ("lensbench", "saes", "probes", "interventions", "app"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for line, text in begins(path.read_text(encoding="utf-8")):
                counted += 1
                if not is_alike(text):
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {text[:60]!r}")
    assert not wrong, "\n".join(wrong)
    assert counted > 1000  # that it still finds them


def test_another_beginning_is_seen() -> None:
    source = 'raise ConfigError(f"There is no {x}")\nraise ConfigError("none" + y)\nraise other()\n'
    assert [(line, is_alike(text)) for line, text in begins(source)] == [(1, False), (2, True)]
    assert is_alike("UMAP needs a package")
