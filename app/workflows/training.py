"""Training a sweep by names: source, folder, parts, resuming, and what it would cost."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import saes
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.sweeps import (
    TrainRequest,
    part_of,
    read_part,
    read_sweep,
    with_entries,
    with_sites,
)
from lensbench.app.workflows.texts import find_text
from lensbench.errors import ConfigError, MissingDataError, StoppedError, UnknownSiteError
from lensbench.saes.configs import SweepConfig
from lensbench.saes.ends import Ends
from lensbench.saes.runs import SWEEP_FILE, SAERun, note_on_means, read_status
from lensbench.saes.training import checkpoint
from lensbench.sites import canonical_name
from lensbench.store import open_store, pair_stores

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.saes.training.forecast import Forecast


def train_sweep(request: TrainRequest, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Train (or with ``dry_run`` only forecast) what was asked for.

    Raises:
        LensbenchError: see ``lensbench.saes.train``.
    """
    if request.resume is not None:
        return _resume(request.resume, request)
    if request.array is not None:
        read_part(request.array)  # before anything is opened
    sweep = read_sweep(request)
    source, card, offered = _source(sweep)
    sweep = with_known_sites(sweep, offered)
    if request.array is not None:
        sweep = part_of(sweep, request.array)
    if request.dry_run:
        return _forecast(source(sweep), sweep)
    out = request.out or Path("runs") / f"sae-{sweep.fingerprint()}"
    if request.array is not None:  # parts run at the same time: each has a folder of its own
        out = out / f"part-{request.array.replace('/', '-of-')}"
    opened = source(sweep)
    (say or _silent)(announcement(sweep, out))
    return _train(opened, sweep, out, card, resume=False)


def announcement(sweep: SweepConfig, out: Path) -> str:
    """What will be trained, with the tokens it really takes."""
    train = sweep.train
    real = train.steps * train.batch_size
    asked = "" if real == train.tokens else f" (of {train.tokens:,} asked for)"
    return (
        f"{len(sweep.expand())} dictionaries into {out}: {real:,} tokens each, {train.steps:,} "
        f"steps of {train.batch_size:,}{asked}"
    )


def _silent(_: str) -> None:
    return


def facts_of(runs: list[SAERun], out: Path) -> dict[str, Any]:
    """One row per dictionary: what it is, and the last logged numbers."""
    rows = [
        {
            "name": run.name,
            "site": run.site,
            "status": run.status,
            "d_sae": run.coder.d_sae,
            **{k: round(v, 6) for k, v in run.summary().items()},
        }
        for run in runs
    ]
    return {
        "run": str(out),
        "dictionaries": rows,
        "note": note_on_means(run.window for run in runs),
    }


def _train(
    source: Any, sweep: SweepConfig, out: Path, card: dict[str, Any], *, resume: bool
) -> dict[str, Any]:
    try:
        runs = saes.train(source, sweep, out=out, resume=resume, model_card=card)
    except StoppedError as stop:
        raise StoppedError(
            f"stopped after a checkpoint; go on with: lensbench train sae --resume {out}"
        ) from stop
    return facts_of(runs, out)


def _resume(run: Path, request: TrainRequest) -> dict[str, Any]:
    given = {f.name for f in fields(request) if getattr(request, f.name)}
    if given := given - {"resume", "dry_run"}:
        flags = {name: f"--{name.replace('_', '-')}" for name in given} | {"assign": "--set"}
        others = sorted(flags[name] for name in given)
        raise ConfigError(
            f"--resume goes on with its own sweep ({run / SWEEP_FILE}); leave out what else was "
            f"given ({', '.join(others)}), or start another run"
        )
    if not (run / SWEEP_FILE).is_file():
        parts = sorted(str(p.parent) for p in run.glob(f"part-*/{SWEEP_FILE}"))
        hint = f"; its parts are {', '.join(parts)}" if parts else ""
        raise MissingDataError(f"no run in {run} (no {SWEEP_FILE}){hint}")
    sweep = SweepConfig.from_yaml(run / SWEEP_FILE)
    source, card, _ = _source(sweep)
    if request.dry_run:
        return _forecast(source(sweep), sweep, _steps_done(run, sweep))
    return _train(source(sweep), sweep, run, card, resume=True)


def _source(
    sweep: SweepConfig,
) -> tuple[Callable[[SweepConfig], Any], dict[str, Any], tuple[str, ...]]:
    """How to open the activations once the sites are known, the model's card, sites on offer."""
    where = sweep.source
    if where.store is not None:
        store = open_store(where.store)
        return (lambda _: store), store.model, store.sites
    if where.stores is not None:
        paired = pair_stores({name: open_store(url) for name, url in where.stores.items()})
        return (lambda _: paired), paired.model, paired.sites
    if where.model is None or where.text is None:
        raise ConfigError(
            "say where the activations come from: --store DIR, or --model M --text F --sites S"
        )
    model, text = open_model(where.model), find_text(where.text)
    names = tuple(str(site) for site in model.sites())
    return (lambda s: _live(model, text, s)), vars(model.card), names


