"""Ways to skip layers as a user types them: names, and calls with settings."""

import ast
import re
from dataclasses import fields
from itertools import product
from typing import Any

from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.study.methods import Method
from lensbench.interventions.acceleration.study.registry import METHODS, default_methods, method

_CALL = re.compile(r"(\w+)\s*(?:\((.*)\))?", re.DOTALL)


def methods_of(text: str, n_layers: int) -> list[Method] | None:
    """Methods by name (each with its default settings), or as calls; None for all.

    Raises:
        UnknownNameError: no such method or setting.
        ConfigError: not written as names or calls.
    """
    if not text.strip():
        return None
    found: list[Method] = []
    for part in _parts(text):
        match = _CALL.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"--methods: {part[:40]!r} is no name and no call; write names such as "
                "fixed_exit,del or settings such as 'fixed_exit(exit_layer=2, draft=4)'"
            )
        name, given = match[1], match[2]
        more = default_methods(n_layers, [name]) if given is None else _called(name, given)
        if not more:
            raise ConfigError(
                f"--methods: {name} has no default settings for this model; write {name}(...) with "
                f"{', '.join(f.name for f in fields(METHODS[name]))}"
            )
        found += more
    return found


def _parts(text: str) -> list[str]:
    """What stands between the commas that are in no bracket."""
    depth, parts = 0, [""]
    for char in text:
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _called(name: str, given: str) -> list[Method]:
    """The methods that a call names: one for every choice of values that are parted by ``|``."""
    try:
        call: Any = ast.parse(f"f({given})", mode="eval").body
        choices = {str(k.arg): _values(k.value) for k in call.keywords}
        bare = bool(call.args)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"--methods: cannot read {name}({given}); write name=value") from error
    if bare:
        raise ConfigError(f"--methods: name the settings of {name}({given}), such as draft=4")
    return [method(name, **dict(zip(choices, one, strict=True)))
            for one in product(*choices.values())]  # fmt: skip


def _values(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_values(node.left), *_values(node.right)]
    if isinstance(node, ast.Name):  # a word needs no quotes within those of a shell
        return [node.id]
    return [ast.literal_eval(node)]
