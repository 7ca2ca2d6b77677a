"""Training a sweep by names: source, folder, parts, resuming, and what it would cost."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lensbench import io, saes
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.run_next import finished, refuse_without_sweep
from lensbench.app.workflows.run_parts import ARRAY_FILE, part_name
from lensbench.app.workflows.runs import all_runs, resume_command
from lensbench.app.workflows.site_names import with_known_sites
from lensbench.app.workflows.sweeps import TrainRequest, part_of, read_part, read_sweep
from lensbench.app.workflows.texts import find_text
from lensbench.errors import ConfigError, MismatchError, RankError, StoppedError
from lensbench.models.on_paper import sites_on_paper
from lensbench.saes.configs import SweepConfig
from lensbench.saes.distributed.environment import place
from lensbench.saes.ends import Ends
from lensbench.saes.runs import STATUS_FILE, SWEEP_FILE, SAERun, note_on_means, read_status
from lensbench.saes.training import checkpoint
from lensbench.saes.training.folder import differences
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
    out = request.out or Path("runs") / f"sae-{sweep.fingerprint()}"
    whole = sweep
    if request.array is not None:  # parts run at the same time: each has a folder of its own
        sweep, out = part_of(sweep, request.array), out / part_name(request.array)
    if request.dry_run:
        return _forecast(source(sweep), sweep)
    opened = source(sweep)
    if request.array is not None:
        keep_whole(out.parent, whole)
    (say or _silent)(announcement(sweep, out))
    return _train(opened, sweep, out, card, resume=False)


def keep_whole(run: Path, sweep: SweepConfig) -> None:
    """Write the whole sweep beside the parts, so that it is known what is left of it.

    Raises:
        MismatchError: parts of another sweep lie there.
    """
    path = run / ARRAY_FILE
    if not path.is_file():
        io.write_text(path, yaml.safe_dump(sweep.to_dict(), sort_keys=False))
    elif changed := differences(SweepConfig.from_yaml(path), sweep):
        raise MismatchError(
            f"{run} holds parts of another sweep: {'; '.join(changed[:3])}. Train the parts of one "
            f"sweep into one folder ({path} has its settings), or choose another --out"
        )


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
        raise StoppedError(f"stopped after a checkpoint; go on with: {going_on(out)}") from stop
    except RankError as error:
        raise RankError(f"{error}. From the last checkpoint: {going_on(out)}") from error
    return facts_of(runs, out)


def going_on(run: Path) -> str:
    """The command that goes on with a run, by as many processes as this job has."""
    world = place().world
    several = f"torchrun --nproc-per-node {place().per_machine()} --no-python " if world > 1 else ""
    return f"{several}{resume_command(run)}" + (" (or without torchrun)" if world > 1 else "")


def _resume(run: Path, request: TrainRequest) -> dict[str, Any]:
    given = {f.name for f in fields(request) if getattr(request, f.name)}
    if given := given - {"resume", "dry_run"}:
        flags = {name: f"--{name.replace('_', '-')}" for name in given} | {"assign": "--set"}
        others = sorted(flags[name] for name in given)
        raise ConfigError(
            f"--resume goes on with its own sweep ({run / SWEEP_FILE}); leave out what else was "
            f"given ({', '.join(others)}), or start another run"
        )
    if not request.dry_run and (done := finished(run)) is not None:
        return facts_of(all_runs(run), run) | done
    refuse_without_sweep(run)
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
    text, known = find_text(where.text), sites_on_paper(where.model)
    if known is not None:  # before the weights, which may take minutes
        with_known_sites(sweep, tuple(map(str, known)))
    model = open_model(where.model)
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


def _forecast(source: Any, sweep: SweepConfig, done: int = 0) -> dict[str, Any]:
    return forecast_facts(replace(saes.dry_run(source, sweep), done=done))


def _steps_done(run: Path, sweep: SweepConfig) -> int:
    """Steps that a resumed run need not make again: those of its newest checkpoint.

    Of dictionaries that were trained apart, the one that is least far.
    """
    if (run / STATUS_FILE).is_file() and read_status(run)["state"] == "finished":
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
