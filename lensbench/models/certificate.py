"""The certificate: does this back end compute, capture and edit what it says it does?

Run at load on a few tokens; the checks are in ``checks.py``. Kept in memory by the fingerprint of
weights and settings, so loading the same model again costs nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench.errors import ModelError
from lensbench.provenance import record
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    from lensbench.models.huggingface import NativeModel

_CACHE: "dict[str, Certificate]" = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate(Result):
    """Outcome of every check of one model, by fingerprint."""

    model: str
    fingerprint: str
    checks: list[dict[str, Any]]
    """name, passed, value, limit, unit, note"""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check["passed"] for check in self.checks)

    def require(self) -> "Certificate":
        """This certificate, if it passed.

        Raises:
            ModelError: names the checks that failed, with their numbers.
        """
        failed = [c for c in self.checks if not c["passed"]]
        if failed:
            listed = "; ".join(
                f"{c['name']}: {c['note']} ({c['value']:.2g}, limit {c['limit']:.2g})"
                for c in failed
            )
            raise ModelError(
                f"the certificate of {self.model} failed: {listed}. Captures or edits of this "
                "model would be wrong. load_model(..., certify=False) opens it all the same."
            )
        return self

    def to_frame(self) -> pd.DataFrame:
        """One row per check."""
        frame = pd.DataFrame(self.checks)
        frame.attrs["units"] = {"value": "see unit column", "limit": "see unit column"}
        return frame

    def summary(self) -> dict[str, float]:
        """Checks passed and failed."""
        ok = sum(bool(c["passed"]) for c in self.checks)
        return {"passed": float(ok), "failed": float(len(self.checks) - ok)}


def certify(model: "NativeModel", *, fresh: bool = False) -> Certificate:
    """The certificate of a model, from memory when these weights were already checked."""
    how = model.module.config._attn_implementation
    card = model.card
    key = f"{card.backend}/{card.fingerprint}/{card.dtype}/{model.device}/{how}"
    if fresh or key not in _CACHE:
        from lensbench.models.checks import Examiner

        _CACHE[key] = Certificate(
            model=card.name,
            fingerprint=card.fingerprint,
            checks=Examiner(model).examine(),
            provenance=record(model=vars(card), seed=0, device=str(model.device)),
            controls=Controls(note="each check has a broken model that fails it, in the tests"),
        )
    return _CACHE[key]
