"""What can stand at the end of a half-typed line: commands, options, names of what is there.

Reads folders and small JSON files only; the heavy libraries are never imported, so that a press of
the Tab key is answered at once.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import typer

from lensbench.app.cli.helping import first_sentence

MOST, DEPTH = 200, 4
WORLDS = {"atlas:": "documents of the bundled world", "othello:": "games", "words:": "symbols",
          "desk:": "questions, for atlas-moe", "translate:": "sentences"}  # fmt: skip
TASKS = ("recall", "ioi", "agreement", "greater_than", "first_letter", "refusal")
ARCHITECTURES = (
    "topk", "batchtopk", "matryoshka", "relu", "tied", "p_anneal", "jumprelu", "gated",
)  # fmt: skip
CHOICES: dict[str, tuple[str, ...]] = {
    "--architecture": ARCHITECTURES,
    "--format": ("sae_lens", "dictionary_learning", "sparsify", "llamascopium", "gemma_scope",
                 "openai", "lensbench"),
    "--dtype": ("float16", "bfloat16", "float32"),
    "--layout": ("pack", "pad"),
    "--profile": ("sae", "resid", "full"),
    "--metric": ("logit_diff", "kl", "probability", "rank", "loss"),
    "--device": ("cpu", "cuda", "auto"),
    "--sort": ("started", "run", "state", "tokens", "dictionaries"),
    "--space": ("MAP", "BSC", "HRR", "FHRR"),
    "--measure": ("anisotropy", "dimension", "neighbours"),
    "--state": ("running", "finished", "stopped", "failed", "lost", "damaged"),
}  # fmt: skip
"""Values of options that take one of a few; a test holds them to what is really taken."""
LISTED = ("--how", "--method", "--rule", "--direction", "--align", "--several", "--activation",
          "--normalise", "--objective", "--keys")  # fmt: skip
"""Options whose help lists their values, which differ from command to command."""


def candidates(line: str) -> list[tuple[str, str]]:
    """What may stand for the last word of ``line``, each with a few words about it.

    Empty where a file name is meant, which shells complete by themselves.
    """
    from lensbench.app.cli.root import build

    words = _words(line)
    done, last = words[1:-1], words[-1]
    command: Any = typer.main.get_command(build())
    rest = list(done)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    if "=" in last and last.startswith("--"):
        option, _, value = last.partition("=")
        return [(f"{option}={v}", told) for v, told in _values(command, option, rest, value)]
    option = next((w for w in reversed(rest) if w.startswith("-")), "")
    if rest and _takes_value(command, option, rest):
        return list(_values(command, option, rest, last))
    if last.startswith("-"):
        return list(_options(command, rest, last))
    if hasattr(command, "commands"):
        if rest:  # a word that is no command
            return []
        rows = [(n, first_sentence(c.help or "")) for n, c in command.commands.items()
                if not c.hidden]  # fmt: skip
        return [(name, told) for name, told in rows if name.startswith(last)]
    return list(_of_argument(command, rest, last))


def _words(line: str) -> list[str]:
    """A line as words, the last one the unfinished; empty after a space."""
    text = line if not line or not line[-1].isspace() else line + "''"
    for closing in ("", "'", '"'):
        try:
            return shlex.split(text + closing) or [""]
        except ValueError:
            continue
    return [*line.split(), ""]


def _options(command: Any, done: list[str], last: str) -> Iterator[tuple[str, str]]:
    for param in command.params:
        for name in (*param.opts, *param.secondary_opts):
            if name.startswith("--") and name.startswith(last) and name not in done:
                yield name, first_sentence(getattr(param, "help", "") or "")
    for name, told in (("--json", "one JSON document on stdout"), ("--help", "show help")):
        if name.startswith(last):
            yield name, told


def _takes_value(command: Any, option: str, rest: list[str]) -> bool:
    """Whether the word after these is a value of ``option``: it came last, or takes several."""
    for param in command.params:
        if option in param.opts and not getattr(param, "is_flag", False):
            return rest[-1] == option or option == "--sites"
    return False


def _values(command: Any, option: str, done: list[str], last: str) -> Iterator[tuple[str, str]]:
    kinds: dict[str, Callable[[str], Iterator[tuple[str, str]]]] = {
        "--model": _models, "--against": _models, "--amateur": _models,
        "--draft-model": _models, "--sibling": _models, "--dictionary": _dictionaries,
        "--store": _stores, "--text": _texts, "--prompts": _texts,
    }  # fmt: skip
    if option in CHOICES:
        found = ((c, "") for c in CHOICES[option])
    elif option in ("--site", "--sites"):
        found = _sites(done)
    elif option in LISTED:
        found = ((word, "") for word in listed(command, option))
    elif option in kinds:
        found = kinds[option](last)
    else:
        return
    yield from islice(((v, t) for v, t in found if v.startswith(last)), MOST)


def listed(command: Any, option: str) -> list[str]:
    """The values that the help of an option lists, as in ``zero (nothing), mean or solo``."""
    text = next((p.help or "" for p in command.params if option in p.opts), "")
    parts = re.split(r"[,;:.]|\bor\b", re.sub(r"\([^)]*\)", "", text))
    words = [part.strip() for part in parts]
    found = [word for word in words if re.fullmatch(r"[a-z][a-z0-9_]*", word)]
    return list(dict.fromkeys(word for word in found if word != "default"))


def _of_argument(command: Any, done: list[str], last: str) -> Iterator[tuple[str, str]]:
    """Names for the positional argument of a command, told by what it is called in help."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    kind = str(arguments[0].metavar or arguments[0].name) if arguments else ""
    if kind.startswith("TASK"):
        found = iter([(t, "") for t in TASKS])
    elif kind.startswith(("RUN", "A")):
        found = _runs(last)
    elif kind.startswith("FOLDER"):
        found = ((str(folder), "result") for folder in _found(last, "result.json"))
    elif kind.startswith("DIR"):
        found = _stores(last)
    else:
        return
    yield from islice(((v, t) for v, t in found if v.startswith(last) and v not in done), MOST)


