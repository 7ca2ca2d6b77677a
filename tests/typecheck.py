"""Checks shapes and types of every call while the tests run: ``make test-shapes``.

``--jaxtyping-packages=lensbench,tests.typecheck.check`` puts it around every function of lensbench.
As in PEP 484, an int may stand where a float is asked for.
"""

from typing import Any

from beartype import BeartypeConf, beartype

check: Any = beartype(conf=BeartypeConf(is_pep484_tower=True))
