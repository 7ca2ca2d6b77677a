"""Whether a dictionary belongs to a model (by fingerprint, else by name) and to a capture."""

from collections.abc import Mapping
from typing import Any

from lensbench.errors import MismatchError

_ON_PURPOSE = ". To use it there on purpose, pass saes.Dictionary(name, site, sae)"


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
            f"{where} ({_called(now)}){_ON_PURPOSE}"
        )


def check_settings(
    what: str, metadata: Mapping[str, Any], settings: Mapping[str, Any], where: str
) -> None:
    """Refuse a capture made otherwise than a dictionary's metadata say it needs.

    ``prepend_bos`` and ``context_size`` are SAELens' names; where either side does not say, nothing
    is compared.

    Raises:
        MismatchError: BOS was left out or added, or sequences are longer than in training.
    """
    wants, has = metadata.get("prepend_bos"), settings.get("bos")
    if isinstance(wants, bool) and isinstance(has, bool) and wants != has:
        trained, captured = ("with", "without") if wants else ("without", "with")
        raise MismatchError(
            f"{what} was trained on sequences {trained} BOS, {where} was captured {captured} it; "
            f"capture with bos={wants}{_ON_PURPOSE}"
        )
    longest, context = metadata.get("context_size"), settings.get("context")
    if isinstance(longest, int) and isinstance(context, int) and context > longest:
        raise MismatchError(
            f"{what} was trained on sequences of at most {longest} tokens, {where} holds "
            f"{context}; capture with context={longest}{_ON_PURPOSE}"
        )


def _called(model: Mapping[str, Any]) -> str:
    name, fingerprint = model.get("name"), model.get("fingerprint")
    return " ".join(str(part) for part in (name, fingerprint) if part)


def _names(*names: Any) -> set[str]:
    return {str(n).rstrip("/").rpartition("/")[2].lower() for n in names if n}
