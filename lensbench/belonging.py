"""Whether a dictionary belongs to a model: by fingerprint where it is known, else by name."""

from collections.abc import Mapping
from typing import Any

from lensbench.errors import MismatchError


def trained_on(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a dictionary's metadata say of its model: ``fingerprint``, ``name``, ``aliases``."""
    model = metadata.get("model")
    if isinstance(model, Mapping):
        return dict(model)
    name = metadata.get("model_name")
    return {"name": str(name)} if name else {}


def check_model(what: str, trained: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse a dictionary of another model than ``now`` (name, source and fingerprint of a card).

    Names are compared only where the dictionary knows no fingerprint: without their owner, and
    without regard to case.

    Raises:
        MismatchError: names both models.
    """
    ours, theirs = trained.get("fingerprint"), now.get("fingerprint")
    if ours and theirs:
        other = ours != theirs
    else:
        ours, theirs = trained.get("name"), now.get("name")
        known = _names(ours, *trained.get("aliases", ()))
        other = bool(known and theirs) and not known & _names(theirs, now.get("source"))
    if other:
        raise MismatchError(
            f"{what} was trained on activations of another model ({_called(trained)}) than "
            f"{where} ({_called(now)}). To use it there on purpose, pass "
            "saes.Dictionary(name, site, sae)"
        )


def _called(model: Mapping[str, Any]) -> str:
    name, fingerprint = model.get("name"), model.get("fingerprint")
    return " ".join(str(part) for part in (name, fingerprint) if part)


def _names(*names: Any) -> set[str]:
    return {str(n).rstrip("/").rpartition("/")[2].lower() for n in names if n}
