"""How to add a site to a store: the command, or the call, with the settings it was made with."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

_DEFAULTS = {
    "layout": "pack",
    "context": 128,
    "batch_size": 16,
    "dtype": "float16",
    "max_tokens": None,
}
_PYTHON_ONLY = {"bos": (True, "as given", None), "positions": (None,)}


def how_to_add(
    sites: Sequence[str],
    model: Mapping[str, Any],
    text: Mapping[str, Any],
    settings: Mapping[str, Any],
    url: str,
) -> str:
    """One line to run; a Python call where the command line has no such setting."""
    other = {k: settings[k] for k, d in _DEFAULTS.items() if k in settings and settings[k] != d}
    special = {k: v for k, usual in _PYTHON_ONLY.items() if (v := settings.get(k)) not in usual}
    excluded: list[int] = settings.get("excluded_ids") or []
    which = model.get("source", model.get("name"))  # a model in memory has no command
    if special or not which or not (text.get("path") or text.get("name")) or _read_specially(text):
        other |= {"exclude_special": excluded} if excluded else {}
        return _call(sites, {**other, **_as_arguments(special)}, url, _texts(text))
    words = ["lensbench", "capture", "--model", str(which)]
    words += ["--revision", str(model["revision"])] if model.get("revision") else []
    words += ["--text", str(text.get("path") or text["name"]), "--sites", ",".join(sites)]
    for key, value in other.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    words += ["--exclude", ",".join(map(str, excluded))] if excluded else []
    return shlex.join([*words, "--out", url])


def _call(sites: Sequence[str], options: Mapping[str, Any], url: str, texts: str) -> str:
    settings = "".join(f", {key}={value!r}" for key, value in options.items())
    return f"lensbench.capture(model, {texts}, {list(sites)!r}, out={url!r}{settings})"


def _read_specially(text: Mapping[str, Any]) -> bool:
    """Was a file split, or its field chosen, in a way that the command line does not offer?"""
    usual = ("<|endoftext|>", "\n\n", None)
    return text.get("separator") not in usual or text.get("field", "text") != "text"


def _texts(text: Mapping[str, Any]) -> str:
    """Code of the text; ``texts`` where it lived in memory only."""
    if text.get("spec"):
        return f"lensbench.worlds.corpora.corpus_from_spec({dict(text['spec'])!r})"
    if not text.get("path"):
        return "texts"
    how = {name: text[name] for name in ("separator", "field") if name in text}
    options = "".join(f", {name}={value!r}" for name, value in how.items())
    return f"lensbench.harvest.read_text({text['path']!r}{options})"


def _as_arguments(special: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(special)
    where = found.get("positions")
    if isinstance(where, Mapping):
        found["positions"] = slice(where["start"], where["stop"], where["step"])
    return found