def _live(model: "Model", text: Any, sweep: SweepConfig) -> Any:
    from lensbench.harvest import live_source, sequence_source

    configs = sweep.expand()
    sites = list(dict.fromkeys(site for c in configs for site in Ends.of(c).sites))
    context, mixing = min(128, model.card.n_ctx or 128), sweep.source.mixing or None
    if any(c.objective != "reconstruction" for c in configs):
        return sequence_source(
            model, text, sites, context=_context(context, sweep.train.batch_size)
        )
    return live_source(model, text, sites, context=context, mixing=mixing)


def _context(most: int, batch: int) -> int:
    """Length of the sequences of an end-to-end batch: the largest that divides it.

    Raises:
        ConfigError: none between half of ``most`` and ``most`` does.
    """
    found = next((n for n in range(most, max(1, most // 2) - 1, -1) if batch % n == 0), None)
    if found is None:
        raise ConfigError(
            f"end-to-end batches are whole sequences of up to {most} tokens, and a batch of "
            f"{batch:,} cannot be cut into them; set train.batch to a multiple of {most}"
        )
    return found


def with_known_sites(sweep: SweepConfig, offered: tuple[str, ...]) -> SweepConfig:
    """Sites as the source spells them: ``*`` expanded, an only one filled in, others refused."""
    if any(not (c.site or c.sites) for c in sweep.expand()):
        sweep = with_sites(sweep, [_only(offered)])
    return with_entries(sweep, [_spelled(entry, sweep, offered) for entry in sweep.sweep])


def _spelled(
    entry: Mapping[str, Any], sweep: SweepConfig, offered: tuple[str, ...]
) -> dict[str, Any]:
    """An entry with its sites as the source spells them."""
    found = dict(entry)
    named = [] if entry.get("sites") else _as_list(entry.get("site") or sweep.source.site)
    if named and entry.get("target"):
        pairs = _pairs(named, _as_list(entry["target"]), offered)
        found |= {"site": [site for site, _ in pairs], "target": [to for _, to in pairs]}
    elif named:
        found["site"] = [s for name in named for s in _matching(name, offered)]
    if entry.get("sites"):
        nested = isinstance(entry["sites"][0], list | tuple)
        several = entry["sites"] if nested else [entry["sites"]]
        found["sites"] = [[s for n in one for s in _matching(n, offered)] for one in several]
    return found


def _pairs(sites: list[str], targets: list[str], offered: tuple[str, ...]) -> list[tuple[str, str]]:
    """Site and target of every transcoder; where both have a ``*``, it is the same in both."""
    if len(sites) == len(targets):
        given = list(zip(sites, targets, strict=True))
    else:
        given = [(site, target) for site in sites for target in targets]
    pairs: list[tuple[str, str]] = []
    for site, target in given:
        if "*" not in site or "*" not in target:
            found = [(s, t) for s in _matching(site, offered) for t in _matching(target, offered)]
        elif site.count("*") != target.count("*"):
            raise ConfigError(f"site {site} and target {target} need as many * as each other")
        else:
            found = [(s, _like(s, site, target, offered)) for s in _matching(site, offered)]
        pairs += found
    return pairs


def _like(site: str, pattern: str, target: str, offered: tuple[str, ...]) -> str:
    """``target`` with what each ``*`` of ``pattern`` stands for in ``site``."""
    stars = re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), site)
    pieces = target.split("*")
    filled = [a + b for a, b in zip(pieces, [*(stars.groups() if stars else ()), ""], strict=True)]
    return _matching("".join(filled), offered)[0]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _matching(name: str, offered: tuple[str, ...]) -> list[str]:
    if "*" in name:
        found = [site for site in offered if fnmatchcase(site, name)]
    else:
        found = [known for known in (name, canonical_name(name)) if known in offered][:1]
    if not found:
        raise UnknownSiteError(name, known=offered, hint="The source does not have it.")
    return found


def _only(offered: tuple[str, ...]) -> str:
    """The only site; of several, the user names those that are meant (as ``saes.train`` asks)."""
    if len(offered) == 1:
        return offered[0]
    raise ConfigError(
        f"name the sites to train on with --sites; the source has {len(offered)}: "
        f"{', '.join(offered)}"
    )


def _forecast(source: Any, sweep: SweepConfig, done: int = 0) -> dict[str, Any]:
    return forecast_facts(replace(saes.dry_run(source, sweep), done=done))


def _steps_done(run: Path, sweep: SweepConfig) -> int:
    """Steps that a resumed run need not make again: those of its newest checkpoint.

    Of dictionaries that were trained apart, the one that is least far.
    """
    if read_status(run)["state"] == "finished":
        return sweep.train.steps
    found = [checkpoint.steps(run / str(one.name)) for one in sweep.expand()]
    return min((steps[-1] if steps else 0 for steps in found), default=0)


def forecast_facts(forecast: "Forecast") -> dict[str, Any]:
    """A forecast as plain facts."""
    memory = forecast.memory
    return {
        "dictionaries": memory.dictionaries,
        "parameters": memory.parameters,
        "memory_bytes": memory.memory_bytes,
        "disk_bytes": memory.disk_bytes,
        "steps": forecast.steps,
        "steps_left": forecast.steps - forecast.done,
        "seconds": forecast.seconds,
        "seconds_per_step": forecast.seconds_per_step,
        "engines": forecast.engines,
        "lines": forecast.lines(),
    }
