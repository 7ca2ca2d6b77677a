"""Runs that are started, stopped and gone on with from a page: processes of their own.

``status.json`` says ``queued`` before the process exists, so that a list shows the run at once;
what was asked for is in ``request.yaml``; ``job.json`` names the process (see ``detached``).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

import yaml

from lensbench import io
from lensbench.app.workflows import detached
from lensbench.app.workflows.runs import LIVE
from lensbench.app.workflows.runs import REQUEST_FILE as REQUEST_FILE
from lensbench.app.workflows.site_names import with_known_sites
from lensbench.app.workflows.training import forecast_facts
from lensbench.errors import ConfigError, MismatchError
from lensbench.saes import dry_run
from lensbench.saes.configs import SweepConfig
from lensbench.saes.runs import STATUS_FILE, SWEEP_FILE, read_status
from lensbench.saes.training.forecast import plan_memory
from lensbench.store import open_store
from lensbench.yaml_text import parse_yaml

ENDING = 10.0
"""Seconds that a process may take to end after its run did."""
FOLDER = "runs"
"""New runs of a page go here, below its root."""


def new_run(root: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """Check ``settings`` (source, train, sweep) and start training them in ``root/runs/name``.

    Raises:
        ConfigError: a name that cannot be a folder or is taken, or settings with a fault.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigError(
            f"{name!r} cannot name a run: letters, digits, '.', '_' and '-', a letter or digit "
            "first, at most 100"
        )
    sweep = SweepConfig.parse(settings)
    folder = root / FOLDER / name
    try:  # of two tabs that ask for one name, the second is refused
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"{FOLDER}/{name} is there already; choose another name") from None
    text = yaml.safe_dump(sweep.to_dict(), sort_keys=False)
    io.write_text(folder / REQUEST_FILE, text)
    names = [str(config.name) for config in sweep.expand()]
    io.write_json(folder / STATUS_FILE, _queued(names, sweep.train.steps))
    detached.start(_first(folder), folder)
    return folder


def checked(root: Path, settings: Mapping[str, Any]) -> SweepConfig:
    """The sweep that ``settings`` ask for, with sites as its store spells them.

    Raises:
        LensbenchError: every fault with its key and the nearest known one; a store that is not
            below ``root`` or lacks a site.
    """
    sweep = SweepConfig.parse(settings)
    named = (
        [sweep.source.store] if sweep.source.store else list((sweep.source.stores or {}).values())
    )
    if not named or sweep.source.model or sweep.source.text:
        raise ConfigError(
            "a page trains on a store of its folder: source: {store: NAME}; other sources are for "
            "the command line"
        )
    for url in named:
        if not (root / url).resolve().is_relative_to(root.resolve()):
            raise ConfigError(
                f"{url!r} is outside the folder shown here; start with another --root"
            )
    if len(named) > 1 or sweep.source.store is None:
        return sweep
    store = open_store(root / named[0], check="size")
    placed = with_known_sites(sweep, store.sites)
    return SweepConfig.parse({**placed.to_dict(), "source": {"store": str(store.url)}})


def read_yaml(root: Path, text: str) -> SweepConfig:
    """A sweep file as somebody typed or pasted it; a store may be named from ``root``.

    Raises:
        LensbenchError: as :func:`checked`; or no YAML, with the line.
    """
    found = parse_yaml(text, "the text")
    if not isinstance(found, Mapping):
        raise ConfigError("write three keys: source, train and sweep; see lensbench config schema")
    return checked(root, found)


def sizes(sweep: SweepConfig) -> dict[str, Any]:
    """Dictionaries, parameters, bytes of memory and of disk, and steps; nothing is measured.

    Raises:
        LensbenchError: a store that cannot be read.
    """
    named = sweep.source.stores or {"": str(sweep.source.store)}
    opened = {name: open_store(url, check="size") for name, url in named.items()}
    widths = {f"{name}:{site}" if name else site: store.width(site)
              for name, store in opened.items() for site in store.sites}  # fmt: skip
    plan = plan_memory(sweep, widths)
    return {"dictionaries": plan.dictionaries, "parameters": plan.parameters,
            "memory": plan.memory_bytes, "disk": plan.disk_bytes,
            "steps": sweep.train.steps}  # fmt: skip


def forecast(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What these settings would cost: parameters, memory, disk, time; nothing is trained.

    Raises:
        LensbenchError: settings with a fault, or a store that does not hold the site.
    """
    sweep = SweepConfig.parse(settings)
    return forecast_facts(dry_run(open_store(str(sweep.source.store), check="size"), sweep))


def yaml_of(sweep: SweepConfig) -> str:
    """A sweep file with what differs from the usual settings."""
    train = sweep.train.model_dump(mode="json", exclude_defaults=True)
    told = {"source": {"store": sweep.source.store}, "train": train, "sweep": list(sweep.sweep)}
    if sweep.source.stores:
        told["source"] = {"stores": sweep.source.stores}
    return yaml.safe_dump(told, sort_keys=False)


def python_of(sweep: SweepConfig, out: Path) -> str:
    """The same in a notebook."""
    train = sweep.train.model_dump(mode="json", exclude_defaults=True)
    told = {"train": train, "sweep": list(sweep.sweep)}
    store = f"lensbench.open_store({str(sweep.source.store)!r})"
    return "\n".join([
        "import lensbench",
        "from lensbench import saes",
        "",
        f"store = {store}",
        f"sweep = {pformat(told, sort_dicts=False, width=92)}",
        f"runs = saes.train(store, sweep, out={str(out)!r}, model_card=store.model)",
        "runs",
    ])  # fmt: skip


def stop_run(folder: Path) -> None:
    """Ask the run's own process to write a checkpoint and end (SIGTERM).

    Raises:
        MismatchError: it was not started from here, or has ended.
    """
    if read_status(folder)["state"] not in LIVE or not detached.stop(folder):
        raise MismatchError(
            f"no process of {folder.name} was started from here and still runs; a run of a "
            "terminal is stopped there, with Ctrl-C"
        )


def resume_run(folder: Path) -> None:
    """Go on with a run from its last checkpoint (or from the start, where it never began).

    Raises:
        MismatchError: it is still running.
        ConfigError: it is finished.
    """
    status = read_status(folder)
    if status["state"] == "finished":
        raise ConfigError(f"{folder.name} is finished; there is nothing to go on with")
    with detached.turn(folder):
        if detached.still_there(folder, ENDING if status["state"] not in LIVE else 0.0):
            raise MismatchError(f"{folder.name} is still running; stop it first")
        begun = (folder / SWEEP_FILE).is_file()
        queued = {**status, "state": "queued", "heartbeat": detached.now()}
        io.write_json(folder / STATUS_FILE, queued)
        arguments = ["train", "sae", "--resume", str(folder)] if begun else _first(folder)
        detached.start(arguments, folder)


def _first(folder: Path) -> list[str]:
    return ["train", "sae", "--config", str(folder / REQUEST_FILE), "--out", str(folder)]


def _queued(names: list[str], steps: int) -> dict[str, Any]:
    return {
        "state": "queued",
        "step": 0,
        "steps": steps,
        "tokens": 0,
        "started": detached.now(),
        "heartbeat": detached.now(),
        "pid": 0,
        "message": "",
        "dictionaries": dict.fromkeys(names, "queued"),
    }
