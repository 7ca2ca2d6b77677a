"""Where a result came from: versions, commit, device, seed, time."""

import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "lensbench",
    "torch",
    "transformers",
    "transformer-lens",
    "nnsight",
    "sae-lens",
    "numpy",
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything needed to say how a number was made."""

    model: dict[str, Any] = field(default_factory=dict[str, Any])
    seed: int | None = None
    device: str = "cpu"
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict[str, str])
    git: str = ""
    python: str = ""
    when: str = ""
    note: str = ""
    store: str = ""
    """Fingerprint of the activation store it was read from; empty where there was none."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able dictionary."""
        return asdict(self)


def record(
    *,
    model: dict[str, Any] | None = None,
    seed: int | None = None,
    device: str = "cpu",
    seconds: float = 0.0,
    note: str = "",
    store: Any = "",
) -> Provenance:
    """Provenance of a computation that ends now; ``store`` is what was read, or its fingerprint."""
    return Provenance(
        model=model or {},
        seed=seed,
        device=device,
        seconds=seconds,
        versions=_versions(),
        git=_commit(),
        python=f"{platform.python_version()} {sys.platform}",
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        note=note,
        store=store if isinstance(store, str) else str(getattr(store, "fingerprint", "")),
    )


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@lru_cache(maxsize=1)
def _commit() -> str:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        out = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return out.stdout.strip()
