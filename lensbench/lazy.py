"""Names of a package that load their module on first use, so that importing it loads no torch.

Each name is a descriptor on the package's own module class and not only a ``__getattr__``: nnsight
gives every object of the process a ``.save``, which would otherwise answer for ``saes.save``.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _Name:
    """One name of a package; what is set on the package itself comes first."""

    def __init__(self, name: str, module: str) -> None:
        self._name, self._module = name, module

    def __get__(self, package: object, owner: type) -> Any:
        del package, owner
        return getattr(import_module(self._module), self._name)


def exports(
    package: str, home: Mapping[str, str], packages: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``; ``home`` says which module has which name.

    ``packages`` are packages inside it that users name: they are imported when they are asked for.
    """
    names: dict[str, Any] = {n: _Name(n, f"{package}.{m}") for n, m in home.items()}
    sys.modules[package].__class__ = type("LazyPackage", (ModuleType,), names)

    def getattr_(name: str) -> Any:
        if name in packages:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_, lambda: sorted((*home, *packages))