def _models(_: str) -> Iterator[tuple[str, str]]:
    import lensbench

    for place in lensbench.__path__:
        folder = Path(place) / "data" / "models"
        if folder.is_dir():
            yield from ((p.name, "bundled") for p in sorted(folder.iterdir()) if p.is_dir())
            return


def _texts(_: str) -> Iterator[tuple[str, str]]:
    yield from ((name, told) for name, told in WORLDS.items())


def _found(last: str, file: str) -> Iterator[Path]:
    """Folders below the one that is being typed that hold ``file``, nearest first."""
    base = Path(last.rpartition("/")[0] or ("/" if last.startswith("/") else "."))
    for depth in range(DEPTH):
        yield from sorted(path.parent for path in base.glob("*/" * depth + file))


def _stores(last: str) -> Iterator[tuple[str, str]]:
    yield from ((str(folder), "store") for folder in _found(last, "manifest.json"))


def _runs(last: str) -> Iterator[tuple[str, str]]:
    for folder in _found(last, "status.json"):
        status = _json(folder / "status.json")
        yield str(folder), str(status.get("state", "run"))
        yield from ((f"{folder}/{name}", "dictionary") for name in status.get("dictionaries", ()))


def _dictionaries(last: str) -> Iterator[tuple[str, str]]:
    yield from ((name, told) for name, told in _runs(last) if told == "dictionary")


def _sites(done: list[str]) -> Iterator[tuple[str, str]]:
    """Sites of the store that the line names; without one, those that a profile would keep."""
    where = dict(pairwise(done)).get("--store")
    known = _json(Path(where) / "manifest.json").get("sites", {}) if where else {}
    if known:
        yield from ((str(name), "stored") for name in known)
        return
    from lensbench.sites import SITES

    for name in SITES:
        yield str(name), "kind; of one layer: blocks.LAYER.KIND"


def _json(path: Path) -> dict[str, Any]:
    """A small JSON file, or nothing: a completion never complains."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
